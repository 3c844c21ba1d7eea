"""The report page: what it says, and that nothing a model writes can break it.

Opened in a real browser where there is one.
"""

import html
import json
import random
import re
from dataclasses import dataclass, replace

import pytest

from rationalize.evaluation.baselines import majority_attempts
from rationalize.evaluation.diagnostics import warnings
from rationalize.evaluation.results import merge_log, summarise
from rationalize.records import Attempt, Question
from rationalize.report import write_report
from rationalize.report.charts import ticks
from rationalize.report.text import json_for_script
from rationalize.text import visible
from tests.browser import needs_browser, opened

HOSTILE = (
    "<script>document.title='pwned'</script></script><img src=x onerror=\"document.title='pwned'\">"
    "</textarea><!-- &lt;b&gt; \x00\x07\x1b\x7f \ud800 \u202eevil\u2066 \u2028 \u2029 שלום {{ 7*7 "
    "}} end"
)


@dataclass(frozen=True)
class Spec:
    name: str
    range: tuple[float, float]


REWARDS = [Spec("plausibility", (0, 1)), Spec("diversity", (0, 1)), Spec("consistency", (-1, 1))]
DIAGNOSTICS = [Spec("fluency", (float("-inf"), 0)), Spec("repetition", (0, 1))]
SKILL = {"direct": 0.5, "SFT": 0.52, "FILT-ACC": 0.55, "PRODUCT": 0.56, "MaRio": 0.64}
WORDS = [
    "the",
    "steel",
    "ball",
    "is",
    "heavier",
    "than",
    "wood",
    "so",
    "it",
    "sinks",
    "and",
    "water",
    "pushes",
    "less",
    "on",
    "what",
    "is",
    "dense",
]


def question(i, split):
    kinds = ["physics", "ordering", "counting", "causes"]
    choices = ("the steel ball", "the wooden ball")
    return Question(
        f"{split}-{i:04d}",
        "Ada drops a steel ball and a wooden ball into a pond. Which of the two sinks in case "
        f"{i}?",
        choices[i % 3 == 0],
        choices=choices,
        kind=kinds[i % 4],
    )


def attempt(q, method, split, seed, rng):
    right = rng.random() < SKILL[method]
    other = next(c for c in q.choices if c != q.answer)
    prediction = None if rng.random() < 0.03 else q.answer if right else other
    direct = method == "direct"
    length = rng.randint(8, 26)
    text = " ".join(rng.choice(WORDS) for _ in range(length)).capitalize() + "."
    rewards = {
        "plausibility": min(1, max(0, rng.gauss(SKILL[method], 0.2))),
        "diversity": min(1.0, rng.gauss(0.95, 0.06)),
        "consistency": None if rng.random() < 0.03 else min(1, rng.gauss(0.3 * right, 0.3)),
        "fluency": rng.gauss(-3, 0.6),
        "repetition": max(0.0, rng.gauss(0.05, 0.05)),
    }
    return Attempt(
        id=f"{split}/{method}/{seed}/{q.id}",
        question_id=q.id,
        mode="answer" if direct else "rationale_answer",
        prompt=q.question,
        completion=text,
        rationale="" if direct else text,
        prediction=prediction,
        gold=q.answer,
        parsed=prediction is not None,
        finish="length" if rng.random() < 0.04 else "stop",
        writer=method,
        model="SmolLM2-135M-Instruct",
        round=3,
        step=64,
        split=split,
        seed=seed,
        n_tokens=length + 6,
        rewards={} if direct else rewards,
    )


def history(rng, rounds=3):
    """Lines of a metrics.jsonl, as a MaRio run logs them."""
    lines = []
    for stage, steps in (("sft", 100), ("mario", 192)):
        for step in range(steps):
            line = {"stage": stage, "step": step, "loss": 2.4 * 0.985**step + rng.gauss(0.6, 0.08)}
            if stage == "mario":
                line |= {"kl": 0.002 * step + abs(rng.gauss(0, 0.02)), "nll": line["loss"]}
            lines.append(line)
    for r in range(rounds + 1):
        for reward in ("accuracy", "nrg", "plausibility", "diversity", "consistency"):
            scale = 100 if reward == "nrg" else 1
            mean = scale * (0.5 + 0.03 * r + rng.gauss(0, 0.01))
            row = {"round": r, "split": "dev", "reward": reward, **around(mean, 0.06 * scale)}
            lines.append({"stage": "mario/rounds", "step": 64 * r, **row})
        for reward, k in (("plausibility", 5), ("diversity", 5), ("correctness", 2)):
            counts = [rng.randint(30, 90) for _ in range(k)]
            if reward == "diversity":
                counts = [300 + r, 0, 0, 40, 18]
            row = {"round": r, "reward": reward, "counts": counts}
            lines.append({"stage": "mario/bins", "step": r, **row})
            lines += obedience_lines(reward, k, r, rng) if r else []
    return lines


def obedience_lines(reward, k, r, rng):
    rows = []
    for b in range(k):
        row = {"reward": reward, "bin": b, "bins": k, "round": r, "split": "dev", "n": 50}
        rows.append({**row, **around(0.75 - 0.05 * r * b / k + rng.gauss(0, 0.01), 0.05)})
    rows[-1]["gap"] = {**around(0.03 * r, 0.07), "p": 0.09 / r**2}
    return [{"stage": "mario/obedience", "step": 64 * r, **row} for row in rows]


def around(mean, half):
    return {"mean": mean, "low": mean - half, "high": mean + half}


def fake_run(n=40, seed=0, seeds=(0,)):
    """Results, attempts and questions of six methods, as a finished run holds them."""
    rng = random.Random(seed)
    by_split = {split: [question(i, split) for i in range(n)] for split in ("test", "unseen")}
    methods = {
        "majority answer": {
            s: {0: majority_attempts(qs, qs, split=s)} for s, qs in by_split.items()
        }
    }
    for method in SKILL:
        methods[method] = {
            split: {s: [attempt(q, method, split, s, rng) for q in qs] for s in seeds}
            for split, qs in by_split.items()
        }
    questions = {q.id: q for qs in by_split.values() for q in qs}
    pairs = [("MaRio", "SFT"), ("MaRio", "FILT-ACC"), ("MaRio", "majority answer")]
    meta = {
        "model": "SmolLM2-135M-Instruct",
        "seeds": list(seeds),
        "command": "rationalize demo --seed 0",
        "hardware": "2 CPU cores, bfloat16",
        "seconds": 812,
        "config": {"bins": 5, "beta": 0.1, "fit": {"learning_rate": 5e-5}},
    }
    results = summarise(methods, questions, REWARDS, DIAGNOSTICS, pairs=pairs, meta=meta)
    merge_log(results, history(rng))
    attempts = {
        m: [a for of in splits.values() for s in of.values() for a in s]
        for m, splits in methods.items()
    }
    return results, attempts, questions


def cards(dom):
    """Ids of the questions shown, in order."""
    shown = dom[dom.index('id="cards"') : dom.index('id="pages"')]
    return re.findall(r'<p class="where"><bdi dir="auto">([^<]*)</bdi>', shown)


@pytest.fixture(scope="module")
def run():
    return fake_run()


@needs_browser
def test_hostile_text_shows_and_does_nothing(tmp_path):
    results, attempts, questions = fake_run(6)
    evil = f"MaRio {HOSTILE}"
    text = json.dumps(results).replace('"MaRio"', json.dumps(evil)).replace("physics", "<b>x</b>")
    results = json.loads(text)
    results["meta"]["command"] = HOSTILE
    results["meta"]["config"] = {HOSTILE: [HOSTILE]}
    attempts[evil] = [
        replace(a, rationale=HOSTILE, prediction=HOSTILE) for a in attempts.pop("MaRio")
    ]
    questions = {
        i: replace(q, question=HOSTILE, context=HOSTILE, choices=(q.answer, HOSTILE), kind=HOSTILE)
        for i, q in questions.items()
    }
    path = write_report(results, attempts, questions, tmp_path / "report.html")
    assert "<script>document" not in path.read_text(encoding="utf-8")
    dom, console = opened(path, tmp_path)
    assert console == []
    assert "<title>Rationales: SmolLM2-135M-Instruct</title>" in dom  # nothing changed it
    assert dom.count("<script") == 2  # the data and the page's own
    assert not re.search(r"<(img|b>|textarea)", dom.split("<noscript>")[0])
    assert len(cards(dom)) == 12
    shown = html.unescape(dom[dom.index('id="cards"') : dom.index('id="pages"')])
    assert visible(HOSTILE) in shown
    assert "␀␇␛␡ \ufffd" in shown


@needs_browser
def test_sorting_filtering_and_links(run, tmp_path):
    results, attempts, questions = run
    path = write_report(results, attempts, questions, tmp_path / "report.html")
    of = {
        m: {a.question_id: a.rewards["plausibility"] for a in attempts[m]}
        for m in ("MaRio", "SFT", "PRODUCT")
    }
    gain = {q: of["MaRio"][q] - of["SFT"][q] for q in questions if q.startswith("test")}
    by_gain = sorted(gain, key=lambda q: -round(gain[q], 3))
    dom, console = opened(path, tmp_path, "#sort=gain&metric=plausibility&split=test")
    assert console == []
    assert "1–25 of 40 questions" in dom
    assert cards(dom)[:3] == by_gain[:3]
    dom, _ = opened(path, tmp_path, "#sort=loss&metric=plausibility&split=test")
    assert cards(dom)[:3] == by_gain[:-4:-1]
    other = {q: of["PRODUCT"][q] - of["SFT"][q] for q in questions if q.startswith("unseen")}
    link = "#sort=gain&metric=plausibility&a=PRODUCT&split=unseen&page=2"
    dom, _ = opened(path, tmp_path, link)
    assert "26–40 of 40 questions" in dom
    assert cards(dom)[-1] == min(other, key=other.get)
    dom, _ = opened(path, tmp_path, "#sort=order&kind=ordering&q=CASE 1&split=test")
    assert cards(dom) == [f"test-{i:04d}" for i in (1, 13, 17)]


@needs_browser
def test_a_link_shows_one_question(run, tmp_path):
    path = write_report(*run, tmp_path / "report.html")
    dom, console = opened(path, tmp_path, "#id=test-0007&split=test")
    assert console == []
    assert cards(dom) == ["test-0007"]
    dom, _ = opened(path, tmp_path, "#id=test-00&split=test")
    assert cards(dom) == []  # a whole id, not a part of one


@needs_browser
def test_disagreement_sorts_by_spread_over_methods(run, tmp_path):
    results, attempts, questions = run
    path = write_report(results, attempts, questions, tmp_path / "report.html")
    dom, _ = opened(path, tmp_path, "#sort=disagreement&metric=accuracy&split=test")
    right = {}
    for method in SKILL:
        for a in attempts[method]:
            right.setdefault(a.question_id, []).append(a.prediction == a.gold)
    split = [min(sum(right[q]), len(right[q]) - sum(right[q])) for q in cards(dom)]
    assert split == sorted(split, reverse=True)
    assert split[0] == 2  # of five methods


def test_page_says_what_was_measured(run, tmp_path):
    page = write_report(*run, tmp_path / "new" / "report.html").read_text(encoding="utf-8")
    for section in (
        "Round by round",
        "Obedience",
        "Bin occupancy",
        "Training",
        "Reward against length",
    ):
        assert section in page
    assert "MaRio − SFT on 40 test questions, accuracy %: " in page
    assert "rationalize demo --seed 0" in page
    assert "leave bin 1, 2 of its pool empty" in page
    assert page.count("<svg") == 5 + 3 + 3 + 3 + 3
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"\b(nan|None)\b", page.split("<script>")[0])


def test_sections_without_data_say_why(run, tmp_path):
    results, attempts, questions = run
    bare = {**results, "rounds": [], "obedience": [], "bins": [], "training": [], "comparisons": []}
    only = {"direct": results["methods"]["direct"]}
    page = write_report(
        {**bare, "methods": only, "kinds": {}},
        {"direct": attempts["direct"]},
        questions,
        tmp_path / "r.html",
    ).read_text(encoding="utf-8")
    assert "<svg" not in page
    assert page.count('class="missing"') == 8  # seven sections and the browser's note on scripts
    assert "No control tokens were tried" in page


def test_a_page_of_many_questions_stays_small_and_counts_those_it_leaves_out(run, tmp_path):
    results, attempts, questions = run
    many = {
        f"{id}/{i}": replace(q, id=f"{id}/{i}") for i in range(13) for id, q in questions.items()
    }
    repeated = {
        method: [replace(a, question_id=f"{a.question_id}/{i}") for i in range(13) for a in own]
        for method, own in attempts.items()
    }
    path = write_report(results, repeated, many, tmp_path / "report.html")
    assert "The first 1000 questions; 40 more are in the run" in path.read_text(encoding="utf-8")
    assert path.stat().st_size < 2_000_000


def test_json_for_script_closes_nothing_and_comes_back():
    value = {"a": "</script><!--&\u2028\u2029", "b": [None, 1.5, "\ud800\x00"]}
    text = json_for_script(value)
    assert not set(text) & set("<>&\u2028\u2029")
    assert json.loads(text) == {"a": value["a"], "b": [None, 1.5, "\ufffd␀"]}


def test_warnings_name_what_a_reader_must_know():
    results, _, _ = fake_run(20)
    cell = results["methods"]["SFT"]["splits"]["test"]
    cell["metrics"]["parse_rate"]["mean"] = cell["stated"] = 0.42
    cell["distinct_rationales"] = 0.1
    results["bins"].append(
        {"method": "mario", "round": 9, "reward": "diversity", "counts": [99, 0, 1]}
    )
    text = "\n".join(warnings(results))
    assert "SFT on test: an answer could be read from only 42% of the replies" in text
    assert "SFT on test: only 10% of the rationales differ" in text
    assert text.count("questions only") == 2  # once a split, however many methods
    assert "test: 20 questions only" in text
    assert "answer (A), which" not in text
    cell["one_choice"] = {"label": "(A)", "share": 0.95, "right": 0.4}
    seen = "\n".join(warnings(results))
    assert "SFT on test: 95% of the replies answer (A), which is right 40% of the time" in seen
    assert "mario: 99% of the pool share one bin of diversity; its scores are too narrow" in text
    assert "mario: the plausibility token is not obeyed" not in text  # p = .01 in its last round


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-0.31, 0.33, [-0.2, 0, 0.2]),
        (0, 1234, [0, 250, 500, 750, 1000]),
    ],
)
def test_ticks_are_round_numbers(low, high, expected):
    assert ticks(low, high) == expected
