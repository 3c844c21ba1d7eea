"""Models that judge: the answer scorer and the verifier. Inference only; `methods/` trains them.

Both are cross-fitted where they were trained here: of two folds, a question that a scorer was
trained on is judged by the fold that has not seen it, any other by the mean of both folds'
probabilities.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from rationalize.errors import UserError
from rationalize.models.answer_texts import Texts, answer_prompt, answer_texts, gold_text
from rationalize.models.choices import ChoiceScore, ChoiceScorer, Continuation, cast_linears_to_bf16
from rationalize.models.memo import Memo
from rationalize.models.policy import Policy, load_policy
from rationalize.models.vera import Vera
from rationalize.records import Question

__all__ = [
    "AnswerScorer",
    "ChoiceScore",
    "ChoiceScorer",
    "Continuation",
    "Verifier",
    "load_verifier",
]

SCORER_FILE = "scorer.json"

REMEMBERED = 20_000
"""Questions whose p(answer | question) an answer scorer keeps, and rationales: several rewards read
the same ones.
"""

LABELS = (("yes", "no"), ("Yes", "No"), ("true", "false"), ("1", "0"))
"""Label words of a verifier, in order of preference; both must be one token."""


Seen = Mapping[str, int]
"""Which fold was trained on a question, by its id."""


def fold_of(question_id: str) -> int:
    """The fold, 0 or 1, that may train on a question; the same in every process."""
    return zlib.crc32(f"fold/{question_id}".encode()) & 1


def judges(question_id: str | None, seen: Seen, folds: int) -> list[int]:
    """The folds that judge a question."""
    if folds == 2 and question_id is not None and question_id in seen:
        return [1 - seen[question_id]]
    return list(range(folds))


# The answer scorer


@dataclass
class AnswerFold:
    """One reader of questions alone and one of questions with rationales; often the same model."""

    answer: ChoiceScorer
    answer_from_rationale: ChoiceScorer
    temperature: Mapping[str, float] = field(default_factory=dict)
    """Per mode, 1 where none is given."""

    def logits(
        self, questions: Sequence[Question], rationales: Sequence[str | None], texts: Texts
    ) -> list[list[float]]:
        """Per question the mean log-probability with EOS of each choice; without choices the mean
        without EOS of the gold text."""
        found: list[list[float]] = [[] for _ in questions]
        for scorer, rows in self._by_mode(rationales):
            prompts = [answer_prompt(texts, questions[i], rationales[i]) for i in rows]
            choices = [answer_texts(texts, questions[i]) for i in rows]
            for i, scores in zip(rows, scorer.score(prompts, choices), strict=True):
                chosen = bool(questions[i].choices)
                found[i] = [s.mean_with_eos if chosen else s.mean for s in scores]
        return found

    def _by_mode(self, rationales: Sequence[str | None]) -> list[tuple[ChoiceScorer, list[int]]]:
        return [
            (self.answer, [i for i, r in enumerate(rationales) if r is None]),
            (self.answer_from_rationale, [i for i, r in enumerate(rationales) if r is not None]),
        ]

    def utilities(
        self, questions: Sequence[Question], rationales: Sequence[str | None], texts: Texts
    ) -> list[float]:
        """Per question the geometric mean of the gold answer's token probabilities, without EOS
        (coalition.md 3.1)."""
        found = [0.0] * len(questions)
        for scorer, rows in self._by_mode(rationales):
            prompts = [answer_prompt(texts, questions[i], rationales[i]) for i in rows]
            gold = [[gold_text(texts, questions[i])] for i in rows]
            for i, [own] in zip(rows, scorer.score(prompts, gold), strict=True):
                found[i] = own.utility
        return found

    def probabilities(
        self, questions: Sequence[Question], rationales: Sequence[str | None], texts: Texts
    ) -> list[list[float]]:
        """Softmax of `logits / T` over the choices; the utility of the gold text without them."""
        found = []
        logits = self.logits(questions, rationales, texts)
        for question, rationale, row in zip(questions, rationales, logits, strict=True):
            mode = "answer" if rationale is None else "answer_from_rationale"
            temperature = self.temperature.get(mode, 1.0)
            found.append(softmax(row, temperature) if question.choices else [math.exp(row[0])])
        return found


class AnswerScorer:
    """p(answer | question) and p(answer | question, rationale), cross-fitted.

    >>> scorer = AnswerScorer.load("runs/answer-scorer")
    >>> scorer.probabilities([question], ["Steel is the denser one."])
    [[0.12, 0.88]]
    """

    def __init__(
        self,
        folds: Sequence[AnswerFold],
        *,
        texts: Texts = "choices",
        seen: Seen = MappingProxyType({}),
    ) -> None:
        self.folds = list(folds)
        self.texts = texts
        self.seen = seen
        self.weights_hash = _digest(
            "answer",
            texts,
            sorted(seen.items()),
            [
                [_hash(f.answer), _hash(f.answer_from_rationale), sorted(f.temperature.items())]
                for f in self.folds
            ],
        )
        self._without = Memo[list[float]](REMEMBERED)
        self._given = Memo[list[float]](REMEMBERED)

    @classmethod
    def load(cls, folder: Path | str) -> AnswerScorer:
        """A scorer that `train_answer_scorer` wrote."""
        facts = _facts(folder, "answer scorer", "answer-scorer")
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

    @classmethod
    def load_pair(
        cls, io_folder: Path | str, iro_folder: Path | str, texts: Texts = "released"
    ) -> AnswerScorer:
        """MaRio's two models, I->O and IR->O, as two model folders; not cross-fitted."""
        io, iro = (load_choice_scorer(Path(f)) for f in (io_folder, iro_folder))
        return cls([AnswerFold(io, iro)], texts=texts)

    def probabilities(
        self, questions: Sequence[Question], rationales: Sequence[str | None]
    ) -> list[list[float]]:
        """Per question the probability of each choice; without choices the utility of its answer.

        A rationale of None asks for p(answer | question). Each distinct pair is judged once: the
        latest `REMEMBERED` questions, and as many pairs with a rationale, are remembered.
        """
        if len(questions) != len(rationales):
            raise ValueError(f"{len(questions)} questions, but {len(rationales)} rationales")
        found: list[list[float]] = [[] for _ in questions]
        for memory, rows in (
            (self._without, [i for i, r in enumerate(rationales) if r is None]),
            (self._given, [i for i, r in enumerate(rationales) if r is not None]),
        ):

            def judged(new: Sequence[int], rows: list[int] = rows) -> list[list[float]]:
                asked = [rows[i] for i in new]
                return self._judge([questions[i] for i in asked], [rationales[i] for i in asked])

            keys = [_key(questions[i], rationales[i]) for i in rows]
            for i, probabilities in zip(rows, memory.ask(keys, judged), strict=True):
                found[i] = probabilities
        return found

    def utilities(
        self, questions: Sequence[Question], rationales: Sequence[str | None]
    ) -> list[float]:
        """Likelihood per token of the gold answer, COALITION's utility: the arithmetic mean over
        the models that judge a question. A rationale of None asks for the reference, U0.
        """

        def judged(fold: int, rows: Sequence[int]) -> list[list[float]]:
            own = self.folds[fold].utilities(
                [questions[i] for i in rows], [rationales[i] for i in rows], self.texts
            )
            return [[u] for u in own]

        panel = [q.id for q in questions]
        return [u for [u] in mean_of_folds(panel, self.seen, len(self.folds), judged)]

    def _judge(
        self, questions: Sequence[Question], rationales: Sequence[str | None]
    ) -> list[list[float]]:
        def judged(fold: int, rows: Sequence[int]) -> list[list[float]]:
            return self.folds[fold].probabilities(
                [questions[i] for i in rows], [rationales[i] for i in rows], self.texts
            )

        return mean_of_folds([q.id for q in questions], self.seen, len(self.folds), judged)


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
        pairs = []
        for statement in statements:
            prompt = tuple(policy.encode_prompt(statement_prompt(statement)))
            pairs.append([Continuation(prompt, (token, policy.eos_id)) for token in (yes, no)])
        scores = self.scorer.score_ids(list(dict.fromkeys(c for pair in pairs for c in pair)))
        return [scores[a].logprob_sum - scores[b].logprob_sum for a, b in pairs]


class Verifier:
    """P(a statement is plausible), cross-fitted.

    >>> Verifier.load("runs/verifier").probabilities(["Steel floats on water."], [None])
    [0.08]
    """

    def __init__(
        self,
        folds: Sequence[VerifierFold],
        seen: Seen = MappingProxyType({}),
        *,
        reads_question: bool = False,
    ) -> None:
        self.folds = list(folds)
        self.seen = seen
        self.reads_question = reads_question
        """Whether a statement is a question and a rationale, not a rationale alone."""
        self.weights_hash = _digest(
            "question verifier" if reads_question else "verifier",
            sorted(seen.items()),
            [[_hash(f.scorer), f.temperature] for f in self.folds],
        )

    @classmethod
    def load(cls, folder: Path | str) -> Verifier:
        """A verifier that `train_verifier` wrote."""
        facts = _facts(folder, "verifier", "verifier")
        folds = [
            VerifierFold(load_choice_scorer(Path(folder) / fold["model"]), fold["temperature"])
            for fold in facts["folds"]
        ]
        for fold in folds:
            label_ids(fold.scorer.policy)
        reads_question = facts.get("statement") == "question"
        return cls(folds, facts["seen"], reads_question=reads_question)

    def probabilities(
        self, statements: Sequence[str], question_ids: Sequence[str | None]
    ) -> list[float]:
        """P(plausible) per statement; an id says which question it belongs to."""

        def judged(fold: int, rows: Sequence[int]) -> list[list[float]]:
            own = self.folds[fold]
            logits = own.logits([statements[i] for i in rows])
            return [softmax([0.0, z], own.temperature)[1:] for z in logits]

        return [p for [p] in mean_of_folds(question_ids, self.seen, len(self.folds), judged)]


def load_verifier(place: Path | str) -> Verifier | Vera:
    """A trained verifier, or with `vera` the published one (11B parameters, from the hub)."""
    return Vera.load() if str(place) == "vera" else Verifier.load(place)


def statement_prompt(statement: str) -> str:
    return f"{statement}\nIs this plausible?"


def label_ids(policy: Policy) -> tuple[int, int]:
    """Token ids of the words for plausible and implausible."""
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
    question_ids: Sequence[str | None],
    seen: Seen,
    folds: int,
    judged: Callable[[int, Sequence[int]], list[list[float]]],
) -> list[list[float]]:
    """Per row the mean over the folds that judge it; `judged(fold, rows)` are a fold's verdicts."""
    panel = [judges(i, seen, folds) for i in question_ids]
    verdicts: list[list[list[float]]] = [[] for _ in question_ids]
    for fold in range(folds):
        rows = [i for i, own in enumerate(panel) if fold in own]
        for i, verdict in zip(rows, judged(fold, rows) if rows else [], strict=True):
            verdicts[i].append(verdict)
    return [np.mean(own, axis=0).tolist() for own in verdicts]


def softmax(logits: Sequence[float], temperature: float = 1.0) -> list[float]:
    scaled = np.asarray(logits, dtype=float) / temperature
    return np.exp(scaled - np.logaddexp.reduce(scaled)).tolist()


def load_choice_scorer(folder: Path) -> ChoiceScorer:
    return ChoiceScorer(cast_linears_to_bf16(load_policy(str(folder), tuning="full")))


def _key(question: Question, rationale: str | None) -> bytes:
    """What the probabilities depend on: of choices all are judged, whichever is right."""
    answer = None if question.choices else question.answer
    parts = [question.id, question.context, question.question, question.choices, answer, rationale]
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).digest()


def _hash(scorer: ChoiceScorer) -> str:
    return scorer.policy.weights_hash


def _digest(*parts: Any) -> str:
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def _facts(folder: Path | str, kind: str, command: str) -> dict[str, Any]:
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
    if isinstance(facts["seen"], list):  # before 0.1.0: each question by its own id
        facts["seen"] = {i: fold_of(i) for i in facts["seen"]}
    return facts
