"""Forward passes: last hidden states at response positions only, each prompt read once.

A decoder-only row is `prompt, controls, response`, padded on the right; attention is causal, so
padding changes nothing. The first response token is predicted at the last control token, or at the
last prompt token if there are no controls. The reference reads the same rows without controls,
therefore each side gathers its own positions. A prefix that rows of one pass share is read once
(`trees.py`); an encoder reads each prompt once.

Axes: `B` rows or trees of a pass, `T` or `L` padded tokens, `N` response tokens of all rows, `d`
the hidden size.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rationalize.models.trees import Tree, ancestry, build_batch_trees, build_prefix_trees

if TYPE_CHECKING:
    from rationalize.models.policy import Policy

_SHORT = 512
"""Tokens of the longest row that uses plain attention on a CPU, and of the largest tree."""


@dataclass(frozen=True)
class Row:
    """One training or scoring example in token ids."""

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    control_ids: tuple[int, ...] = ()
    tag: Any = None
    """For the caller: an index, or what a loss needs to know of the row."""

    @property
    def length(self) -> int:
        """Tokens that a forward pass reads."""
        return len(self.prompt_ids) + len(self.control_ids) + len(self.response_ids)


_WINDOW = re.compile(r"window(_size)?$|attention_chunk_size$")
"""What configurations call the size of a window of local attention."""

GroupOf = Callable[[Row], Hashable]
"""Maps a row to its group; rows of one group stay in one forward pass."""


@dataclass(frozen=True)
class Batch:
    """Rows with their response tokens concatenated."""

    rows: Sequence[Row]
    targets: Tensor
    """(N,) response tokens of all rows."""
    row_of: Tensor
    """(N,) index of the row that each belongs to."""


def micro_batches(
    rows: Sequence[Row], max_tokens: int, group_of: GroupOf | None = None
) -> list[list[Row]]:
    """Groups of rows, sorted by length, in passes of at most `max_tokens` padded tokens each.

    Without `group_of` each row is its own group. A group that is larger is a pass by itself. Rows
    of one prompt stay neighbours, so that a pass shares it.
    """
    # sort by the longest row of the prompt, not by the row itself: keeps a prompt's rows together
    longest: dict[tuple[int, ...], int] = {}
    for row in rows:
        longest[row.prompt_ids] = max(row.length, longest.get(row.prompt_ids, 0))

    def sort_key(group: Sequence[Row]) -> tuple[int, tuple[int, ...]]:
        return max((longest[row.prompt_ids], row.prompt_ids) for row in group)

    groups: dict[Hashable, list[Row]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(group_of(row) if group_of else i, []).append(row)
    passes: list[list[Row]] = []
    widest = 0  # upper bound on the rows of the current pass, since groups come longest first
    for group in sorted(groups.values(), key=sort_key, reverse=True):
        if passes and widest * (len(passes[-1]) + len(group)) <= max_tokens:
            passes[-1].extend(group)
        else:
            passes.append(group)
            widest, _ = sort_key(group)
    return passes


def collate(rows: Sequence[Row], policy: Policy) -> Batch:
    """A batch of rows on the policy's device; ValueError if a prompt or a response is empty."""
    for row in rows:
        if not row.response_ids or not row.prompt_ids:
            raise ValueError("a row needs a prompt and a response")
    targets = torch.tensor([t for r in rows for t in r.response_ids], device=policy.device)
    sizes = torch.tensor([len(r.response_ids) for r in rows], device=policy.device)
    row_of = torch.repeat_interleave(torch.arange(len(rows), device=policy.device), sizes)
    return Batch(rows, targets, row_of)


def hidden_at_response(policy: Policy, batch: Batch, *, with_controls: bool = True) -> Tensor:
    """Last hidden states (N, d) at the positions that predict the response tokens.

    A prefix that rows share is read once, if the model takes trees.
    """
    rows = batch.rows
    controls = [r.control_ids if with_controls else () for r in rows]
    if not policy.is_encoder_decoder:
        return _decoder_only_hidden(policy, rows, controls)
    with attention_for(policy, max(row.length for row in rows)):
        return _encoder_decoder_hidden(policy, rows, controls)


def _encoder_decoder_hidden(
    policy: Policy, rows: Sequence[Row], controls: Sequence[tuple[int, ...]]
) -> Tensor:
    model = plain_model(policy)
    # encode each distinct prompt once
    order: dict[tuple[int, ...], int] = {}
    prompt_of = [order.setdefault(r.prompt_ids, len(order)) for r in rows]
    ids, mask = padded(list(order), policy)
    encoded = model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
    # decode all rows, each with the states of its prompt
    prompt_of_row = torch.tensor(prompt_of, device=policy.device)  # (B,)
    decoder_inputs = [
        (policy.start_id, *c, *r.response_ids[:-1]) for r, c in zip(rows, controls, strict=True)
    ]
    hidden = text_decoder(policy)(
        input_ids=padded(decoder_inputs, policy)[0], encoder_hidden_states=encoded[prompt_of_row],
        encoder_attention_mask=mask[prompt_of_row], use_cache=False,
    ).last_hidden_state  # (B, L, d)  # fmt: skip
    # response token t of row i is predicted at decoder position len(controls) + t
    positions = [
        (i, len(c) + t)
        for i, (r, c) in enumerate(zip(rows, controls, strict=True))
        for t in range(len(r.response_ids))
    ]
    return hidden[torch.tensor(positions, device=hidden.device).unbind(1)]


def _decoder_only_hidden(
    policy: Policy, rows: Sequence[Row], controls: Sequence[tuple[int, ...]]
) -> Tensor:
    # the last response token predicts nothing, so it is not read
    reads = [(*r.prompt_ids, *c, *r.response_ids[:-1]) for r, c in zip(rows, controls, strict=True)]
    trees = build_batch_trees(reads, max_tree_tokens(policy, reads, _SHORT))
    with attention_for(policy, max(map(len, trees))):
        hidden = tree_hidden(policy, trees)  # (B, T, d)
    # per row the (tree, node) that predicts each response token, back in the rows' order
    nodes_of: list[list[tuple[int, int]]] = [[]] * len(rows)
    for tree_index, tree in enumerate(trees):
        for path, i in zip(tree.paths, tree.members, strict=True):
            first = len(rows[i].prompt_ids) + len(controls[i]) - 1
            nodes_of[i] = [(tree_index, int(node)) for node in path[first:]]
    nodes_N2 = torch.tensor([node for nodes in nodes_of for node in nodes], device=hidden.device)
    return hidden[nodes_N2.unbind(1)]


def max_tree_tokens(policy: Policy, sequences: Sequence[tuple[int, ...]], limit: int) -> int:
    """Tokens that a tree may have: at most `limit`, and 0 for no sharing.

    0 if the model takes no trees, or if a sequence is longer than the model's window of local
    attention: a mask of ours would replace the window.
    """
    window = min(limit, local_window(policy))
    if not policy.takes_trees or (window < limit and max(map(len, sequences), default=0) > window):
        return 0
    return window


def local_window(policy: Policy) -> int:
    """Tokens that the narrowest layer of local attention sees; a very large number if none is."""
    config = plain_model(policy).config.get_text_config(decoder=True)
    sizes = (size for name, size in vars(config).items() if _WINDOW.search(name))
    return min((s for s in sizes if isinstance(s, int) and s > 1), default=sys.maxsize)


def tree_hidden(policy: Policy, trees: Sequence[Tree]) -> Tensor:
    """Last hidden states of a batch of trees, (B, T, d), with gradients."""
    decoder = text_decoder(policy)
    ids, _ = padded([tree.tokens for tree in trees], policy)
    if all(len(tree.paths) == 1 for tree in trees):  # plain sequences, padded on the right
        return decoder(input_ids=ids, use_cache=False).last_hidden_state
    sees, depth = (torch.from_numpy(array).to(ids.device) for array in ancestry(trees))
    dtype = next(decoder.parameters()).dtype
    # additive attention mask, (B, 1, T, T): 0 for ancestors, the lowest number elsewhere
    mask = torch.zeros_like(sees, dtype=dtype).masked_fill_(~sees, torch.finfo(dtype).min)
    return decoder(
        input_ids=ids, attention_mask=mask, position_ids=depth, use_cache=False
    ).last_hidden_state


@torch.no_grad()
def takes_trees(policy: Policy) -> bool:
    """Whether the model gives the same hidden states in a tree, tried on two short sequences.

    It does not if position or past do not follow the mask (ALiBi, state-space models), or if its
    attention accepts no such mask. Every sequence is then read by itself.
    """
    if policy.is_encoder_decoder:
        return False
    ids = ids_of_words(policy, 12)
    pair = [(*ids[:6], i, i) for i in ids[-2:]]
    single = build_prefix_trees(pair, 0)  # a tree per sequence
    alone = torch.stack([tree_hidden(policy, [tree])[0, -1] for tree in single]).float()  # (2, d)
    [tree] = build_prefix_trees(pair, len(ids))
    try:
        merged = tree_hidden(policy, [tree])[0, [path[-1] for path in tree.paths]].float()
    except (ValueError, RuntimeError, TypeError, IndexError, AttributeError, AssertionError):
        return False  # the model accepts no such mask
    return close(merged, alone, tolerance(policy))


_WORDS = (
    "A smooth road has less friction than a rough one, so the car on ice needs more time to stop. "
    "Water that is heated turns into steam, and a heavy stone falls as fast as a light feather "
    "where there is no air. Nine apples shared by three children are three for each of them."
)


def ids_of_words(policy: Policy, n: int) -> tuple[int, ...]:
    """n ids of a text, the same each time, to try a model on.

    Rounding moves states on a text by about 2 % in bfloat16, on ids drawn at random by up to 20 %.
    Padding and EOS mean more than a word in some models.
    """
    text = policy.encode_response(_WORDS, eos=False)
    ids = [i for i in text if i not in (policy.pad_id, policy.eos_id)]
    return tuple(ids[i % len(ids)] for i in range(n))


def tolerance(policy: Policy) -> float:
    """How far two states of a model may differ, relative to their length, by rounding alone."""
    return 1e-3 if policy.dtype == torch.float32 else 0.1


@contextmanager
def attention_for(policy: Policy, length: int) -> Iterator[None]:
    """On a CPU, plain attention for short rows: its backward pass costs less than the fused one."""
    model = plain_model(policy)
    # beside a vision model, the text model has a configuration of its own
    config = model.config if policy.is_encoder_decoder else text_decoder(policy).config
    before = getattr(config, "_attn_implementation", None)
    plain = policy.device.type == "cpu" and before == "sdpa" and length <= _SHORT
    try:
        if plain:
            config._attn_implementation = "eager"
        yield
    finally:
        if plain:
            config._attn_implementation = before


def padded(sequences: Sequence[Sequence[int]], policy: Policy) -> tuple[Tensor, Tensor]:
    """Ids padded on the right, and the mask of real tokens, both (B, L)."""
    width = max(map(len, sequences))
    ids = torch.full((len(sequences), width), policy.pad_id)
    mask = torch.zeros(len(sequences), width, dtype=torch.long)
    for i, sequence in enumerate(sequences):
        ids[i, : len(sequence)] = torch.tensor(sequence)
        mask[i, : len(sequence)] = 1
    return ids.to(policy.device), mask.to(policy.device)


def plain_model(policy: Policy) -> Any:
    """The transformers model, taken out of a peft wrapper if there is one."""
    get_base = getattr(policy.model, "get_base_model", None)
    return get_base() if get_base else policy.model


def text_decoder(policy: Policy) -> Any:
    """The module that reads token ids, with `last_hidden_state` in its output."""
    decoder = plain_model(policy).get_decoder()
    # beside a vision model it may have an output layer of its own (Llama 4)
    while getattr(decoder, "lm_head", None) is not None:
        inner = decoder.get_decoder()
        decoder = decoder.model if inner is decoder else inner
    return decoder


def close(found: Tensor, expected: Tensor, rounding: float) -> bool:
    """Whether each vector (.., d) is the expected one, up to `rounding` relative to its length."""
    found, expected = found.float(), expected.float()
    gaps = (found - expected).norm(dim=-1)
    return bool((gaps <= rounding * expected.norm(dim=-1)).all())
