"""The built-in questions: sizes, splits, the teacher's quality mix, and no surface cue that tells
the answer.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter

import numpy as np
import pytest

from rationalize.answers import normalise
from rationalize.errors import UserError
from rationalize.questions.builtin import KINDS, QUALITIES, SPLITS, UNSEEN_KINDS, builtin_questions
from rationalize.records import Question


@pytest.fixture(scope="module")
def questions() -> dict[str, list[Question]]:
    return builtin_questions(train=1200, dev=100, test=600, unseen=300)


def everything(questions: dict[str, list[Question]]) -> list[Question]:
    return [q for split in SPLITS for q in questions[split]]


def diversity(rationale: str) -> float:
    words, product = rationale.split(), 1.0
    for n in (2, 3, 4):
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        product *= len(set(grams)) / len(grams) if grams else 1.0
    return product


def by_quality(questions: dict[str, list[Question]]) -> dict[str, list[tuple[Question, str, str]]]:
    samples: dict[str, list[tuple[Question, str, str]]] = {quality: [] for quality in QUALITIES}
    for q in everything(questions):
        rows = zip(
            q.rationales, q.extra["rationale_quality"], q.extra["teacher_answers"], strict=True
        )
        for rationale, quality, answer in rows:
            samples[quality].append((q, rationale, answer))
    return samples


def test_the_default_sizes_and_ids():
    splits = builtin_questions()
    assert {split: len(qs) for split, qs in splits.items()} == {
        "train": 200,
        "dev": 50,
        "test": 120,
        "unseen": 80,
    }
    assert splits["train"][12].id == "builtin-train-00012"
    assert len({q.id for q in everything(splits)}) == 450
    assert all(len(q.rationales) == 2 for q in everything(splits))


def test_the_same_seed_gives_the_same_questions():
    sizes = {"train": 40, "dev": 8, "test": 12, "unseen": 8}
    assert builtin_questions(**sizes, seed=3) == builtin_questions(**sizes, seed=3)
    assert (
        builtin_questions(**sizes, seed=3)["train"] != builtin_questions(**sizes, seed=4)["train"]
    )


def test_sizes_do_not_change_other_splits_and_larger_begins_with_smaller(questions):
    small = builtin_questions(train=24, dev=10, test=12, unseen=6)
    assert all(questions[split][: len(small[split])] == small[split] for split in SPLITS)


def test_the_number_of_rationales_changes_no_question():
    few, many = (builtin_questions(20, 4, 4, 4, rationales=n)["train"] for n in (1, 3))
    assert [(q.question, q.choices) for q in few] == [(q.question, q.choices) for q in many]
    assert [q.rationales[0] for q in few] == [q.rationales[0] for q in many]
    assert all(len(set(q.rationales)) == 3 for q in many)


def test_no_question_is_in_two_splits_under_any_seed_or_size(questions):
    other = builtin_questions(train=400, dev=200, test=200, unseen=100, seed=7)
    for a in SPLITS:
        texts = [normalise(q.question) for q in questions[a]]
        assert len(texts) == len(set(texts))
        for b in SPLITS:
            if a != b:
                assert not set(texts) & {normalise(q.question) for q in (*questions[b], *other[b])}


def test_gold_is_among_two_to_four_distinct_choices(questions):
    for q in everything(questions):
        choices = q.choices or ()
        assert 2 <= len(choices) <= 4
        assert len(set(choices)) == len(choices)
        assert {q.answer, *q.extra["teacher_answers"]} <= set(choices)


def test_gold_positions_are_balanced(questions):
    for kind in (*KINDS, *UNSEEN_KINDS):
        asked = [q for q in everything(questions) if q.kind == kind]
        first = sum(q.choices.index(q.answer) == 0 for q in asked) / len(asked)
        assert abs(first - 0.5) < 3 * math.sqrt(0.25 / len(asked))


def test_a_pair_of_choices_stands_in_one_order(questions):
    pairs = {q.choices for q in everything(questions)}
    assert all(len(p) == 2 and p[::-1] not in pairs for p in pairs)


def test_unseen_kinds_are_in_no_other_split(questions):
    assert len(KINDS) >= 4
    assert not set(KINDS) & set(UNSEEN_KINDS)
    for split in SPLITS:
        expected = UNSEEN_KINDS if split == "unseen" else KINDS
        assert Counter(q.kind for q in questions[split]).keys() == expected.keys()


def test_the_quality_mix_is_as_stated(questions):
    samples = by_quality(questions)
    total = sum(map(len, samples.values()))
    for quality, share in QUALITIES.items():
        assert len(samples[quality]) / total == pytest.approx(share, abs=0.025)


def test_each_quality_shows_in_the_text(questions):
    samples = by_quality(questions)
    scores = {
        quality: np.array([diversity(r) for _, r, _ in rows]) for quality, rows in samples.items()
    }
    assert scores["repetitive"].max() < 0.7
    assert scores["good"].mean() > 0.95
    for quality, rows in samples.items():
        assert all((answer != q.answer) == (quality == "wrong") for q, _, answer in rows)
    last = {quality: [_last_choice(q, r) for q, r, _ in rows] for quality, rows in samples.items()}
    for quality in ("good", "rambling", "repetitive"):
        assert all(
            choice == q.answer
            for choice, (q, _, _) in zip(last[quality], samples[quality], strict=True)
        )
    for quality in ("contradicting", "wrong"):
        assert all(
            choice != q.answer
            for choice, (q, _, _) in zip(last[quality], samples[quality], strict=True)
        )


def _last_choice(q: Question, rationale: str) -> str | None:
    """The choice that a rationale ends on."""
    return next((c for c in q.choices or () if rationale.endswith(f" {c}.")), None)


def test_questions_and_rationales_are_short(questions):
    for q in everything(questions):
        assert len(q.question.split()) <= 32
        assert all(4 <= len(r.split()) <= 34 for r in q.rationales)


def test_running_out_says_so():
    with pytest.raises(UserError, match="dev questions ran out after 1568: the kind 'physics'"):
        builtin_questions(train=0, dev=1600, test=0, unseen=0, rationales=0)


# A linear reader of surface cues


def _cues(q: Question, choice: str) -> list[str]:
    """What may be read off one choice: its place, words, length, rank, and where and how often the
    question names it.
    """
    assert q.choices is not None
    text = f" {re.sub(r'[^a-z0-9]+', ' ', q.question.lower())} "
    spots = {c: text.find(f" {c.lower()} ") for c in q.choices}
    sizes = sorted(q.choices, key=lambda c: (int(c), c) if c.isdigit() else (len(c), c))
    named = sorted((c for c in q.choices if spots[c] >= 0), key=lambda c: spots[c])
    return [
        "any",
        f"place {q.choices.index(choice)}",
        f"text {choice}",
        f"rank {sizes.index(choice)}",
        f"named {named.index(choice) if choice in named else 'never'}",
        f"named {text.count(f' {choice.lower()} ')} times",
    ]


def _features(q: Question, choice: str) -> list[str]:
    words = set(re.findall(r"[a-z0-9]+", q.question.lower())) | {"<bias>"}
    return [f"{word} x {cue}" for word in words for cue in _cues(q, choice)]


def _linear_accuracy(train: list[Question], test: list[Question]) -> tuple[float, float, int]:
    """Accuracy of a softmax regression over choices on words x cues, chance, and the number of test
    questions.
    """
    seen = Counter(f for q in train for c in q.choices or () for f in _features(q, c))
    index = {f: i for i, f in enumerate(f for f, n in seen.items() if n >= 4)}
    width = max(len(q.choices or ()) for q in (*train, *test))

    def encode(asked: list[Question]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        ids = [
            [[index[f] for f in _features(q, c) if f in index] for c in q.choices or ()]
            for q in asked
        ]
        longest = max(len(i) for rows in ids for i in rows)
        x = np.full(
            (len(asked), width, longest), len(index)
        )  # the last weight is padding, held at 0
        for n, rows in enumerate(ids):
            for k, row in enumerate(rows):
                x[n, k, : len(row)] = row
        live = np.array([[k < len(rows) for k in range(width)] for rows in ids])
        gold = np.array([(q.choices or ()).index(q.answer) for q in asked])
        return x, live, gold

    x, live, gold = encode(train)
    weights, moment = np.zeros(len(index) + 1), np.zeros(len(index) + 1)
    for _ in range(40):
        logits = np.where(live, weights[x].sum(-1), -np.inf)
        p = np.exp(logits - logits.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        p[np.arange(len(gold)), gold] -= 1
        grad = np.bincount(
            x.ravel(), np.repeat(p.ravel(), x.shape[-1]), minlength=len(weights)
        ) / len(gold)
        moment = 0.9 * moment + grad + 1e-4 * weights
        weights -= 0.1 * moment
        weights[-1] = 0.0
    x, live, gold = encode(test)
    right = np.where(live, weights[x].sum(-1), -np.inf).argmax(-1) == gold
    return float(right.mean()), float((1 / live.sum(-1)).mean()), len(test)


def _of_kind(kind: str, count: int) -> list[Question]:
    if kind in UNSEEN_KINDS:
        return builtin_questions(train=0, dev=0, test=0, unseen=count)["unseen"]
    pool = builtin_questions(train=count * len(KINDS), dev=0, test=0, unseen=0)["train"]
    return [q for q in pool if q.kind == kind]


@pytest.mark.parametrize("kind", [*KINDS, *UNSEEN_KINDS])
def test_a_linear_reader_of_surface_cues_stays_near_chance(kind):
    pool = _of_kind(kind, 1000)
    accuracy, chance, n = _linear_accuracy(pool[:600], pool[600:])
    assert n == 400
    assert abs(accuracy - chance) < 1.96 * math.sqrt(chance * (1 - chance) / n) + 0.03


def test_the_linear_reader_finds_a_cue_that_is_there():
    pool = [dataclasses.replace(q, answer=min(q.choices or ())) for q in _of_kind("ordering", 600)]
    accuracy, _, _ = _linear_accuracy(pool[:400], pool[400:])
    assert accuracy > 0.6
    pool = [dataclasses.replace(q, answer=(q.choices or ())[0]) for q in pool]
    accuracy, _, _ = _linear_accuracy(pool[:400], pool[400:])
    assert accuracy > 0.95
