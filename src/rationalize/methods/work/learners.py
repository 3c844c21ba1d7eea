"""The work of SFT, FILT-ACC, MaRio, GRPO and GDPO, and of the scorers that a run trains."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from rationalize.evaluation.obedience import factors
from rationalize.methods.base import questions_for
from rationalize.methods.filt_acc import FiltAccConfig
from rationalize.methods.grpo import GroupConfig
from rationalize.methods.mario import ATTEMPTS_EACH, EVALUATE_EVERY, control_bins
from rationalize.methods.mario_config import MarioConfig
from rationalize.methods.ppo import PpoConfig
from rationalize.methods.scoring import ANSWER_SCORER, VERIFIER, Scoring, trained_scorers
from rationalize.methods.sft import SftConfig, StartConfig, steps_for, taught
from rationalize.methods.train_scorers.answer_scorer import AnswerScorerConfig, rows_in_a_step
from rationalize.methods.train_scorers.crossfit import ScorerConfig, fold_parts
from rationalize.methods.train_scorers.verifier import (
    VerifierConfig,
    choice_groups,
    groups_in_a_step,
    rationale_groups,
)
from rationalize.methods.work.parts import Learns, Reads, Stores, Work
from rationalize.methods.work.scene import Scene, sharing
from rationalize.sampling.writing import teacher_attempts
from rationalize.training.loop import CPU_PASS


def sft_work(at: Scene, config: SftConfig, stage: str) -> Iterator[Work]:
    texts = [(a.prompt, a.completion) for a in taught(at.train)]
    yield from imitation(at, config, stage, steps_for(texts, config))


def direct_work(at: Scene, config: SftConfig, stage: str, *, stored: bool = True) -> Iterator[Work]:
    """The direct fine-tune; as a baseline its weights are not `stored`."""
    steps = steps_for([("", "")] * len(at.train), config)
    prompt, reply = at.asked(at.train, "answer"), at.answer(at.train)
    yield at.learns(stage, "nll", steps, config.fit, prompt=prompt, reply=reply)
    for _ in range(config.evaluations):
        yield from at.evaluates(stage, mode="answer", scored=False)
    if stored:
        yield at.stores(stage, evaluations=config.evaluations)


def imitation(at: Scene, config: SftConfig, stage: str, steps: int) -> Iterator[Work]:
    """`imitate` for so many steps."""
    yield at.learns(stage, "nll", steps, config.fit)
    for _ in range(config.evaluations):
        yield from at.evaluates(stage, scored=False)
    yield at.stores(stage, evaluations=config.evaluations)


def start_work(at: Scene, config: StartConfig) -> Iterator[Work]:
    """SFT that another method starts from."""
    if config.epochs:
        yield from sft_work(at, SftConfig(epochs=config.epochs, fit=config.fit), "sft")


def filt_acc_work(at: Scene, config: FiltAccConfig, stage: str) -> Iterator[Work]:
    yield from at.evaluates(stage)
    rounds = math.ceil(config.steps / config.sample_interval)
    for round in range(rounds):
        asked = questions_for(at.train, config.prompts, round, at.seed)
        yield at.writes(f"{stage}-round{round}", asked, config.sampling)
        yield from at.scores(f"{stage}-round{round}", asked, config.sampling.n, trained_on=True)
        yield from at.evaluates(stage)
    yield at.learns(stage, "quark" if config.beta else "nll", config.steps, config.fit)
    yield at.stores(stage, evaluations=1 + rounds)


def mario_work(at: Scene, config: MarioConfig, stage: str) -> Iterator[Work]:
    rounds = math.ceil(config.steps / config.sample_interval)
    # the start on development questions, and its attempts there that the tokens must rank
    yield from at.evaluates(stage)
    asked = at.dev[: config.token_questions]
    if asked:
        yield at.writes(f"{stage}-ranked", asked, replace(config.sampling, n=ATTEMPTS_EACH))
        yield from at.scores(f"{stage}-ranked", asked, ATTEMPTS_EACH)
    # 1. explore
    for round in range(rounds):
        prompted = questions_for(at.train, config.prompts, round, at.seed)
        yield at.writes(f"{stage}-round{round}", prompted, config.sampling)
        yield from at.scores(f"{stage}-round{round}", prompted, config.sampling.n, trained_on=True)
    # the pool begins with the teacher's
    if told := teacher_attempts(at.train, config.teacher):
        each = len(told) / len(at.train)
        yield from at.scores(f"{stage}-round0", at.train, each, trained_on=True)
    # 3. learn
    tokens = config.control_copies * len(control_bins(config, at.suite))
    prompt = at.asked(at.train) + tokens
    size = config.fit.batch_size * (2 if config.contrast else 1)  # read under other tokens too
    yield at.learns(stage, "quark", config.steps, config.fit, rows=size, prompt=prompt)
    ends = {*range(config.sample_interval, config.steps, config.sample_interval), config.steps}
    evaluations = len(ends | {*range(EVALUATE_EVERY, config.steps, EVALUATE_EVERY)})
    for _ in range(evaluations):
        yield from at.evaluates(stage)
    # the tokens: how they rank the start's attempts after each round, what is reached under each
    bins = control_bins(config, at.suite)
    for round in range(1, rounds + 1) if asked else ():
        rows = len(asked) * ATTEMPTS_EACH * (1 + len(bins))
        reply = at.taught_reply + tokens
        question = prompt - tokens
        together = sharing(ATTEMPTS_EACH * (1 + len(bins)), question, reply, CPU_PASS)
        yield Reads(f"token_auc/{stage}-{round}", "logprobs", rows, question, reply, together)
    # under the best tokens every reward is read, under another one its own alone
    read_under = [list(bins), *([name] for name, k in bins.items() for _ in range(k - 1))]
    for names in read_under if asked else ():
        yield at.writes(f"obedience/{stage}-{rounds}", asked, at.evaluation)
        yield from at.scores(f"obedience/{stage}-{rounds}", asked, names=factors(at.suite, names))
    yield at.stores(stage, evaluations=1 + evaluations)


def grpo_work(at: Scene, config: GroupConfig, stage: str) -> Iterator[Work]:
    learning = at.learns(
        stage, "grpo", config.updates * config.steps_per_update, config.fit,
        rows=config.prompts * config.sampling.n / config.steps_per_update,
    )  # fmt: skip
    passes = 2 if config.beta else 1  # the policy's own, and the reference's
    yield from updates_work(
        at, config, learning, passes=passes, names=config.rewards, trained_on=True
    )


def updates_work(
    at: Scene, config: GroupConfig | PpoConfig, learning: Learns, *, passes: int,
    names: Sequence[str], trained_on: bool = False, loads: float = 0.0,
) -> Iterator[Work]:  # fmt: skip
    """Updates of PPO, GRPO or GDPO: replies are written, read `passes` times, and scored by
    `names`; then `learning`, and the stage's end.
    """
    stage, n = learning.stage, config.sampling.n
    yield from at.evaluates(stage, draws=config.dev_draws)
    for update in range(config.updates):
        asked = questions_for(at.train, config.prompts, update, at.seed)
        part = f"{stage}-update{update}"
        yield at.writes(part, asked, config.sampling)
        rows = passes * config.prompts * n
        yield at.reads_replies(part, "logprobs", rows, n, at.asked(asked))
        yield from at.scores(part, asked, n, names=names, trained_on=trained_on)
    yield learning
    evaluations = math.ceil(config.updates / config.evaluate_every)
    for _ in range(evaluations):
        yield from at.evaluates(stage, draws=config.dev_draws)
    yield at.stores(stage, evaluations=1 + evaluations, loads=loads)


# The scorers of a run


def scorers_work(at: Scene, scoring: Scoring) -> Iterator[Work]:
    """The scorers that the rewards read and no folder has."""
    trained = trained_scorers(scoring)
    if ANSWER_SCORER in trained:
        yield from answer_scorer_work(at, scoring.answer_scorer)
    if VERIFIER in trained:
        yield from verifier_work(at, scoring.verifier)


def answer_scorer_work(at: Scene, config: AnswerScorerConfig) -> Iterator[Work]:
    question = at.asked(at.train, "answer") - at.lengths.around
    answer, choices = at.answer(at.train), at.choices(at.train)
    for fold, (learned, held) in enumerate(fold_parts(at.train, config, at.seed, "answer scorer")):
        given = len(teacher_attempts(learned, "correct"))
        for alone, rationales in (
            ((len(learned), 0), (0, given)) if config.separate else ((len(learned), given),)
        ):
            if not alone + rationales:
                continue
            counts, steps = rows_in_a_step(alone, rationales, config)
            size = sum(counts.values())
            read = question + at.rationale * counts["given"] / size
            stage = f"scorers/answer/fold{fold}"
            yield _fold_steps(at, stage, "nll", steps, size, read, answer, config)
        yield _fold_stored(f"scorers/answer/fold{fold}", 2 if config.separate else 1, config)
        told = len(teacher_attempts(held, "all"))
        yield Reads("scorers/answer/answer scorer", "choices", len(held), question, choices)
        yield Reads(
            "scorers/answer/answer scorer", "choices", told, question + at.rationale, choices
        )


def verifier_work(at: Scene, config: VerifierConfig) -> Iterator[Work]:
    about = config.statement == "question"
    for fold, (learned, held) in enumerate(fold_parts(at.train, config, at.seed, "verifier")):
        groups = rationale_groups(
            learned, config.negatives, at.seed, config.rationale_statements, with_question=about
        )
        groups += choice_groups(learned, config.negatives, config.choice_statements, at.seed)
        if not groups:
            continue
        size, steps = groups_in_a_step(groups, config)
        statements = [s.text for group in groups for s in group]
        read = at.lengths.tokens(statements) + at.statement
        rows = size * len(statements) / len(groups)
        yield _fold_steps(
            at, f"scorers/verifier/fold{fold}", "statements", steps, rows, read, 1, config
        )
        yield _fold_stored(f"scorers/verifier/fold{fold}", 1, config)
        measured = rationale_groups(held, config.negatives, at.seed, with_question=about)
        yield Reads("scorers/verifier/verifier", "statements", sum(map(len, measured)), read, 1)


def _fold_steps(
    at: Scene, stage: str, loss: str, steps: int, rows: float, prompt: float, reply: float,
    config: ScorerConfig,
) -> Learns:  # fmt: skip
    around = 0.0 if config.style == "plain" else at.lengths.around
    return at.learns(
        stage, loss, steps, config.fit, rows=rows, prompt=prompt + around, reply=reply,  # type: ignore[arg-type]
        learner="scorer",
    )  # fmt: skip


def _fold_stored(stage: str, models: int, config: ScorerConfig) -> Stores:
    """What folds have not learned they share in one file."""
    own = 1 - config.frozen_layers
    return Stores(stage, kept=own * models, loads=2 * models, half=True)
