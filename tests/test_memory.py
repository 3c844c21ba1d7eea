"""Memory that steps free: kept, and returned where a process has grown."""

import pytest

from rationalize import memory


def test_free_pages_are_returned_once_a_process_has_grown_by_a_quarter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trims: list[int] = []
    sizes = iter([100, 90, 112, 113, 140, 150, 180])
    monkeypatch.setattr(memory, "keep_freed_memory", lambda: True)
    monkeypatch.setattr(memory, "give_back_freed_memory", lambda: trims.append(0))
    monkeypatch.setattr(memory, "resident", lambda: next(sizes))
    monkeypatch.setattr(memory, "_trim", lambda: trims.append(now))
    with memory.freed_memory_kept() as bound:
        for now in range(7):
            bound()
    # 113 is a quarter above 90; 140 is the first step after it, and 180 a quarter above that
    assert trims == [3, 6, 0]


def test_resident_is_that_of_this_process() -> None:
    assert memory.resident() > 2**20
