"""How a coalition is measured: chains on held-out questions, its judge, its candidates."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rationalize.answers import is_correct
from rationalize.evaluation.baselines import MAJORITY
from rationalize.evaluation.compare import Methods
from rationalize.evaluation.intervals import paired_difference
from rationalize.evaluation.metrics import metrics_of
from rationalize.evaluation.refining import format_refining, refining_rows, refining_utilities
from rationalize.evaluation.results import difference_row
from rationalize.evaluation.voting import chosen_attempt
from rationalize.methods.candidates import CandidatePair, Candidates, Leak, utility_text
from rationalize.methods.common import log_round, rollouts
from rationalize.methods.own_attempts import first_right
from rationalize.methods.setup import (
    Setup,
    final_shard,
    majority_row,
    trained_rows,
    write_results,
)
from rationalize.models.scorers import AnswerScorer
from rationalize.progress import say
from rationalize.records import Attempt, Question
from rationalize.rewards.reading import likeliest
from rationalize.runs import Run, slug
from rationalize.sampling.coalition import CONTROLLER, Chain, Coalition, Who
from rationalize.sampling.writing import question_seed

COMPARED: dict[str, Who] = {
    "COALITION": "controller",
    "random controller": "random",
    "self-refinement": "self",
    "no refinement": "keep",
    "M_IFT alone": "base",
}
"""Rows of a coalition's table: who works. The controller may keep a rationale, and so may chance;
`self-refinement` always refines, `no refinement` never.
"""

SELF_CONSISTENCY = "self-consistency"
"""Row of the majority among sampled chains of M_IFT, at no fewer tokens than the coalition's."""

STAGE = "coalition"
"""Under which development rounds are logged."""

_ROOM = 0.9  # who is right more often has little to gain from a rationale
_FEWEST = 3  # of two votes that differ, neither has a majority


def conclude(
    setup: Setup, made: Coalition, methods: Methods | None = None,
    pairs: Sequence[tuple[str, str]] = (), started: float | None = None,
) -> None:  # fmt: skip
    """Score the evaluation splits once; write `results.json`, `report.html` and `coalition/`.

    `methods` are rows that stand beside the coalition's, with their own comparisons; `started` is
    when this start began, by `time.monotonic()`.
    """
    methods = {} if methods is None else methods
    judged = setup.suite.only("utility")
    for name, splits in methods.items():  # written before there was a judge
        for split, seeds in splits.items():
            seeds |= {s: setup.judged(own, judged, name, split, s) for s, own in seeds.items()}
    methods[MAJORITY] = majority_row(setup)
    if not made.controller:
        say("no controller was trained (no question was kept aside for it, or no choice made a "
            "difference): COALITION's row is the random controller's")  # fmt: skip
    seed, tokens = setup.config.seed, {}
    for split in setup.final_splits:
        found = {name: evaluate_chains(setup, made, name, split) for name in COMPARED}
        found[SELF_CONSISTENCY] = self_consistency(setup, made, split, spent(found["COALITION"]))
        for name, own in found.items():
            methods.setdefault(name, {})[split] = {seed: own}
        tokens[split] = {name: spent(own) for name, own in found.items()}
        told = ", ".join(f"{name} {mean:.0f}" for name, mean in tokens[split].items())
        say(f"tokens written a question, {split}: {told}")
    meta: dict[str, Any] = {"tokens_a_question": tokens, "seeds": [seed]}
    if started is not None:
        meta["seconds"] = time.monotonic() - started
    own_pairs = [
        ("COALITION", other) for other in (*list(COMPARED)[1:], SELF_CONSISTENCY, MAJORITY)
    ]
    chains = [
        {"method": name, "split": split, **row}
        for split in setup.final_splits
        for name in COMPARED
        for row in setup.run.read_json(_chain_file(name, split))
    ]
    loaded = {reward.name for reward in setup.suite.trainable}
    # consistency is the same scorer's word: no yardstick
    rewards = [name for name in ("utility", "consistency") if name in loaded]
    trained = trained_rows("COALITION", {STAGE: rewards})
    sections = {"chains": chains, "trained": trained, **measured(setup.run, setup.config.rounds)}
    write_results(setup, methods, [*own_pairs, *pairs], meta, **sections)
    folder = setup.run.path / "coalition"
    made.save(folder)
    print(f"coalition: {folder}\nreport: {setup.run.path / 'report.html'}")


def evaluate_chains(setup: Setup, made: Coalition, name: str, split: str) -> list[Attempt]:
    """The chains of a split as scored attempts; both are stored, so that none is written twice."""
    questions, config = setup.splits[split], setup.config

    def write() -> list[Attempt]:
        chains = made.chains(
            questions, config.evaluation_sampling, split=split, seed=config.seed,
            who=COMPARED[name],
        )  # fmt: skip
        setup.run.write_json(_chain_file(name, split), [c.as_row() for c in chains])
        attempts = [_of_method(c, name, config.seed) for c in chains]
        return setup.suite.score(attempts, {q.id: q for q in questions})

    return rollouts(setup.run, final_shard(name, split, config.seed), write)


def measured(run: Run, rounds: int) -> dict[str, list[dict[str, Any]]]:
    """What was stored on the coalition itself on the way, as rows for the page."""
    reading, facts = run.read_json("reading.json"), run.done(CONTROLLER) or {}
    facts = facts if facts.get("learned_from") else {}  # else chance picks
    return {
        "reading": [reading] if reading else [],
        "variants": [
            {"when": when, **row}
            for when in ("tuned", *(f"round{r}" for r in range(rounds)))
            for row in run.read_json(f"clones-{when}.json") or []
        ],
        "refining": run.read_json("refining-final.json") or [],
        "controller": [
            {"choice": kind, **facts[kind]} for kind in ("write", "refine") if kind in facts
        ],
    }


def spent(attempts: Sequence[Attempt]) -> float:
    """Tokens written a question."""
    return float(np.mean([a.n_tokens for a in attempts]))


def self_consistency(setup: Setup, made: Coalition, split: str, tokens: float) -> list[Attempt]:
    """Of each question's sampled chains of M_IFT the first with the majority's answer; it bears the
    tokens of all. There are as many chains as cost `tokens` a question, three at least.
    """
    questions, config = setup.splits[split], setup.config
    sampling = replace(config.candidates.sampling, n=1)

    def write() -> list[Attempt]:
        drawn: list[list[Attempt]] = []
        while len(drawn) < _FEWEST or 0 < sum(map(spent, drawn)) < tokens:
            chains = made.chains(
                questions, sampling, split=split, who="base",
                seed=question_seed(config.seed, SELF_CONSISTENCY, len(drawn)),
            )  # fmt: skip
            drawn.append([_of_method(c, SELF_CONSISTENCY, config.seed) for c in chains])
        chosen = []
        for question, *group in zip(questions, *drawn, strict=True):
            first = chosen_attempt(group, question)
            chosen.append(replace(first, n_tokens=sum(a.n_tokens for a in group)))
        say(f"{SELF_CONSISTENCY}: {len(drawn)} votes")
        return setup.suite.score(chosen, {q.id: q for q in questions})

    return rollouts(setup.run, final_shard(SELF_CONSISTENCY, split, config.seed), write)


def _of_method(chain: Chain, name: str, seed: int) -> Attempt:
    """A chain as an attempt of the table's row; the chain's file says who worked."""
    return replace(chain.as_attempt(name), writer=name, seed=seed)


def _chain_file(name: str, split: str) -> str:
    return f"chains/{slug(name.lower())}-{split}.json"


def dev_accuracy(setup: Setup, made: Coalition, name: str, round: int) -> float:
    """Share of development questions that chains with random writers and refiners answer right;
    every metric is logged, for the report's verdict on hacking.
    """
    config, suite, by_id = setup.config, setup.suite, {q.id: q for q in setup.dev}

    def write() -> list[Attempt]:
        chains = replace(made, controller=False).chains(
            setup.dev, config.evaluation_sampling, split="dev", seed=config.seed
        )
        setup.run.write_json(_chain_file(name, "dev"), [c.as_row() for c in chains])
        return suite.score([_of_method(c, name, config.seed) for c in chains], by_id)

    attempts = rollouts(setup.run, f"dev-{name}", write)
    metrics = metrics_of(suite.trainable, suite.diagnostics)
    means = log_round(setup.run, STAGE, attempts, by_id, metrics, round=round, step=round)
    return means["accuracy"]


def log_reading(run: Run, judge: object, held_out: Sequence[Question]) -> None:
    """Store and print how well the judge reads: the share of held-out questions that it answers
    right alone, and with a teacher's rationale that led to the gold answer. What cannot read gives
    utilities that are noise.
    """
    first = {a.question_id: a.rationale for a in first_right(held_out)}
    asked = [q for q in held_out if q.choices and q.id in first]
    if not asked or not isinstance(judge, AnswerScorer) or run.read_json("reading.json"):
        return

    def right(rationales: Sequence[str | None]) -> list[float]:
        found = judge.probabilities(asked, rationales)
        return [
            float(is_correct((q.choices or ())[likeliest(p)], q.answer, q.choices))
            for q, p in zip(asked, found, strict=True)
        ]

    alone, told = right([None] * len(asked)), right([first[q.id] for q in asked])
    gain = paired_difference(told, alone)
    facts = {"alone": float(np.mean(alone)), "with_rationale": float(np.mean(told))}
    run.write_json("reading.json", {**facts, "n": len(asked), "gain": difference_row(gain)})
    say(
        f"the judge of utilities answers {facts['alone']:.0%} of {len(asked)} held-out questions "
        f"right alone, {facts['with_rationale']:.0%} with a teacher's rationale that led there "
        f"(difference {gain.mean:+.0%} [{gain.low:+.0%}, {gain.high:+.0%}])"
    )
    if gain.low <= 0 and facts["with_rationale"] < _ROOM:
        say(
            "that is no more than chance allows: utilities may be noise. Give reading more of each "
            "batch (`instruction.shares`), more passes (`instruction.epochs`) or more questions"
        )


def log_refining(run: Run, candidates: Candidates, when: str) -> None:
    """Store and print what refinement by the writer, and by the others, did to the utility."""
    file = f"refining-{when}.json"
    if run.read_json(file) is not None:
        return
    attempts = [
        a for own in (candidates.written, candidates.refined) for g in own.values() for a in g
    ]
    rows = refining_rows([refining_utilities(candidates.reference, attempts)])
    run.write_json(file, rows)
    if rows:
        print(format_refining(rows))


def log_leak(
    run: Run, when: str, candidates: Candidates, questions: Sequence[Question], leak: Leak,
    pairs: Sequence[CandidatePair] = (),
) -> None:  # fmt: skip
    """Store and print how many candidates the leak control touched: those that the judge has read
    otherwise than they were written, or not at all; and how many of them ended in pairs.
    """
    file = f"leak-{when}.json"
    if leak == "none" or run.read_json(file) is not None:
        return
    by_id = {q.id: q for q in questions}

    def touched(attempts: Iterable[Attempt]) -> int:
        asked = [(a.rationale, by_id[a.question_id]) for a in attempts]
        return sum(utility_text(*own, leak) != utility_text(*own, "none") for own in asked)

    facts: dict[str, Any] = {"control": leak}
    for name, groups in (("written", candidates.written), ("refined", candidates.refined)):
        own = [a for group in groups.values() for a in group]
        facts[name] = {"n": len(own), "touched": touched(own)}
    facts["pairs"] = {
        "n": len(pairs), "chosen": touched(p.chosen for p in pairs),
        "rejected": touched(p.rejected for p in pairs),
    }  # fmt: skip
    run.write_json(file, facts)
    done = {"mask": "had an answer masked", "penalty": "only named answers"}[leak]
    told = ", ".join(f"{facts[name]['touched']} of {facts[name]['n']} {name}"
                     for name in ("written", "refined"))  # fmt: skip
    among = "; in {n} pairs {chosen} of the chosen, {rejected} of the rejected"
    say(f"leak control, {when}: {told} candidates {done}"
        + (among.format(**facts["pairs"]) if pairs else ""))  # fmt: skip
