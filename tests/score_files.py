"""Files of rationales, and `score` over them."""

from __future__ import annotations

import gzip
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

from rationalize.cli import main

HOSTILE = (
    "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"> \x00\x07"
    "\x1b[2J\x1b]0;owned\x07\r\x7f\x85\x9b31m \ud800 \udc00\ud800 \u202eevil\u2066 \u2028\u2029"
    "\ufeff שלום 日本 \U0001f600 end"
)


def rows(n: int, text: str = "Two and two.") -> list[dict]:
    return [
        {"id": i, "question": f"{i} + 2?", "answer": str(i + 2), "note": {"b": [i], "a": None},
         "rationale": f"{text} {i}", "prediction": str(i + 2 + i % 2)}
        for i in range(n)
    ]  # fmt: skip


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path) -> list[dict]:
    content = path.read_bytes()
    lines = gzip.decompress(content) if path.suffix == ".gz" else content
    return [json.loads(line) for line in lines.splitlines()]


def score(file, out, *flags) -> int:
    return main(["score", str(file), "--out", str(out), *map(str, flags)])


def without_rewards(rows: list[dict]) -> list[list]:
    """Fields in their order, the scores left out."""
    return [[(k, v) for k, v in row.items() if k != "rewards"] for row in rows]


def standard_input(monkeypatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
