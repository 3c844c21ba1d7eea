"""Machines that are described by their figures, and a roofline for them.

A piece of work takes the longer of its arithmetic at a share of the peak, and of its traffic at a
share of the bandwidth. The shares are stated below: they are what programs of this kind reach, and
not measured on these machines.

Of several accelerators each has a process. Steps that learn are shared out by rows and then add up
gradients; replies and texts are shared out by shards; what else there is takes as long as on one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from rationalize.config import nearest
from rationalize.errors import UsageError
from rationalize.methods.work.parts import Learns, Reads, Work
from rationalize.planning.speeds import Measured, Sizes, Speeds, kind_of


@dataclass(frozen=True)
class Machine:
    """One accelerator."""

    name: str
    peak: float
    """bfloat16 operations a second, dense."""
    bandwidth: float
    """Bytes of its memory a second."""
    memory: float
    """Bytes."""
    source: str
    link: float = 32e9
    """Bytes a second from one to another of the same machine, each way."""
    count: int = 1


MACHINES = {
    "h200": Machine("H200 SXM", 989e12, 4.8e12, 141e9, "NVIDIA H200 datasheet", 450e9),
    "h100": Machine("H100 SXM", 989e12, 3.35e12, 80e9, "NVIDIA H100 datasheet", 450e9),
    "a100": Machine("A100 SXM 80 GB", 312e12, 2.039e12, 80e9, "NVIDIA A100 datasheet", 300e9),
    "l40s": Machine("L40S", 362e12, 0.864e12, 48e9, "NVIDIA L40S datasheet"),
    "l4": Machine("L4", 121e12, 0.3e12, 24e9, "NVIDIA L4 datasheet, half of its sparse figure"),
    "rtx4090": Machine(
        "GeForce RTX 4090", 165e12, 1.008e12, 24e9,
        "NVIDIA Ada architecture whitepaper (bfloat16, float32 sums)",
    ),
}  # fmt: skip
"""Name -> figures. `h100x8` is eight of them."""

LEARNING = 0.35
"""Share of the peak that passes with gradients reach."""
READING = 0.4
"""Share of the peak that passes without gradients reach."""
TRAFFIC = 0.6
"""Share of the bandwidth that a decode step, an optimiser step and the disk's cache reach."""
LAUNCH = 0.4e-3
"""Seconds that a layer takes in a decode step at least, and beside its arithmetic three times in a
step that learns (forward, and twice that backward): its kernels are launched from Python.
"""
NETWORK, TOGETHER = 50e9, 8
"""Bytes a second between machines for each accelerator (a port of 400 Gb/s each), and accelerators
of a machine.
"""
ADAPTER = 0.01
"""Of the parameters, at most, in an adapter of rank 16."""
DISK = 1e9
"""Bytes a second of the disk."""

_FIGURE = re.compile(r"(bf16|bandwidth|memory)=([0-9]+\.?[0-9]*|\.[0-9]+)")


def machine_named(name: str) -> Machine:
    """`h100`, `h100x8`, or `bf16=990,bandwidth=3.3,memory=80`: TFLOP/s, TB/s and GB.

    Raises `UsageError` for another name.
    """
    if "=" in name:
        parts = [_FIGURE.fullmatch(part.strip()) for part in name.split(",")]
        figures = {part[1]: float(part[2]) for part in parts if part}
        names = ("bf16", "bandwidth", "memory")
        if set(figures) != {*names} or len(parts) != 3 or min(figures.values()) <= 0:
            raise UsageError(
                f"--on {name}: expected three figures above 0, "
                "bf16=TFLOP/s,bandwidth=TB/s,memory=GB"
            )
        peak, bandwidth, memory = (figures[k] for k in names)
        return Machine(name, peak * 1e12, bandwidth * 1e12, memory * 1e9, "as given")
    base, count = name.lower(), "1"
    if base not in MACHINES and (matched := re.fullmatch(r"(.+)x([1-9][0-9]*)", base)):
        base, count = matched[1], matched[2]
    if base not in MACHINES:
        raise UsageError(
            f"--on {name}: unknown machine{nearest(base, MACHINES)}; expected one of "
            f"{', '.join(MACHINES)} (h100x8: eight of them), or its figures as "
            "bf16=TFLOP/s,bandwidth=TB/s,memory=GB"
        )
    known = MACHINES[base]
    return replace(known, count=int(count))


def exchange(machine: Machine, size: float) -> float:
    """Seconds in which all accelerators add up so many bytes: each sends and receives them twice,
    less its own part, by the narrowest link on the way.
    """
    link = machine.link if machine.count <= TOGETHER else min(machine.link, NETWORK)
    return 2 * size * (1 - 1 / machine.count) / (TRAFFIC * link)


def roofline(machine: Machine, known: Measured, work: Iterable[Work], full: bool) -> Measured:
    """The speeds of a machine for this work, from the model's sizes and the machine's figures."""
    sizes = known.sizes
    body, weights = sizes.parameters - sizes.head, 2 * sizes.parameters
    traffic = TRAFFIC * machine.bandwidth
    learn, read = {}, {}
    for one in work:
        if isinstance(one, Learns):
            share = one.reply / (one.prompt + one.reply)  # only responses have logits
            learned = 4 if full or one.learner == "policy" else 2
            passes = (2 + learned) * (body + share * sizes.head)
            passes += 2 * (body + share * sizes.head) * (one.loss in ("quark",))  # the reference
            moved = 28 * sizes.parameters if full and one.learner == "policy" else weights
            step = moved / traffic + 3 * LAUNCH * sizes.layers
            all_learn = full and one.learner == "policy"
            step += exchange(machine, 4 * sizes.parameters * (1.0 if all_learn else ADAPTER))
            learn[kind_of(one)] = (passes / (LEARNING * machine.peak), step)
        elif isinstance(one, Reads):
            share = one.reply / (one.prompt + one.reply)
            flops = 2 * (body + share * sizes.head)
            read[kind_of(one)] = flops / (READING * machine.peak)
    length = 512.0  # of a row, for the traffic of its keys and values
    speeds = Speeds(
        prefill=2 * body / (READING * machine.peak),
        step=max(weights / traffic, LAUNCH * sizes.layers),
        row=max(2 * sizes.parameters / (READING * machine.peak), length * sizes.cache / traffic),
        rows=known.speeds.rows, sampler=weights * 3 / traffic,
        learn=learn, read=read, load=4 * sizes.parameters / DISK, store=4 * sizes.parameters / DISK,
        processes=machine.count,
    )  # fmt: skip
    return Measured(speeds, Sizes(**{**sizes.as_dict(), "process": 1.0e9}), known.lengths)
