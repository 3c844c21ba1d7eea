"""Memory that steps free: kept, and returned where a process has grown."""

import pytest

from rationalize import memory


def test_free_pages_are_returned_once_a_process_has_grown_by_a_quarter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[str] = []
    monkeypatch.setattr(memory, "keep_freed_memory", lambda: done.append("kept"))
    monkeypatch.setattr(memory, "give_back_freed_memory", lambda: done.append("given back"))
    monkeypatch.setattr(memory, "_trim", lambda: done.append("trimmed"))
    with memory.freed_memory_kept() as bound:
        for size in (300, 100, 90, 125, 126, 140, 150, 176):
            monkeypatch.setattr(
                memory, "resident", lambda size=size: done.append(str(size)) or size
            )
            bound()
    # 100 is what a step holds; 126 and 176 are more than a quarter above 100 and 140
    assert " ".join(done) == "kept trimmed 100 90 125 126 trimmed 140 150 176 trimmed given back"


def test_resident_is_that_of_this_process() -> None:
    assert memory.resident() > 2**20
