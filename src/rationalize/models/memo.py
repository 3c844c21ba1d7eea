"""A memo of slow, batched computations: each distinct key is computed once."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, TypeVar

V = TypeVar("V")

_memos: weakref.WeakSet[Memo[Any]] = weakref.WeakSet()


def forget_memos() -> None:
    """Let no memo answer a key from another list than it is asked in next: an answer's last digits
    depend on what shares its batch, and shall not depend on what was asked before.
    """
    for memo in _memos:
        memo.forget()


class Memo(Generic[V]):
    """Remembers the latest `size` answers by key, and as many by the whole list that was computed;
    the oldest are dropped first.

    >>> squares = Memo[int](size=100)
    >>> squares.ask([2, 3, 2], lambda rows: [[2, 3, 2][i] ** 2 for i in rows])
    [4, 9, 4]
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._known: dict[Hashable, V] = {}
        self._lists: dict[tuple[Hashable, ...], list[V]] = {}
        _memos.add(self)

    def forget(self) -> None:
        """Remember whole lists alone: computed again, they would give the same digits."""
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
            listed = tuple(unknown)
            if listed not in self._lists:
                self._lists[listed] = list(answer(list(unknown.values())))
            computed = dict(zip(unknown, self._lists[listed], strict=True))
            answers |= computed
            self._known |= computed
        # a dict keeps insertion order: the oldest come first
        for key in list(self._known)[: max(0, len(self._known) - self.size)]:
            del self._known[key]
        while sum(map(len, self._lists)) > self.size:
            del self._lists[next(iter(self._lists))]
        return [answers[key] for key in keys]
