"""The outcomes of MaRio's fair test, from runs whose arms are done or still to come.

    rationalize demo --config experiments/mario_fair.yaml --seeds 0 --out runs/mario-fair-0
    python experiments/mario_fair.py runs/mario-fair-0

Each run has one seed. Tables of experiments/results/mario_fair.json, without texts: `outcomes`
(each arm on the test questions), `differences` (to SFT, to SFT with more rows and to MaRio, with
Holm's p over `TESTED` of all arms against one of them), `tokens` (token AUC on
development attempts after the last step, `by_step` after each round) and `obeyed` (greedy replies
under the best and the worst token).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from tables import write_tables

from rationalize.attempt_files import load_attempts
from rationalize.environment import environment
from rationalize.evaluation.intervals import (
    bootstrap_mean,
    over_seeds,
    paired_difference,
)
from rationalize.evaluation.metrics import (
    ACCURACY,
    Metric,
    nrg_metric,
    per_question,
    reward_metric,
)
from rationalize.evaluation.significance import holm
from rationalize.methods.demos.mario import MarioDemoConfig, rows_of
from rationalize.questions import load_splits
from rationalize.runs import slug

ROUND = 4
AGAINST = ("SFT", "SFT, more rows", "MaRio")
TESTED = ("mean_reward", "plausibility")
"""NRG without accuracy, which was named before the runs (beside token AUC), and plausibility, which
was added afterwards.
"""


class Spec(NamedTuple):
    name: str
    range: tuple[float, float]


REWARDS = (
    Spec("consistency", (-1.0, 1.0)), Spec("plausibility", (0.0, 1.0)),
    Spec("diversity", (0.0, 1.0)),
)  # fmt: skip


def measured() -> list[Metric]:
    """The rewards' mean on a scale of 0 to 100, each reward, and accuracy."""
    rewards = [reward_metric(spec, in_nrg=True) for spec in REWARDS]
    return [replace(nrg_metric(rewards), name=TESTED[0]), *rewards, ACCURACY]


def outcomes(runs: Sequence[Path]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Means of each arm on the test questions, and the differences to the arms of `AGAINST`."""
    values: dict[str, dict[str, list[dict[str, float]]]] = {}
    for run in runs:
        config = yaml.safe_load((run / "config.yaml").read_text())
        questions = {q.id: q for q in load_splits(config["questions"])["test"]}
        arms = rows_of(replace(MarioDemoConfig(), methods=tuple(config["methods"])), 1)
        for label in (row.label for row in arms):
            for path in (run / "attempts").glob(f"final-{slug(label)}-test-[0-9]*.parquet"):
                attempts = load_attempts(path)
                for metric in measured():
                    own = values.setdefault(label, {}).setdefault(metric.name, [])
                    own.append(per_question(attempts, questions, metric))
    means = [
        {
            "arm": arm, "seeds": len(of["accuracy"]), "n": len(of["accuracy"][0]),
            **{
                m.name: _cell(vars(bootstrap_mean(over_seeds(of[m.name]), bounds=m.bounds)))
                for m in measured()
            },
        }
        for arm, of in values.items()
    ]  # fmt: skip
    gaps = [
        {
            "arm": arm, "against": other, "n": len(of["accuracy"][0]),
            **{
                m.name: paired_difference(
                    over_seeds(of[m.name]), over_seeds(values[other][m.name]), bounds=m.bounds
                )
                for m in measured()
            },
        }
        for i, other in enumerate(AGAINST) if other in values
        for arm, of in values.items()
        if arm not in AGAINST[: i + 1] and len(of["accuracy"]) == len(values[other]["accuracy"])
    ]  # fmt: skip
    return means, list(_corrected(gaps))


def _corrected(gaps: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Cells of the differences, the tested ones with Holm's p over those against one arm."""
    for against in dict.fromkeys(gap["against"] for gap in gaps):
        own = [gap for gap in gaps if gap["against"] == against]
        places = [(i, name) for i in range(len(own)) for name in TESTED]
        ps = dict(zip(places, holm([own[i][name].p for i, name in places]), strict=True))
        for i, gap in enumerate(own):
            yield {k: v if isinstance(v, str | int) else _cell(vars(v)) for k, v in gap.items()} | {
                f"p_{name}": round(ps[i, name], ROUND) for name in TESTED
            }


def _cell(found: Mapping[str, float] | None) -> dict[str, float] | None:
    return None if found is None else {k: round(found[k], ROUND) for k in ("mean", "low", "high")}


def logged(run: Path, kind: str) -> Iterator[dict[str, Any]]:
    """Lines of a run's log of one kind, with the arm."""
    for line in (run / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["stage"].endswith(f"/{kind}"):
            arm, seed = row["stage"].removesuffix(f"/{kind}").rsplit("-", 1)
            yield {"arm": arm, "seed": int(seed), **row}


def tokens(runs: Sequence[Path]) -> list[dict[str, Any]]:
    """Token AUC by step."""
    keys = ("arm", "seed", "reward", "step", "attempts")
    return [
        {k: row[k] for k in keys} | {k: _cell(row[k]) for k in ("auc", "within")}
        for run in runs for row in logged(run, "token_auc")
    ]  # fmt: skip


def obeyed(runs: Sequence[Path]) -> list[dict[str, Any]]:
    """A reward's mean under its best token, under its worst, and the gap; greedy."""
    rows = [row for run in runs for row in logged(run, "obedience")]
    best = {(r["arm"], r["seed"], r["reward"]): r["mean"] for r in rows if r["bin"] == 0}
    return [
        {
            **{k: row[k] for k in ("arm", "seed", "reward", "n")},
            "best": round(best[row["arm"], row["seed"], row["reward"]], ROUND),
            "worst": round(row["mean"], ROUND), "gap": _cell(row["gap"]),
        }
        for row in rows if row.get("gap")
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", help="one per seed")
    runs = parser.parse_args().runs
    means, gaps = outcomes(runs)
    by_step = tokens(runs)
    ends = {(row["arm"], row["seed"]): row["step"] for row in by_step}
    last = [row for row in by_step if row["step"] == ends[row["arm"], row["seed"]]]
    tables = {
        "outcomes": means, "differences": gaps, "tokens": last, "by_step": by_step,
        "obeyed": obeyed(runs),
    }  # fmt: skip
    meta = {"command": "python experiments/mario_fair.py", **environment()}
    print(write_tables("mario_fair", meta, tables))


if __name__ == "__main__":
    main()
