"""How costs grow: seconds of an item over the pool, samples, rewards, variants, vocabulary, log.

    python benchmarks/growth.py                   minutes: up to 100,000 attempts
    python benchmarks/growth.py --full            up to 1,000,000, and `score` on 1,000,000 rows
    python benchmarks/growth.py --plot docs/growth.json docs/growth.svg

Each line is one piece of work, measured at several sizes: the least of `--repeats` times, by the
processor's clock, in processes of one thread. `exponent` is the slope of its total between the
smallest and the largest size that take a millisecond: 1 is linear. The largest are checked to be
below 1.4.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

LINEAR = 1.4
"""Largest exponent that still counts as linear: caches and sorting add a little."""

Work = Callable[[], object]


@dataclass(frozen=True)
class Axis:
    """One piece of work over one size."""

    name: str
    over: str
    """What grows."""
    per: str
    """Of what the cost is shown."""
    make: Callable[[int], tuple[Work, int]]
    """Size -> the work, and of how many such it is."""
    sizes: Sequence[int]
    largest: int = 0
    """With `--full`; 0: no larger."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=(), help="names of lines")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--plot", nargs=2, type=Path, metavar=("JSON", "SVG"))
    parser.add_argument("--score", type=int, help="score so many rows in this process")
    args = parser.parse_args()
    if args.plot:
        args.plot[1].write_text(as_svg(json.loads(args.plot[0].read_text())))
        return
    if args.score:
        print(json.dumps(scored(args.score)))
        return
    rows = []
    for axis in AXES:
        if not args.only or axis.name in args.only:
            rows.append(measured(axis, args))
            show(rows[-1])
    for name, panel in (("COALITION", 0), ("COALITION, a panel of 2", 2)):
        if not args.only or name in args.only:
            rows.append(planned(name, panel))
            show(rows[-1])
    score_rows = []
    if not args.only or "score" in args.only:
        for n in (10_000, 100_000, *((1_000_000,) if args.full else ())):
            score_rows.append(in_a_fresh_process(n))
            print(f"score: {json.dumps(score_rows[-1])}", flush=True)
    if args.json:
        args.json.write_text(json.dumps({"lines": rows, "score": score_rows}, indent=1) + "\n")
    steep = [r["name"] for r in rows if r["exponent"] > LINEAR and r["name"] not in QUADRATIC]
    if steep:
        raise SystemExit(f"grow faster than linearly: {', '.join(steep)}")


def measured(axis: Axis, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of an item at each size, and the exponent of the total."""
    sizes = [*axis.sizes, *([axis.largest] if args.full and axis.largest else [])]
    points = []
    for n in sizes:
        work, count = axis.make(n)
        seconds = min(timed(work) for _ in range(args.repeats))
        points.append([n, seconds / count, seconds])
    long = [p for p in points if p[2] >= 1e-3] or points[-2:]
    first, last = (long[0], long[-1]) if len(long) > 1 else (points[-2], points[-1])
    growth = math.log(last[2] / first[2]) / math.log(last[0] / first[0])
    return {"name": axis.name, "over": axis.over, "per": axis.per, "points": points,
            "exponent": round(growth, 2)}  # fmt: skip


def planned(name: str, panel: int) -> dict[str, Any]:
    """Tokens that COALITION writes, learns and reads by its number of variants, as its plan counts
    them: nothing is timed.
    """
    from rationalize.methods import METHODS
    from rationalize.methods.coalition.config import CandidateConfig
    from rationalize.methods.launch import checked, settings_of
    from rationalize.methods.work.parts import Stores
    from rationalize.methods.work.scene import Lengths
    from rationalize.planning.runs import scene_of, work_of

    method, points, questions = METHODS["coalition"], [], 400
    for variants in (1, 2, 4, 8):
        settings = settings_of(method)(
            questions=f"builtin:train={questions},dev=40,test=40,unseen=0", variants=variants,
            candidates=CandidateConfig(panel=panel), judge="ift",
        )  # fmt: skip
        known = checked(settings)
        work = work_of(method, "coalition", known, scene_of(known, "full", Lengths(), 0.5))
        tokens = sum(one.tokens for one in work if not isinstance(one, Stores)) / questions
        points.append([variants, tokens / variants, tokens])
    growth = math.log(points[-1][2] / points[1][2]) / math.log(4)
    return {"name": name, "over": "variants", "per": "variant, in tokens a question",
            "points": points, "exponent": round(growth, 2)}  # fmt: skip


def timed(work: Work) -> float:
    started = time.process_time()
    work()
    return max(time.process_time() - started, 1e-7)


def show(row: dict[str, Any]) -> None:
    points = ", ".join(f"{n:,}: {1e6 * each:.3g}" for n, each, _ in row["points"])
    print(f"{row['name']} (us a {row['per']} over {row['over']}): {points}; exponent "
          f"{row['exponent']}", flush=True)  # fmt: skip


# What is measured


def attempts_of(n: int, samples: int = 8, names: Sequence[str] = ("a", "b")) -> list[Any]:
    """Attempts at n / samples questions with four choices."""
    from rationalize.records import Attempt

    rng = random.Random(0)
    words = [f"word{i}" for i in range(400)]
    return [
        Attempt(
            id=str(i), question_id=f"q{i // samples}", mode="rationale_answer", prompt="?",
            completion="", rationale=" ".join(rng.choices(words, k=20)),
            prediction=rng.choice("ABCD"), gold="one", parsed=True, finish="stop", writer="policy",
            model="none", round=0, step=0, split="train", seed=0, n_tokens=24,
            rewards={name: rng.random() for name in names},
        )
        for i in range(n)
    ]  # fmt: skip


def questions_of(n: int) -> dict[str, Any]:
    from rationalize.records import Question

    choices = ("one", "two", "three", "four")
    return {f"q{i}": Question(f"q{i}", f"Which is number {i}?", "one", choices) for i in range(n)}


def bins(n: int) -> tuple[Work, int]:
    from rationalize.signals.bins import rank_bins

    scores = np.random.default_rng(0).random(n).round(4)
    return lambda: rank_bins(scores, 5), n


def drawn_by_bin(n: int) -> tuple[Work, int]:
    from rationalize.signals.draws import BinMembers, balanced_bins

    known = {r: BinMembers.of(np.random.default_rng(i).integers(0, 5, n)) for i, r in
             enumerate("abcd")}  # fmt: skip
    return lambda: [balanced_bins(known, 8, s, 0, over_draw=3.0) for s in range(200)], 1600


def drawn_in_passes(n: int) -> tuple[Work, int]:
    from rationalize.signals.draws import shuffled_passes

    return lambda: [shuffled_passes(n, 8, s, 0) for s in range(n // 8)], n


def pool_rounds(rewards: int) -> Callable[[int], tuple[Work, int]]:
    def make(n: int) -> tuple[Work, int]:
        return pool_of(n, rewards), n

    return make


def pool_of(n: int, rewards: int) -> Work:
    from rationalize.methods.mario import control_bins
    from rationalize.methods.mario_config import MarioConfig
    from rationalize.methods.pool import Pool

    names = tuple(f"r{i}" for i in range(rewards))
    attempts = attempts_of(n, names=names)
    config = MarioConfig(rewards=names, bins=5)
    suite: Any = {name: SimpleNamespace(levels=None, range=(0.0, 1.0)) for name in names}
    return lambda: Pool(config, suite, control_bins(config, suite), 0).add(attempts, names)


def duplicates(n: int) -> tuple[Work, int]:
    from rationalize.signals.duplicates import distinct

    texts = [a.rationale for a in attempts_of(n)]
    return lambda: [distinct(texts[i : i + 8], "words") for i in range(0, n, 8)], n


def duplicates_of_one(n: int) -> tuple[Work, int]:
    from rationalize.signals.duplicates import distinct

    texts = [a.rationale for a in attempts_of(n)]
    return lambda: distinct(texts, "words"), n


def sorted_attempts(n: int) -> tuple[Work, int]:
    from rationalize.methods.own_attempts import SelectConfig, coverage, sort_attempts

    attempts, questions = attempts_of(n), questions_of(n // 8 + 1)

    def work() -> None:
        sort_attempts(attempts, questions, SelectConfig())
        coverage(attempts, list(questions.values()))

    return work, n


def votes(n: int) -> tuple[Work, int]:
    from rationalize.evaluation.voting import scaling_curve

    attempts, questions = attempts_of(n), questions_of(n // 8 + 1)
    return lambda: scaling_curve(attempts, questions, score="a"), n


def votes_of_one(n: int) -> tuple[Work, int]:
    from rationalize.evaluation.voting import scaling_curve

    attempts, questions = attempts_of(n, samples=n), questions_of(1)
    return lambda: scaling_curve(attempts, questions, score="a"), n


def pairs_of_one(n: int) -> tuple[Work, int]:
    from rationalize.signals.ranks import pairs_across

    levels = [i % 2 for i in range(n)]
    return lambda: [pairs_across(levels, 16, s) for s in range(20)], 20 * n


def results(n: int) -> tuple[Work, int]:
    from rationalize.evaluation.results import summarise
    from rationalize.report import write_report

    attempts, questions = attempts_of(n, samples=1), questions_of(n)
    rewards = [SimpleNamespace(name=x, range=(0.0, 1.0)) for x in ("a", "b")]
    methods = {"one": {"test": {0: attempts}}, "two": {"test": {0: attempts}}}

    def work() -> None:
        meta = {"model": "none", "config": {}, "command": "", "hardware": ""}
        found = summarise(methods, questions, rewards, [], pairs=[("one", "two")], meta=meta)
        with tempfile.TemporaryDirectory() as folder:
            write_report(found, {"one": attempts}, questions, Path(folder) / "report.html")

    return work, n


def correlated(rewards: int) -> tuple[Work, int]:
    from rationalize.evaluation.diagnostics import correlations

    rng = np.random.default_rng(0)
    columns = {str(i): rng.random(100_000) for i in range(rewards)}
    return lambda: correlations(columns), rewards


def stored(n: int) -> tuple[Work, int]:
    from rationalize.attempt_files import load_attempts, save_attempts

    attempts = attempts_of(n)

    def work() -> None:
        with tempfile.TemporaryDirectory() as folder:
            save_attempts(attempts, Path(folder) / "a.parquet")
            load_attempts(Path(folder) / "a.parquet")

    return work, n


def logged(n: int) -> tuple[Work, int]:
    from rationalize.runs import Run, Stage

    def work() -> None:
        with tempfile.TemporaryDirectory() as folder, Run.open(folder, {}) as run:
            stage = Stage(run, "ppo")
            for step in range(n):
                run.log("ppo", step, loss=1.0)
                if not step % 10:
                    stage.log("rollouts", step, [{"score": 0.5}])

    return work, n


def held_apart(n: int) -> tuple[Work, int]:
    from rationalize.questions import without_repeats

    questions = list(questions_of(n).values())
    held = [replace(q, question=f"{q.question} Think of {i} others first.")
            for i, q in enumerate(questions)]  # fmt: skip
    return lambda: without_repeats(questions, held), n


def drawn_tokens(vocabulary: int) -> tuple[Work, int]:
    import torch

    from rationalize.sampling.config import SamplingConfig
    from rationalize.sampling.draw import draw

    torch.set_num_threads(1)
    logits = torch.randn(32, vocabulary, generator=torch.Generator().manual_seed(0))
    config, uniform = SamplingConfig(top_p=0.9), torch.full((32,), 0.4)
    return lambda: draw(logits, config, uniform), vocabulary


def learned_tokens(vocabulary: int) -> tuple[Work, int]:
    import torch

    from rationalize.models.likelihood import token_nll

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    head = torch.randn(vocabulary, 64, generator=generator, requires_grad=True)
    hidden = torch.randn(64, 64, generator=generator)
    targets = torch.randint(0, vocabulary, (64,), generator=generator)
    return lambda: token_nll(hidden @ head.T, targets)[0].sum().backward(), vocabulary


POOL = (1_000, 10_000, 100_000)
AXES = (
    Axis("bins of a reward", "attempts", "attempt", bins, POOL, 1_000_000),
    Axis("rows drawn by bin", "attempts", "row", drawn_by_bin, POOL, 1_000_000),
    Axis("rows drawn in passes", "attempts", "row", drawn_in_passes, POOL, 1_000_000),
    Axis("round of the pool", "attempts", "attempt", pool_rounds(4), POOL, 1_000_000),
    Axis("duplicates, 8 samples", "attempts", "attempt", duplicates, POOL, 1_000_000),
    Axis("sorting by right and wrong", "attempts", "attempt", sorted_attempts, POOL, 1_000_000),
    Axis("votes, 8 samples", "attempts", "attempt", votes, (1_000, 10_000), 100_000),
    Axis("attempts stored and read", "attempts", "attempt", stored, POOL, 1_000_000),
    Axis("results and report", "questions", "question", results, (1_000, 4_000), 32_000),
    Axis("source without held-out ones", "questions", "question", held_apart, POOL),
    Axis("duplicates", "samples", "sample", duplicates_of_one, (64, 512, 4096)),
    Axis("pairs", "samples", "sample", pairs_of_one, (64, 512, 4096)),
    Axis("votes", "samples", "sample", votes_of_one, (64, 256, 1024)),
    Axis("round of the pool", "rewards", "reward",
         lambda r: (pool_of(5_000, r), r), (1, 4, 16, 64)),
    Axis("correlations", "rewards", "reward", correlated, (4, 16, 64)),
    Axis("token drawn", "vocabulary", "entry", drawn_tokens, (32_000, 128_000, 512_000)),
    Axis("token learned", "vocabulary", "entry", learned_tokens, (32_000, 128_000, 512_000)),
    Axis("lines logged", "lines", "line", logged, (300, 1_000, 3_000), 30_000),
)  # fmt: skip
QUADRATIC = ("correlations", "COALITION")
"""A table of all pairs of rewards has the square of their number; a cell costs a product. Without a
panel every variant refines every other's rationales at the controller's questions and in the table.
"""


# `score`


def in_a_fresh_process(rows: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, "--score", str(rows)], check=True, text=True,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def scored(rows: int) -> dict[str, Any]:
    """`score` by cheap rewards on so many rows: rows a second, and the peak in MiB."""
    from rationalize.commands.score import ScoreConfig, score
    from rationalize.runs.clock import peak_mib

    rng = random.Random(0)
    words = [f"word{i}" for i in range(400)]
    with tempfile.TemporaryDirectory() as place:
        file, out = Path(place) / "rows.jsonl", Path(place) / "scored.jsonl"
        with open(file, "w") as lines:
            for i in range(rows):
                row = {
                    "question_id": f"q{i // 8}", "question": f"Which is number {i // 8}?",
                    "choices": ["one", "two"], "answer": "one", "prediction": "one",
                    "rationale": " ".join(rng.choices(words, k=20)),
                }  # fmt: skip
                lines.write(json.dumps(row) + "\n")
        rewards = ("correctness", "diversity", "length")
        before, started = peak_mib(), time.process_time()
        score(ScoreConfig(file, out=out, rewards=rewards))
        seconds = time.process_time() - started
    return {"rows": rows, "rows_a_second": round(rows / seconds), "before_MiB": before,
            "peak_MiB": peak_mib()}  # fmt: skip


# The plot


COLOURS = ("#1f6f8b", "#c8553d", "#588157", "#7b5ea7", "#b8860b", "#3a506b", "#a23b72", "#4f772d")
WIDTH, HEIGHT, LEFT, TOP = 430, 270, 60, 40


def as_svg(data: dict[str, Any]) -> str:
    """Small charts, one for each size that grows: cost of an item, relative to the smallest size,
    both axes logarithmic. A line that stays level is linear.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in data["lines"]:
        groups.setdefault(row["over"], []).append(row)
    charts = list(groups.items())
    rows = math.ceil(len(charts) / 2)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH} {rows * HEIGHT}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{2 * WIDTH}" height="{rows * HEIGHT}" fill="#ffffff"/>',
    ]
    for i, (over, lines) in enumerate(charts):
        parts.append(f'<g transform="translate({WIDTH * (i % 2)},{HEIGHT * (i // 2)})">')
        parts += chart(over, lines)
        parts.append("</g>")
    return "\n".join([*parts, "</svg>"]) + "\n"


def chart(over: str, lines: Sequence[dict[str, Any]]) -> Iterator[str]:
    """One chart: the axes, a line for each piece of work, their names."""
    sizes = [p[0] for row in lines for p in row["points"]]
    low, high = math.log10(min(sizes)), math.log10(max(sizes))
    plot_w, plot_h = WIDTH - LEFT - 20, HEIGHT - TOP - 34

    def x(n: float) -> float:
        return LEFT + plot_w * (math.log10(n) - low) / max(high - low, 1e-9)

    def y(ratio: float) -> float:  # from a tenth to a hundred times
        return TOP + plot_h * (1 - (math.log10(min(max(ratio, 0.1), 100)) + 1) / 3)

    yield f'<text x="{LEFT}" y="16" font-size="13" font-weight="bold">over {over}</text>'
    yield f'<text x="{LEFT}" y="30" fill="#666">cost of one, times that at the smallest size</text>'
    for ratio, label in ((0.1, "0.1"), (1, "1"), (10, "10"), (100, "100")):
        yield (f'<line x1="{LEFT}" x2="{LEFT + plot_w}" y1="{y(ratio):.1f}" y2="{y(ratio):.1f}" '
               f'stroke="#ddd"/><text x="{LEFT - 6}" y="{y(ratio) + 4:.1f}" text-anchor="end" '
               f'fill="#666">{label}</text>')  # fmt: skip
    for n in sorted(set(sizes)):
        yield (f'<text x="{x(n):.1f}" y="{TOP + plot_h + 16}" text-anchor="middle" fill="#666">'
               f"{n:,}</text>")  # fmt: skip
    for i, row in enumerate(lines):
        colour, base = COLOURS[i % len(COLOURS)], row["points"][0][1]
        points = " ".join(f"{x(n):.1f},{y(each / base):.1f}" for n, each, _ in row["points"])
        yield f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
        yield (f'<text x="{LEFT + 8}" y="{TOP + 12 + 13 * i}" fill="{colour}">{row["name"]} '
               f"(exponent {row['exponent']})</text>")  # fmt: skip


if __name__ == "__main__":
    main()
