"""A decode step of our own, for models of the family of Llama, Qwen2, Qwen3 and Mistral.

Keys and values lie as one query per row reads them, and are written in place. What rows have in
common is kept once, in three parts: the opening of all prompts, the rest of each prompt, and what
each row wrote. A row's attention is one softmax over its three parts.

Axes: `P` prompts, `R` rows, `S` sources of a part (1, P or R), `H` heads, `k` key-value heads, `g`
heads that share one, `D` a head's size, `L` or `T` tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from rationalize.models.decode_weights import DecodeWeights, Layer
from rationalize.models.streams import Query, Stream

_BLOCK = 16
"""Lengths are rounded up to it: kernels are made anew for every shape."""


@dataclass(frozen=True)
class Memory:
    """Keys and values of tokens that several rows read."""

    keys: Sequence[Tensor]
    """Per layer (S, k, L, D)."""
    values: Sequence[Tensor]
    """The same shape."""
    lengths: Tensor
    """(S,) real tokens; the others are padding behind them."""

    def select(self, sources: Tensor) -> Memory:
        return Memory(
            [keys[sources] for keys in self.keys],
            [values[sources] for values in self.values],
            self.lengths[sources],
        )

    def bias(self, dtype: torch.dtype) -> Tensor:
        """(S, L): 0 for real tokens, minus infinity for padding."""
        at = torch.arange(self.keys[0].shape[-2], device=self.lengths.device)
        bias = torch.zeros(len(self.lengths), len(at), dtype=dtype, device=at.device)
        return bias.masked_fill_(at >= self.lengths[:, None], float("-inf"))


def read_opening(weights: DecodeWeights, ids: Sequence[int]) -> Memory:
    """An opening that several prompts share, read once."""
    return _read(weights, [ids], None)[1]


class OwnStream(Stream):
    """Rows decoded by this step."""

    def __init__(
        self, weights: DecodeWeights, queries: Sequence[Query], opening: Memory | None = None
    ) -> None:
        """`opening` holds the first tokens of every query."""
        self._weights, self._opening = weights, opening
        first = int(opening.lengths) if opening else 0
        rests = [(*q.prompt_ids, *q.control_ids)[first:] for q in queries]
        self.hidden, self._prompts = _read(weights, rests, opening)
        self._written = 0  # tokens per row so far
        self._keys: list[Tensor] = []  # per layer (R, k, T, D), T at least `_written`
        self._values: list[Tensor] = []  # the same
        self._place(torch.arange(len(queries), device=weights.device))

    def select(self, rows: Tensor) -> None:
        rows = rows.to(self.hidden.device)
        self.hidden = self.hidden[rows]
        # of one layer at a time, so that the old and the new ones are never there together
        for own in (self._keys, self._values):
            for layer, tensor in enumerate(own):
                own[layer] = tensor[rows]
        self._place(self._prompt_of_R[rows])

    def step(self, tokens: Tensor) -> None:
        weights, at = self._weights, self._written
        self._grow(len(tokens))
        x = weights.embed(tokens.to(weights.device)).to(weights.dtype)  # (R, d)
        positions = (self._start_R + at)[:, None]
        cos, sin = (part[:, 0] for part in _rotation(weights, positions))  # (R, H + k, D) each
        # one bias for all layers: padding of the prompts, and own columns without a token
        room = self._keys[0].shape[-2]
        ahead = torch.arange(room, device=x.device) > at
        own_bias = x.new_zeros(room).masked_fill_(ahead, float("-inf"))
        bias = torch.cat([self._bias_RL, own_bias.expand(len(x), -1)], -1)[:, None, None]
        for i, layer in enumerate(weights.layers):
            q, k, v = _qkv(weights, layer, x, (cos, sin))  # (R, H, D), (R, k, D) twice
            self._keys[i][:, :, at] = k
            self._values[i][:, :, at] = v
            parts: list[_Part] = [(m.keys[i], m.values[i], readers) for m, readers in self._shared]
            parts.append((self._keys[i], self._values[i], None))
            grouped = q.view(len(x), weights.kv_heads, -1, weights.head_dim)  # (R, k, g, D)
            x = x + layer.out(_attend(grouped, parts, bias).reshape(len(x), -1))
            x = x + _mlp(weights, layer, x)
        self.hidden = _norm(weights, x, weights.norm)
        self._written += 1

    def _place(self, prompt_of_R: Tensor) -> None:
        """Note which prompt each row continues; drop prompts that no row continues any more."""
        used, prompt_of_R = prompt_of_R.unique(return_inverse=True)
        if len(used) < len(self._prompts.lengths):
            self._prompts = self._prompts.select(used)
        self._prompt_of_R = prompt_of_R
        # rows of a prompt are read side by side: row r stands at `prompt * width + turn`
        counts = prompt_of_R.bincount()
        width = int(counts.max())
        order = prompt_of_R.argsort(stable=True)
        turn_R = torch.empty_like(prompt_of_R)
        turn_R[order] = torch.arange(len(order), device=order.device) - (
            counts.cumsum(0) - counts
        ).repeat_interleave(counts)
        slots = prompt_of_R * width + turn_R
        places = torch.arange(width * len(counts), device=slots.device)
        readers = _Readers(len(counts), width, None if torch.equal(slots, places) else slots)
        self._shared = [(self._prompts, readers)]
        # where a row's own tokens begin, and what it must not see of openings and prompts
        self._start_R = self._prompts.lengths[prompt_of_R]
        self._bias_RL = self._prompts.bias(self._weights.dtype)[prompt_of_R]
        if self._opening:
            self._shared.insert(0, (self._opening, _Readers(1, len(slots), None)))
            self._start_R = self._start_R + self._opening.lengths
            opened = self._opening.bias(self._weights.dtype).expand(len(slots), -1)
            self._bias_RL = torch.cat([opened, self._bias_RL], -1)

    def _grow(self, rows: int) -> None:
        """Make room for a token per row; for no more than a block, since a product with a part of
        a tensor copies that part first.
        """
        weights = self._weights
        if not self._keys:
            nothing = self.hidden.new_zeros(rows, weights.kv_heads, 0, weights.head_dim)
            self._keys, self._values = ([nothing] * len(weights.layers) for _ in range(2))
        if self._written < self._keys[0].shape[-2]:
            return
        for own in (self._keys, self._values):
            for layer, tensor in enumerate(own):  # zeros: what is masked must still be a number
                own[layer] = functional.pad(tensor, (0, 0, 0, _BLOCK))


@dataclass(frozen=True)
class _Readers:
    """Which rows read each source: row r stands at `slots[r]` among `sources * each` places."""

    sources: int
    each: int
    slots: Tensor | None
    """None where the rows fill all places, in order."""

    def spread(self, x: Tensor) -> Tensor:
        """(R, k, g, X) -> (S, k, each * g, X)."""
        _, heads, group, width = x.shape
        if self.slots is not None:
            places = x.new_zeros(self.sources * self.each, heads, group, width)
            x = places.index_copy_(0, self.slots, x)
        x = x.view(self.sources, self.each, heads, group, width).transpose(1, 2)
        return x.reshape(self.sources, heads, self.each * group, width)

    def gather(self, y: Tensor, group: int) -> Tensor:
        """(S, k, each * g, X) -> (R, k, g, X)."""
        sources, heads, _, width = y.shape
        y = y.view(sources, heads, self.each, group, width).transpose(1, 2)
        y = y.reshape(sources * self.each, heads, group, width)
        return y if self.slots is None else y[self.slots]


_Part = tuple[Tensor, Tensor, _Readers | None]
"""Keys and values (S, k, L, D), and who reads them; None: each row its own."""


def _attend(q: Tensor, parts: Sequence[_Part], bias: Tensor) -> Tensor:
    """Attention (R, k, g, D) of one query per row, (R, k, g, D), over all parts at once."""
    group = q.shape[2]
    scores = [
        readers.gather(readers.spread(q) @ keys.mT, group) if readers else q @ keys.mT
        for keys, _, readers in parts
    ]
    weights = torch.softmax(torch.cat(scores, -1).add_(bias), -1)  # (R, k, g, all tokens)
    shares = weights.split([keys.shape[-2] for keys, _, _ in parts], -1)
    read = [
        readers.gather(readers.spread(share) @ values, group) if readers else share @ values
        for share, (_, values, readers) in zip(shares, parts, strict=True)
    ]
    return sum(read[1:], read[0])


def _read(
    weights: DecodeWeights, sequences: Sequence[Sequence[int]], opening: Memory | None
) -> tuple[Tensor, Memory]:
    """States (P, d) at the last token of each sequence, and what the rows remember of them."""
    lengths = torch.tensor([len(s) for s in sequences], device=weights.device)
    # padded on the right, where causal attention does not look
    width = _rounded_up(int(lengths.max()), _BLOCK)
    ids = torch.zeros(len(sequences), width, dtype=torch.long)
    for i, sequence in enumerate(sequences):
        ids[i, : len(sequence)] = torch.tensor(sequence)
    first = int(opening.lengths) if opening else 0
    positions = torch.arange(first, first + width, device=weights.device)
    rotation = _rotation(weights, positions[None])
    mask = None
    if opening:  # the opening's padding is seen by nobody
        causal = torch.ones(width, width, dtype=torch.bool, device=weights.device).tril_()
        seen = opening.bias(weights.dtype)[0] == 0
        mask = torch.cat([seen.expand(width, -1), causal], -1)
    x = weights.embed(ids.to(weights.device)).to(weights.dtype)  # (P, T, d)
    all_keys, all_values = [], []
    for i, layer in enumerate(weights.layers):
        q, k, v = (part.transpose(1, 2) for part in _qkv(weights, layer, x, rotation))
        all_keys.append(k.contiguous())
        all_values.append(v.contiguous())
        if opening:
            before_k = opening.keys[i].expand(len(x), -1, -1, -1)
            before_v = opening.values[i].expand(len(x), -1, -1, -1)
            k, v = torch.cat([before_k, k], 2), torch.cat([before_v, v], 2)
        group = weights.heads // weights.kv_heads
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        out = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=1.0
        )  # (P, H, T, D)
        x = x + layer.out(out.transpose(1, 2).flatten(2))
        x = x + _mlp(weights, layer, x)
    last = x[torch.arange(len(x), device=x.device), lengths - 1]
    return _norm(weights, last, weights.norm), Memory(all_keys, all_values, lengths)


def _rotation(weights: DecodeWeights, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines, and sines with the signs of a half turn, of queries and keys: each
    (B, T, H + k, D). The scale of attention is in the queries'.
    """
    cos, sin = weights.rotary(
        torch.empty(0, dtype=torch.float32, device=positions.device), positions
    )
    half = weights.head_dim // 2
    sin = torch.cat([-sin[..., :half], sin[..., half:]], -1)
    scale = torch.ones(weights.heads + weights.kv_heads, 1, device=positions.device)
    scale[: weights.heads] = weights.scaling
    cos, sin = ((part[..., None, :] * scale).to(weights.dtype) for part in (cos, sin))
    return cos, sin


def _qkv(
    weights: DecodeWeights, layer: Layer, x: Tensor, rotation: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Rotated queries (.., H, D), rotated keys (.., k, D) and values (.., k, D) of states."""
    heads, kv_heads = weights.heads, weights.kv_heads
    joined = layer.qkv(_norm(weights, x, layer.attention_norm))
    joined = joined.view(*x.shape[:-1], heads + 2 * kv_heads, weights.head_dim)
    turned, values = joined.split([heads + kv_heads, kv_heads], -2)
    if layer.head_norms:
        parts = turned.split([heads, kv_heads], -2)
        pairs = zip(parts, layer.head_norms, strict=True)
        turned = torch.cat([_norm(weights, part, norm) for part, norm in pairs], -2)
    cos, sin = rotation
    turned = torch.addcmul(turned * cos, turned.roll(weights.head_dim // 2, -1), sin)
    queries, keys = turned.split([heads, kv_heads], -2)
    return queries, keys, values


def _mlp(weights: DecodeWeights, layer: Layer, x: Tensor) -> Tensor:
    gate, up = layer.gate_up(_norm(weights, x, layer.mlp_norm)).chunk(2, -1)
    return layer.down(weights.activation(gate).mul_(up))


def _norm(weights: DecodeWeights, x: Tensor, weight: Tensor) -> Tensor:
    """RMS norm in float32; `functional.rms_norm` takes up to five times as long in bfloat16."""
    y = x.float()
    squares = torch.linalg.vector_norm(y, dim=-1, keepdim=True).square_()
    scale = squares.div_(y.shape[-1]).add_(weights.epsilon).rsqrt_()
    return (y * scale).mul_(weight).to(x.dtype)


def _rounded_up(number: int, step: int) -> int:
    return -(-number // step) * step
