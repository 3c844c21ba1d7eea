"""What a fresh base model learns from attempts that are already there: rows beside RFT.

Each learns for as many steps as RFT has, and the seed rationales that RFT learns beside, so that
what differs is which attempts it imitates:

    more        all right attempts, those that M_sft has redrawn first: RFT's second round
    best        of each question the right attempt that the reward model scores highest
    unfiltered  as many readable attempts as RFT kept, right or wrong: RFT without the gold answers
    wrong       as many that are wrong, false equations too: the form of replies alone
    seeds       none: the teacher's seed rationales alone, for as long

Nothing is written for them: their attempts are those of stages B and C' of Self-motivated Learning
(docs/methods/self-motivated.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from rationalize.errors import UsageError
from rationalize.methods.base import (
    Experiment,
    Learned,
    NothingToLearn,
    kept_on_dev,
    log_kept,
)
from rationalize.methods.own_attempts import (
    fault,
    learned_text,
    seed_attempts,
    sort_attempts,
)
from rationalize.methods.self_motivated import load_reward_model
from rationalize.methods.self_training import RftConfig
from rationalize.methods.sft import SftConfig, Texts, imitate
from rationalize.models.policy import Policy
from rationalize.progress import say
from rationalize.records import Attempt
from rationalize.runs import Stage

From = Literal["more", "best", "unfiltered", "wrong", "seeds"]


@dataclass(frozen=True)
class RelearnConfig:
    """RFT's settings, and what is imitated in the place of its right attempts."""

    rft: RftConfig = RftConfig()
    """How RFT sorts attempts and learns."""
    learns: From = "more"
    """`more` right attempts, the `best` by the reward model, `unfiltered` or `wrong` ones, or the
    `seeds`.
    """


def relearn(exp: Experiment, policy: Policy, config: RelearnConfig, stage: Stage) -> Learned:
    """The base model, fresh, on what `config.learns` says of the attempts that `exp.start` holds.

    Raises `NothingToLearn` where those are none, or the reward model's gate is closed (`best`).
    """
    start = exp.start
    if start is None:
        raise UsageError("this row imitates attempts that are there; start it from RFT's row")
    texts = texts_of(exp, config, start)
    steps = max(map(int, (exp.run.done(start.weights.name) or {})["scores"]))
    say(f"{stage.name}: {len(texts)} texts, {steps} steps as RFT")
    before = kept_on_dev(Stage(exp.run, start.weights.name))
    log_kept(exp, stage, before, 0)  # M_sft's, to compare with
    exp.reset(policy)
    sft, this = SftConfig(evaluations=config.rft.evaluations, fit=config.rft.fit), stage.sub("sft")
    imitate(exp, policy, texts, sft, this, steps=steps)
    log_kept(exp, stage, kept_on_dev(this), 1)
    rewards = {"more": ("correctness",), "best": ("correctness", "reward_model")}
    trained = {stage.name: rewards[config.learns]} if config.learns in rewards else {}
    return replace(start, policy=policy, weights=this.folder, trained=trained, attempts=())


def texts_of(exp: Experiment, config: RelearnConfig, start: Learned) -> Texts:
    """Prompts and responses to imitate."""
    questions, select = {q.id: q for q in exp.train}, config.rft.select
    seeds = seed_attempts(exp.train, config.rft.seed_rationales)
    taught = [(a.prompt, a.completion) for a in seeds]
    if config.learns == "seeds":
        return taught
    redrawn = {a.id for a in start.attempts}
    written = [a for a in start.store if a.id not in redrawn]  # RFT's own
    if config.learns == "more":
        both = replace(select, positives=2 * select.positives)
        kept = sort_attempts([*start.attempts, *written], questions, both).positives
    elif config.learns == "best":
        kept = _best(exp, config, start)
    else:
        count = len(sort_attempts(written, questions, select).positives)
        if config.learns == "wrong":
            any_equation = replace(select, true_equations=False)
            usable = sort_attempts(written, questions, any_equation).negatives
        else:
            usable = [a for a in written if a.parsed and not a.hinted]
            usable = [a for a in usable if fault(a, questions[a.question_id], select) is None]
        kept = in_turns(usable, count, exp.seed)
    if not kept:
        raise NothingToLearn(f"no attempt of the {len(start.store)} is of the kind {config.learns}")
    return [learned_text(a, questions[a.question_id]) for a in kept] + taught


def _best(exp: Experiment, config: RelearnConfig, start: Learned) -> list[Attempt]:
    """Of each question the right attempt with the highest score."""
    if start.closed or start.reward_model is None:
        raise NothingToLearn(start.closed or "there is no reward model to choose by")
    questions, everything = {q.id: q for q in exp.train}, replace(config.rft.select, positives=0)
    right = sort_attempts(start.store, questions, everything).positives
    scores = load_reward_model(exp, start.reward_model).scores(
        [questions[a.question_id] for a in right], [a.rationale for a in right],
        [a.prediction for a in right],
    )  # fmt: skip
    return best_by_score(right, scores)


def best_by_score(attempts: Sequence[Attempt], scores: Sequence[float]) -> list[Attempt]:
    """The attempt with the highest score at each question, in the order of the questions."""
    best: dict[str, tuple[float, Attempt]] = {}
    for score, attempt in zip(scores, attempts, strict=True):
        if attempt.question_id not in best or score > best[attempt.question_id][0]:
            best[attempt.question_id] = (score, attempt)
    return [attempt for _, attempt in best.values()]


def in_turns(attempts: Sequence[Attempt], count: int, seed: int) -> list[Attempt]:
    """`count` of the attempts, drawn at random, one of each question before a second one."""
    order = np.random.default_rng(seed).permutation(len(attempts))
    turns: dict[str, int] = {}
    ranked: list[tuple[int, int, Attempt]] = []
    for i in order:
        turn = turns[attempts[i].question_id] = turns.get(attempts[i].question_id, 0) + 1
        ranked.append((turn, len(ranked), attempts[i]))
    return [attempt for _, _, attempt in sorted(ranked, key=lambda r: r[:2])[:count]]
