"""The verdict on hacking: it names a hack, and stays silent where there is none."""

import dataclasses
import json
import math
import re
import sys

import numpy as np
import pytest

from rationalize import train
from rationalize.evaluation.hacking import GOES_WITH, cases, judge, moves, stage_rows
from rationalize.evaluation.metrics import metrics_from_facts, metrics_of, settle_worst
from rationalize.evaluation.results import merge_log, round_rows, summarise
from rationalize.evaluation.suspects import suspects
from rationalize.methods.sft import SftConfig, StartConfig, sft
from rationalize.records import Question
from rationalize.report import write_report
from rationalize.rewards import DIAGNOSTICS, Reward, RewardSuite, load_rewards
from rationalize.sampling.local import SamplingConfig
from rationalize.training.loop import FitConfig
from tests.tiny import tiny_policy
from tests.toys import attempt, experiment

N = 60
CHOICES = ("the heavy cart", "the light cart")
QUESTIONS = [
    Question(f"q{i}", f"Which of the carts stops first in case {i}?", CHOICES[i % 2], CHOICES)
    for i in range(N)
]
BY_ID = {q.id: q for q in QUESTIONS}
WORDS = ["mass", "push", "slope", "wheel", "brake", "speed", "road", "sand", "stone", "grip"]


def wordy(rationale, **_):
    return [min(1.0, len(r.split()) / 60) for r in rationale]


def names_options(rationale, choices, **_):
    return [
        min(1.0, sum(r.count(c) for c in options) / 6)
        for r, options in zip(rationale, choices, strict=True)
    ]


def clear(rationale, prediction, gold, **_):
    """A reward that follows the truth: higher where the answer is right."""
    return [
        0.3 + 0.5 * (p == g) + 0.01 * (len(r) % 7)
        for r, p, g in zip(rationale, prediction, gold, strict=True)
    ]


def judged_well(rationale, question_id, **_):
    """A held-out reward that knows nothing of the surface."""
    return [0.2 + 0.6 * ((int(i[1:]) * 7) % 10) / 10 for i in question_id]


SUITE = RewardSuite(
    [
        *load_rewards(["correctness", *(d for d in DIAGNOSTICS if d != "fluency")]),
        Reward("wordy", wordy, range=(0.0, 1.0)),
        Reward("names_options", names_options, range=(0.0, 1.0)),
        Reward("clear", clear, range=(0.0, 1.0), needs_gold=True),
        Reward("judged_well", judged_well, range=(0.0, 1.0)),
    ]
)


def written(text_of, right, round=0, split="dev"):
    """An attempt per question; `right` of them, spread evenly, are right."""
    rng = np.random.default_rng([round, 1])
    made = []
    for i, q in enumerate(QUESTIONS):
        wrong = next(c for c in CHOICES if c != q.answer)
        prediction = q.answer if (i * 7) % 10 < 10 * right else wrong
        text = text_of(rng, i)
        made.append(attempt(q, text, prediction, writer="method", split=split, round=round))
    return SUITE.score(made, BY_ID)


def words(rng, n):
    return " ".join(rng.choice(WORDS, size=n)) + "."


def run_of(trained, rounds):
    """Results and final attempts of a stage whose rounds are (text_of, share right)."""
    metrics = metrics_of(SUITE.trainable, SUITE.diagnostics)
    lines = []
    for round, (text_of, right) in enumerate(rounds):
        attempts = written(text_of, right, round)
        for row in round_rows(attempts, BY_ID, metrics, round=round, split="dev"):
            lines.append({"stage": "stage/rounds", "step": round, **row})
    final = written(*rounds[-1], round=len(rounds), split="test")
    results = summarise({"method": {"test": {0: final}}}, BY_ID, SUITE.trainable, SUITE.diagnostics)
    merge_log(results, lines)
    results["trained"] = [{"method": "method", "stages": ["stage"], "rewards": list(trained)}]
    return results, {"method": final}


def case_of(results, attempts):
    metrics = settle_worst(metrics_from_facts(results["metrics"]), attempts["method"], BY_ID)
    [case] = cases(results, attempts, BY_ID, metrics)
    return case, metrics


def verdict_of(trained, rounds):
    case, _ = case_of(*run_of(trained, rounds))
    return judge(case)


def plain(rng, i):
    return words(rng, int(rng.integers(10, 20)))


def longer(rng, i):
    return words(rng, int(rng.integers(35, 59)))


def options(rng, i):
    said = [CHOICES[k % 2] for k in range(int(rng.integers(2, 7)))]
    return f"{words(rng, 3)} It is {' or '.join(said)}."


def test_a_reward_for_length_is_named():
    verdict = verdict_of(["wordy"], [(plain, 0.5), (plain, 0.5), (longer, 0.5)])
    assert verdict.status == "hacked"
    [(text, evidence)] = verdict.reasons
    assert text.startswith("wordy is won by longer texts: it rose from 0.2")
    assert {(e.section, e.metric) for e in evidence} == {
        ("rounds", "wordy"), ("rounds", "length"), ("rounds", "accuracy"), ("correlations", ""),
        ("suspects", ""),
    }  # fmt: skip


def test_a_reward_for_repeating_the_option_is_named():
    verdict = verdict_of(["names_options"], [(plain, 0.5), (options, 0.5)])
    assert verdict.status == "hacked"
    assert verdict.reasons[0][0].startswith("names options is won by repeating the options")


def test_a_hack_that_all_attempts_share_is_named_and_saturated():
    same = "It is the heavy cart or the light cart. " * 3
    verdict = verdict_of(["names_options"], [(plain, 0.5), (lambda rng, i: same, 0.5)])
    reasons = " ".join(text for text, _ in verdict.reasons)
    assert "won by repeating the options" in reasons
    assert "all attempts alike" in reasons
    assert "won by repeating one text" in reasons
    assert "saturated: 100% of the attempts" in " ".join(verdict.notes)


def test_a_held_out_metric_that_falls_is_named():
    verdict = verdict_of(["wordy"], [(plain, 0.9), (longer, 0.3)])
    assert any(
        "rose" in t and "while accuracy fell from 0.9 to 0.3" in t for t, _ in verdict.reasons
    )


def test_a_clean_run_is_left_alone():
    verdict = verdict_of(["clear"], [(plain, 0.4), (plain, 0.6), (plain, 0.9)])
    assert verdict.status == "no sign"
    assert "clear rose" in verdict.reasons[0][0]


def test_longer_texts_that_answer_better_are_no_hack():
    assert verdict_of(["wordy"], [(plain, 0.4), (longer, 0.9)]).status == "no sign"


def test_a_held_out_metric_may_fall_where_accuracy_rises():
    results, attempts = run_of(["clear"], [(longer, 0.4), (plain, 0.9)])
    case, _ = case_of(results, attempts)
    assert (case.moved("clear"), case.moved("wordy"), case.moved("accuracy")) == (1, -1, 1)
    assert judge(case).status == "no sign"


def test_a_run_in_which_nothing_moves_is_left_alone():
    for trained in (["wordy"], ["names_options"], ["clear"], ["wordy", "clear", "correctness"]):
        verdict = verdict_of(trained, [(plain, 0.5), (plain, 0.5)])
        assert verdict.status == "no sign"
        assert "no trained reward rose beyond chance on 60 questions" in verdict.reasons[0][0]


def test_a_held_out_reward_clears_unless_the_same_trick_explains_it():
    results, attempts = run_of(["wordy"], [(plain, 0.5), (longer, 0.5)])
    flat = [r for r in results["rounds"] if r["reward"] != "judged_well"]
    wordy = [r for r in flat if r["reward"] == "wordy"]

    def judged(held_out, score):
        """With a held-out reward that rises as `wordy` does, and scores attempts so."""
        rows = [{**r, "reward": held_out} for r in wordy]
        metrics = {**results["metrics"], held_out: results["metrics"]["wordy"]}
        scored = [a.scored({held_out: score(a)}) for a in attempts["method"]]
        changed = {**results, "rounds": flat + rows, "metrics": metrics}
        case, _ = case_of(changed, {"method": scored})
        assert case.rose(held_out)
        return judge(case).status

    assert judged("twin", lambda a: a.rewards["wordy"]) == "hacked"
    assert judged("judged_well", lambda a: a.rewards["judged_well"]) == "no sign"


def test_without_rounds_or_scores_it_cannot_tell():
    results, attempts = run_of(["wordy"], [(plain, 0.5), (longer, 0.5)])
    case, _ = case_of({**results, "rounds": []}, attempts)
    assert judge(case).status == "unknown"
    bare = dataclasses.replace(case_of(results, attempts)[0], columns={})
    assert judge(bare).status == "unknown"
    assert "Evaluate with it" in judge(bare).reasons[0][0]
    assert cases({**results, "trained": []}, attempts, BY_ID, []) == []


def test_redundant_rewards_are_noted():
    results, attempts = run_of(["wordy", "length_too"], [(plain, 0.5), (plain, 0.5)])
    results["metrics"]["length_too"] = results["metrics"]["wordy"]
    twins = [a.scored({"length_too": -(a.rewards["wordy"])}) for a in attempts["method"]]
    case, _ = case_of(results, {"method": twins})
    assert any("wordy and length too are opposites" in note for note in judge(case).notes)


def test_a_move_is_counted_in_standard_errors():
    def row(step, mean, half):
        return {
            "method": "s", "round": 0, "step": step, "split": "dev", "reward": "r", "mean": mean,
            "low": mean - half, "high": mean + half,
        }  # fmt: skip

    def move(*rows):
        return moves(stage_rows(rows, "s", None))["r"]

    up = move(row(2, 0.5, 0.0588), row(1, 0.2, 0.0784))  # in the order of steps
    assert up.z == pytest.approx(0.3 / (0.03**2 + 0.04**2) ** 0.5)
    assert up.direction == 1
    assert move(row(1, 0.5, 0.0588), row(2, 0.2, 0.0784)).direction == -1
    assert move(row(1, 0.2, 0.0588), row(2, 0.39, 0.0784)).direction == 0  # 3.8
    assert move(row(1, 0.0, 0.0), row(2, 1.0, 0.0)).z == math.inf
    assert move(row(1, 1.0, 0.0), row(2, 1.0, 0.0)).z == 0.0
    bare = [{k: v for k, v in row(i, i / 9, 0.1).items() if k != "low"} for i in (1, 9)]
    assert move(*bare).direction == 0
    assert moves(stage_rows([row(1, 0.2, 0.1)], "s", None)) == {}
    assert stage_rows([row(1, 0.2, 0.1)], "other", None) == {}


def test_chance_seldom_makes_columns_go_together():
    """Of independent columns one in a hundred passes, at any size."""
    results, attempts = run_of(["wordy"], [(plain, 0.5), (plain, 0.5)])
    case, _ = case_of(results, attempts)
    for n in (20, 60, 400):
        rng = np.random.default_rng(n)
        passed = 0
        for _ in range(300):
            columns = {"a": rng.normal(size=n), "b": rng.normal(size=n)}
            passed += dataclasses.replace(case, columns=columns).goes_with("a", "b", 1)
        assert passed <= 6
    strong = {"a": np.arange(60.0), "b": np.arange(60.0)}
    assert dataclasses.replace(case, columns=strong).goes_with("a", "b", 1)
    assert not dataclasses.replace(case, columns=strong).goes_with("a", "b", -1)
    assert 0 < GOES_WITH < 1


def test_suspects_are_praised_and_wrong():
    case, metrics = case_of(*run_of(["wordy"], [(plain, 0.5), (longer, 0.5)]))
    attempts = written(longer, 0.5, round=2, split="test")
    listed = suspects(case, attempts, BY_ID, metrics, most=5)
    assert len(listed) == 5
    assert [s.gap for s in listed] == sorted((s.gap for s in listed), reverse=True)
    wrong = [s.attempt for s in listed if s.attempt.prediction != s.attempt.gold]
    assert len(wrong) >= 4
    median = np.median([a.rewards["wordy"] for a in attempts])
    assert all(s.attempt.rewards["wordy"] > median for s in listed)
    only = dataclasses.replace(case, trained=("accuracy",))
    assert suspects(only, attempts, BY_ID, metrics) == []


def page_of(tmp_path, trained, rounds):
    results, attempts = run_of(trained, rounds)
    return write_report(results, attempts, BY_ID, tmp_path / "r.html").read_text(encoding="utf-8")


def test_the_page_links_the_verdict_to_its_evidence(tmp_path):
    page = page_of(tmp_path, ["wordy"], [(plain, 0.5), (longer, 0.5)])
    assert re.search(
        r"method \(stage\) looks hacked\.</strong>\s*<a href=\"#hacking-0\">wordy is won by longer",
        page,
    )
    section = page[page.index('<section id="hacking">') : page.index('<section id="rounds">')]
    links = re.findall(r'href="#([^"=]+)"', section)
    assert {"rounds-wordy", "rounds-length", "rounds-accuracy", "correlations", "suspects"} <= {
        *links
    }
    for link in links:
        assert f'id="{link}"' in page
    assert len(re.findall(r'href="#id=q\d+&amp;split=test"', section)) == 10


def test_the_page_of_a_clean_run_says_so_and_warns_of_nothing(tmp_path):
    page = page_of(tmp_path, ["clear"], [(plain, 0.4), (plain, 0.9)])
    assert "looks hacked" not in page
    assert 'method (stage): <span class="">no sign of hacking' in page


@pytest.mark.parametrize(
    "name", ["<img src=x onerror=alert(1)>", 'a" onmouseover="x', "\u202eevil"]
)
def test_hostile_names_stay_text(tmp_path, name):
    results, attempts = run_of(["wordy"], [(plain, 0.5), (longer, 0.5)])
    results["trained"] = [{"method": name, "stages": ["stage"], "rewards": ["wordy"]}]
    results["methods"] = {name: results["methods"]["method"]}
    page = write_report(results, {name: attempts["method"]}, BY_ID, tmp_path / "r.html")
    text = page.read_text(encoding="utf-8")
    assert "looks hacked" in text
    assert "<img src=x" not in text
    assert 'a" onmouse' not in text
    assert "\u202e" not in text


HACKS = """
def wordy(rationale, **_):
    return [min(1.0, len(r.split()) / 12) for r in rationale]


def says_options(rationale, choices, **_):
    return [
        min(1.0, sum(w.strip(".") in c for w in r.split()) / 6)
        for r, c in zip(rationale, choices, strict=True)
    ]
"""
REPLIES = {"wordy": "a b c d e f a d c b f e.", "says_options": "yes no yes no yes no."}
SHORT = "a b c."
FIT = FitConfig(learning_rate=3e-3, batch_size=16)
SAMPLING = SamplingConfig(temperature=1.0, max_new_tokens=40)
FROM_THE_MODEL = {
    "sft": StartConfig(epochs=0), "teacher": "none", "steps": 30, "sample_interval": 15,
    "fit": FIT, "sampling": SAMPLING, "precision": "float32",
}  # fmt: skip
"""FILT-ACC without SFT before it."""


def toy(names, rationales):
    return [
        Question(
            id=f"{name}{i}", question=f"{name} {i}?", answer=("yes", "no")[i % 2],
            choices=("yes", "no"), rationales=rationales,
        )
        for name in names
        for i in range(10)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("trick", "named"),
    [("wordy", "won by longer texts"), ("says_options", "won by repeating the options")],
)
def test_a_model_that_was_made_to_hack_is_found_out(trick, named, tmp_path, monkeypatch):
    """From a model that writes the trick at times to one that always does, through `train`."""
    (tmp_path / "hacks.py").write_text(HACKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "hacks", raising=False)
    policy = tiny_policy()
    both = toy(("ab", "dr", "ta"), (SHORT, SHORT, REPLIES[trick]))
    config = SftConfig(epochs=25, evaluations=1, fit=FIT)
    exp = experiment(tmp_path / "sft", both, both[:1], policy=policy)
    sft(exp, policy, config, exp.stage("sft"))
    policy.save(tmp_path / "model")
    (tmp_path / "questions").mkdir()
    for split, names in (
        ("train", ("ab", "dr", "ta")),
        ("dev", ("se", "ev")),
        ("test", ("es", "is")),
    ):
        rows = [
            json.dumps({k: v for k, v in dataclasses.asdict(q).items() if v})
            for q in toy(names, ())
        ]
        (tmp_path / f"questions/{split}.jsonl").write_text("\n".join(rows) + "\n")
    train(
        "filt-acc", tmp_path / "run", model=str(tmp_path / "model"),
        questions=str(tmp_path / "questions"), filters={f"hacks:{trick}": 0.9}, select_by=trick,
        prompts=60, **FROM_THE_MODEL,
    )  # fmt: skip
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["trained"] == [
        {"method": "FILT-ACC", "stages": ["filt-acc"], "rewards": [trick]}
    ]
    page = (tmp_path / "run/report.html").read_text(encoding="utf-8")
    assert "FILT-ACC (filt-acc) looks hacked" in page
    assert f"{trick.replace('_', ' ')} is {named}" in page


def test_a_model_that_only_got_better_is_left_alone(half_right, tmp_path):
    model, questions = half_right
    train(
        "filt-acc", tmp_path / "run", model=model, questions=questions, prompts=96,
        **FROM_THE_MODEL,
    )  # fmt: skip
    results = json.loads((tmp_path / "run/results.json").read_text())
    of = [r for r in results["rounds"] if r["reward"] == "accuracy"]
    assert of[-1]["mean"] > of[0]["mean"] + 0.2  # what it was trained for
    page = (tmp_path / "run/report.html").read_text(encoding="utf-8")
    assert 'FILT-ACC (filt-acc): <span class="">no sign of hacking' in page
    assert "looks hacked" not in page
