"""COALITION's claims on further questions: are the variants worth more than M_IFT, is the
controller worth more than random choices, another's refinement more than one's own?

    python experiments/coalition_more.py runs/kinds --out runs/more --store coalition_all \
        --before --more builtin:train=480,dev=48,test=3200,unseen=0

RUN is a finished run of COALITION; of the questions `--more` those that the run knows are left out.
The whole table of cells (methods/coalition/table.py) is written greedily, and M_IFT answers from
all of them. Tables of experiments/results/NAME.json, without texts: `claims` (paired
differences by question; one holds where the interval lies above 0) and `rows`. Chains stay in
`--out`, in parts, so that a run goes on where it was stopped. `--learns utility` fits another
controller on the run's questions for it, with texts written greedily as the coalition answers, and
sets it beside the run's. `--before` has the variants write as they were before preference
learning, too.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from coalition_claims import CLAIMS, as_cell, known_kinds
from coalition_surest import further_questions
from tables import write_tables

from rationalize.environment import environment
from rationalize.evaluation.intervals import bootstrap_mean, paired_difference
from rationalize.files import write_text
from rationalize.methods.coalition.candidates import by_source
from rationalize.methods.coalition.config import ControllerConfig
from rationalize.methods.coalition.controller import (
    controller_examples,
    describe,
    train_controller,
)
from rationalize.methods.coalition.evaluate import COALITION
from rationalize.methods.coalition.inference import BASE, CONTROLLER, Coalition
from rationalize.methods.coalition.table import (
    ALONE,
    CROSS,
    RANDOM,
    SELF,
    SUREST,
    UNREFINED,
    cells_by_who,
    controller_picks,
    every_cell,
)
from rationalize.models.controller import KEEP
from rationalize.questions import load_splits
from rationalize.records import Question
from rationalize.runs import Run, Stage
from rationalize.sampling.config import SamplingConfig

PART = 200
"""Questions that are answered and stored together."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--learns", choices=["best", "utility"])
    parser.add_argument("--controller-epochs", type=float, default=3.0)
    parser.add_argument("--before", action="store_true")
    args, run, asked = further_questions(__doc__, parser)
    coalition = Coalition.load(args.run / "coalition")
    greedy = SamplingConfig(temperature=0.0, max_new_tokens=run.config["evaluation_tokens"])
    controllers = {"picked": args.run / "coalition" / CONTROLLER} if coalition.controller else {}
    if args.learns:
        config = ControllerConfig(learns=args.learns, epochs=args.controller_epochs)
        folder = fitted_again(run, coalition, config, greedy, args.out / "controller")
        controllers["picked_again"] = folder
    args.out.mkdir(parents=True, exist_ok=True)

    def in_parts(name: str, of: Coalition, **how: Any) -> list[dict[str, Any]]:
        cells: list[dict[str, Any]] = []
        for start in range(0, len(asked), PART):
            stored = args.out / f"{name}-{start:05d}.json"
            if not stored.is_file():
                part = cells_of(of, asked[start : start + PART], greedy, **how)
                write_text(stored, json.dumps(part))
            cells += json.loads(stored.read_text())
        return cells

    cells = in_parts("cells", coalition, controllers=controllers, base=True)
    by_who = cells_by_who(coalition.names, coalition.refiners)
    rows = {row: per_question(cells, selected(by_who[row])) for row in ROWS}
    for name, row, picked in PICKS:
        chosen = {c["question"]: c["writer"] for c in cells if c.get(picked)}
        rows[row] = per_question(cells, lambda c, picked=picked: c.get(picked))
        rows[name] = per_question(
            cells,
            lambda c, chosen=chosen: (
                c["writer"] == chosen.get(c["question"]) and c["refiner"] == KEEP
            ),
        )
    rows[SUREST] = surest_variant(cells)
    kinds = known_kinds(run)
    rows[KNOWS] = per_question(
        cells, lambda c: c["kind"] in kinds.get(c["writer"], ()) and c["refiner"] == KEEP
    )
    if args.before:
        for name in coalition.names:
            coalition.variants.load(name, args.run / "variants" / f"{name}-tuned")
        before = in_parts("before", replace(coalition, refiners="none"), controllers={}, base=False)
        rows[BEFORE] = per_question(before, selected(by_who[UNREFINED]))
    meta = {
        "command": "python experiments/coalition_more.py", "questions": args.more,
        "seed": run.config["seed"], **environment(),
    }  # fmt: skip
    tables = {"claims": claims(rows), "rows": table(rows), "curve": curve(cells)}
    print(write_tables(args.store, meta, {name: list(of) for name, of in tables.items()}))


def cells_of(
    coalition: Coalition,
    questions: Sequence[Question],
    greedy: SamplingConfig,
    *,
    controllers: Mapping[str, Path],
    base: bool,
) -> list[dict[str, Any]]:
    """Every (writer, refiner) of every question: M_IFT's answer, and whether it is picked."""
    asked = every_cell(coalition, questions, greedy, ("test", 0), base=base)
    drafts = [d for d, r in asked if r == KEEP]
    picks = {}
    for mark, folder in controllers.items():
        coalition.variants.load(CONTROLLER, folder)
        picks[mark] = controller_picks(coalition, questions, drafts, 0)

    chains = coalition.answered([d for d, _ in asked])
    found = []
    for (draft, refiner), chain in zip(asked, chains, strict=True):
        facts, who = chain.as_row(), (draft.written.writer, refiner)
        found.append({
            "question": draft.question.id, "kind": draft.question.kind,
            "writer": draft.written.writer, "refiner": refiner,
            **{mark: of.get((draft.question.id, 0)) == who for mark, of in picks.items()},
            "accuracy": float(facts["right"]), "gold": facts["after"], "sure": facts["sure"],
            "tokens": facts["tokens"],
        })  # fmt: skip
    return found


def fitted_again(
    run: Run, coalition: Coalition, config: ControllerConfig, greedy: SamplingConfig, out: Path
) -> Path:
    """Fit a controller on the run's questions for it, with texts written greedily as the coalition
    answers; the folder of its weights.
    """
    folder, names = out / "adapter", coalition.names
    if not folder.is_dir():
        train = {q.id: q for q in load_splits(run.config["questions"])["train"]}
        questions = [train[q] for q in run.read_json("controller-utilities.json")]
        asked = every_cell(coalition, questions, greedy, ("train", 0), base=False)
        chains = coalition.answered([d for d, _ in asked])
        texts = [
            (draft.written if refiner == KEEP else draft.refined, chain.as_row()["after"])
            for (draft, refiner), chain in zip(asked, chains, strict=True)
        ]
        scored = [text.scored({"utility": after}) for text, after in texts if text]
        examples = controller_examples(by_source({}, scored), questions, names)
        coalition.variants.add_adapter("fitted-again")
        with Run.open(out, {"controller": asdict(config)}) as own:
            with coalition.variants.active("fitted-again") as policy:
                stage = Stage(own, CONTROLLER)
                facts = train_controller(policy, examples, config, stage, run.config["seed"])
            print(describe(facts))
        coalition.variants.save("fitted-again", folder)
    return folder


ITS_WRITER, TOLD_WRITER = (
    "the controller's writer, unrefined", "the fitted controller's writer, unrefined",
)  # fmt: skip
TOLD = "COALITION, fitted controller"
PICKS = ((ITS_WRITER, COALITION, "picked"), (TOLD_WRITER, TOLD, "picked_again"))
BEFORE = "no refinement, before preferences"
KNOWS = "who was tuned on the kind, unrefined"
LINKS = {
    "preference learning beats the variants before it": (UNREFINED, BEFORE),
    "the variants before preferences beat M_IFT": (BEFORE, ALONE),
    "the controller's writer beats a random one": (ITS_WRITER, UNREFINED),
    "the controller's refining beats keeping": (COALITION, ITS_WRITER),
    "the fitted controller beats random choices": (TOLD, RANDOM),
    "the fitted controller beats the run's": (TOLD, COALITION),
    "the fitted controller's writer beats a random one": (TOLD_WRITER, UNREFINED),
    "the fitted controller's refining beats keeping": (TOLD, TOLD_WRITER),
    "the whole with the fitted controller beats M_IFT": (TOLD, ALONE),
    "the surest variant beats M_IFT": (SUREST, ALONE),
    "the surest variant beats COALITION": (SUREST, COALITION),
    "the surest variant beats a random one": (SUREST, UNREFINED),
    "who was tuned on the kind beats a random writer": (KNOWS, UNREFINED),
    "who was tuned on the kind beats M_IFT": (KNOWS, ALONE),
}
"""What a controller could know, and which of its two choices loses it."""
ROWS = (ALONE, UNREFINED, SELF, CROSS, RANDOM)


def selected(has: Callable[[str, str], bool]) -> Callable[[Mapping[str, Any]], bool]:
    """Whether a stored cell is of a row."""
    return lambda cell: has(cell["writer"], cell["refiner"])


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


def surest_variant(cells: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """As `per_question`, of the variant's text that makes M_IFT surest, with the tokens of all."""
    kept: dict[str, list[Mapping[str, Any]]] = {}
    for cell in cells:
        if cell["writer"] != BASE and cell["refiner"] == KEEP:
            kept.setdefault(cell["question"], []).append(cell)
    best = {q: max(of, key=how_sure) for q, of in kept.items()}
    tokens = {q: float(sum(c["tokens"] for c in of)) for q, of in kept.items()}
    found = {metric: {q: c[metric] for q, c in best.items()} for metric in ("accuracy", "gold")}
    return {**found, "tokens": tokens}


def how_sure(cell: Mapping[str, Any]) -> float:
    """How sure M_IFT is of its answer; parts of the first version leave it to `gold`, which says
    it where there are two choices.
    """
    return cell.get("sure", max(cell["gold"], 1 - cell["gold"]))


def claims(rows: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Iterator[dict[str, Any]]:
    for claim, (ours, other) in (CLAIMS | LINKS).items():
        if all(rows.get(row, {}).get("gold") for row in (ours, other)):
            a, b = rows[ours], rows[other]
            gaps = {
                m: paired_difference(a[m], b[m], bounds=(0.0, 1.0)) for m in ("accuracy", "gold")
            }
            yield {
                "claim": claim, "n": len(a["gold"]), **{m: as_cell(g) for m, g in gaps.items()},
                "p": round(gaps["gold"].p, 4),
            }  # fmt: skip


def curve(cells: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """How many questions a controller needs: one that knows the kind, and of each kind takes the
    writer and refiner that were best on n questions of it, above random choices on the others; a
    mean over draws of the n.
    """
    names = sorted({c["writer"] for c in cells} - {BASE})
    options = [(w, r) for w in names for r in (KEEP, *names)]
    of: dict[str, dict[str, dict[tuple[str, str], list[float]]]] = {}
    for c in cells:
        of_question = of.setdefault(c["kind"], {}).setdefault(c["question"], {})
        of_question[c["writer"], c["refiner"]] = [c["gold"], c["accuracy"]]
    # questions, options, (gold, accuracy); those with every option
    kinds = [
        np.array([[q[o] for o in options] for q in group.values() if all(o in q for o in options)])
        for group in of.values()
    ]
    chance = np.random.default_rng(0)
    for n in (15, 30, 60, 120, 200):
        gains = []
        for _ in range(400):
            by_kind = []
            for values in kinds:
                order = chance.permutation(len(values))
                best = values[order[:n], :, 0].mean(0).argmax()
                others = values[order[n:]]
                by_kind.append((others[:, best] - others.mean(1)).mean(0))
            gains.append(np.mean(by_kind, axis=0))
        gold, accuracy = np.mean(gains, axis=0)
        yield {"questions of a kind": n, "gold": float(gold), "accuracy": float(accuracy)}


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
