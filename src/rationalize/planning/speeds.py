"""How fast a machine does each kind of work with a model, and what that work then takes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from rationalize.methods.work.parts import Learns, Reads, Stores, Work, Writes
from rationalize.methods.work.scene import Lengths
from rationalize.runs.shards import SHARD


@dataclass(frozen=True)
class Speeds:
    """Seconds, by kind of work."""

    prefill: float = 0.0
    """Of a prompt's token, where replies are written."""
    step: float = 0.0
    """Of a decode step, whatever its rows."""
    row: float = 0.0
    """Of a row in a decode step."""
    rows: int = 256
    """Rows that are written together."""
    sampler: float = 0.0
    """Of making a sampler: its copy of the weights."""
    learn: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """`loss/learner` -> of a token, and of a step whatever its tokens."""
    read: Mapping[str, float] = field(default_factory=dict)
    """Reader -> of a token."""
    load: float = 0.0
    """Of reading a model."""
    store: float = 0.0
    """Of writing one."""
    processes: int = 1
    """That share the work out."""

    def lacks(self, work: Iterable[Work]) -> list[Work]:
        """One of each kind of work that no speed is known of: that with the most tokens."""
        largest: dict[str, Any] = {}
        for one in work:
            known = (
                one.__class__ is Stores
                or (isinstance(one, Writes) and self.row > 0)
                or (isinstance(one, Learns) and kind_of(one) in self.learn)
                or (isinstance(one, Reads) and one.reader in self.read)
            )
            if not known and not isinstance(one, Stores):
                key = kind_of(one)
                if key not in largest or one.tokens > largest[key].tokens:
                    largest[key] = one
        return list(largest.values())

    def seconds(self, work: Work) -> float:
        """Of a piece of work, until the last process has done its share. Raises `KeyError` for a
        kind that no speed is known of.
        """
        work = self._share(work)
        if isinstance(work, Writes):
            return self._writing(work)
        if isinstance(work, Learns):
            per_token, per_step = self.learn[kind_of(work)]
            return per_token * work.tokens + per_step * work.steps
        if isinstance(work, Reads):
            return self.read[work.reader] * work.tokens
        half = 0.5 if work.half else 1.0
        return self.load * work.loads + self.store * (work.kept * half + work.passing)

    def _share(self, work: Work) -> Work:
        """The largest share of a process: whole shards of replies and texts, rows of each step."""
        if self.processes == 1:
            return work
        if isinstance(work, Learns):
            return replace(work, rows=math.ceil(work.rows / self.processes))
        if isinstance(work, Writes):
            shard = max(SHARD, self.rows // work.n)
            return replace(work, questions=_of_shards(work.questions, shard, self.processes))
        if isinstance(work, Reads):
            return replace(work, rows=_of_shards(math.ceil(work.rows), SHARD, self.processes))
        return work

    def _writing(self, work: Writes) -> float:
        batches = max(1, math.ceil(work.replies / self.rows))
        longest = min(work.limit, 2.5 * work.reply)  # of a batch's replies
        read = work.questions * work.prompt * self.prefill
        return self.sampler + read + batches * longest * self.step + work.tokens * self.row


def _of_shards(rows: int, size: int, processes: int) -> int:
    """Rows of the process with the most shards.

    >>> [_of_shards(rows, 64, 8) for rows in (50, 512, 600)]
    [50, 64, 128]
    """
    return min(rows, size * math.ceil(math.ceil(rows / size) / processes))


def kind_of(work: Work) -> str:
    """What has one speed."""
    if isinstance(work, Learns):
        return f"{work.loss}/{work.learner}"
    return work.reader if isinstance(work, Reads) else type(work).__name__


@dataclass(frozen=True)
class Sizes:
    """A model's figures, and the bytes that hold it in a run."""

    name: str = ""
    parameters: int = 0
    """Of the layers and the embeddings, a tied head once."""
    head: int = 0
    """Of the output layer: vocabulary times width."""
    layers: int = 0
    cache: int = 0
    """Bytes of keys and values of a token, in bfloat16."""
    process: float = 0.0
    """Bytes of the interpreter and its libraries."""
    activations: float = 0.0
    """Bytes of a token of a pass that learns."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Measured:
    """What is known of a model on a machine: speeds, sizes, and its tokens."""

    speeds: Speeds = Speeds()
    sizes: Sizes = Sizes()
    lengths: Lengths = Lengths()
    when: str = ""
    """Of a calibration: its day and time. Empty: of a machine's figures."""

    def with_speeds(self, **changes: Any) -> Measured:
        return replace(self, speeds=replace(self.speeds, **changes))

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Measured:
        speeds = dict(stored["speeds"])
        speeds["learn"] = {k: tuple(v) for k, v in speeds["learn"].items()}
        return cls(
            Speeds(**speeds), Sizes(**stored["sizes"]), Lengths(**stored["lengths"]),
            stored["when"],
        )  # fmt: skip
