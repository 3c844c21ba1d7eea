"""The choice scorer against a naive loop; the answer scorer and the verifier on top of it; Vera."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import T5Config, T5EncoderModel

from rationalize.errors import UserError
from rationalize.methods.train_scorers.crossfit import folds_of
from rationalize.models.answer_texts import answer_prompt, answer_texts
from rationalize.models.calibration import fit_temperature
from rationalize.models.choices import ChoiceScore, ChoiceScorer, _batches
from rationalize.models.scorers import (
    AnswerFold,
    AnswerScorer,
    Verifier,
    VerifierFold,
    mean_of_folds,
    softmax,
)
from rationalize.models.vera import Vera
from rationalize.records import Question
from rationalize.rewards import load_rewards
from rationalize.templates import prompt_text
from tests.reward_toys import attempt, scores
from tests.tiny import tiny_policy

CHOICES = Question("q1", "Which is heavier?", "steel", ("wood", "steel"))
FREE = Question("q2", "What is 2 + 2?", "4")


@pytest.fixture(autouse=True)
def _exact(monkeypatch):
    """A CPU that is not fast in bfloat16: float32 throughout, so that numbers can be compared."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)


def naive(policy, prompt: str, choice: str) -> ChoiceScore:
    """One forward pass over the full sequence, the model's own logits."""
    p, r = policy.encode_prompt(prompt), policy.encode_response(choice)
    with torch.no_grad():
        if policy.is_encoder_decoder:
            written = torch.tensor([[policy.start_id, *r[:-1]]])
            logits = policy.model(input_ids=torch.tensor([p]), decoder_input_ids=written).logits[0]
        else:
            logits = policy.model(input_ids=torch.tensor([p + r[:-1]])).logits[0, len(p) - 1 :]
    logprobs = logits[:, : policy.n_vocab].float().log_softmax(-1)[range(len(r)), r]
    return ChoiceScore(logprobs[:-1].sum().item(), len(r) - 1, logprobs[-1].item())


PROMPTS = [
    "Which is heavier?\n(A) wood (B) steel\nAnswer.",
    "Which is heavier?\n(A) wood (B) steel\nExplanation: steel is dense\nAnswer.",
    "Which is heavier?\n(A) wood (B) steel\nExplanation: steel sinks\nAnswer.",
    "Ice?",
    "A question with a good many more words than all the others have, so that they are padded.",
    "Ice?",
]
OFFERED = [
    ["(A)", "(B)"],
    ["(A)", "(B)"],
    ["(A)", "(B)"],
    ["cold", "very cold", "c"],
    ["yes"],
    ["no"],
]


@pytest.mark.parametrize("kind", ["decoder", "t5"])
@pytest.mark.parametrize("batch_tokens", [4096, 64])
def test_choice_scorer_equals_a_naive_loop(kind, batch_tokens):
    policy = tiny_policy(kind)
    scorer = ChoiceScorer(policy, batch_tokens=batch_tokens, tree_tokens=96)
    scores_of = scorer.score(PROMPTS, OFFERED)
    for prompt, offered, choice_scores in zip(PROMPTS, OFFERED, scores_of, strict=True):
        for choice, score in zip(offered, choice_scores, strict=True):
            expected = naive(policy, prompt, choice)
            assert score.n_tokens == expected.n_tokens
            assert score.logprob_sum == pytest.approx(expected.logprob_sum, abs=1e-4)
            assert score.eos_logprob == pytest.approx(expected.eos_logprob, abs=1e-4)


def test_a_model_without_trees_is_read_sequence_by_sequence():
    policy = tiny_policy("decoder")
    assert policy.takes_trees
    trees = ChoiceScorer(policy).score(PROMPTS, OFFERED)
    policy.takes_trees = False
    plain = ChoiceScorer(policy).score(PROMPTS, OFFERED)
    for in_trees, by_itself in zip(trees, plain, strict=True):
        assert [s.logprob_sum for s in in_trees] == pytest.approx(
            [s.logprob_sum for s in by_itself], abs=1e-4
        )


def test_scorer_refuses_what_it_cannot_score():
    scorer = ChoiceScorer(tiny_policy("decoder"))
    with pytest.raises(ValueError, match="has no tokens"):
        scorer.score(["p"], [[""]])
    with pytest.raises(ValueError, match="1 prompts, but choices of 2"):
        scorer.score(["p"], [["a"], ["b"]])
    assert scorer.score([], []) == []


def test_utility_vectors_of_coalition():
    first = ChoiceScore(-0.1 - 0.3 - 0.2, 3, -9.0)
    second = ChoiceScore(-0.5 - 0.5, 2, -9.0)
    assert first.utility == pytest.approx(0.818731, abs=1e-6)
    assert second.utility == pytest.approx(0.606531, abs=1e-6)
    assert (first.utility + second.utility) / 2 == pytest.approx(0.712631, abs=1e-6)
    assert ChoiceScore(-0.4, 2, -0.2).mean_with_eos == pytest.approx(-0.2)


def test_released_formats():
    snow = Question("q", "What melts?", "ice", ("snow", "ice"))
    fact = Question("q", "Can I build a house on an asteroid?", "no", ("yes", "no"))
    marked = "What melts? choice: (A) snow choice: (B) ice"
    assert answer_prompt("released", snow, None) == f"explain {marked}"
    assert answer_prompt("released", snow, "It is warm.") == f"{marked} explanation: It is warm."
    asked = "Can I build a house on an asteroid?: choice: no choice: yes"
    assert answer_prompt("released", fact, None) == f"explain {asked}"
    assert answer_texts("released", fact) == ["yes", "no"]
    assert answer_texts("released", snow) == answer_texts("modes", snow) == ["(A)", "(B)"]
    assert answer_texts("modes", FREE) == ["4"]
    assert answer_prompt("modes", snow, "r").splitlines()[-2:] == ["Explanation: r", "Answer."]


def test_temperature_finds_the_scale_of_the_truth():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 3)) * 2
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    gold = [int(rng.choice(3, p=row)) for row in p]
    assert fit_temperature((logits * 5).tolist(), gold) == pytest.approx(5.0, rel=0.1)
    assert fit_temperature([], []) == 1.0
    assert 0.02 < fit_temperature([[1.0, 0.0]] * 5, [0] * 5) < 1.0  # all right, still finite
    assert softmax([1.0, 0.0], 0.5) == pytest.approx(
        [1 / (1 + math.exp(-2)), 1 / (1 + math.exp(2))]
    )


def test_folds_judge_what_they_have_not_seen():
    seen = {f"train-{i}": i // 3 % 2 for i in range(40)}
    ids = list(seen)
    asked: dict[int, list[str]] = {0: [], 1: []}

    def judged(fold, rows):
        asked[fold] += [[*ids, "new"][i] for i in rows]
        return [[float(fold)] for _ in rows]

    means = mean_of_folds([*ids, "new"], seen, 2, judged)
    assert all(i not in asked[seen[i]] for i in ids)
    assert means[-1] == [0.5]
    assert means[0] == [1.0 - seen[ids[0]]]
    assert mean_of_folds(ids, seen, 1, judged)[0] == [0.0]  # one model judges all


def test_questions_that_ask_the_same_are_in_one_fold():
    questions = [dataclasses.replace(CHOICES, id=f"q{i}", question=f"{i % 20}?") for i in range(60)]
    folds = folds_of(questions, 2)
    assert set(folds.values()) == {0, 1}
    assert all(folds[f"q{i}"] == folds[f"q{i + 20}"] == folds[f"q{i + 40}"] for i in range(20))
    assert set(folds_of(questions, 1).values()) == {0}


@pytest.mark.parametrize(
    ("texts", "written"), [("choices", ("wood", "steel")), ("modes", ("(A)", "(B)"))]
)
def test_answer_scorer_is_a_softmax_of_means_averaged_over_folds(texts, written):
    policies = [tiny_policy("decoder", seed=s) for s in (0, 1)]
    folds = [AnswerFold(ChoiceScorer(p), ChoiceScorer(p)) for p in policies]
    scorer = AnswerScorer(folds, texts=texts)
    expected = np.mean(
        [
            softmax(
                [naive(p, answer_prompt(texts, CHOICES, "dense"), c).mean_with_eos for c in written]
            )
            for p in policies
        ],
        axis=0,
    )
    [given, without, utility] = scorer.probabilities(
        [CHOICES, CHOICES, FREE], ["dense", None, None]
    )
    assert given == pytest.approx(expected.tolist(), abs=1e-4)
    assert sum(without) == pytest.approx(1.0)
    means = [naive(p, answer_prompt("modes", FREE, None), "4").utility for p in policies]
    assert utility == pytest.approx([np.mean(means)], abs=1e-4)
    [alone] = AnswerScorer(folds, texts=texts, seen={"q1": 1}).probabilities([CHOICES], ["dense"])
    assert alone == pytest.approx(folds[0].probabilities([CHOICES], ["dense"], texts)[0])


def test_each_mode_has_its_own_temperature():
    scorer = ChoiceScorer(tiny_policy("decoder"))
    asked = [CHOICES, CHOICES], [None, "dense"], "choices"
    alone, given = AnswerFold(scorer, scorer).logits(*asked)
    for temperatures, (t, u) in (
        ({"answer": 2.0}, (2.0, 1.0)),
        ({"answer_from_rationale": 3.0}, (1.0, 3.0)),
    ):
        found = AnswerFold(scorer, scorer, temperatures).probabilities(*asked)
        assert found == [softmax(alone, t), softmax(given, u)]


def test_answers_without_rationale_are_computed_once():
    asked = []

    class Counted(AnswerFold):
        def probabilities(self, questions, rationales, texts):
            asked.extend(questions)
            return super().probabilities(questions, rationales, texts)

    policy = tiny_policy("decoder")
    scorer = AnswerScorer([Counted(ChoiceScorer(policy), ChoiceScorer(policy))])
    [first] = scorer.probabilities([CHOICES], [None])
    assert asked == [CHOICES]
    assert scorer.probabilities([CHOICES, CHOICES], [None, None]) == [first, first]
    assert asked == [CHOICES]


def test_hash_tells_scorers_apart():
    policy = tiny_policy("decoder")
    fold = AnswerFold(ChoiceScorer(policy), ChoiceScorer(policy))
    warm = AnswerFold(ChoiceScorer(policy), ChoiceScorer(policy), {"answer": 2.0})
    scorers = [
        AnswerScorer([fold]),
        AnswerScorer([warm]),
        AnswerScorer([fold, fold]),
        AnswerScorer([fold], texts="released"),
        AnswerScorer([fold], seen={"q": 0}),
    ]
    assert len({s.weights_hash for s in scorers}) == len(scorers)


@pytest.mark.parametrize("kind", ["decoder", "t5"])
def test_verifier_logit_is_the_labels_difference(kind):
    policy = tiny_policy(kind)
    verifier = Verifier([VerifierFold(ChoiceScorer(policy), temperature=2.0)])
    statements = ["Steel floats.", "Steel sinks in water because it is dense."]
    probabilities = verifier.probabilities(statements, [None, "q1"])
    again = verifier.probabilities(statements[::-1], [None, None])
    assert probabilities == pytest.approx(again[::-1], abs=1e-6)
    [z, _] = verifier.folds[0].logits(statements)
    assert probabilities[0] == pytest.approx(1 / (1 + math.exp(-z / 2.0)))


def test_fluency_is_the_base_models_mean_logprob():
    policy = tiny_policy("decoder")
    fluency = load_rewards(["fluency"], base=policy)[0]
    [said, empty] = scores(fluency, attempt("Steel is dense."), attempt(" "))
    prompt = prompt_text("rationale", CHOICES)
    assert said == pytest.approx(naive(policy, prompt, "Steel is dense.").mean, abs=1e-4)
    assert empty is None


def test_loading_something_else_says_so(tmp_path: Path):
    with pytest.raises(UserError, match="rationalize train answer-scorer"):
        AnswerScorer.load(tmp_path)
    (tmp_path / "scorer.json").write_text('{"kind": "verifier"}')
    with pytest.raises(UserError, match="this is a trained verifier; expected one made by"):
        AnswerScorer.load(tmp_path)


class _Words:
    """A tokenizer for Vera's test: one id per word, EOS 1, padding 0."""

    def __call__(self, texts, *, max_length, **_):
        words = [[2 + sum(map(ord, w)) % 90 for w in t.split()] for t in texts]
        rows = [[*ids[: max_length - 1], 1] for ids in words]
        width = max(map(len, rows))
        ids = torch.tensor([r + [0] * (width - len(r)) for r in rows])
        mask = torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in rows])
        return type("Batch", (), {"input_ids": ids, "attention_mask": mask})


def test_vera_reads_its_head_from_unused_embedding_rows():
    torch.manual_seed(0)
    config = T5Config(vocab_size=32128, d_model=8, d_kv=4, d_ff=16, num_layers=2, num_heads=2)
    encoder = T5EncoderModel(config).eval()
    vera = Vera(encoder, _Words(), "tiny", batch_size=2)
    rows = encoder.get_input_embeddings().weight
    with torch.no_grad():
        rows[32097, 0] = 0.5
    statements = ["steel sinks", " wood floats on water ", "x " * 300]
    for statement, p in zip(statements, vera.probabilities(statements), strict=True):
        batch = _Words()([statement.strip()], max_length=128)
        assert batch.input_ids.shape[1] <= 128
        h = encoder(input_ids=batch.input_ids).last_hidden_state[0, -1]
        logit = h @ rows[32099] + rows[32098, 0]
        assert p == pytest.approx(torch.sigmoid(logit / 0.5).item(), rel=0.02)


def test_a_batch_of_questions_with_different_numbers_of_choices_keeps_its_bound():
    """A long prompt with two choices is no neighbour of short ones with three."""
    groups = [(900, 2), *((20, 3) for _ in range(33)), *((30, 1) for _ in range(5))]
    ordered = sorted(groups)
    found = list(_batches(ordered, lambda g: g[0], 1024, rows=lambda g: g[1]))
    assert [g for batch in found for g in batch] == ordered
    for batch in found:
        padded = max(tokens for tokens, _ in batch) * sum(rows for _, rows in batch)
        assert padded <= 1024 or len(batch) == 1
