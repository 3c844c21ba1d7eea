"""Forward passes that read response positions only, and each prompt once.

Decoder-only rows are `prompt, controls, response`, padded on the right: attention is causal, so no
row sees another's padding. The first response token is predicted at the last control token, or at
the prompt's last token where there are no controls, which is the reference's view: positions are
gathered on each side by itself. What rows of one pass share from the start on is read once
(`trees.py`); an encoder reads each prompt once.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rationalize.errors import UserError
from rationalize.models.trees import Tree, ancestry, build_batch_trees, build_prefix_trees

if TYPE_CHECKING:
    from rationalize.models.policy import Policy

_SHORT = 512
"""Tokens: the longest row under plain attention, and the largest tree."""


@dataclass(frozen=True)
class Row:
    """One training or scoring example in token ids."""

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    control_ids: tuple[int, ...] = ()
    tag: Any = None
    """Whatever the caller wants to find again."""

    @property
    def length(self) -> int:
        """Tokens that a forward pass reads."""
        return len(self.prompt_ids) + len(self.control_ids) + len(self.response_ids)


GroupOf = Callable[[Row], Hashable]
"""Rows of equal value stay together, in one forward pass."""


@dataclass(frozen=True)
class Batch:
    """Rows with their response tokens laid end to end."""

    rows: Sequence[Row]
    targets: Tensor
    """(N,) response tokens of all rows."""
    row_of: Tensor
    """(N,) index of the row that each belongs to."""


def groups(rows: Sequence[Row], group_of: GroupOf | None) -> list[list[Row]]:
    """Rows that stay together, in the order of each group's first row."""
    if group_of is None:
        return [[row] for row in rows]
    found: dict[Hashable, list[Row]] = {}
    for row in rows:
        found.setdefault(group_of(row), []).append(row)
    return list(found.values())


def micro_batches(
    rows: Sequence[Row], max_tokens: int, group_of: GroupOf | None = None
) -> list[list[Row]]:
    """Groups of rows cut, by length, into passes of at most `max_tokens` padded tokens.

    A group that is larger passes alone. Rows of one prompt lie side by side: a pass shares it.
    """
    longest: dict[tuple[int, ...], int] = {}
    for row in rows:
        longest[row.prompt_ids] = max(row.length, longest.get(row.prompt_ids, 0))

    def place(group: Sequence[Row]) -> tuple[int, tuple[int, ...]]:
        return max((longest[row.prompt_ids], row.prompt_ids) for row in group)

    passes: list[list[Row]] = []
    widest = 0  # row of the current pass, or of another with its prompt
    for group in sorted(groups(rows, group_of), key=place, reverse=True):
        if passes and widest * (len(passes[-1]) + len(group)) <= max_tokens:
            passes[-1].extend(group)
        else:
            passes.append(group)
            widest, _ = place(group)
    return passes


def collate(rows: Sequence[Row], policy: Policy) -> Batch:
    """Raises ValueError for a row without a response, or without anything before it."""
    for row in rows:
        if not row.response_ids or not row.prompt_ids:
            raise ValueError("a row needs a prompt and a response")
    targets = torch.tensor([t for r in rows for t in r.response_ids], device=policy.device)
    sizes = torch.tensor([len(r.response_ids) for r in rows], device=policy.device)
    return Batch(
        rows, targets, torch.repeat_interleave(torch.arange(len(rows), device=policy.device), sizes)
    )


def hidden_at_response(policy: Policy, batch: Batch, *, with_controls: bool = True) -> Tensor:
    """Last hidden states (N, d) at the positions that predict the response tokens.

    What rows begin with alike is read once, where the model takes trees.
    """
    rows = batch.rows
    controls = [r.control_ids if with_controls else () for r in rows]
    if not policy.is_encoder_decoder:
        return _decoder(policy, rows, controls)
    with _attention_for(policy, max(row.length for row in rows)):
        return _encoder_decoder(policy, rows, controls)


def _encoder_decoder(
    policy: Policy, rows: Sequence[Row], controls: Sequence[tuple[int, ...]]
) -> Tensor:
    model = plain_model(policy)
    order: dict[tuple[int, ...], int] = {}
    prompt_of = [order.setdefault(r.prompt_ids, len(order)) for r in rows]
    ids, mask = padded(list(order), policy)
    encoded = model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
    own = torch.tensor(prompt_of, device=policy.device)
    written = [
        (policy.start_id, *c, *r.response_ids[:-1]) for r, c in zip(rows, controls, strict=True)
    ]
    hidden = model.get_decoder()(
        input_ids=padded(written, policy)[0],
        encoder_hidden_states=encoded[own],
        encoder_attention_mask=mask[own],
        use_cache=False,
    ).last_hidden_state  # (B, L, d)
    at = [
        (i, len(c) + t)
        for i, (r, c) in enumerate(zip(rows, controls, strict=True))
        for t in range(len(r.response_ids))
    ]
    return hidden[torch.tensor(at, device=hidden.device).unbind(1)]


def _decoder(policy: Policy, rows: Sequence[Row], controls: Sequence[tuple[int, ...]]) -> Tensor:
    reads = [(*r.prompt_ids, *c, *r.response_ids[:-1]) for r, c in zip(rows, controls, strict=True)]
    trees = build_batch_trees(reads, room(policy, reads, _SHORT))
    with _attention_for(policy, max(map(len, trees))):
        hidden = tree_hidden(policy, trees)  # (B, T, d)
    found: list[list[tuple[int, int]]] = [[]] * len(rows)
    for tree_at, tree in enumerate(trees):
        for path, i in zip(tree.paths, tree.members, strict=True):
            first = len(rows[i].prompt_ids) + len(controls[i]) - 1
            found[i] = [(tree_at, int(node)) for node in path[first:]]
    at = torch.tensor([place for own in found for place in own], device=hidden.device)
    return hidden[at.unbind(1)]


def room(policy: Policy, sequences: Sequence[tuple[int, ...]], limit: int) -> int:
    """How large a tree may grow: 0 where the model takes none, or where a sequence is longer than
    the window of its local attention, which a mask of ours would widen.
    """
    config = plain_model(policy).config
    windows = (getattr(config, name, None) for name in ("sliding_window", "window_size"))
    window = min((own for own in windows if own), default=limit)
    if not policy.takes_trees or (window < limit and max(map(len, sequences), default=0) > window):
        return 0
    return min(limit, window)


def tree_hidden(policy: Policy, trees: Sequence[Tree]) -> Tensor:
    """Last hidden states of a batch of trees, (B, T, d)."""
    decoder = plain_model(policy).get_decoder()
    ids, _ = padded([tree.tokens for tree in trees], policy)
    if all(len(tree.paths) == 1 for tree in trees):  # plain sequences, padded on the right
        return decoder(input_ids=ids, use_cache=False).last_hidden_state
    sees, depth = (torch.from_numpy(own).to(ids.device) for own in ancestry(trees))
    dtype = next(decoder.parameters()).dtype
    mask = torch.zeros_like(sees, dtype=dtype).masked_fill_(~sees, torch.finfo(dtype).min)
    return decoder(
        input_ids=ids, attention_mask=mask, position_ids=depth, use_cache=False
    ).last_hidden_state


@torch.no_grad()
def takes_trees(policy: Policy) -> bool:
    """Whether a tree gives the model's own numbers, tried on two short sequences.

    Where positions or the past are not a matter of the mask (ALiBi, state-space models) it does
    not, nor where attention takes no such mask, and every sequence is read by itself.
    """
    if policy.is_encoder_decoder:
        return False
    ids = np.random.default_rng(0).integers(policy.n_vocab, size=12).tolist()
    pair = [(*ids[:6], i, i) for i in ids[-2:]]
    alone = torch.stack(
        [tree_hidden(policy, [tree])[0, -1] for tree in build_prefix_trees(pair, 0)]
    ).float()
    [tree] = build_prefix_trees(pair, len(ids))
    try:
        merged = tree_hidden(policy, [tree])[0, [path[-1] for path in tree.paths]].float()
    except (ValueError, RuntimeError, TypeError, IndexError, AttributeError, AssertionError):
        return False  # such a mask cannot be given at all
    gaps = (merged - alone).norm(dim=1) / alone.norm(dim=1)
    return gaps.max().item() < (1e-3 if policy.dtype == torch.float32 else 0.1)


@contextmanager
def _attention_for(policy: Policy, length: int) -> Iterator[None]:
    """On a processor, plain attention for short rows: the fused kernel's backward pass costs more
    than the score matrices that it saves.
    """
    config = plain_model(policy).config
    before = getattr(config, "_attn_implementation", None)
    plain = policy.device.type == "cpu" and before == "sdpa" and length <= _SHORT
    try:
        if plain:
            config._attn_implementation = "eager"
        yield
    finally:
        if plain:
            config._attn_implementation = before


def head(policy: Policy, hidden: Tensor) -> Tensor:
    """Logits (N, n_vocab) of the words: control tokens have none."""
    if not policy.linear_head:
        return _own_head(policy, hidden)
    model = plain_model(policy)
    output = model.get_output_embeddings()
    scale, cap = _head_facts(model.config)
    bias = output.bias[: policy.n_vocab] if getattr(output, "bias", None) is not None else None
    logits = torch.nn.functional.linear(
        hidden * scale if scale != 1.0 else hidden, output_rows(policy), bias
    )
    return cap * torch.tanh(logits / cap) if cap else logits


def output_rows(policy: Policy) -> Tensor:
    """The lm-head's rows of the words, (n_vocab, d)."""
    rows = plain_model(policy).get_output_embeddings().weight
    # a slice of everything would still cost its gradient another matrix of zeros
    return rows if policy.n_vocab == rows.shape[0] else rows[: policy.n_vocab]


def token_logprobs(policy: Policy, rows: Sequence[Row]) -> list[Tensor]:
    """Log-probability of every response token, one tensor per row, in float32."""
    batch = collate(rows, policy)
    logits = head(policy, hidden_at_response(policy, batch)).float()
    own = torch.log_softmax(logits, -1).gather(1, batch.targets[:, None])[:, 0]
    return list(own.split([len(r.response_ids) for r in rows]))


def padded(sequences: Sequence[Sequence[int]], policy: Policy) -> tuple[Tensor, Tensor]:
    """Right-padded ids and mask, both (B, L)."""
    width = max(map(len, sequences))
    ids = torch.full((len(sequences), width), policy.pad_id)
    mask = torch.zeros(len(sequences), width, dtype=torch.long)
    for i, sequence in enumerate(sequences):
        ids[i, : len(sequence)] = torch.tensor(sequence)
        mask[i, : len(sequence)] = 1
    return ids.to(policy.device), mask.to(policy.device)


def plain_model(policy: Policy) -> Any:
    """The transformers model, also inside a peft wrapper."""
    get_base = getattr(policy.model, "get_base_model", None)
    return get_base() if get_base else policy.model


def find_head(policy: Policy) -> None:
    """Compare `head` with the model's own logits once; where they differ, the model's own code
    computes them (slower).

    Raises `UserError` where that differs too.
    """
    row = Row(
        tuple(i % policy.n_vocab for i in (5, 6, 7)), tuple(i % policy.n_vocab for i in (8, 9))
    )
    with torch.no_grad(), _attention_for(policy, row.length):  # both sides read alike
        hidden = hidden_at_response(policy, collate([row], policy))
        ids = torch.tensor([[*row.prompt_ids, row.response_ids[0]]], device=policy.device)
        if policy.is_encoder_decoder:
            written = torch.tensor([[policy.start_id, row.response_ids[0]]], device=policy.device)
            own = policy.model(input_ids=ids[:, :3], decoder_input_ids=written).logits[0]
        else:
            own = policy.model(input_ids=ids).logits[0, -2:]
        own = own[:, : policy.n_vocab].float()
        for policy.linear_head in (True, False):
            if torch.allclose(
                head(policy, hidden).float(), own, rtol=1e-2, atol=1e-2 * own.std().item()
            ):
                return
    raise UserError(
        f"{policy.name}: the logits of {policy.model.config.model_type!r} could not be computed "
        "from its last hidden states; expected an architecture like Llama, Qwen, Mistral, Phi, "
        "Gemma or T5"
    )


def _own_head(policy: Policy, hidden: Tensor) -> Tensor:
    """The model's own way from the decoder's output to logits: a pass over one token, whose output
    is replaced.
    """
    model = plain_model(policy)

    def replace(_module, _inputs, output):
        output.last_hidden_state = hidden[None]
        return output

    token = torch.zeros(1, 1, dtype=torch.long, device=hidden.device)
    inputs = {"decoder_input_ids": token} if policy.is_encoder_decoder else {}
    hook = model.get_decoder().register_forward_hook(replace)
    try:
        return model(input_ids=token, use_cache=False, **inputs).logits[0, :, : policy.n_vocab]
    finally:
        hook.remove()


def _head_facts(config: Any) -> tuple[float, float | None]:
    """Scale before and soft cap after the linear output layer."""
    scale = (
        config.d_model**-0.5 if getattr(config, "scale_decoder_outputs", False) else 1.0
    )  # T5, version 1.0
    return scale, getattr(config, "final_logit_softcapping", None)
