"""Prefix trees of token sequences: a prefix that several sequences share is computed once.

A tree is one row of a batch. Each token attends only to its ancestors, and its position id is its
depth. Its hidden state therefore equals the one it would have in a sequence by itself, and so do
the gradients. What the sequences of one question share (a system line, the question, a rationale)
is read once, in scoring and in training. This module is index arithmetic; `forward.py` runs the
model on the trees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np

Tokens = tuple[int, ...]

_EVEN = 512
"""Tokens of a tree in which attention costs a token as much as the linear layers (SmolLM2-135M with
plain attention on a CPU, forward and backward: 2.6 s in two trees of 225, 3.1 s in one of 417).
"""


@dataclass
class Tree:
    """Sequences merged over the prefixes that they share."""

    tokens: list[int]
    paths: list[np.ndarray]
    """Per sequence the indices of its nodes in `tokens`, in order."""
    members: list[int]
    """Per path the index of its sequence in the input of `build_prefix_trees`."""

    def __len__(self) -> int:
        return len(self.tokens)


def build_prefix_trees(sequences: Sequence[Tokens], limit: int) -> list[Tree]:
    """Trees over all sequences; each has at most `limit` tokens, or holds a single sequence."""
    trees: list[Tree] = []
    previous: Tokens = ()
    # in sorted order, sequences that share a prefix are neighbours: comparing with the previous
    # sequence is enough
    for i in sorted(range(len(sequences)), key=lambda i: (sequences[i], i)):
        ids = sequences[i]
        shared = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(previous, ids))))
        if not trees or len(trees[-1]) + len(ids) - shared > limit:
            trees.append(Tree([], [], []))
            shared = 0
        tree = trees[-1]
        # path = nodes of the shared prefix, then one new node per remaining token
        stem = tree.paths[-1][:shared] if shared else np.empty(0, dtype=np.int64)
        new_nodes = np.arange(len(tree), len(tree) + len(ids) - shared)
        tree.tokens.extend(ids[shared:])
        tree.paths.append(np.concatenate([stem, new_nodes]))
        tree.members.append(i)
        previous = ids
    return trees


def build_batch_trees(sequences: Sequence[Tokens], limit: int) -> list[Tree]:
    """Trees for one padded batch, of the maximum size (up to `limit`) that costs least.

    A padded token costs its linear layers and its attention, which grows with the size of the tree.
    Never more padded tokens than the sequences by themselves.
    """
    if not sequences:
        return []
    widest = max(map(len, sequences))
    # large trees share more, but every tree is padded to the largest: try a few sizes
    sizes = {0, limit, *(size for k in (1, 2, 4, 8) if (size := k * widest) < limit)}
    candidates = [build_prefix_trees(sequences, size) for size in sorted(sizes)]

    def cost(trees: list[Tree]) -> int:
        width = max(map(len, trees))
        return len(trees) * width * (_EVEN + width)

    return min(candidates, key=cost)


def ancestry(trees: Sequence[Tree]) -> tuple[np.ndarray, np.ndarray]:
    """Attention mask (B, 1, T, T) bool and depth (B, T), padded to the largest tree.

    `mask[b, 0, i, j]` says whether node i attends to node j: its ancestors and itself.
    """
    width = max(map(len, trees))
    depth = np.zeros((len(trees), width), dtype=np.int64)  # (B, T)
    sees = np.zeros((len(trees), 1, width, width), dtype=bool)  # (B, 1, T, T)
    sees[:, 0] |= np.eye(width, dtype=bool)  # padding attends to itself: softmax needs one entry
    for row, tree in enumerate(trees):
        for path in tree.paths:
            # along its own path, a sequence is causal: a lower triangle over the path's nodes
            depth[row, path] = np.arange(len(path))
            sees[row, 0, path[:, None], path[None, :]] |= np.tri(len(path), dtype=bool)
    return sees, depth
