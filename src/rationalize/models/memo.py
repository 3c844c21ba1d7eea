"""The latest answers of something slow that is asked in batches, each distinct question once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

V = TypeVar("V")


class Memo(Generic[V]):
    """At most `size` answers by key; beyond, the oldest are forgotten.

    >>> squares = Memo[int](size=100)
    >>> squares.ask([2, 3, 2], lambda rows: [[2, 3, 2][i] ** 2 for i in rows])
    [4, 9, 4]
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._known: dict[Hashable, V] = {}

    def ask(
        self, keys: Sequence[Hashable], answer: Callable[[Sequence[int]], Sequence[V]]
    ) -> list[V]:
        """An answer per key; `answer(rows)` is asked for unknown keys, at their first rows."""
        first: dict[Hashable, int] = {}
        for row, key in enumerate(keys):
            first.setdefault(key, row)
        found = {key: self._known[key] for key in first if key in self._known}
        new = {key: row for key, row in first.items() if key not in found}
        if new:
            fresh = dict(zip(new, answer(list(new.values())), strict=True))
            found |= fresh
            self._known |= fresh
        for key in list(self._known)[: max(0, len(self._known) - self.size)]:
            del self._known[key]
        return [found[key] for key in keys]
