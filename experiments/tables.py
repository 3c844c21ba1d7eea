"""The tables of `docs/experiments/` from a run's results.json, as Markdown.

python experiments/tables.py runs/builtin
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rationalize.evaluation.baselines import BETTER_READING, reads_base_better
from rationalize.evaluation.differences import correct
from rationalize.evaluation.tables import (
    LEGEND,
    difference_table,
    splits_of,
    table,
)


def main() -> None:
    results = correct(json.loads((Path(sys.argv[1]) / "results.json").read_text()))
    meta = results["meta"]
    minutes = meta.get("seconds", 0) / 60
    print(f"seeds {meta.get('seeds')}, {meta.get('hardware')}, {minutes:.0f} minutes\n")
    for split in splits_of(results):
        print(f"### {split}\n")
        print(markdown(table(results, split)), end="\n\n")
        print(f"Paired differences: {LEGEND}\n")
        print(markdown(difference_table(results, split)), end="\n\n")
        if reads_base_better(results["comparisons"], split):
            print(BETTER_READING, end="\n\n")
    print(per_seed(results))
    print(obedience(results))


def markdown(rows: list[list[str]]) -> str:
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def per_seed(results: dict) -> str:
    """Every seed's own accuracies, in both readings, and NRG."""
    rows = [["method", "split", "metric", "seeds' own values"]]
    for method, entry in results["methods"].items():
        for split, cell in entry["splits"].items():
            for metric in ("accuracy", "stated_accuracy", "nrg"):
                own = cell["metrics"].get(metric, {}).get("seeds", [])
                if len(own) > 1:
                    scale = 1 if metric == "nrg" else 100
                    rows.append([method, split, metric, " ".join(f"{scale * v:.1f}" for v in own)])
    return f"### Seeds\n\n{markdown(rows)}\n" if len(rows) > 1 else ""


def obedience(results: dict) -> str:
    """The last measurement of every method, averaged over its seeds' runs."""
    rows = results["obedience"]
    if not rows:
        return ""
    last = max(r["step"] for r in rows)
    shown: dict[tuple, list[dict]] = {}
    for row in rows:
        if row["step"] == last:
            shown.setdefault(
                (row.get("method", "").rsplit("-", 1)[0], row["reward"], row["bin"]), []
            ).append(row)
    lines = [["method", "reward", "bin", "reached, per run", "gap best - worst, per run"]]
    for (method, reward, b), found in shown.items():
        reached = "; ".join(f"{r['mean']:.3f} [{r['low']:.3f}, {r['high']:.3f}]" for r in found)
        gaps = "; ".join(
            f"{r['gap']['mean']:+.3f} [{r['gap']['low']:+.3f}, {r['gap']['high']:+.3f}]"
            for r in found
            if "gap" in r
        )
        lines.append([method, reward, str(b), reached, gaps or "-"])
    return f"### Obedience on development questions, after the last step\n\n{markdown(lines)}\n"


if __name__ == "__main__":
    main()
