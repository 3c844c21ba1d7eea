"""The work of COALITION, in the steps of `coalition/algorithm.py`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from rationalize.methods.coalition.algorithm import dpo_parts, keep_apart
from rationalize.methods.coalition.candidates import (
    Asked,
    asked_for_pairs,
    asked_of_all,
    refiners_of,
    texts_of,
)
from rationalize.methods.coalition.config import CoalitionConfig, InstructionConfig, refines
from rationalize.methods.coalition.controller import written_as_answered
from rationalize.methods.coalition.diagnostics import COMPARED
from rationalize.methods.coalition.diagnostics import DRAWS as CLONE_DRAWS
from rationalize.methods.coalition.evaluate import FEWEST
from rationalize.methods.coalition.inference import CONTROLLER
from rationalize.methods.coalition.tuning import counts_of, parts_of, tuning_steps
from rationalize.methods.work.own import round_up
from rationalize.methods.work.parts import Learner, Reads, Stores, Work
from rationalize.methods.work.scene import Scene, sharing
from rationalize.records import Question
from rationalize.sampling.config import SamplingConfig
from rationalize.sampling.writing import teacher_attempts
from rationalize.training.loop import FitConfig


def coalition_work(at: Scene, config: CoalitionConfig, stage: str) -> Iterator[Work]:
    """What other sources than the train questions hold is not known before they are read: as many
    questions are counted.
    """
    config = replace(config, judge=config.judged_by(at.train))
    taught, compared, held = keep_apart(at.train, config, at.seed)
    # 1. tune
    yield from _instruction(at, config.instruction, taught)
    for name, part in zip(config.names, parts_of(taught, config, at.seed), strict=True):
        own = replace(config.instruction, fit=config.variant_fit)
        if config.variant_epochs:
            yield from _tuning(at, own, part, config.passes, f"{name}-tuned", refined=True,
                               learner="policy" if config.copies else "adapter")  # fmt: skip
        yield Stores(f"{name}-tuned", kept=float(config.copies))
    controls = 2 if config.candidates.leak == "auto" else 1  # how many are measured, at most
    yield from _choices(at, "reading", (1 + controls) * (len(at.dev) + len(held)), 1 + controls)
    yield from _dev(at, config, "tuned")
    parts = dict(zip(config.names, dpo_parts(compared, config), strict=True))
    for round in range(config.rounds):
        # 2. candidates, and 3. utility
        asked = asked_for_pairs(parts)
        yield from _candidates(at, config, compared, f"round{round}", asked)
        # 5. learn
        for name, (to_write, to_refine) in parts.items():
            yield from _pairs(at, config, name, round, len(to_write), len(to_refine))
        yield from _dev(at, config, f"round{round}")
    # 6. controller
    yield from _controller(at, config, held)


def conclude_work(at: Scene, config: CoalitionConfig, rows_beside: int = 0) -> Iterator[Work]:
    """The table of every final split; rows that stand beside are judged by the utility too."""
    for split in at.final_splits:
        asked = at.splits[split]
        if not rows_beside:
            yield from at.evaluates("final-base", split, taught=False)
        yield from _table(at, config, asked)
        writing = replace(config.candidates.sampling, n=1)
        for _ in range(FEWEST):
            yield at.writes("final-self-consistency", asked, writing, mode="rationale")
            yield from _choices(at, "final-self-consistency", 2 * len(asked), 2)
        yield from at.scores("final-self-consistency", asked)
        yield from _utilities(at, config, "judged", len(asked) * (rows_beside + 1), 1)
    yield Stores("coalition", kept=1.0)


def _table(at: Scene, config: CoalitionConfig, asked: Sequence[Question]) -> Iterator[Work]:
    """Draws of every writer, M_IFT among them, as they are and refined; all cells are answered by
    M_IFT and by who wrote last, scored and judged.
    """
    sampling, draws = at.evaluation, 1
    if config.draws > 1:
        sampling, draws = config.candidates.sampling, config.draws
    names, refiners = config.names, config.candidates.refiners
    refined = sum(refines(r, w, refiners) for w in names for r in names)
    refined += refiners != "none"  # M_IFT refines itself
    for _ in range(len(names) + 1):
        drawn = replace(sampling, n=draws)
        yield at.writes("table", asked, drawn, mode="rationale")
    for _ in range(refined):
        yield at.writes("table", list(asked) * draws, replace(sampling, n=1), mode="refine")
    cells = (len(names) + 1 + refined) * draws
    yield from _choices(at, "table", (1 + 2 * cells) * len(asked), 1 + cells)
    yield from at.scores("table", asked, cells)
    yield from _utilities(at, config, "table", cells * len(asked), cells)


def _instruction(
    at: Scene, config: InstructionConfig, learned: Sequence[Question]
) -> Iterator[Work]:
    refined = bool(config.shares.get("refine"))
    warm = config.epochs * config.warm_up if refined else 0.0
    if refined:
        yield from _tuning(at, config, learned, warm, "ift-warm", refined=False)
        yield at.stores("ift-warm")
        yield at.writes("ift-imperfect", learned, config.imperfect, mode="rationale")
    yield from _tuning(at, config, learned, config.epochs - warm, "ift", refined=refined)
    yield at.stores("ift", loads=1)


def _tuning(
    at: Scene, config: InstructionConfig, questions: Sequence[Question], epochs: float, stage: str,
    *, refined: bool, learner: Learner = "policy",
) -> Iterator[Work]:  # fmt: skip
    """Steps in all modes at once, with the mean lengths of their shares."""
    rationales = len(teacher_attempts(questions, "correct")) or round(at.right * len(questions))
    rows: Mapping[str, Sequence[int]] = {
        "rationale": range(rationales), "refine": range(rationales if refined else 0),
        "answer_from_rationale": range(rationales), "answer": range(len(questions)),
    }  # fmt: skip
    counts = counts_of(config, rows)
    size = sum(counts.values())
    reply = {"rationale": at.rationale + 1, "refine": at.rationale + 1}
    mean_prompt = sum(n * at.asked(questions, mode) for mode, n in counts.items()) / size
    mean_reply = sum(n * reply.get(m, at.answer(questions)) for m, n in counts.items()) / size
    yield at.learns(
        stage, "nll", tuning_steps(rows, config, epochs), config.fit, rows=size,
        prompt=mean_prompt, reply=mean_reply, learner=learner,
    )  # fmt: skip


def _candidates(
    at: Scene, config: CoalitionConfig, questions: Sequence[Question], name: str, asked: Asked
) -> Iterator[Work]:
    """Every variant writes, what each may refine is refined, and the judge reads all of it."""
    names, sampling = config.names, config.candidates.sampling
    n = texts_of(sampling, len(names), max(sampling.n, asked.draws))
    panel = {name: len(refiners_of(config, "", name, at.seed)) for name in names}
    again = texts_of(sampling, max(panel[names[0]], 1), asked.draws)
    read = len(questions)
    for writer in names:
        own = [q for q in questions if q.id in asked.writes[writer]]
        yield at.writes(f"{name}-{writer}-writes", own, replace(sampling, n=n), mode="rationale")
        read += n * len(own)
    # of several draws that are refined by several, the first alone is
    each = 1 if asked.draws > 1 else n
    refined = sum(each * len(asked.refined[writer]) * panel[writer] for writer in names)
    for refiner in names if refined else ():
        sources = (list(questions) * (1 + refined // len(questions)))[: refined // len(names)]
        part = f"{name}-{refiner}-refines"
        yield at.writes(part, sources, replace(sampling, n=again), mode="refine")
        read += again * len(sources)
    yield from _utilities(at, config, f"{name}-utilities", read, read / len(questions))


def _utilities(
    at: Scene, config: CoalitionConfig, part: str, rows: int, each: float
) -> Iterator[Work]:
    """One reading of the gold answer by each judge, after `each` rationales of a question."""
    judges = config.variants if config.judge == "variants" else 1
    if config.judge == "reward-model":
        yield at.reads_replies(part, "rank", rows, each)
    else:
        yield _after_rationales(at, part, judges * rows, at.answer(at.train), each)


def _choices(at: Scene, part: str, rows: int, each: float) -> Iterator[Work]:
    """The base reads all choices after each of a question's rationales."""
    yield _after_rationales(at, part, rows, at.choices(at.train), each)


def _after_rationales(at: Scene, part: str, rows: int, answers: float, each: float) -> Reads:
    question = at.asked(at.train, "answer_from_rationale") - at.rationale
    read = at.rationale + answers
    return Reads(part, "choices", rows, question, read, sharing(each, question, read))


def _refined(config: CoalitionConfig) -> float:
    """Share of the rationales that chance refines: nobody is one more option."""
    names = config.names
    options = sum(refines(name, names[0], config.candidates.refiners) for name in names)
    return options / (options + 1)


def _chains(
    at: Scene, config: CoalitionConfig, part: str, asked: Sequence[Question],
    sampling: SamplingConfig, refined: float,
) -> Iterator[Work]:  # fmt: skip
    """Chains of the questions: written, a share refined, answered. Each writer has a batch."""
    n = config.variants
    for first in range(n):
        if own := asked[first::n]:
            yield at.writes(part, own, sampling, mode="rationale")
            if again := own[: round(refined * len(own))]:
                yield at.writes(part, again, sampling, mode="refine")
    yield from _choices(at, part, round((1 + refined) * len(asked)), 1 + refined)


def _dev(at: Scene, config: CoalitionConfig, when: str) -> Iterator[Work]:
    """Chains by chance on development questions, and how different the variants are there."""
    yield from _chains(at, config, f"dev-{when}", at.dev, at.evaluation, _refined(config))
    yield from at.scores(f"dev-{when}", at.dev)
    asked = at.dev[:COMPARED]
    if config.variants > 1 and asked:
        sampling = config.candidates.sampling
        n = CLONE_DRAWS if sampling.beams == 1 else 1
        for name in config.names:
            drawn = replace(sampling, n=n)
            yield at.writes(f"clones-{when}-{name}", asked, drawn, mode="rationale")
            yield from _choices(at, f"clones-{when}", len(asked), 1)
        if n > 1 and not sampling.greedy:
            read = (1 + n * config.variants) * len(asked)
            yield from _utilities(at, config, f"clones-{when}", read, 1 + n * config.variants)
        rows = config.variants**2 * len(asked)
        prompt = at.asked(asked, "rationale")
        yield Reads(f"clones-{when}", "logprobs", rows, prompt, at.rationale)


def _pairs(
    at: Scene, config: CoalitionConfig, name: str, round: int, to_write: int, to_refine: int
) -> Iterator[Work]:
    """DPO of a variant: a pair of each question or source whose best beats its reference."""
    kept = at.right if config.candidates.filtered else 1.0
    sampling = config.candidates.sampling
    n = texts_of(sampling, config.variants, sampling.n)
    sources = to_refine * n if config.candidates.refiners != "none" else 0
    pairs = kept * (to_write + sources)
    size = max(1, config.fit.batch_size // 2)
    prompt, reply = at.asked(at.train, "rationale"), at.rationale + 1
    if sources:
        share = sources / (to_write + sources)
        prompt += share * (at.asked(at.train, "refine") - prompt)
    stage = f"{name}-round{round}"
    aside = config.held_out_pairs * pairs  # only ordered, before and after
    yield Reads(stage, "logprobs", 2 * (pairs + aside), prompt, reply)
    learner: Learner = "policy" if config.copies else "adapter"
    steps = round_up(config.epochs * (pairs - aside) / size)
    yield at.learns(stage, "dpo", steps, config.fit, rows=2 * size, prompt=prompt, reply=reply,
                    learner=learner, together=2)  # fmt: skip
    yield Stores(stage, kept=float(config.copies))


def _controller(at: Scene, config: CoalitionConfig, held: Sequence[Question]) -> Iterator[Work]:
    if not held or (config.variants == 1 and config.candidates.refiners == "none"):
        return
    as_answered, draws = written_as_answered(config, SamplingConfig(temperature=0.0))
    asked = asked_of_all(config.names, held, draws)
    yield from _candidates(at, as_answered, held, CONTROLLER, asked)
    examples = len(held) * (1 + config.variants) * (1 - config.controller.held_out)
    fit: FitConfig = config.controller.fit
    steps = round_up(config.controller.epochs * examples / fit.batch_size)
    prompt = at.asked(held, "refine")
    yield at.learns(CONTROLLER, "choice", steps, fit, prompt=prompt, reply=1, learner="adapter")
    measured = math.ceil(examples * config.controller.held_out)
    yield Reads(CONTROLLER, "statements", measured, prompt, 1)
