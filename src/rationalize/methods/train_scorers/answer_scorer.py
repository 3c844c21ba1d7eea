"""The answer scorer: a reader that answers from the question alone, or from question and rationale.

MaRio's consistency and COALITION's utility both read it (MaRio, arXiv 2311.02805; COALITION,
arXiv 2503.02463; docs/methods/scorers.md).

One model learns two modes, I -> A and I, R -> A, by NLL of the answer's tokens; I, R -> A learns
from the teacher's rationales that led to the gold answer.

Deviations from the released training of MaRio's two T5 models (`folds=1 separate=true
texts=released` goes back on 1 to 3):

1. Two folds. The released models score rollouts on the questions they were trained on, where
   p(gold | I) is near 1 and nothing is left to gain.
2. One multi-mode model instead of two: half the memory, and both probabilities share their errors.
3. Our templates, answered in the words of the choice: a 135M model learns from a few hundred
   rationales to copy the answer that they end with, not to bind it to a letter. In the released
   format the option replacement of `rq_score.py`, which touches any occurrence in the question, and
   its fixed ten labels are not kept.
4. A temperature per fold and mode, fitted on held-out questions. It makes folds comparable, and
   undoes the flattening by the mean over the answer's tokens. It is fitted on all teacher samples,
   wrong ones included: those are like what will be scored.
5. No checkpoint is picked by accuracy with the rationale "dummy."; the steps are fixed.
6. The lower layers stay as they are, which costs a third less.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rationalize.config.checks import between
from rationalize.errors import UserError
from rationalize.methods.settings import RunConfig
from rationalize.methods.train_scorers.crossfit import ScorerConfig, cross_fit, train_model
from rationalize.models.answer_texts import Texts, answer_prompt, gold_text
from rationalize.models.calibration import at_the_edge, fit_temperature
from rationalize.models.forward import Row
from rationalize.models.policy import Policy
from rationalize.models.scorers import AnswerFold, load_choice_scorer
from rationalize.records import Attempt, Question
from rationalize.runs import Run
from rationalize.sampling.writing import teacher_attempts
from rationalize.training.batches import RowMaker, mixed_batch
from rationalize.training.loop import BatchAt, Loss
from rationalize.training.objectives import nll

logger = logging.getLogger(__name__)

Mode = Literal["answer", "answer_from_rationale"]
MODES: tuple[Mode, ...] = ("answer", "answer_from_rationale")


@dataclass(frozen=True)
class AnswerScorerConfig(ScorerConfig):
    """How the answer scorer is trained."""

    answer_share: float = 0.34
    """Share of each batch that answers without a rationale."""
    separate: bool = False
    """Train MaRio's two models, I->O and IR->O, instead of one for both modes."""
    texts: Texts = "choices"
    """`choices`: our templates, answered in words; `modes`: answered with the letter; `released`:
    MaRio's `explain ..` and `.. explanation: ..`."""

    def __post_init__(self) -> None:
        ScorerConfig.__post_init__(self)
        between(self, 0, 1, "answer_share")


def train_answer_scorer(
    run_config: RunConfig, config: AnswerScorerConfig, out: Path,
    train: Sequence[Question] | None = None,
    *, overwrite: bool = False,
) -> None:  # fmt: skip
    """Train in `out`; load the result with `AnswerScorer.load(out)`."""

    def learn(
        run: Run, name: str, questions: Sequence[Question], held_out: Sequence[Question]
    ) -> dict[str, Any]:
        names: dict[str, str] = {m: f"{name}/{m}" if config.separate else name for m in MODES}
        for model in dict.fromkeys(names.values()):
            modes = [mode for mode in MODES if names[mode] == model]
            prepare = partial(
                _prepare, questions=questions, config=config, modes=modes, seed=run_config.seed
            )
            train_model(run, model, run_config, config, prepare)
        return {**names, **_calibrate(run, names, held_out, config.texts)}

    cross_fit(
        run_config, config, out, "answer scorer", learn, train, overwrite=overwrite,
        texts=config.texts,
    )  # fmt: skip


def _prepare(
    policy: Policy, questions: Sequence[Question], config: AnswerScorerConfig,
    modes: Sequence[Mode], seed: int,
) -> tuple[Loss, BatchAt, int]:  # fmt: skip
    maker = RowMaker(policy)
    by_id = {q.id: q for q in questions}
    taught = teacher_attempts(questions, "correct") if "answer_from_rationale" in modes else []
    alone = [_row(maker, config.texts, q, None) for q in questions] if "answer" in modes else []
    given = [_row(maker, config.texts, by_id[a.question_id], a.rationale) for a in taught]
    if "answer_from_rationale" in modes and not given:
        raise UserError(
            "no training question has a teacher rationale that led to its answer; give questions "
            "with `rationales` (or name the column, --columns rationales=COLUMN), or write some "
            "with `rationalize sample --keep-correct`"
        )
    counts, steps = rows_in_a_step(len(alone), len(given), config)
    by_mode = {"alone": alone, "given": given}

    def batch_at(step: int) -> list[Row]:
        return mixed_batch(by_mode, counts, step, seed)

    return nll, batch_at, steps


def rows_in_a_step(
    alone: int, given: int, config: AnswerScorerConfig
) -> tuple[dict[str, int], int]:
    """Rows of each mode in a batch, and how many batches `epochs` passes over the rationales take
    (without any, over the questions).

    >>> rows_in_a_step(100, 90, AnswerScorerConfig(epochs=1.0))
    ({'alone': 5, 'given': 11}, 9)
    """
    size = config.fit.batch_size
    n_alone = min(max(1, round(config.answer_share * size)), size - 1) if given else size
    n_alone = n_alone if alone else 0
    n_given = size - n_alone
    rows, share = (given, n_given) if given else (alone, n_alone)
    steps = max(1, math.ceil(config.epochs * rows / share))
    return {"alone": n_alone, "given": n_given}, steps


def _row(maker: RowMaker, texts: Texts, question: Question, rationale: str | None):
    return maker.text(answer_prompt(texts, question, rationale), gold_text(texts, question))


def _calibrate(
    run: Run, names: dict[str, str], held_out: Sequence[Question], texts: Texts
) -> dict[str, Any]:
    """Temperature and accuracy per mode on held-out questions with choices."""
    chosen = [q for q in held_out if q.choices]
    loaded = {n: load_choice_scorer(run.path / n) for n in dict.fromkeys(names.values())}
    fold = AnswerFold(loaded[names["answer"]], loaded[names["answer_from_rationale"]])
    by_id = {q.id: q for q in chosen}
    attempts: list[Attempt] = teacher_attempts(chosen, "all")
    facts: dict[str, Any] = {"temperature": {}, "held_out": {}}
    answered = [by_id[a.question_id] for a in attempts]
    for mode, questions, rationales in (
        ("answer", chosen, [None] * len(chosen)),
        ("answer_from_rationale", answered, [a.rationale for a in attempts]),
    ):
        logits = fold.logits(questions, rationales, texts)
        gold = [q.choices.index(q.answer) for q in questions if q.choices]
        right = [
            max(range(len(z)), key=z.__getitem__) == g for z, g in zip(logits, gold, strict=True)
        ]
        facts["temperature"][mode] = fit_temperature(logits, gold)
        if at_the_edge(facts["temperature"][mode]):
            logger.warning(
                "answer scorer, mode %s: its answers to %d held-out questions are no better than "
                "chance, so that it is calibrated to 1 / choices for each; consistency then is "
                "p(gold | question, rationale) minus that constant",
                mode, len(gold),
            )  # fmt: skip
        facts["held_out"][mode] = {"n": len(right), "accuracy": sum(right) / max(1, len(right))}
    return facts
