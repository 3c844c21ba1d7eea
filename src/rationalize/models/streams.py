"""Sequences decoded together: their cache, and the hidden state at the last token of each."""

from __future__ import annotations

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from rationalize.models.forward import (
    Row,
    collate,
    hidden_at_response,
    local_window,
    padded,
    plain_model,
    text_decoder,
)

if TYPE_CHECKING:
    from rationalize.models.policy import Policy


class Query(NamedTuple):
    """What one sequence starts from."""

    prompt_ids: tuple[int, ...]
    control_ids: tuple[int, ...]


class Stream(ABC):
    """A batch of sequences. Opening it reads each query once."""

    hidden: Tensor
    """(R, d) at the last token."""

    def repeat(self, n: int) -> None:
        """n copies of each sequence, side by side."""
        self.select(torch.arange(len(self.hidden)).repeat_interleave(n))

    @abstractmethod
    def select(self, rows: Tensor) -> None:
        """Keep these rows, in this order; a row may be kept several times."""

    @abstractmethod
    def step(self, tokens: Tensor) -> None:
        """Append a token to each."""


def open_stream(policy: Policy, queries: Sequence[Query], new_tokens: int) -> Stream:
    """The sequences, to be decoded as `policy.decoding` says, in at most `new_tokens` steps.

    Without `padding`, queries must have one length.
    """
    if not policy.decoding.cache:
        return _Uncached(policy, queries)
    if not policy.decoding.batch:
        return _OneByOne(policy, queries, new_tokens)
    if policy.is_encoder_decoder:
        return _EncoderDecoder(policy, queries)
    return _DecoderOnly(policy, queries, new_tokens)


class _Cached(Stream):
    """Reads a token per step; what the model keeps of the earlier ones is the cache."""

    _row_tensors: tuple[str, ...]
    """Names of the attributes with a row per sequence."""

    def __init__(self, policy: Policy) -> None:
        self._decoder = text_decoder(policy)
        # the first pass is given no cache: the model makes the one that fits it
        self._cache: Any = None
        self._cache_name = _cache_name(self._decoder)

    def select(self, rows: Tensor) -> None:
        rows = rows.to(self.hidden.device)
        self._cache = _rows_of(self._cache, rows)
        for name in self._row_tensors:
            setattr(self, name, getattr(self, name)[rows])

    def _read(self, **inputs: Tensor) -> None:
        out = self._decoder(**inputs, **{self._cache_name: self._cache}, use_cache=True)
        self.hidden, self._cache = out.last_hidden_state[:, -1], out[self._cache_name]


def _cache_name(decoder: Any) -> str:
    """The argument that takes the cache: `cache_params` in Mamba, `state` in RWKV."""
    names = inspect.signature(decoder.forward).parameters
    return next((n for n in ("cache_params", "state") if n in names), "past_key_values")


def _rows_of(cache: Any, rows: Tensor) -> Any:
    """These rows of a cache: of transformers' own kind, or of tensors with a row per sequence."""
    if isinstance(cache, Tensor):
        return cache.index_select(0, rows)
    if isinstance(cache, list | tuple):
        return [_rows_of(part, rows) for part in cache]
    # layers of every kind can be reordered; a class with a selection of its own (MiniMax) keeps
    # states outside its layers
    if "batch_select_indices" in vars(type(cache)):
        cache.batch_select_indices(rows)
    else:
        cache.reorder_cache(rows)
    return cache


MIN_SHARED = 24
"""A common prefix of fewer tokens is not worth a forward pass of its own."""


class _DecoderOnly(_Cached):
    """Prompts are padded on the left, so that every row writes into the same column.

    The prefix that all prompts share (a system line, demonstrations) is read once.
    """

    _row_tensors = ("hidden", "_mask")

    def __init__(self, policy: Policy, queries: Sequence[Query], new_tokens: int) -> None:
        super().__init__(policy)
        # control tokens follow the prompt
        sequences = [(*q.prompt_ids, *q.control_ids) for q in queries]
        # padding behind a shared prefix would count within a window of local attention
        fits = max(map(len, sequences)) + new_tokens <= local_window(policy)
        shares = policy.decoding.prefix and fits and len(sequences) > 1
        shared = common_length(sequences) if shares else 0
        if shared >= MIN_SHARED:
            # one pass over the shared prefix, whose cache is then copied to each row
            prefix = torch.tensor([sequences[0][:shared]], device=policy.device)  # (1, shared)
            self._mask = torch.ones_like(prefix)
            self._forward(prefix, torch.arange(shared, device=policy.device)[None])
            self.repeat(len(sequences))
        else:
            shared = 0
        # `padded` pads on the right: reverse, pad, reverse
        ids, mask = padded([s[shared:][::-1] for s in sequences], policy)  # (R, T - shared) each
        self._mask = torch.cat([mask.new_ones(len(sequences), shared), mask.flip(-1)], dim=-1)
        # positions count real tokens only
        self._forward(ids.flip(-1), (self._mask.cumsum(-1) - 1).clamp(min=0)[:, shared:])

    def step(self, tokens: Tensor) -> None:
        self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], dim=-1)
        self._forward(tokens.to(self._mask.device)[:, None], self._mask.sum(-1, keepdim=True) - 1)

    def _forward(self, ids: Tensor, positions: Tensor) -> None:
        mask = self._mask
        if self._cache_name != "past_key_values":
            mask = mask[:, -ids.shape[1] :]  # a recurrent state has no columns to mask
        self._read(input_ids=ids, attention_mask=mask, position_ids=positions)


def common_length(sequences: Sequence[tuple[int, ...]]) -> int:
    """Length of the common prefix, at least one token short of the shortest sequence."""
    first, last = min(sequences), max(sequences)  # all others lie between them in dictionary order
    limit = min(map(len, sequences)) - 1
    return next((i for i in range(limit) if first[i] != last[i]), limit)


class _EncoderDecoder(_Cached):
    """A prompt is encoded once; control tokens open the decoder."""

    _row_tensors = ("hidden", "_mask", "_encoded")

    def __init__(self, policy: Policy, queries: Sequence[Query]) -> None:
        super().__init__(policy)
        ids, self._mask = padded([q.prompt_ids for q in queries], policy)
        self._encoded = plain_model(policy).get_encoder()(
            input_ids=ids, attention_mask=self._mask
        ).last_hidden_state  # fmt: skip
        # the decoder's rows are not padded, so their prefixes must have one length
        if len({len(q.control_ids) for q in queries}) > 1:
            raise ValueError("all sequences of a batch need the same number of control tokens")
        self._forward(
            torch.tensor([[policy.start_id, *q.control_ids] for q in queries], device=ids.device)
        )

    def step(self, tokens: Tensor) -> None:
        self._forward(tokens.to(self._mask.device)[:, None])

    def _forward(self, ids: Tensor) -> None:
        self._read(
            input_ids=ids, encoder_hidden_states=self._encoded, encoder_attention_mask=self._mask
        )


class _OneByOne(Stream):
    """A stream per sequence, for models whose cache holds one row."""

    def __init__(self, policy: Policy, queries: Sequence[Query], new_tokens: int) -> None:
        self._streams = [_DecoderOnly(policy, [query], new_tokens) for query in queries]
        self._gather()

    def select(self, rows: Tensor) -> None:
        # a row that is kept twice needs a cache of its own
        self._streams = [copy.copy(self._streams[i]) for i in rows.tolist()]
        for stream in self._streams:
            stream._cache = copy.deepcopy(stream._cache)
        self._gather()

    def step(self, tokens: Tensor) -> None:
        for stream, token in zip(self._streams, tokens, strict=True):
            stream.step(token[None])
        self._gather()

    def _gather(self) -> None:
        self.hidden = torch.cat([stream.hidden for stream in self._streams])


class _Uncached(Stream):
    """Reads every sequence again at each step, as learning reads it: slow, and right for any
    model that learning can read.
    """

    def __init__(self, policy: Policy, queries: Sequence[Query]) -> None:
        self._policy = policy
        self._rows = [Row(q.prompt_ids, (policy.pad_id,), q.control_ids) for q in queries]
        self._read()

    def select(self, rows: Tensor) -> None:
        self._rows = [self._rows[i] for i in rows.tolist()]
        self.hidden = self.hidden[rows.to(self.hidden.device)]

    def step(self, tokens: Tensor) -> None:
        # the last response token predicts nothing and is not read: any will do
        self._rows = [
            replace(row, response_ids=(*row.response_ids[:-1], token, row.response_ids[-1]))
            for row, token in zip(self._rows, tokens.tolist(), strict=True)
        ]
        self._read()

    def _read(self) -> None:
        hidden_Nd = hidden_at_response(self._policy, collate(self._rows, self._policy))
        ends = torch.tensor([len(row.response_ids) for row in self._rows]).cumsum(0) - 1
        self.hidden = hidden_Nd[ends.to(hidden_Nd.device)]
