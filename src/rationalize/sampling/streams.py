"""Sequences decoded together: their cache, and the hidden state at the last token of each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from rationalize.models.forward import padded, plain_model

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
    _cache: Any
    _row_tensors: tuple[str, ...]
    """Names of the attributes with a row per sequence."""

    def repeat(self, n: int) -> None:
        """n copies of each sequence, side by side."""
        self._cache.batch_repeat_interleave(n)
        for name in self._row_tensors:
            setattr(self, name, getattr(self, name).repeat_interleave(n, 0))

    def select(self, rows: Tensor) -> None:
        """Keep these rows."""
        rows = rows.to(self.hidden.device)
        self._cache.batch_select_indices(rows)
        for name in self._row_tensors:
            setattr(self, name, getattr(self, name)[rows])

    @abstractmethod
    def step(self, tokens: Tensor) -> None:
        """Append a token to each."""


def open_stream(policy: Policy, queries: Sequence[Query]) -> Stream:
    return (_EncoderDecoder if policy.is_encoder_decoder else _DecoderOnly)(policy, queries)


_MIN_SHARED = 24
"""A common prefix of fewer tokens is not worth a forward pass of its own."""


class _DecoderOnly(Stream):
    """Prompts are padded on the left, so that every row writes into the same column.

    The prefix that all prompts share (a system line, demonstrations) is read once.
    """

    _row_tensors = ("hidden", "_mask")

    def __init__(self, policy: Policy, queries: Sequence[Query]) -> None:
        from transformers import DynamicCache

        model = plain_model(policy)
        self._decoder = model.get_decoder()
        self._cache = DynamicCache(config=model.config.get_text_config(decoder=True))
        # control tokens follow the prompt
        sequences = [(*q.prompt_ids, *q.control_ids) for q in queries]
        shared = common_length(sequences) if len(sequences) > 1 else 0
        if shared >= _MIN_SHARED:
            # one pass over the shared prefix, whose cache is then copied to each row
            prefix = torch.tensor([sequences[0][:shared]], device=policy.device)  # (1, shared)
            self._mask = torch.ones_like(prefix)
            self._forward(prefix, torch.arange(shared, device=policy.device)[None])
            self._cache.batch_repeat_interleave(len(sequences))
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
        out = self._decoder(
            input_ids=ids,
            attention_mask=self._mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
        )
        self.hidden = out.last_hidden_state[:, -1]


def common_length(sequences: Sequence[tuple[int, ...]]) -> int:
    """Length of the common prefix, at least one token short of the shortest sequence."""
    first, last = min(sequences), max(sequences)  # all others lie between them in dictionary order
    limit = min(map(len, sequences)) - 1
    return next((i for i in range(limit) if first[i] != last[i]), limit)


class _EncoderDecoder(Stream):
    """A prompt is encoded once; control tokens open the decoder."""

    _row_tensors = ("hidden", "_mask", "_encoded")

    def __init__(self, policy: Policy, queries: Sequence[Query]) -> None:
        from transformers import DynamicCache, EncoderDecoderCache

        model = plain_model(policy)
        self._decoder = model.get_decoder()
        self._cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        ids, self._mask = padded([q.prompt_ids for q in queries], policy)
        self._encoded = model.get_encoder()(
            input_ids=ids, attention_mask=self._mask
        ).last_hidden_state
        # the decoder's rows are not padded, so their prefixes must have one length
        if len({len(q.control_ids) for q in queries}) > 1:
            raise ValueError("all sequences of a batch need the same number of control tokens")
        self._forward(
            torch.tensor([[policy.start_id, *q.control_ids] for q in queries], device=ids.device)
        )

    def step(self, tokens: Tensor) -> None:
        self._forward(tokens.to(self._mask.device)[:, None])

    def _forward(self, ids: Tensor) -> None:
        out = self._decoder(
            input_ids=ids, encoder_hidden_states=self._encoded, encoder_attention_mask=self._mask,
            past_key_values=self._cache, use_cache=True,
        )  # fmt: skip
        self.hidden = out.last_hidden_state[:, -1]
