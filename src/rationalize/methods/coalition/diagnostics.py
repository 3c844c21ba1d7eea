"""What a coalition's run says of itself: can the judge read, are the variants clones, what did the
leak control touch, what is refinement worth. Each is a file of the run, measured once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import permutations
from typing import Any

import numpy as np

from rationalize.answers import is_correct
from rationalize.evaluation.clones import clone_rows, variance_row
from rationalize.evaluation.differences import difference_row
from rationalize.evaluation.intervals import paired_difference
from rationalize.evaluation.refining import refining_rows, refining_utilities
from rationalize.methods.base import Experiment
from rationalize.methods.coalition.candidates import (
    Candidates,
    UtilityJudge,
    as_written,
    touched,
    utilities_of,
    utility,
    utility_text,
)
from rationalize.methods.coalition.config import (
    FOR_IFT,
    FOR_JUDGING,
    FOR_VARIANTS,
    FOR_WRITING,
    CoalitionConfig,
    Leak,
)
from rationalize.methods.coalition.select import CandidatePair, Pairs
from rationalize.models.answer_texts import Texts
from rationalize.models.choices import ChoiceScorer
from rationalize.models.scorers import AnswerFold, AnswerScorer
from rationalize.models.variants import Variants
from rationalize.progress import say
from rationalize.records import Attempt, Question
from rationalize.report import coalition
from rationalize.rewards.reader import likeliest
from rationalize.sampling.local import Sampler
from rationalize.sampling.writing import (
    PromptOptions,
    Provenance,
    question_seed,
    teacher_attempts,
    write_attempts,
)
from rationalize.training.batches import RowMaker
from rationalize.training.loop import FitConfig
from rationalize.training.objectives import response_logprobs

COMPARED = 64
"""Development questions that variants are compared on: the first so many."""

DRAWS = 2  # of each variant for each of these questions

_ROOM = 0.9  # who is right more often has little to gain from a rationale

Written = Mapping[str, Mapping[str, Attempt]]
"""By variant and question id."""


def log_reading(
    exp: Experiment, judge: object, held_out: Sequence[Question], config: CoalitionConfig
) -> Leak:
    """Store and print how well the judge reads: the share of held-out questions that it answers
    right alone, and with a teacher's rationale that led to the gold answer; where there are no
    choices, the gold answer's utility. It reads what the leak control leaves of a rationale. What
    cannot read gives utilities that are noise.

    Returns the leak control, which `auto` takes from this: `mask` where what it leaves can be read
    or there is nothing to measure, else `penalty`.
    """
    decide = config.candidates.leak == "auto"
    controls: Sequence[Leak] = ("mask", "penalty") if decide else (config.candidates.control,)
    first: dict[str, str] = {}
    for a in teacher_attempts(held_out, "correct"):
        first.setdefault(a.question_id, a.rationale)
    taught = [q for q in held_out if q.id in first]
    with_choices = [q for q in taught if q.choices]
    asked = with_choices or taught
    if not asked or not isinstance(judge, AnswerScorer):
        return controls[0]

    def right(rationales: Sequence[str | None]) -> list[float]:
        if not with_choices:
            return judge.utilities(asked, rationales)
        probabilities = judge.probabilities(asked, rationales)
        return [
            float(is_correct((q.choices or ())[likeliest(p)], q.answer, q.choices))
            for q, p in zip(asked, probabilities, strict=True)
        ]

    def measure() -> list[dict[str, Any]]:
        alone = right([None] * len(asked))
        rows: list[dict[str, Any]] = []
        for control in controls:
            told = right([utility_text(first[q.id], q, control) for q in asked])
            gain = paired_difference(told, alone)
            rows.append({
                "measure": "accuracy" if with_choices else "utility", "control": control,
                "alone": float(np.mean(alone)), "with_rationale": float(np.mean(told)),
                "n": len(asked), "gain": difference_row(gain),
            })  # fmt: skip
            say(_reads(rows[-1]))
            if gain.low > 0 or rows[-1]["with_rationale"] >= _ROOM:
                return rows
            said = "that is no more than chance allows"
            if control != controls[-1]:
                say(f"{said}: answers are not masked, and a rationale that only names them counts "
                    "as none (`candidates.leak penalty`)")  # fmt: skip
        say(
            f"{said}: utilities may be noise. Give reading more of each batch "
            "(`instruction.shares`), more passes (`instruction.epochs`) or more questions"
        )
        return rows

    readers = FOR_VARIANTS if config.judge == "variants" else FOR_IFT
    stage = exp.stage("reading", needs=(*readers, *FOR_JUDGING, "candidates.leak"))
    *_, last = reading_rows(stage.facts("reading", measure))
    return last.get("control", controls[0])


def reading_rows(found: Any) -> Sequence[Mapping[str, Any]]:
    """The rows of `reading.json`, a row for each control that was tried; an earlier version stored
    the one row alone.
    """
    return [found] if isinstance(found, Mapping) else found or []


def _reads(row: Mapping[str, Any]) -> str:
    does = "answers {:.0%} of {} held-out questions right alone, {:.0%}"
    if row["measure"] == "utility":
        does = "gives the gold answers a likelihood of {:.0%} on {} held-out questions, {:.0%}"
    counts, gain = does.format(row["alone"], row["n"], row["with_rationale"]), row["gain"]
    left = ", their answers masked" if row["control"] == "mask" else ""
    return (
        f"the judge of utilities {counts} with a teacher's rationale that led there{left} "
        f"(difference {gain['mean']:+.0%} [{gain['low']:+.0%}, {gain['high']:+.0%}])"
    )


def log_clones(
    exp: Experiment, variants: Variants, config: CoalitionConfig, judge: UtilityJudge, when: str,
    round: int,
) -> None:  # fmt: skip
    """Store and print how different the variants are, a row per pair, and whether the utility
    varies more between variants than between draws of one; `when` is `tuned` or a round's name.

    They write the same development questions, sampled as candidates are, so that two files say
    what DPO made of them. KL is taken on those draws: with `top_p` below 1 they leave out what is
    unlikely, and it is not that of the whole distributions.
    """
    stage, asked = exp.stage("clones", needs=FOR_WRITING), exp.dev[:COMPARED]
    if len(config.names) < 2 or not asked:
        return
    sampling = config.candidates.sampling
    sampling = replace(sampling, n=DRAWS if sampling.beams == 1 else 1)

    def write(name: str) -> list[Attempt]:
        with variants.active(name) as policy:
            seed = question_seed(exp.seed, name, "clones")
            return write_attempts(
                Sampler(policy), asked, sampling,
                Provenance("dev", seed, writer=name, round=round), PromptOptions(mode="rationale"),
                label=f"{name} writes dev, {when}",
            )  # fmt: skip

    def drawn(name: str) -> list[Attempt]:
        return stage.attempts(f"{when}-{name}", partial(write, name))

    def measure() -> list[dict[str, Any]]:
        written = {
            name: {a.question_id: a for a in reversed(drawn(name))} for name in config.names
        }  # the first draw of each question
        rows = clone_rows(
            {name: {i: a.rationale for i, a in of.items()} for name, of in written.items()},
            _answers(variants, asked, written, config.instruction.texts),
            _divergences(variants, written, config.fit),
        )
        table = coalition.variants([{"when": when, **row} for row in rows])
        print(f"variants on development questions, {when}:\n{coalition.as_text(table)}")
        return [{**row, "split": "dev"} for row in rows]

    def vary() -> dict[str, Any]:
        leak = config.candidates.control
        alone = judge.utilities(asked, [None] * len(asked))
        reference = dict(zip([q.id for q in asked], alone, strict=True))
        utilities: dict[str, dict[str, list[float]]] = {}
        for name in config.names:
            for a in utilities_of(drawn(name), asked, judge, leak, reference):
                utilities.setdefault(name, {}).setdefault(a.question_id, []).append(utility(a))
        facts = variance_row(utilities)
        say(f"{when}: {in_words(facts)}")
        return facts

    stage.facts(f"clones-{when}", measure)
    if sampling.n > 1 and not sampling.greedy:
        needs = (*FOR_WRITING, *FOR_JUDGING, "candidates.leak")
        exp.stage("clones", needs=needs).facts(f"variance-{when}", vary)


def in_words(facts: Mapping[str, Any]) -> str:
    """What `variance_row` found, and what to do where variants differ no more than draws do."""
    if facts["ratio"] is None:
        return "all draws of a variant are worth the same: utilities do not vary"
    told = (
        f"the utility's variance between variants is {facts['ratio']:.2f} "
        f"[{facts['low']:.2f}, {facts['high']:.2f}] times what draws of one variant explain "
        f"(n = {facts['n']})"
    )
    if facts["low"] > 1:
        return told
    return (
        f"{told}: no more than draws do, so that there may be nothing to choose among. Make the "
        "variants differ: kinds of their own (--parts kinds), sources of their own "
        "(--variant-sources), more passes (--variant-epochs)"
    )


def _answers(
    variants: Variants, questions: Sequence[Question], written: Written, texts: Texts
) -> dict[str, dict[str, str | None]]:
    """What M_IFT answers given each variant's rationales, where there are choices."""
    asked = [q for q in questions if q.choices]
    answers: dict[str, dict[str, str | None]] = {}
    with variants.base_policy() as policy:
        reader = ChoiceScorer(policy)
        for name, attempts in written.items():
            rationales = [attempts[q.id].rationale or None for q in asked]
            probabilities = AnswerFold(reader, reader).probabilities(asked, rationales, texts)
            answers[name] = {
                q.id: (q.choices or ())[int(np.argmax(p))]
                for q, p in zip(asked, probabilities, strict=True)
            }
    return answers


def _divergences(
    variants: Variants, written: Written, config: FitConfig
) -> dict[tuple[str, str], float]:
    """KL per token of a variant from another, on the first one's texts."""
    logprobs: dict[tuple[str, str], float] = {}
    for reader in written:
        with variants.active(reader) as policy:
            maker = RowMaker(policy)
            for writer, attempts in written.items():
                rows = [maker.attempt(a) for a in attempts.values() if a.completion]
                tokens = sum(len(row.response_ids) for row in rows)
                total = sum(response_logprobs(policy, rows, config))
                logprobs[writer, reader] = total / max(1, tokens)
    return {(a, b): logprobs[a, a] - logprobs[a, b] for a, b in permutations(written, 2)}


def log_refining(exp: Experiment, candidates: Candidates, when: str) -> None:
    """Store and print what refinement by the writer, and by the others, did to the utility."""

    def measure() -> list[dict[str, Any]]:
        attempts = [*candidates.all_written, *candidates.all_refined]
        rows = refining_rows([refining_utilities(candidates.reference, attempts)])
        if rows:
            print(f"utility:\n{coalition.as_text(coalition.refining(rows))}")
        return rows

    exp.stage("refining").facts(f"refining-{when}", measure)


def log_leak(
    exp: Experiment, candidates: Candidates, questions: Sequence[Question],
    config: CoalitionConfig, when: str, judge: UtilityJudge,
    select: Callable[[Candidates], Mapping[str, Pairs]] | None = None,
) -> None:  # fmt: skip
    """Store and print how many candidates the leak control touched: those that the judge has read
    otherwise than they were written, or not at all; how many of them ended in pairs; and, with
    `select`, which makes pairs of candidates, how many pairs there would be without it.
    """
    leak = config.candidates.control
    if leak == "none":
        return
    by_id = {q.id: q for q in questions}

    def count(attempts: Iterable[Attempt]) -> int:
        return sum(touched(a, by_id[a.question_id], leak) for a in attempts)

    def measure() -> dict[str, Any]:
        written, refined = candidates.all_written, candidates.all_refined
        facts: dict[str, Any] = {
            "control": leak,
            "written": {"n": len(written), "touched": count(written)},
            "refined": {"n": len(refined), "touched": count(refined)},
        }
        pairs = _all_pairs(select(candidates)) if select else []
        if select:
            without = _all_pairs(select(as_written(candidates, questions, judge, leak)))
            same = len(_names(pairs) & _names(without))
            facts["pairs"] = {
                "n": len(pairs), "chosen": count(p.chosen for p in pairs),
                "rejected": count(p.rejected for p in pairs), "without": len(without), "same": same,
            }  # fmt: skip
        done = {"mask": "had an answer masked", "penalty": "only named answers"}[leak]
        counts = ", ".join(
            f"{facts[name]['touched']} of {facts[name]['n']} {name}"
            for name in ("written", "refined")
        )
        among = ("; in {n} pairs {chosen} of the chosen, {rejected} of the rejected; without it "
                 "{without} pairs, {same} of them the same")  # fmt: skip
        say(f"leak control, {when}: {counts} candidates {done}"
            + (among.format(**facts["pairs"]) if select else ""))  # fmt: skip
        return facts

    exp.stage("leak").facts(f"leak-{when}", measure)


def _all_pairs(pairs_by_variant: Mapping[str, Pairs]) -> list[CandidatePair]:
    return [pair for pairs, _ in pairs_by_variant.values() for pair in pairs]


def _names(pairs: Iterable[CandidatePair]) -> set[tuple[str, str]]:
    return {(p.chosen.id, p.rejected.id) for p in pairs}
