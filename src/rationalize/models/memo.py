"""A memo of slow, batched computations: each distinct key is computed once."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, TypeVar

V = TypeVar("V")

_memos: weakref.WeakSet[Memo[Any]] = weakref.WeakSet()


def forget_memos() -> None:
    """Empty all memos: what is computed next does not depend on what was asked before, not even in
    the rounding of batches of another composition.
    """
    for memo in _memos:
        memo.forget()


class Memo(Generic[V]):
    """Remembers the latest `size` answers by key; the oldest are dropped first.

    >>> squares = Memo[int](size=100)
    >>> squares.ask([2, 3, 2], lambda rows: [[2, 3, 2][i] ** 2 for i in rows])
    [4, 9, 4]
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._known: dict[Hashable, V] = {}
        _memos.add(self)

    def forget(self) -> None:
        """Remember nothing."""
        self._known.clear()

    def ask(
        self, keys: Sequence[Hashable], answer: Callable[[Sequence[int]], Sequence[V]]
    ) -> list[V]:
        """One answer per key; `answer(rows)` computes unknown keys, each at its first row."""
        first_row: dict[Hashable, int] = {}
        for row, key in enumerate(keys):
            first_row.setdefault(key, row)
        answers = {key: self._known[key] for key in first_row if key in self._known}
        unknown = {key: row for key, row in first_row.items() if key not in answers}
        if unknown:
            computed = dict(zip(unknown, answer(list(unknown.values())), strict=True))
            answers |= computed
            self._known |= computed
        # a dict keeps insertion order: the oldest come first
        for key in list(self._known)[: max(0, len(self._known) - self.size)]:
            del self._known[key]
        return [answers[key] for key in keys]
