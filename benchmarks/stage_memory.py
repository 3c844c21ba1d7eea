"""Peak memory, bytes written and seconds of every stage of a demo, and who holds what at the peak.

    python benchmarks/stage_memory.py                     # MaRio's demo, shortened
    python benchmarks/stage_memory.py mario --whole       # with all of its questions and steps
    python benchmarks/stage_memory.py coalition -- --seeds 1

A shortened demo has fewer questions and steps, but batches, models and stages of the same size, so
its peaks are those of the whole one. A stage is what the demo's last line says. The resident set is
read ten times a second; where it rises, the tensors of the process are counted by what they are.
What autograd keeps for the backward pass is in the rest, with the interpreter and its libraries.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import re
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SHORT = {
    "mario": (
        "--limits train=64 dev=6 test=8 unseen=2 --mario.steps 4 --mario.sample-interval 2 "
        "--mario.prompts 8 --mario.token-questions 4"
    ),
    "coalition": "--limits train=64 dev=6 test=8",
    "self-motivated": "--limits train=64 dev=6 test=8 --ppo.updates 2",
}
EVERY = 0.1
RISE = 1.02
"""How far above the last count the resident set must be to count again."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("demo", nargs="?", default="mario", choices=SHORT)
    parser.add_argument("--whole", action="store_true", help="all questions and steps")
    parser.add_argument("--out", help="folder of the run, kept; else a temporary one")
    args, more = parser.parse_known_args()
    options = [] if args.whole else SHORT[args.demo].split()
    more = [word for word in more if word != "--"]
    with tempfile.TemporaryDirectory() as folder:
        run = args.out or str(Path(folder) / "run")
        command = ["demo", "--method", args.demo, "--out", run, *options, *more]
        stages = watched(command)
        left = sum(f.stat().st_size / f.stat().st_nlink for f in Path(run).rglob("*"))
    for stage in stages:
        print(
            f"{stage['seconds']:7.1f} s  peak {stage['peak']:6.0f} MiB  wrote "
            f"{stage['written']:7.1f} MB  {stage['stage']}",
            file=sys.stderr,
        )
    top = max(stages, key=lambda stage: stage["peak"])
    total = {
        "peak_MiB": top["peak"], "written_MB": sum(s["written"] for s in stages),
        "left_MB": left / 1e6, "seconds": sum(s["seconds"] for s in stages),
    }  # fmt: skip
    print(json.dumps({"demo": args.demo, **total, "at_the_peak": top, "stages": stages}, indent=1))


def watched(command: Sequence[str]) -> list[dict[str, Any]]:
    """Run a command of this package here, and what each of its stages took."""
    # what the watcher lists must not be half made: these build large tuples as they are imported
    import torch._dynamo
    import transformers

    from rationalize.cli import run

    del torch, transformers
    lines, stages, done = _LastLine(sys.stderr), list[dict[str, Any]](), threading.Event()

    def watch() -> None:
        counted, written, began = 0.0, _written(), time.monotonic()
        while not done.wait(EVERY):
            name = re.sub(r"[\d.]+", "#", lines.last)[:60].split(":")[0]
            if not stages or stages[-1]["stage"] != name:
                stages.append({"stage": name, "peak": 0.0, "seconds": 0.0, "written": 0.0})
            stage, resident, now = stages[-1], _resident(), time.monotonic()
            stage["seconds"] += now - began
            stage["written"] += _written() - written
            written, began = _written(), now
            if resident["all"] > stage["peak"]:
                stage["peak"] = resident["all"]
                if resident["all"] > RISE * counted or "MiB" not in stage:
                    counted = resident["all"] if stage["peak"] > counted else counted
                    stage["MiB"] = holders(resident)

    watcher = threading.Thread(target=watch, daemon=True)
    shown, sys.stderr = sys.stderr, lines
    watcher.start()
    try:
        run(command)
    finally:
        sys.stderr = shown
        done.set()
        watcher.join()
    return stages


def holders(resident: dict[str, float]) -> dict[str, float]:
    """MiB of the resident set by what holds them."""
    import torch

    sizes = dict.fromkeys(
        ("learning weights", "gradients", "moments", "read weights", "other"), 0.0
    )
    seen: set[int] = set()

    def count(kind: str, tensor: Any) -> None:
        # weights that are laid out for a processor's kernels have no storage to ask for
        place = id(tensor) if tensor.is_mkldnn else tensor.untyped_storage().data_ptr()
        if place not in seen:
            seen.add(place)
            sizes[kind] += tensor.numel() * tensor.element_size() / 2**20

    objects = gc.get_objects()
    for optimizer in (o for o in objects if isinstance(o, torch.optim.Optimizer)):
        for state in list(optimizer.state.values()):
            for value in list(state.values()):
                count("moments", value)
    tensors = [o for o in objects if isinstance(o, torch.Tensor)]
    for parameter in (t for t in tensors if isinstance(t, torch.nn.Parameter)):
        count("learning weights" if parameter.requires_grad else "read weights", parameter)
        if parameter.grad is not None:
            count("gradients", parameter.grad)
    for tensor in tensors:
        count("other", tensor)
    sizes["rest"] = resident["all"] - sum(sizes.values())
    heap = _heap()
    return {
        **sizes, "of which mapped files": resident["file"], "all that glibc has given out": heap[0],
        "what it keeps free, resident or not": heap[1],
    }  # fmt: skip


class _LastLine:
    """A stream that remembers the last line that passed."""

    def __init__(self, stream: Any) -> None:
        self._stream, self.last = stream, ""

    def write(self, text: str) -> int:
        lines = [line.strip() for line in re.split(r"[\r\n]", text) if line.strip()]
        self.last = lines[-1] if lines else self.last
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _resident() -> dict[str, float]:
    """MiB of the resident set, and of what of it lies in files."""
    rows = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    names = {"all": "VmRSS", "file": "RssFile"}
    return {key: int(rows[name].split()[0]) / 1024 for key, name in names.items()}


class _Mallinfo2(ctypes.Structure):
    """`struct mallinfo2` of malloc.h."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
            "fordblks", "keepcost",
        )
    ]  # fmt: skip


def _heap() -> tuple[float, float]:
    """MiB that the heap has given out, and that it keeps free."""
    ask = ctypes.CDLL(None).mallinfo2
    ask.restype = _Mallinfo2
    found = ask()
    return (found.uordblks + found.hblkhd) / 2**20, found.fordblks / 2**20


def _written() -> float:
    """MB written to files by this process, less what was deleted before it was on the disk."""
    rows = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return (int(rows["write_bytes"]) - int(rows["cancelled_write_bytes"])) / 1e6


if __name__ == "__main__":
    main()
