"""Which offline verifier agrees best with people, and do any of the rewards?

    python experiments/agreement.py PATH/TO/SETS --out runs/agreement

1. Development cut: of the train rows of each set with votes, the first `--dev` by a hash of the
   question. Each of the `CANDIDATES` is trained on questions without votes, none of them a judged
   one, and scores the cut. All are reported.
2. The candidate with the highest AUROC of single votes within a question, mean of the two sets, is
   chosen: `chosen_by` was fixed before any of them was run.
3. One run on the test rows: the chosen candidate, and the other rewards with an answer scorer that
   is trained on the same questions. Where it is done, it is shown and not run again.

The votes are read by the evaluation alone. A second start with the same --out goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tables import markdown

from rationalize.commands.human_agreement import JUDGED, measure_agreement
from rationalize.commands.score_methods import same_inputs, score_methods
from rationalize.evaluation.agreement import MEAN_OF_SETS, agreement_rows
from rationalize.evaluation.human_agreement import (
    BASELINE_REWARDS,
    WITHIN,
    agreement_tables,
    judged_attempts,
    judged_set,
)
from rationalize.evaluation.leaderboard import ReferenceSet, read_set, some_of
from rationalize.methods.settings import RunConfig, with_first
from rationalize.methods.train_scorers.answer_scorer import AnswerScorerConfig, train_answer_scorer
from rationalize.methods.train_scorers.verifier import VerifierConfig, train_verifier
from rationalize.models.choices import ChoiceScorer
from rationalize.models.policy import Policy, load_policy
from rationalize.models.read_only import read_only
from rationalize.models.scorers import AnswerScorer, Verifier, VerifierFold
from rationalize.questions import load_questions, same_question_key
from rationalize.questions.judged import JudgedQuestion, load_judged_questions
from rationalize.records import Attempt, Question
from rationalize.rewards import Reward, RewardSuite, load_rewards
from rationalize.rewards.base import Scores
from rationalize.rewards.fluency import score as fluency_score
from rationalize.rewards.plausibility import plausibility
from rationalize.runs import Run, slug
from rationalize.templates import INSTRUCTION

PEOPLE = ("acceptability_commonsenseqa", "acceptability_snli")
MIXED = {"ecqa": 1, "commonsenseqa": 1, "esnli": 2}
"""What a candidate learns from: set -> parts of `--train`. People's explanations."""
GPT3 = {"strategyqa": 1, "quarel": 1}
"""GPT-3's, with its samples that went wrong among the false statements."""

CANDIDATES: dict[str, tuple[dict[str, int], dict]] = {
    "as now": (MIXED, {}),
    "Vera's own statements": (MIXED, {"choice_statements": 1.0, "rationale_statements": 0.0}),
    "rationales only": (MIXED, {"choice_statements": 0.0}),
    "four negatives": (MIXED, {"negatives": 4}),
    "two epochs": (MIXED, {"epochs": 2.0}),
    "no choice loss": (MIXED, {"choice_weight": 0.0}),
    "GPT-3's samples": (GPT3, {}),
    "with the question": (MIXED, {"statement": "question"}),
}
"""Name -> what it learns from, and its changes to `VerifierConfig`."""

UNTRAINED, GAIN = "base model, yes or no", "base model, gain from the question"
TRAINING_FREE = (UNTRAINED, GAIN)

OTHER_REWARDS = ("consistency", "information_gain", "simulatability", "prediction_leak",
                 "diversity", *BASELINE_REWARDS)  # fmt: skip
PREFER = ("gpt3", "llama-7b")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder with a folder per set")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="default", help="base of all that is trained")
    parser.add_argument("--candidates", nargs="*", default=[*CANDIDATES, *TRAINING_FREE])
    parser.add_argument("--dev", type=int, default=150, help="development questions of each set")
    parser.add_argument("--train", type=int, default=320, help="questions a candidate learns from")
    parser.add_argument("--test", type=int, default=None, help="test questions of each set: all")
    parser.add_argument(
        "--references", nargs="*", default=["strategyqa", "quarel", "openbookqa"],
        help="sets with other models' rationales",
    )  # fmt: skip
    parser.add_argument("--reference-questions", type=int, default=100, help="of each of these")
    parser.add_argument("--models", nargs="*", default=list(PREFER), help="whose rationales")
    args = parser.parse_args(argv)
    settings = {k: v for k, v in vars(args).items() if k != "out"}
    with Run.open(args.out, {"experiment": "agreement", **settings}) as run:
        judged = {name: load_judged_questions(args.data / name, "train") for name in PEOPLE}
        test = {name: load_judged_questions(args.data / name, "test") for name in PEOPLE}
        taboo = {stem(q) for sets in (judged, test) for own in sets.values() for q in own}
        dev = {name: first_by_hash(own, args.dev) for name, own in judged.items()}
        base = load_policy(args.model)
        rows = develop(run, args, dev, taboo, base)
        chosen = chosen_by(rows)
        run.finish("choice", candidate=chosen)
        say(args.out, "development.md", rows, f"chosen: {chosen}")
        if run.done("test") is None:
            people = {name: own[: args.test] for name, own in test.items()}
            test_once(run, args, people, chosen, taboo, base)
            run.finish("test")
        results = run.read_json("stages/test/agreement.json")
        say(args.out, "test.md", results["people"] + results["references"], f"verifier: {chosen}")


def develop(
    run: Run, args: argparse.Namespace, dev: dict[str, list[JudgedQuestion]],
    taboo: set[tuple[str, ...]], base: Policy,
) -> list[dict]:  # fmt: skip
    """Every candidate on the development cut; rows as in agreement.json."""
    attempts = {name: judged_attempts(own, name) for name, own in dev.items()}
    questions = {q.question.id: q.question for own in dev.values() for q in own}
    merged: dict[str, list[Attempt]] = attempts
    baselines = load_rewards(BASELINE_REWARDS, base=base)
    for name in [*args.candidates, "floor"]:
        stage = run.nested(f"dev-{slug(name)}")
        rewards = baselines if name == "floor" else [candidate(name, args, taboo, base)]
        suite = RewardSuite(rewards, cache=stage.folder("scores"))
        methods = {JUDGED: {name: {0: own} for name, own in attempts.items()}}
        same_inputs(stage, questions, methods, suite)
        scored = score_methods(stage, suite, methods, questions)[JUDGED]
        merged = {
            name: [a.scored(b.rewards) for a, b in zip(own, scored[name][0], strict=True)]
            for name, own in merged.items()
        }
    names = [*args.candidates, *BASELINE_REWARDS]
    rows = agreement_rows({name: judged_set(own, names) for name, own in merged.items()})
    run.write_json("development.json", rows)
    return rows


def candidate(
    name: str, args: argparse.Namespace, taboo: set[tuple[str, ...]], base: Policy
) -> Reward:
    """The candidate's reward, under its own name; its verifier is trained first."""
    if name == GAIN:
        gain = partial(gain_from_question, ChoiceScorer(base))
        return Reward(name, gain, trainable=False, scorer_hash=base.weights_hash)
    if name == UNTRAINED:
        fresh = read_only(load_policy(args.model, style="plain"))
        return dataclasses.replace(
            plausibility(Verifier([VerifierFold(ChoiceScorer(fresh))])), name=name
        )
    mix, changes = CANDIDATES[name]
    folder = args.out / "verifiers" / slug(name)
    questions = taught(args.data, mix, args.train, taboo)
    train_verifier(RunConfig(model=args.model), VerifierConfig(**changes), folder, questions)
    return dataclasses.replace(plausibility(Verifier.load(folder)), name=name)


def gain_from_question(scorer: ChoiceScorer, *, rationale, **columns) -> Scores:
    """log p(rationale | question) - log p(rationale) under the base model, per token: what the
    rationale has to do with its question, beyond how likely it is anyway.
    """
    given = fluency_score(scorer, rationale=rationale, **columns)
    said = [i for i, score in enumerate(given) if score is not None]
    alone = scorer.score(
        [INSTRUCTION["rationale"]] * len(said), [[rationale[i].strip()] for i in said]
    )
    gains: Scores = [None] * len(rationale)
    for i, [own] in zip(said, alone, strict=True):
        gains[i] = given[i] - own.mean
    return gains


def chosen_by(rows: list[dict]) -> str:
    """The candidate with the highest AUROC within a question, mean of the sets; the first of equals
    in the order of the table.
    """
    own = [
        r for r in rows
        if (r["set"], r["target"], r["role"]) == (MEAN_OF_SETS, WITHIN, "reward")
        and r["mean"] is not None
    ]  # fmt: skip
    return max(own, key=lambda row: row["mean"])["score"]


def test_once(
    run: Run, args: argparse.Namespace, people: dict[str, list[JudgedQuestion]], chosen: str,
    taboo: set[tuple[str, ...]], base: Policy,
) -> None:  # fmt: skip
    """The one run on the test rows, and reference rationales."""
    folder = args.out / "answer-scorer"
    questions = taught(args.data, MIXED, args.train, taboo)
    train_answer_scorer(RunConfig(model=args.model), AnswerScorerConfig(), folder, questions)
    scorer = AnswerScorer.load(folder)
    rewards = [
        candidate(chosen, args, taboo, base),
        *load_rewards(OTHER_REWARDS, answer_scorer=scorer, base=base),
    ]
    stage = run.nested("test")
    suite = RewardSuite(rewards, cache=stage.folder("scores"))
    measure_agreement(stage, suite, people, references(args), PREFER)


def references(args: argparse.Namespace) -> list[ReferenceSet]:
    """Each set's first questions by hash, of the models asked for."""
    found = []
    for name in args.references:
        own = read_set(args.data / name, args.models)
        ids = [q.id for q in sorted(own.questions.values(), key=place)[: args.reference_questions]]
        found.append(some_of(own, ids, args.models))
    return found


def taught(
    data: Path, mix: dict[str, int], count: int, taboo: set[tuple[str, ...]]
) -> list[Question]:
    """`count` train questions of several sets, by hash; one rationale each, none of them judged."""
    found = []
    for name, parts in mix.items():
        own = [q for q in load_questions(data / name, "train") if q.rationales]
        own = sorted((q for q in own if same_question_key(q)[:2] not in taboo), key=place)
        found += [with_first(q, 1) for q in own[: count * parts // sum(mix.values())]]
    return found


def first_by_hash(judged: list[JudgedQuestion], count: int) -> list[JudgedQuestion]:
    return sorted(judged, key=lambda own: place(own.question))[:count]


def place(question: Question) -> bytes:
    """Where a question stands in an order that hangs on nothing but its text and id."""
    text = "\n".join(("agreement", *same_question_key(question)[:2], question.id))
    return hashlib.sha256(text.encode()).digest()


def stem(judged: JudgedQuestion) -> tuple[str, ...]:
    """Context and question: what two questions have in common whatever their choices."""
    return same_question_key(judged.question)[:2]


def say(out: Path, file: str, rows: list[dict], last: str) -> None:
    """The tables on the terminal and as Markdown in a file."""
    parts = [f"### {caption}\n\n{markdown(table)}" for caption, table in agreement_tables(rows)]
    text = "\n\n".join([*parts, last]) + "\n"
    (out / file).write_text(text, encoding="utf-8")
    print(text, flush=True)


if __name__ == "__main__":
    main()
