"""Is a coalition worth more where M_IFT keeps the rationale that makes it surest of an answer?

    python experiments/coalition_surest.py runs/kinds --out runs/surest --store coalition_surest \
        --more builtin:train=480,dev=48,test=1000,unseen=0

RUN is a finished run of COALITION, `--more` questions of which those that the run knows are left
out: the rule was seen on the run's own test questions, so others decide. Rows: M_IFT alone, the
majority and the surest of its draws, the surest of its greedy text and a draw, the controller's
coalition, and the surest of all variants' greedy texts. Tables of experiments/results/NAME.json,
without texts: `rows`, `differences` (paired by question) and `kinds`; the chains stay in `--out`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tables import write_tables

from rationalize.environment import environment
from rationalize.evaluation.intervals import bootstrap_mean, paired_difference
from rationalize.evaluation.voting import chosen_attempt
from rationalize.methods.coalition.evaluate import SELF_CONSISTENCY
from rationalize.methods.coalition.inference import Chain, Coalition, surest
from rationalize.questions import load_splits
from rationalize.questions.splits import same_question_key
from rationalize.records import Question
from rationalize.runs import Run
from rationalize.sampling.config import SamplingConfig
from rationalize.sampling.writing import question_seed

ALONE, COALITION, SUREST = "M_IFT alone", "COALITION", "surest variant"
VOTES, DRAW, BESIDE = (
    "self-consistency",
    "surest draw of M_IFT",
    "surest of M_IFT's greedy text and a draw",
)
DRAWS = 3


def main() -> None:
    args, run, asked = further_questions(__doc__)
    stored = args.out / "chains.json"
    if not stored.is_file():
        chains = answered(Coalition.load(args.run / "coalition"), asked, run.config)
        args.out.mkdir(parents=True, exist_ok=True)
        stored.write_text(json.dumps({
            row: [{**c.as_row(), "kind": c.question.kind} for c in of]
            for row, of in chains.items()
        }))  # fmt: skip
    rows = json.loads(stored.read_text())
    pairs = [(SUREST, row) for row in rows if row != SUREST]
    pairs += [(COALITION, row) for row in (ALONE, VOTES)]
    meta = {
        "command": "python experiments/coalition_surest.py", "questions": args.more,
        "seed": run.config["seed"], **environment(),
    }  # fmt: skip
    write_tables(args.store, meta, {
        "rows": [{"row": row, **facts(chains)} for row, chains in rows.items()],
        "differences": [
            {"row": row, "against": other, "n": len(asked), **differences(rows[row], rows[other])}
            for row, other in pairs
        ],
        "kinds": [
            {"kind": kind, "row": row, **facts([c for c in chains if c["kind"] == kind])}
            for kind in sorted({q.kind for q in asked})
            for row, chains in rows.items()
        ],
    })  # fmt: skip


def further_questions(
    about: str, parser: argparse.ArgumentParser | None = None
) -> tuple[argparse.Namespace, Run, list[Question]]:
    """The command line, the run that it names, and the questions `--more` that the run does not
    know, nor `--beyond`.
    """
    parser = parser or argparse.ArgumentParser()
    parser.description = about.splitlines()[0]
    parser.add_argument("run", type=Path)
    parser.add_argument("--beyond", metavar="QUESTIONS", help="those that something was seen on")
    parser.add_argument("--more", required=True, metavar="QUESTIONS")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--store", metavar="NAME", required=True)
    args = parser.parse_args()
    run = Run.read(args.run)
    seen = [run.config["questions"], *([args.beyond] if args.beyond else [])]
    known = {same_question_key(q) for s in seen for of in load_splits(s).values() for q in of}
    asked = [q for q in load_splits(args.more)["test"] if same_question_key(q) not in known]
    return args, run, asked


def answered(
    coalition: Coalition, asked: Sequence[Question], config: Mapping[str, Any]
) -> dict[str, list[Chain]]:
    """Row -> a chain per question, with the tokens of all texts that it was chosen from."""
    seed, tokens = config["seed"], config["evaluation_tokens"]
    greedy = SamplingConfig(temperature=0.0, max_new_tokens=tokens)
    drawn = replace(SamplingConfig(**config["candidates"]["sampling"]), n=1, max_new_tokens=tokens)
    alone = coalition.chains(asked, greedy, routing="base")
    draws = [
        coalition.chains(
            asked, drawn, routing="base", seed=question_seed(seed, SELF_CONSISTENCY, i)
        )
        for i in range(DRAWS)
    ]
    of_each = list(zip(*draws, strict=True))
    return {
        ALONE: alone,
        VOTES: [majority(group) for group in of_each],
        DRAW: [surest(group) for group in of_each],
        BESIDE: [surest([one, group[0]]) for one, group in zip(alone, of_each, strict=True)],
        COALITION: coalition.chains(asked, greedy, routing="controller"),
        SUREST: coalition.chains(asked, greedy, routing="surest"),
    }


def majority(group: Sequence[Chain]) -> Chain:
    attempts = [c.as_attempt("") for c in group]
    first = chosen_attempt(attempts, group[0].question)
    chosen = group[next(i for i, a in enumerate(attempts) if a is first)]
    return replace(chosen, spent=sum(a.n_tokens for a in attempts) - first.n_tokens)


def facts(chains: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    right = bootstrap_mean([float(c["right"]) for c in chains], bounds=(0.0, 1.0))
    gold = bootstrap_mean([c["after"] for c in chains], bounds=(0.0, 1.0))
    return {
        "n": len(chains), "tokens": float(np.mean([c["tokens"] for c in chains])),
        **{name: {"mean": i.mean, "low": i.low, "high": i.high}
           for name, i in (("accuracy", right), ("gold", gold))},
    }  # fmt: skip


def differences(
    ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    found = {}
    for name, key in (("accuracy", "right"), ("gold", "after")):
        a, b = ({c["question_id"]: float(c[key]) for c in chains} for chains in (ours, theirs))
        gap = paired_difference(a, b)
        found[name] = {"mean": gap.mean, "low": gap.low, "high": gap.high, "p": gap.p}
    return found


if __name__ == "__main__":
    main()
