"""The answer scorer and the verifier. Inference only; `methods/` trains them.

Both are cross-fitted if they were trained here: a question that one of two folds was trained on is
judged by the other fold, and any other question by the mean of both folds' probabilities
(docs/methods/scorers.md).
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from rationalize.errors import UserError
from rationalize.models.answer_texts import Texts, answer_prompt, answer_texts, gold_text
from rationalize.models.choices import ChoiceScorer, Continuation
from rationalize.models.memo import Memo
from rationalize.models.policy import Policy, load_policy
from rationalize.models.read_only import read_only
from rationalize.models.vera import Vera
from rationalize.records import Question

SCORER_FILE = "scorer.json"

REMEMBERED = 20_000
"""Size of each of an answer scorer's two memos: several rewards read the same texts."""

LABELS = (("yes", "no"), ("Yes", "No"), ("true", "false"), ("1", "0"))
"""Label words of a verifier, in order of preference; both must be single tokens."""

Seen = Mapping[str, int]
"""The fold that was trained on a question, by question id."""


def fold_of(question_id: str) -> int:
    """The fold, 0 or 1, that may train on a question; the same in every process."""
    return zlib.crc32(f"fold/{question_id}".encode()) & 1


# The answer scorer


@dataclass
class AnswerFold:
    """A scorer of answers given the question, and one given a rationale; often the same model."""

    answer: ChoiceScorer
    answer_from_rationale: ChoiceScorer
    temperature: Mapping[str, float] = field(default_factory=dict)
    """Per mode (`answer`, `answer_from_rationale`); 1 if none is given."""

    def logits(
        self, questions: Sequence[Question], rationales: Sequence[str | None], texts: Texts
    ) -> list[list[float]]:
        """Per question one logit per choice: its mean token log-probability, EOS included.

        Without choices a single logit: that of the gold text, EOS left out.
        """
        logits: list[list[float]] = [[] for _ in questions]
        for scorer, rows, prompts in self._by_mode(questions, rationales, texts):
            choices = [answer_texts(texts, questions[i]) for i in rows]
            for i, scores in zip(rows, scorer.score(prompts, choices), strict=True):
                has_choices = bool(questions[i].choices)
                logits[i] = [s.mean_with_eos if has_choices else s.mean for s in scores]
        return logits

    def _by_mode(
        self, questions: Sequence[Question], rationales: Sequence[str | None], texts: Texts
    ) -> Iterator[tuple[ChoiceScorer, list[int], list[str]]]:
        """Both modes: the scorer, the rows that it reads, and their prompts."""
        for scorer, alone in ((self.answer, True), (self.answer_from_rationale, False)):
            rows = [i for i, r in enumerate(rationales) if (r is None) == alone]
            yield scorer, rows, [answer_prompt(texts, questions[i], rationales[i]) for i in rows]

    def utilities(
        self, questions: Sequence[Question], rationales: Sequence[str | None], texts: Texts
    ) -> list[float]:
        """Per question the geometric mean of the gold answer's token probabilities, without EOS
        (COALITION's utility: docs/methods/coalition.md, step 3).
        """
        utilities = [0.0] * len(questions)
        for scorer, rows, prompts in self._by_mode(questions, rationales, texts):
            gold = [[gold_text(texts, questions[i])] for i in rows]
            for i, [score] in zip(rows, scorer.score(prompts, gold), strict=True):
                utilities[i] = score.utility
        return utilities

    def probabilities(
        self, questions: Sequence[Question], rationales: Sequence[str | None], texts: Texts
    ) -> list[list[float]]:
        """Per question the softmax of `logits / T` over its choices.

        Without choices a single number: the utility of the gold text.
        """
        probabilities = []
        logits = self.logits(questions, rationales, texts)
        for question, rationale, row in zip(questions, rationales, logits, strict=True):
            mode = "answer" if rationale is None else "answer_from_rationale"
            temperature = self.temperature.get(mode, 1.0)
            probabilities.append(
                softmax(row, temperature) if question.choices else [math.exp(row[0])]
            )
        return probabilities


class AnswerScorer:
    """p(answer | question) and p(answer | question, rationale), cross-fitted.

    >>> scorer = AnswerScorer.load("runs/answer-scorer")
    >>> scorer.probabilities([question], ["Steel is the denser one."])
    [[0.12, 0.88]]
    """

    def __init__(
        self, folds: Sequence[AnswerFold], *, texts: Texts = "choices",
        seen: Seen = MappingProxyType({}),
    ) -> None:  # fmt: skip
        self.folds, self.texts, self.seen = list(folds), texts, seen
        parts = [
            [fold.answer.policy.weights_hash, fold.answer_from_rationale.policy.weights_hash,
             sorted(fold.temperature.items())]
            for fold in self.folds
        ]  # fmt: skip
        self.weights_hash = _digest("answer", texts, sorted(seen.items()), parts)
        self._question_memo = Memo[list[float]](REMEMBERED)
        self._rationale_memo = Memo[list[float]](REMEMBERED)

    @classmethod
    def load(cls, folder: Path | str) -> AnswerScorer:
        """A scorer that `train_answer_scorer` wrote. Raises `UserError` if there is none."""
        facts = scorer_facts(folder, "answer scorer", "answer-scorer")
        loaded: dict[str, ChoiceScorer] = {}

        def model(name: str) -> ChoiceScorer:
            if name not in loaded:
                loaded[name] = load_choice_scorer(Path(folder) / name)
            return loaded[name]

        folds = [
            AnswerFold(
                model(fold["answer"]), model(fold["answer_from_rationale"]), fold["temperature"]
            )
            for fold in facts["folds"]
        ]
        return cls(folds, texts=facts["texts"], seen=facts["seen"])

    def probabilities(
        self, questions: Sequence[Question], rationales: Sequence[str | None]
    ) -> list[list[float]]:
        """Per question the probability of each choice; without choices the utility of its answer.

        A rationale of None asks for p(answer | question). The latest `REMEMBERED` questions, and as
        many pairs with a rationale, are not computed again. ValueError if the lengths differ.
        """
        if len(questions) != len(rationales):
            raise ValueError(f"{len(questions)} questions, but {len(rationales)} rationales")
        answers: list[list[float]] = [[] for _ in questions]
        # two memos, so that many rationales do not push out the questions
        for memo, rows in (
            (self._question_memo, [i for i, r in enumerate(rationales) if r is None]),
            (self._rationale_memo, [i for i, r in enumerate(rationales) if r is not None]),
        ):

            def compute(unknown: Sequence[int], rows: list[int] = rows) -> list[list[float]]:
                asked = [rows[i] for i in unknown]
                return self._judge([questions[i] for i in asked], [rationales[i] for i in asked])

            keys = [_key(questions[i], rationales[i]) for i in rows]
            for i, probabilities in zip(rows, memo.ask(keys, compute), strict=True):
                answers[i] = probabilities
        return answers

    def utilities(
        self, questions: Sequence[Question], rationales: Sequence[str | None]
    ) -> list[float]:
        """COALITION's utility of each rationale: the likelihood per token of the gold answer, as
        the arithmetic mean over the folds that judge the question. None asks for U0.
        """

        def judge_fold(fold: int, rows: Sequence[int]) -> list[list[float]]:
            utilities = self.folds[fold].utilities(
                [questions[i] for i in rows], [rationales[i] for i in rows], self.texts
            )
            return [[u] for u in utilities]

        ids = [q.id for q in questions]
        return [u for [u] in mean_of_folds(ids, self.seen, len(self.folds), judge_fold)]

    def _judge(
        self, questions: Sequence[Question], rationales: Sequence[str | None]
    ) -> list[list[float]]:
        def judge_fold(fold: int, rows: Sequence[int]) -> list[list[float]]:
            return self.folds[fold].probabilities(
                [questions[i] for i in rows], [rationales[i] for i in rows], self.texts
            )

        return mean_of_folds([q.id for q in questions], self.seen, len(self.folds), judge_fold)


# The verifier


@dataclass
class VerifierFold:
    """One model that says whether a statement is plausible."""

    scorer: ChoiceScorer
    temperature: float = 1.0

    def logits(self, statements: Sequence[str]) -> list[float]:
        """log p(yes) - log p(no) per statement, before the temperature."""
        policy = self.scorer.policy
        yes, no = label_ids(policy)
        # two one-token continuations per statement
        pairs = []
        for statement in statements:
            prompt = tuple(policy.encode_prompt(statement_prompt(statement)))
            pairs.append([Continuation(prompt, (token, policy.eos_id)) for token in (yes, no)])
        scores = self.scorer.score_ids(list(dict.fromkeys(c for pair in pairs for c in pair)))
        return [scores[yes].logprob_sum - scores[no].logprob_sum for yes, no in pairs]


class Verifier:
    """P(a statement is plausible), cross-fitted.

    >>> Verifier.load("runs/verifier").probabilities(["Steel floats on water."], [None])
    [0.08]
    """

    def __init__(
        self, folds: Sequence[VerifierFold], seen: Seen = MappingProxyType({}), *,
        reads_question: bool = False,
    ) -> None:  # fmt: skip
        self.folds, self.seen = list(folds), seen
        self.reads_question = reads_question
        """Whether a statement is a question with a rationale, not a rationale alone."""
        kind = "question verifier" if reads_question else "verifier"
        parts = [[fold.scorer.policy.weights_hash, fold.temperature] for fold in self.folds]
        self.weights_hash = _digest(kind, sorted(seen.items()), parts)

    @classmethod
    def load(cls, folder: Path | str) -> Verifier:
        """A verifier that `train_verifier` wrote. Raises `UserError` if there is none."""
        facts = scorer_facts(folder, "verifier", "verifier")
        folds = [
            VerifierFold(load_choice_scorer(Path(folder) / fold["model"]), fold["temperature"])
            for fold in facts["folds"]
        ]
        for fold in folds:
            label_ids(fold.scorer.policy)  # raises now, not at the first statement
        reads_question = facts.get("statement") == "question"
        return cls(folds, facts["seen"], reads_question=reads_question)

    def probabilities(
        self, statements: Sequence[str], question_ids: Sequence[str | None]
    ) -> list[float]:
        """P(plausible) per statement; its question's id decides which folds judge it."""

        def judge_fold(fold: int, rows: Sequence[int]) -> list[list[float]]:
            verifier = self.folds[fold]
            logits = verifier.logits([statements[i] for i in rows])
            # a sigmoid of logit / T, written as a softmax over (no, yes)
            return [softmax([0.0, z], verifier.temperature)[1:] for z in logits]

        return [p for [p] in mean_of_folds(question_ids, self.seen, len(self.folds), judge_fold)]


def load_verifier(source: Path | str) -> Verifier | Vera:
    """The trained verifier in a folder, or for `vera` the published one (from the hub)."""
    return Vera.load() if str(source) == "vera" else Verifier.load(source)


def statement_prompt(statement: str) -> str:
    return f"{statement}\nIs this plausible?"


def label_ids(policy: Policy) -> tuple[int, int]:
    """Token ids of the label words (plausible, implausible); `UserError` if no pair fits."""
    for pair in LABELS:
        yes, no = (policy.encode_response(word, eos=False) for word in pair)
        if len(yes) == len(no) == 1 and yes != no:
            return yes[0], no[0]
    raise UserError(
        f"{policy.name}: none of {', '.join('/'.join(p) for p in LABELS)} is a pair of single "
        "tokens; a verifier needs a model whose vocabulary has one"
    )


# Shared


def mean_of_folds(
    question_ids: Sequence[str | None], seen: Seen, folds: int,
    judge_fold: Callable[[int, Sequence[int]], list[list[float]]],
) -> list[list[float]]:  # fmt: skip
    """Per row the mean of the scores by the folds that judge it.

    `judge_fold(fold, rows)` returns one list of scores per row.
    """
    # the fold that was not trained on the question, or all
    all_folds = list(range(folds))
    folds_of = [
        [1 - seen[i]] if folds == 2 and i is not None and i in seen else all_folds
        for i in question_ids
    ]
    scores: list[list[list[float]]] = [[] for _ in question_ids]  # row, fold, choice
    for fold in range(folds):
        rows = [i for i, judging in enumerate(folds_of) if fold in judging]
        for i, row_scores in zip(rows, judge_fold(fold, rows) if rows else [], strict=True):
            scores[i].append(row_scores)
    return [np.mean(row_scores, axis=0).tolist() for row_scores in scores]


def softmax(logits: Sequence[float], temperature: float = 1.0) -> list[float]:
    scaled = np.asarray(logits, dtype=float) / temperature
    return np.exp(scaled - np.logaddexp.reduce(scaled)).tolist()


def load_choice_scorer(folder: Path) -> ChoiceScorer:
    """A choice scorer over the model in a folder."""
    return ChoiceScorer(read_only(load_policy(str(folder), tuning="full")))


def _key(question: Question, rationale: str | None) -> str:
    """The memo's key: what the probabilities depend on. With choices, not on which one is right."""
    answer = None if question.choices else question.answer
    q = question
    return _digest(q.id, q.context, q.question, q.choices, answer, rationale)


def _digest(*parts: Any) -> str:
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def scorer_facts(folder: Path | str, kind: str, command: str) -> dict[str, Any]:
    """The scorer file of a folder. Raises `UserError` if there is none, or of another kind."""
    file = Path(folder) / SCORER_FILE
    if not file.is_file():
        raise UserError(
            f"{folder}: no {SCORER_FILE} there; expected the folder of a trained {kind}, made by "
            f"`rationalize train {command}`"
        )
    facts = json.loads(file.read_text())
    if facts["kind"] != kind:
        raise UserError(
            f"{folder}: this is a trained {facts['kind']}; expected one made by "
            f"`rationalize train {command}`"
        )
    if isinstance(facts["seen"], list):  # before 0.1.0: a list of ids, the fold by their hash
        facts["seen"] = {i: fold_of(i) for i in facts["seen"]}
    return facts
