"""What a model can be made to do exactly, tried on a few tokens when it is loaded.

Four comparisons, in the model's own precision: rows padded on the right against rows alone, logits
from hidden states against the model's own forward pass (`find_head`), trees against rows alone
(`takes_trees`), and tokens decoded step by step, repeated and dropped, against full passes. What
fails at the first two is refused by name. What fails later is done in a slower way that is exact.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from rationalize.errors import UserError
from rationalize.models.decode import OwnStream, read_opening
from rationalize.models.decode_weights import has_own_step, read_weights
from rationalize.models.forward import (
    Row,
    close,
    collate,
    hidden_at_response,
    ids_of_words,
    local_window,
    plain_model,
    takes_trees,
    tolerance,
)
from rationalize.models.logits import find_head
from rationalize.models.streams import Query, Stream, common_length, open_stream

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
    """Set `linear_head`, `takes_trees`, `decoding` and `own_steps` of a policy that has no adapter
    yet.

    A model with the same weights, configuration, precision and device is probed once per process,
    and one that was saved here is what a model of its configuration was found to be.
    Raises `UserError` for a model whose log-probabilities cannot be computed exactly.
    """
    config = plain_model(policy).config
    shape = {k: v for k, v in config.to_dict().items() if k not in _NO_SHAPE}
    key = (
        json.dumps(shape, default=str, sort_keys=True), policy.n_vocab, policy.pad_id,
        policy.dtype, policy.device,
    )  # fmt: skip
    known = _probed.get((*key, None if policy.knows_form else policy.weights_hash))
    if known is None:
        with torch.no_grad():
            _check_reading(policy)
            _or_refuse(policy, lambda: find_head(policy))
            policy.takes_trees = takes_trees(policy)
            policy.decoding = find_decoding(policy)
            policy.own_steps = takes_own_steps(policy)
        known = (policy.linear_head, policy.takes_trees, policy.decoding, policy.own_steps)
        _probed[*key, policy.weights_hash] = _probed[*key, None] = known
    policy.linear_head, policy.takes_trees, policy.decoding, policy.own_steps = known
    if policy.decoding != Decoding():
        _tell(f"{policy.name} ({config.model_type}): {policy.decoding}")


_probed: dict[tuple[object, ...], tuple[bool, bool, Decoding, bool]] = {}
"""What was found, by configuration and weights, and by configuration alone."""
_NO_SHAPE = ("_name_or_path", "architectures", "dtype", "transformers_version")
"""Of a configuration, what computes nothing."""


@functools.cache
def _tell(text: str) -> None:
    """Once, however often the model is loaded."""
    log.warning("%s", text)


_LONGEST = 64
"""More tokens than any row here has."""


def takes_own_steps(policy: Policy) -> bool:
    """Whether the steps of `decode.py` give the states of full passes; where they are made for such
    modules and do not, the log says so.
    """
    if not has_own_step(policy) or local_window(policy) < _LONGEST:
        return False

    def open_own(queries: Sequence[Query]) -> Stream:
        weights = read_weights(policy, "as_is")
        shared = common_length([q.prompt_ids for q in queries])
        opening = read_opening(weights, queries[0].prompt_ids[:shared]) if shared else None
        return OwnStream(weights, queries, opening)

    ids = ids_of_words(policy, 36)
    same = all(
        _follows(policy, prompts, open_own)
        for prompts in ([ids[:20], ids[20:29], ids[29:33]], [(*ids[9:], *t) for t in _tails(ids)])
    )
    if not same:
        _tell(
            f"{policy.name}: replies are decoded by the model's own code, which is slower: its "
            "modules are those of Llama, and what they compute is not"
        )
    return same


def find_decoding(policy: Policy) -> Decoding:
    """The fastest way of decoding that gives the states of full passes, tried on three prompts."""
    ids = ids_of_words(policy, 36)
    unequal = [ids[:20], ids[20:29], ids[29:33]]
    equal = [ids[:20], ids[10:30], ids[16:]]

    def follows(prompts: Sequence[tuple[int, ...]], decoding: Decoding) -> bool:
        tried = replace(policy, decoding=decoding)
        return _follows(policy, prompts, lambda queries: open_stream(tried, queries, 3))

    padded = follows(unequal, Decoding(prefix=False))
    if not (padded or follows(equal, Decoding(prefix=False))):
        alone = Decoding(batch=False)
        exact = not policy.is_encoder_decoder and follows(unequal, alone)
        return alone if exact else Decoding(cache=False)
    if policy.is_encoder_decoder:  # an encoder shares no prefix
        return Decoding(padding=padded)
    tails = _tails(ids) if padded else (ids[:3], ids[3:6], ids[6:9])
    shared = [(*ids[9:], *tail) for tail in tails]  # long enough to be shared
    return Decoding(padding=padded, prefix=follows(shared, Decoding(padding=padded)))


def _tails(ids: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    return ids[:5], ids[5:8], ids[8:9]


def _follows(
    policy: Policy, prompts: Sequence[tuple[int, ...]], opened: Callable[[list[Query]], Stream]
) -> bool:
    """Whether states decoded in this way are those of full passes, at every step.

    Three rows take a token each, are doubled, take another, and three of the six take a last one.
    """
    doubled, kept = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([4, 1, 2])
    words = torch.tensor(ids_of_words(policy, 12)[::-1])
    first, second, third = words[:3], words[3:9], words[9:]
    # what the rows hold in the end, read in one pass; the last token is not read
    replies = [[*words[[i // 2, 3 + i]].tolist(), policy.pad_id] for i in range(6)]
    for row, token in zip(kept.tolist(), third.tolist(), strict=True):
        replies[row].insert(2, token)
    rows = [Row(prompts[i // 2], tuple(reply)) for i, reply in enumerate(replies)]
    states = hidden_at_response(policy, collate(rows, policy))
    states_of = states.split([len(reply) for reply in replies])  # after the prompt, each token

    def same(rows: Tensor, step: int) -> bool:
        expected = torch.stack([states_of[row][step] for row in rows.tolist()])
        return close(stream.hidden, expected, tolerance(policy))

    try:
        stream = opened([Query(prompt, ()) for prompt in prompts])
        if not same(doubled[::2] * 2, 0):
            return False
        stream.step(first)
        if not same(doubled[::2] * 2, 1):
            return False
        stream.select(doubled)
        stream.step(second)
        if not same(torch.arange(6), 2):
            return False
        stream.select(kept)
        stream.step(third)
        return same(kept, 3)
    except torch.OutOfMemoryError:
        raise
    except _FAULTS:
        return False


def _check_reading(policy: Policy) -> None:
    """Raise `UserError` if a row's states change with what follows it, or with its batch."""
    ids = ids_of_words(policy, 32)
    long, short = Row(ids[:12], ids[12:]), Row(ids[:12], ids[12:20])
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
    ids = ids_of_words(policy, 12)
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
