"""What a model can be made to do exactly, tried on a few tokens when it is loaded.

Four comparisons, in the model's own precision: rows padded on the right against rows alone, logits
from hidden states against the model's own forward pass (`find_head`), trees against rows alone
(`takes_trees`), and tokens decoded step by step, repeated and dropped, against full passes. What
fails at the first two is refused by name. What fails later is done in a slower way that is exact.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from rationalize.errors import UserError
from rationalize.models.forward import (
    Row,
    close,
    collate,
    find_head,
    hidden_at_response,
    plain_model,
    takes_trees,
    tolerance,
)
from rationalize.models.streams import Query, open_stream

if TYPE_CHECKING:
    from rationalize.models.policy import Policy

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class Decoding:
    """How a model's replies are decoded exactly; as it stands here, the fastest way."""

    cache: bool = True
    """Each step reads one token; if not, every step reads the whole rows again."""
    padding: bool = True
    """Prompts of different lengths share a batch; if not, only those of one length do."""
    prefix: bool = True
    """A prefix that the prompts of a batch share is read once."""
    batch: bool = True
    """Rows are read together; if not, one after another."""

    def __str__(self) -> str:
        if not self.cache:
            return "replies are slow, every token reads the whole row again: no cache is exact"
        if not self.batch:
            return "replies are slow, row after row: its cache is exact for one row alone"
        slower = (
            (self.padding, "prompts of different lengths do not share a batch"),
            (self.prefix, "each prompt reads its beginning, also where others share it"),
        )
        return ", and ".join(text for exact, text in slower if not exact) or "with a cache"


def probe(policy: Policy) -> None:
    """Set `linear_head`, `takes_trees` and `decoding` of a policy that has no adapter yet.

    A model with the same weights, configuration, precision and device is probed once per process.
    Raises `UserError` for a model whose log-probabilities cannot be computed exactly.
    """
    config = plain_model(policy).config
    key = (
        policy.weights_hash, config.to_json_string(use_diff=False), policy.n_vocab, policy.pad_id,
        policy.dtype, policy.device,
    )  # fmt: skip
    if key not in _probed:
        with torch.no_grad():
            _check_reading(policy)
            _or_refuse(policy, lambda: find_head(policy))
            policy.takes_trees = takes_trees(policy)
            policy.decoding = find_decoding(policy)
        _probed[key] = (policy.linear_head, policy.takes_trees, policy.decoding)
    policy.linear_head, policy.takes_trees, policy.decoding = _probed[key]
    if policy.decoding != Decoding():
        _tell(f"{policy.name} ({config.model_type}): {policy.decoding}")


_probed: dict[tuple[object, ...], tuple[bool, bool, Decoding]] = {}


@functools.cache
def _tell(text: str) -> None:
    """Once, however often the model is loaded."""
    log.warning("%s", text)


def find_decoding(policy: Policy) -> Decoding:
    """The fastest way of decoding that gives the states of full passes, tried on three prompts."""
    ids = _some_ids(policy, 64)
    unequal = [ids[:40], ids[40:57], ids[57:62]]
    equal = [ids[:20], ids[20:40], ids[40:60]]
    padded = _follows(policy, unequal, Decoding(prefix=False))
    if not (padded or _follows(policy, equal, Decoding(prefix=False))):
        alone = Decoding(batch=False)
        exact = not policy.is_encoder_decoder and _follows(policy, unequal, alone)
        return alone if exact else Decoding(cache=False)
    if policy.is_encoder_decoder:  # an encoder shares no prefix
        return Decoding(padding=padded)
    # long enough a prefix to be shared
    tails = (ids[:9], ids[9:14], ids[14:16]) if padded else (ids[:5], ids[5:10], ids[10:15])
    shared = [(*ids[34:], *tail) for tail in tails]
    return Decoding(padding=padded, prefix=_follows(policy, shared, Decoding(padding=padded)))


def _follows(policy: Policy, prompts: Sequence[tuple[int, ...]], decoding: Decoding) -> bool:
    """Whether states decoded in this way are those of full passes, at every step."""
    writer = replace(policy, decoding=decoding)
    tokens = iter(_some_ids(policy, 40)[::-1])
    rows = [Row(prompt, ()) for prompt in prompts]
    # 3 rows; a token each; two of each, a token each; three of them in another order, a token each
    changes = (None, None, torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([4, 1, 2]))
    try:
        stream = open_stream(writer, [Query(prompt, ()) for prompt in prompts], len(changes) - 1)
        for step, change in enumerate(changes):
            if change is not None:
                stream.select(change)
                rows = [rows[i] for i in change.tolist()]
            if step:
                drawn = [next(tokens) for _ in rows]
                stream.step(torch.tensor(drawn))
                rows = [
                    Row(row.prompt_ids, (*row.response_ids, token))
                    for row, token in zip(rows, drawn, strict=True)
                ]
            if not close(stream.hidden, _last_states(policy, rows), tolerance(policy)):
                return False
    except torch.OutOfMemoryError:
        raise
    except _FAULTS:
        return False
    return True


def _last_states(policy: Policy, rows: Sequence[Row]) -> Tensor:
    """Hidden states (R, d) after the last token of each row, each row read by itself."""
    return torch.cat([
        hidden_at_response(
            policy, collate([Row(r.prompt_ids, (*r.response_ids, policy.pad_id))], policy)
        )[-1:]
        for r in rows
    ])  # fmt: skip


def _check_reading(policy: Policy) -> None:
    """Raise `UserError` if a row's states change with what follows it, or with its batch."""
    ids = _some_ids(policy, 48)
    long, short = Row(ids[:24], ids[24:]), Row(ids[:24], ids[24:32])
    other = Row(ids[3:6], ids[16:20])  # a shorter prompt
    rows = [long, short, other]
    alone = _or_refuse(
        policy, lambda: [hidden_at_response(policy, collate([r], policy)) for r in rows]
    )
    together = _or_refuse(policy, lambda: hidden_at_response(policy, collate(rows, policy)))
    if not close(alone[0][: len(alone[1])], alone[1], tolerance(policy)):
        raise _refusal(policy, "its states depend on later tokens, so it predicts no next one")
    if not close(together, torch.cat(alone), tolerance(policy)):
        raise _refusal(policy, "its states depend on the other rows of a batch")


def control_states(policy: Policy) -> Tensor:
    """Hidden states (4, d) of a reply after all control tokens.

    Raises `UserError` for a model that cannot read ids beyond its vocabulary.
    """
    ids = _some_ids(policy, 12)
    row = Row(ids[:8], ids[8:], tuple(policy.controls.ids()) if policy.controls else ())
    with torch.no_grad():
        return _or_refuse(policy, lambda: hidden_at_response(policy, collate([row], policy)))


def check_adapter(policy: Policy, before: Tensor) -> None:
    """Raise `UserError` if a new adapter changes the states (4, d) that were there before it."""
    if not close(control_states(policy), before, tolerance(policy)):
        raise UserError(
            f"{policy.name}: in a model of type {plain_model(policy).config.model_type!r} LoRA "
            "cannot train the rows of control tokens; expected --tuning full"
        )


def _some_ids(policy: Policy, n: int) -> tuple[int, ...]:
    """n ids of words, the same each time. Padding and EOS mean more than a word in some models."""
    drawn = np.random.default_rng(0).integers(policy.n_vocab, size=4 * n).tolist()
    return tuple(i for i in drawn if i not in (policy.pad_id, policy.eos_id))[:n]


_FAULTS = (
    ValueError, RuntimeError, TypeError, IndexError, KeyError, AttributeError, AssertionError,
)  # fmt: skip
"""What models raise for arguments that they do not take."""


def _or_refuse(policy: Policy, work: Callable[[], T]) -> T:
    """What `work` returns. Raises `UserError` where the model cannot do it at all."""
    try:
        return work()
    except torch.OutOfMemoryError:
        raise
    except _FAULTS as error:
        raise _refusal(policy, f"{type(error).__name__}: {error}") from error


def _refusal(policy: Policy, why: str) -> UserError:
    model_type = plain_model(policy).config.model_type
    return UserError(
        f"{policy.name}: a model of type {model_type!r} cannot be used here ({why}); expected one "
        "that reads text from left to right, such as Llama, Qwen, Mistral, Gemma, Mamba or T5"
    )
