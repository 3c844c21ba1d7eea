"""COALITION's claims on further questions: is preference learning worth more than M_IFT, is the
controller worth more than random choices, another's refinement more than one's own?

    python experiments/coalition_more.py runs/kinds --out runs/more --store coalition_more \
        --more builtin:train=480,dev=48,test=2000,unseen=0

RUN is a finished run of COALITION; of the questions `--more` those that the run knows are left out.
The whole table of cells (methods/coalition/table.py) is written greedily, and M_IFT answers from
all of them. Tables of experiments/results/NAME.json, without texts: `claims` (paired
differences by question; one holds where the interval lies above 0) and `rows`. Chains stay in
`--out`, in parts, so that a run goes on where it was stopped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from coalition_claims import CLAIMS, as_cell, known_kinds
from coalition_surest import further_questions
from tables import write_tables

from rationalize.environment import environment
from rationalize.evaluation.intervals import bootstrap_mean, paired_difference
from rationalize.files import write_text
from rationalize.methods.coalition.evaluate import COALITION
from rationalize.methods.coalition.inference import BASE, Coalition
from rationalize.methods.coalition.table import (
    ALONE,
    CROSS,
    RANDOM,
    SELF,
    UNREFINED,
    controller_picks,
    every_cell,
)
from rationalize.models.controller import KEEP
from rationalize.records import Question
from rationalize.sampling.config import SamplingConfig

PART = 200
"""Questions that are answered and stored together."""


def main() -> None:
    args, run, asked = further_questions(__doc__)
    coalition = Coalition.load(args.run / "coalition")
    greedy = SamplingConfig(temperature=0.0, max_new_tokens=run.config["evaluation_tokens"])
    args.out.mkdir(parents=True, exist_ok=True)
    cells: list[dict[str, Any]] = []
    for start in range(0, len(asked), PART):
        stored = args.out / f"cells-{start:05d}.json"
        if not stored.is_file():
            part = cells_of(coalition, asked[start : start + PART], greedy)
            write_text(stored, json.dumps(part))
        cells += json.loads(stored.read_text())
    rows = {name: per_question(cells, of) for name, of in ROWS.items()}
    chosen = {c["question"]: c["writer"] for c in cells if c["picked"]}
    rows[ITS_WRITER] = per_question(
        cells, lambda c: c["writer"] == chosen[c["question"]] and c["refiner"] == KEEP
    )
    kinds = known_kinds(run)
    rows[KNOWS] = per_question(
        cells, lambda c: c["kind"] in kinds.get(c["writer"], ()) and c["refiner"] == KEEP
    )
    meta = {
        "command": "python experiments/coalition_more.py", "questions": args.more,
        "seed": run.config["seed"], **environment(),
    }  # fmt: skip
    print(write_tables(args.store, meta, {"claims": list(claims(rows)), "rows": list(table(rows))}))


def cells_of(
    coalition: Coalition, questions: Sequence[Question], greedy: SamplingConfig
) -> list[dict[str, Any]]:
    """Every (writer, refiner) of every question: M_IFT's answer, and whether it is picked."""
    asked = every_cell(coalition, questions, greedy, ("test", 0), base=True)
    picked = controller_picks(coalition, questions, [d for d, r in asked if r == KEEP], 0)

    chains = coalition.answered([d for d, _ in asked])
    found = []
    for (draft, refiner), chain in zip(asked, chains, strict=True):
        facts = chain.as_row()
        found.append({
            "question": draft.question.id, "kind": draft.question.kind,
            "writer": draft.written.writer, "refiner": refiner,
            "picked": picked.get((draft.question.id, 0)) == (draft.written.writer, refiner),
            "accuracy": float(facts["right"]), "gold": facts["after"], "tokens": facts["tokens"],
        })  # fmt: skip
    return found


ITS_WRITER = "the controller's writer, unrefined"
KNOWS = "who was tuned on the kind, unrefined"
LINKS = {
    "the controller's writer beats a random one": (ITS_WRITER, UNREFINED),
    "the controller's refining beats keeping": (COALITION, ITS_WRITER),
    "who was tuned on the kind beats a random writer": (KNOWS, UNREFINED),
    "who was tuned on the kind beats M_IFT": (KNOWS, ALONE),
}
"""What a controller could know, and which of its two choices loses it."""
ROWS = {
    ALONE: lambda c: c["writer"] == BASE and c["refiner"] == KEEP,
    UNREFINED: lambda c: c["writer"] != BASE and c["refiner"] == KEEP,
    SELF: lambda c: c["writer"] != BASE and c["refiner"] == c["writer"],
    CROSS: lambda c: c["refiner"] not in (c["writer"], KEEP),
    RANDOM: lambda c: c["writer"] != BASE,
    COALITION: lambda c: c["picked"],
}
"""Which cells of a question a row is the mean of."""


def per_question(cells: Sequence[Mapping[str, Any]], of: Any) -> dict[str, dict[str, float]]:
    """Metric -> question -> the mean over a row's cells."""
    kept: dict[str, list[Mapping[str, Any]]] = {}
    for cell in cells:
        if of(cell):
            kept.setdefault(cell["question"], []).append(cell)
    return {
        metric: {q: float(np.mean([c[metric] for c in group])) for q, group in kept.items()}
        for metric in ("accuracy", "gold", "tokens")
    }


def claims(rows: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Iterator[dict[str, Any]]:
    for claim, (ours, other) in (CLAIMS | LINKS).items():
        if rows.get(ours, {}).get("gold") and other in rows:
            a, b = rows[ours], rows[other]
            gaps = {
                m: paired_difference(a[m], b[m], bounds=(0.0, 1.0)) for m in ("accuracy", "gold")
            }
            yield {
                "claim": claim, "n": len(a["gold"]), **{m: as_cell(g) for m, g in gaps.items()},
                "p": round(gaps["gold"].p, 4),
            }  # fmt: skip


def table(rows: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Iterator[dict[str, Any]]:
    for name, row in rows.items():
        if not row["gold"]:
            continue
        yield {
            "row": name, "n": len(row["gold"]), "tokens": float(np.mean([*row["tokens"].values()])),
            **{m: as_cell(bootstrap_mean([*row[m].values()], bounds=(0.0, 1.0)))
               for m in ("accuracy", "gold")},
        }  # fmt: skip


if __name__ == "__main__":
    main()
