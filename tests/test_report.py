"""The report page: what it says and leaves out."""

import json
import re
from dataclasses import replace

import pytest

from rationalize.evaluation.verdicts import verdicts
from rationalize.evaluation.warnings import grouped, warnings
from rationalize.report import write_report
from rationalize.report.attempts import rollouts
from rationalize.report.charts import Point, Scale, Series, line_chart, ticks, within
from rationalize.report.learning import obedience
from rationalize.report.text import json_for_script
from tests.report_toys import around, fake_run


@pytest.fixture(scope="module")
def run():
    return fake_run()


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
    assert "MaRio and SFT cannot be told apart in accuracy: difference" in page
    assert "n = 40, Holm&#39;s p 1.000." in page
    assert "rationalize demo --seed 0" in page
    assert "leave bin 1, 2 of its pool empty" in page
    answers = 2 * (5 + 5)  # on two splits: accuracy, NRG, three rewards; differences and means
    assert page.count("<svg") == answers + 5 + 3 + 3 + 3 + 3
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"\b(nan|None)\b", page.split("<script>")[0])


def test_sections_without_data_are_left_out(run, tmp_path):
    results, attempts, questions = run
    bare = {**results, "rounds": [], "obedience": [], "bins": [], "training": [], "comparisons": []}
    only = {"direct": results["methods"]["direct"]}
    page = write_report(
        {**bare, "methods": only, "kinds": {}},
        {"direct": attempts["direct"]},
        questions,
        tmp_path / "r.html",
    ).read_text(encoding="utf-8")
    assert page.count("<svg") == 2  # the bars of accuracy
    assert re.findall(r'<section id="(.*?)">', page) == [
        "answers",
        "warnings",
        "results",
        "browser",
    ]
    assert "no data for them: leaderboard, chains, coalition, hacking, rounds, obedience" in page
    assert re.search(r"direct answers \d\d\.\d % of 40 test questions right \(", page)


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


def compared(a, b, mean, low, high, p, metric="accuracy", **more):
    return {"a": a, "b": b, "split": "test", "metric": metric, "mean": mean, "low": low,
            "high": high, "p": p, "p_holm": p, "n": 120, "tests": 6, **more}  # fmt: skip


def said(rows):
    facts = {
        "accuracy": {"low": 0.0, "high": 1.0, "role": "task", "percent": True},
        "nrg": {"low": 0.0, "high": 100.0, "role": "task", "percent": False},
        "diversity": {"low": 0.0, "high": 1.0, "role": "reward", "percent": False},
    }
    return [(v.status, v.text) for v in verdicts({"comparisons": rows, "metrics": facts}, "test")]


def test_verdicts_are_sentences():
    level = compared("MaRio", "SFT", -0.017, -0.108, 0.075, 0.9)
    nrg = compared("MaRio", "SFT", 4.25, 1.0, 7.5, 0.012, "nrg")
    assert said([level, nrg]) == [
        ("level", "MaRio and SFT cannot be told apart in accuracy: difference −1.7 points, −10.8 "
                  "to +7.5, n = 120, Holm's p .900."),
        ("above", "MaRio is above SFT in NRG: difference +4.2 points, +1.0 to +7.5, n = 120, "
                  "Holm's p .012."),
    ]  # fmt: skip


def test_verdicts_join_baselines_only_where_all_agree():
    floor = [
        compared("SFT", name, mean, mean - 0.1, mean + 0.1, 0.001)
        for name, mean in (("majority answer", 0.4), ("base, few-shot", 0.3))
    ]
    [(status, text)] = said(floor)
    assert status == "above"
    assert text.startswith(
        "SFT is above every baseline (majority answer; base, few-shot) in accuracy: the closest is "
        "base, few-shot, difference +30.0 points"
    )
    lost = compared("SFT", "base, zero-shot", -0.3, -0.4, -0.2, 0.001)
    assert [status for status, _ in said([*floor, lost])] == ["above", "above", "below"]


def test_comparisons_that_come_to_the_same_share_a_sentence():
    level = [
        compared("COALITION", b, mean, mean - 0.1, mean + 0.1, 0.5)
        for b, mean in (("fixed", 0.02), ("random", -0.05), ("SFT", 0.12), ("one", 0.0))
    ]
    above = compared("COALITION", "direct", 0.3, 0.2, 0.4, 0.001)
    rewards = [{**row, "metric": "diversity", "low": -1.0} for row in level]
    assert said([*level, above, *rewards]) == [
        ("level", "COALITION cannot be told apart in accuracy from fixed; random; SFT; one (once "
                  "corrected for 6 tests: SFT): the farthest is SFT, difference +12.0 points, +2.0 "
                  "to +22.0, n = 120, Holm's p .500."),
        ("above", "COALITION is above direct in accuracy: difference +30.0 points, +20.0 to +40.0, "
                  "n = 120, Holm's p .001."),
        ("level", "COALITION cannot be told apart in any single reward (diversity) from fixed; "
                  "random; SFT; one."),
    ]  # fmt: skip
    assert len(said(level[:3])) == 3
    learners = [{**row, "a": row["b"], "b": "RFT"} for row in level]
    assert said(learners) == [
        ("level", "None of fixed; random; SFT; one can be told apart in accuracy from RFT (once "
                  "corrected for 6 tests: SFT): the farthest is SFT, difference +12.0 points, +2.0 "
                  "to +22.0, n = 120, Holm's p .500."),
    ]  # fmt: skip
    [(_, text)] = said([{**row, "p_holm": 0.01, "low": 0.01, "mean": 0.2} for row in learners])
    assert text.startswith(
        "fixed; random; SFT; one are above RFT in accuracy: the closest is fixed"
    )


def test_verdicts_say_what_correction_seeds_and_readings_change():
    row = compared("A", "B", 0.1, 0.01, 0.19, 0.02, by_seed=[0.1, 0.2], p_seeds=0.3)
    [(status, text)] = said([{**row, "p_holm": 0.12, "readings": ["accuracy", "stated_accuracy"]}])
    assert status == "level"
    assert "cannot be told apart in accuracy once corrected for 6 tests" in text
    assert "p over 2 seeds .300; of a model that was not trained here, any stated answer" in text
    gain = compared("A", "B", 0.1, 0.05, 0.2, 0.001, "diversity")
    assert said([gain])[-1] == (
        "above",
        "In single rewards A, compared with B, is above in diversity (+0.100 [+0.050, +0.200]).",
    )


def test_questions_without_signal_are_drawn_as_a_share():
    rows = [
        {"method": "grpo-0", "step": step, "questions": 4, "without_signal": count}
        for step, count in enumerate((4, 2, 1))
    ]
    [chart] = rollouts(rows)["charts"]
    assert chart["title"] == "questions without signal %"
    ticks = re.findall(r">(\d+)</text>", str(chart["svg"]))
    assert "100" in ticks
    assert max(map(int, ticks)) == 100


def test_warnings_are_grouped_worst_first_and_baselines_last():
    results, _, _ = fake_run(60)
    splits = results["methods"]["SFT"]["splits"]
    for cell in splits.values():
        cell["one_choice"] = {"label": "(A)", "share": 0.95, "right": 0.4}
    results["methods"]["base, zero-shot"] = {"splits": {"test": {**splits["test"]}}}
    results["notes"] = ["a note"]
    groups = grouped(results)
    assert [title for title, _ in groups] == [
        "Answers do not follow the rationales",
        "Control tokens of empty bins",
        "Baselines",
        "Notes",
    ]
    assert [len(texts) for _, texts in groups] == [2, 1, 1, 1]


def test_axes_stay_within_what_is_possible():
    points = [Point(0.0, 1.0), Point(1.0, 1.0)]
    chart = line_chart(
        [Series("a", points, "red")], label="", x_label="round", scale=Scale(0, 1, percent=True)
    )
    shown = [float(n) for n in re.findall(r'text-anchor="end">([\d.]+)<', chart)]
    assert shown
    assert max(shown) == 100
    assert within(-0.4, 1.4, Scale(0.0, 1.0), 0.2, 1.2) == (0.0, 1.2)  # a value outside shows


def test_an_empty_bin_does_not_move_the_worst_one():
    rows = [
        {"method": "m", "reward": "diversity", "bin": b, "bins": 2, "round": 1, "split": "dev",
         **around(0.5, 0.1)}
        for b in (0, 2)
    ]  # fmt: skip
    [chart] = obedience(rows, {})["charts"]
    names = dict(
        re.findall(r'<text x="([\d.]+)" y="199.0" text-anchor="middle">(\w+)<', chart["svg"])
    )
    assert list(names.values()) == ["best", "1", "worst"]
    dots = re.search(r'<path d="M([\d.]+) [\d.]+h0M([\d.]+) [\d.]+h0', chart["svg"]).groups()
    assert [names[x] for x in dots] == ["best", "worst"]
