"""Token sequences merged where they begin alike: a prefix is computed once, however many go on
from it.

A tree is one row of a batch. Each token attends to its ancestors alone and stands at its depth, so
that its state is what it would be in a sequence of its own; gradients follow. What all sequences of
a question share (a system line, the question, a rationale) is read once, in scoring and in
learning. Pure index work: `forward.py` runs the model on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Tokens = tuple[int, ...]


@dataclass
class Tree:
    """Sequences merged where they begin alike."""

    tokens: list[int]
    paths: list[np.ndarray]
    """Per sequence its nodes (indices in `tokens`), in order."""
    members: list[int]
    """Per sequence its place among those that were planted."""

    def __len__(self) -> int:
        return len(self.tokens)


def build_prefix_trees(sequences: Sequence[Tokens], limit: int) -> list[Tree]:
    """Trees over all sequences, each of at most `limit` tokens or of one sequence.

    Sorted, those with a common prefix are neighbours: each is compared with the one before it only.
    """
    trees: list[Tree] = []
    before: Tokens = ()
    for i in sorted(range(len(sequences)), key=lambda i: (sequences[i], i)):
        ids = sequences[i]
        shared = _common(before, ids)
        if not trees or len(trees[-1]) + len(ids) - shared > limit:
            trees.append(Tree([], [], []))
            shared = 0
        tree = trees[-1]
        stem = tree.paths[-1][:shared] if shared else np.empty(0, dtype=np.int64)
        fresh = np.arange(len(tree), len(tree) + len(ids) - shared)
        tree.tokens.extend(ids[shared:])
        tree.paths.append(np.concatenate([stem, fresh]))
        tree.members.append(i)
        before = ids
    return trees


def build_batch_trees(sequences: Sequence[Tokens], limit: int) -> list[Tree]:
    """Trees for one batch: of the largest sizes up to `limit`, that with the fewest tokens once all
    are padded to the longest. Never more than the sequences alone.
    """
    if not sequences:
        return []
    widest = max(map(len, sequences))
    sizes = {0, limit, *(size for k in (1, 2, 4, 8) if (size := k * widest) < limit)}
    planted = [build_prefix_trees(sequences, size) for size in sorted(sizes)]
    return min(planted, key=lambda trees: len(trees) * max(map(len, trees)))


def ancestry(trees: Sequence[Tree]) -> tuple[np.ndarray, np.ndarray]:
    """What each node sees, (B, 1, T, T) bool, and its depth (B, T), padded to the longest tree."""
    width = max(map(len, trees))
    depth = np.zeros((len(trees), width), dtype=np.int64)
    sees = np.zeros((len(trees), 1, width, width), dtype=bool)
    sees[:, 0] |= np.eye(width, dtype=bool)  # padding sees itself, so that no row is empty
    for row, tree in enumerate(trees):
        for path in tree.paths:
            depth[row, path] = np.arange(len(path))
            sees[row, 0, path[:, None], path[None, :]] |= np.tri(len(path), dtype=bool)
    return sees, depth


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common prefix."""
    for n, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return n
    return min(len(a), len(b))
