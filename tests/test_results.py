"""results.json: structure, the majority answer, tables for the terminal, several runs in one."""

import json
from dataclasses import replace

import pytest
from scipy import stats
from toys import attempt, question

from rationalize.errors import UserError
from rationalize.evaluation.baselines import BASE, MAJORITY, majority_attempts
from rationalize.evaluation.compare import compare_runs, final_attempts
from rationalize.evaluation.differences import is_significant
from rationalize.evaluation.intervals import bootstrap_mean, paired_difference
from rationalize.evaluation.metrics import metrics_of
from rationalize.evaluation.results import (
    merge_log,
    one_choice,
    read_questions,
    round_rows,
    save_questions,
    summarise,
)
from rationalize.evaluation.tables import format_table, show, splits_of, table
from rationalize.records import Question
from rationalize.report import write_report
from rationalize.runs import Run
from tests.result_toys import QUESTIONS, REWARDS, Spec, attempts_of

SFT = {"test": {0: attempts_of("SFT", (0, 1, 2, 3)), 1: attempts_of("SFT", (0, 1), seed=1)}}
MARIO = {"test": {0: attempts_of("MaRio", (0,), consistency=0.4)}}


def test_the_structure_of_results():
    results = summarise({"SFT": SFT, "MaRio": MARIO}, QUESTIONS, REWARDS, meta={"model": "m"})
    json.dumps(results, allow_nan=False)
    cell = results["methods"]["SFT"]["splits"]["test"]
    assert list(cell["metrics"]) == [
        "accuracy", "stated_accuracy", "nrg", "consistency", "diversity", "parse_rate", "length",
        "truncated",
    ]  # fmt: skip
    accuracy = cell["metrics"]["accuracy"]
    expected = bootstrap_mean([0, 0, 0.5, 0.5] + [1] * 8)  # seeds averaged inside a question
    assert (accuracy["mean"], accuracy["low"], accuracy["high"]) == (
        expected.mean, expected.low, expected.high,
    )  # fmt: skip
    assert accuracy["seeds"] == [pytest.approx(8 / 12), pytest.approx(10 / 12)]
    assert accuracy["n"] == 12
    assert cell["seeds"] == [0, 1]
    assert cell["metrics"]["nrg"]["mean"] == pytest.approx(100 * (0.75 + 0.6 + 1) / 3)
    assert results["metrics"]["consistency"]["low"] == -1
    assert results["metrics"]["length"]["high"] is None
    assert results["meta"] == {"model": "m"}


def test_comparisons_are_paired_and_default_to_the_last_method():
    twice = [attempts_of("MaRio", (0,), consistency=0.4, seed=seed) for seed in (0, 1)]
    mario = {"test": dict(enumerate(twice))}
    results = summarise({"SFT": SFT, "MaRio": mario}, QUESTIONS, REWARDS)
    by_metric = {c["metric"]: c for c in results["comparisons"]}
    assert {(c["a"], c["b"]) for c in results["comparisons"]} == {("MaRio", "SFT")}
    expected = paired_difference([0] + [1] * 11, [0, 0, 0.5, 0.5] + [1] * 8)
    assert by_metric["accuracy"] == {
        "a": "MaRio", "b": "SFT", "split": "test", "metric": "accuracy", "mean": expected.mean,
        "low": expected.low, "high": expected.high, "p": expected.p, "n": 12, "test": "sign-flip",
        "seeds": [[0, 1], [0, 1]],
        "p_holm": 2 * expected.p, "tests": 4,  # smaller: NRG's and consistency's; diversity's is 1
        "by_seed": [pytest.approx(0.25), pytest.approx(1 / 12)],
        "p_seeds": pytest.approx(stats.ttest_1samp([0.25, 1 / 12], 0).pvalue),
    }  # fmt: skip
    assert by_metric["consistency"]["mean"] == pytest.approx(0.2)
    back = summarise({"SFT": SFT, "MaRio": mario}, QUESTIONS, REWARDS, pairs=[("SFT", "MaRio")])
    assert back["comparisons"][0]["mean"] == -expected.mean
    with pytest.raises(ValueError, match="cannot compare 'MARIO'"):
        summarise({"SFT": SFT}, QUESTIONS, pairs=[("MARIO", "SFT")])


def test_accuracy_of_one_reply_each_is_mcnemars_test():
    one = {"test": {0: SFT["test"][0]}}
    results = summarise({"SFT": one, "MaRio": MARIO}, QUESTIONS, REWARDS)
    row = results["comparisons"][0]
    assert (row["metric"], row["test"]) == ("accuracy", "mcnemar")
    assert (row["only_a"], row["only_b"], row["p"]) == (3, 0, 0.25)  # 2 * 1/8
    assert {c["test"] for c in results["comparisons"][1:]} == {"sign-flip"}


def test_p_is_corrected_over_all_pairs_of_a_split_and_diagnostics_apart():
    methods = {
        name: {"test": {0: attempts_of(name, range(n))}} for name, n in zip("ABC", (9, 3, 0))
    }
    methods |= {"C": {**methods["C"], "dev": {0: attempts_of("C", split="dev")}}}
    methods["A"]["dev"] = {0: attempts_of("A", (0,), split="dev")}
    results = summarise(methods, QUESTIONS, REWARDS, pairs=[("C", "A"), ("C", "B"), ("B", "A")])
    rows = {(c["a"], c["b"], c["split"], c["metric"]): c for c in results["comparisons"]}
    accuracy = [rows[a, b, "test", "accuracy"] for a, b in ("CA", "CB", "BA")]
    assert [row["p"] for row in accuracy] == [2 / 2**9, 2 / 2**3, 2 / 2**6]
    # twelve tests count: three pairs by accuracy, NRG (the same p), consistency, diversity (p = 1)
    assert [row["tests"] for row in accuracy] == [12, 12, 12]
    assert accuracy[0]["p_holm"] == 12 * 2 / 2**9
    assert accuracy[2]["p_holm"] == pytest.approx(10 * 2 / 2**6)
    assert [is_significant(row) for row in accuracy] == [True, False, False]
    assert rows["C", "A", "test", "parse_rate"]["tests"] == 12
    assert rows["C", "A", "dev", "accuracy"]["tests"] == 4
    text = format_table(results, "test")
    assert "p/Holm's p[/over seeds] (* without 0, Holm's p < .05)" in text
    assert "+75.0 [+50.0, +100.0] .004/.047*" in text
    assert ".031/.312" in text


def test_accuracy_by_kind():
    kinds = summarise({"SFT": SFT}, QUESTIONS, REWARDS)["kinds"]["SFT"]["test"]
    assert kinds["a"]["mean"] == pytest.approx(4.5 / 6)
    assert (kinds["a"]["n"], kinds["b"]["n"]) == (6, 6)


def test_undefined_diagnostics_are_left_out_of_means_and_differences():
    told = [Spec("told", (-1, 1))]

    def written(method, seed, defined):
        attempts = attempts_of(method)
        scores = [float(i % 2) if i in defined else None for i in range(12)]
        return [
            replace(a, seed=seed).scored({"told": s}) for a, s in zip(attempts, scores, strict=True)
        ]

    both = {0: written("SFT", 0, {0, 1}), 1: written("SFT", 1, {1, 2, 3})}
    one = {0: written("MaRio", 0, {1, 4})}
    none = {0: written("none", 0, set())}
    evaluated = {"none": {"test": none}, "MaRio": {"test": one}, "SFT": {"test": both}}
    results = summarise(evaluated, QUESTIONS, [], told)
    of = {m: e["splits"]["test"] for m, e in results["methods"].items()}
    row = of["SFT"]["metrics"]["told"]
    assert (row["mean"], row["n"], row["seeds"]) == (0.5, 4, [0.5, pytest.approx(2 / 3)])
    assert "told" not in of["none"]["metrics"]
    assert of["none"]["undefined"]["told"] == 1.0
    [row] = [r for r in results["comparisons"] if r["metric"] == "told"]
    assert (row["a"], row["b"], row["n"], row["mean"]) == ("SFT", "MaRio", 1, 0.0)


def test_an_undefined_score_counts_as_worst_and_is_reported():
    attempts = attempts_of("SFT")
    attempts[:3] = [a.scored({"consistency": None}) for a in attempts[:3]]
    cell = summarise({"SFT": {"test": {0: attempts}}}, QUESTIONS, REWARDS)["methods"]["SFT"][
        "splits"
    ]["test"]
    assert cell["metrics"]["consistency"]["mean"] == pytest.approx((3 * -1 + 9 * 0.2) / 12)
    assert cell["undefined"] == {"consistency": 0.25}


def test_methods_are_compared_on_the_questions_that_both_answered():
    few = dict(list(QUESTIONS.items())[:9])
    other = {"MaRio": {"test": {0: attempts_of("MaRio", questions=few)}}}
    results = summarise({"SFT": SFT, **other}, QUESTIONS)
    assert {row["n"] for row in results["comparisons"]} == {9}
    of_sft = results["methods"]["SFT"]["splits"]["test"]["metrics"]["accuracy"]
    assert of_sft["n"] == 12
    assert results["notes"] == [
        "MaRio and SFT on test: compared on the 9 questions that both answered, of 9 and 12."
    ]


def test_other_questions_are_an_error():
    few = dict(list(QUESTIONS.items())[:9])
    rest = {id: q for id, q in QUESTIONS.items() if id not in few}
    of_rest = {"MaRio": {"test": {0: attempts_of("MaRio", questions=rest)}}}
    of_few = {"SFT": {"test": {0: attempts_of("SFT", questions=few)}}}
    with pytest.raises(UserError, match="MaRio and SFT answered no question in common on test"):
        summarise({**of_few, **of_rest}, QUESTIONS)
    with pytest.raises(UserError, match="3 attempts answer questions that were not given"):
        summarise({"SFT": {"test": {0: attempts_of("SFT")}}}, few)
    with pytest.raises(UserError, match="SFT on test: there is no attempt"):
        summarise({"SFT": {"test": {0: []}}}, QUESTIONS)


def test_majority_answer_follows_the_text_or_the_position_that_is_right_most_often():
    asked = list(QUESTIONS.values())
    right = [a.prediction == a.gold for a in majority_attempts(asked, asked, split="test")]
    assert sum(right) == 8  # of 12, all "y"
    by_position = [Question(str(i), "?", f"t{i}", (f"n{i}", f"t{i}")) for i in range(5)]
    assert all(
        a.prediction == a.gold for a in majority_attempts(by_position, by_position, split="test")
    )
    [short] = majority_attempts(by_position, [Question("s", "?", "u", ("u",))], split="test")
    assert short.prediction is None  # no second choice: wrong, not an error
    results = summarise(
        {MAJORITY: {"test": {0: majority_attempts(asked, asked, split="test")}}}, QUESTIONS, REWARDS
    )
    assert list(results["methods"][MAJORITY]["splits"]["test"]["metrics"]) == [
        "accuracy",
        "stated_accuracy",
        "parse_rate",
    ]


def test_the_log_fills_the_sections():
    results = summarise({"SFT": SFT}, QUESTIONS, REWARDS)
    lines = [
        {"stage": "sft", "step": 0, "loss": 2.0, "grad_norm": None},
        {"stage": "mario/bins", "step": 0, "round": 0, "reward": "diversity", "counts": [3, 0]},
        {"stage": "mario/rounds", "step": 9, "round": 1, "reward": "nrg", "mean": 60.0},
        {
            "stage": "mario/obedience",
            "step": 9,
            "round": 1,
            "reward": "nrg",
            "bin": 0,
            "mean": 60.0,
        },
        {"stage": "sft-note", "step": 1, "seconds": 3},
    ]
    merge_log(results, lines, seed=1)
    assert results["training"] == [{"stage": "sft", "step": 0, "loss": 2.0, "seed": 1}]
    [bins] = results["bins"]
    assert bins == {
        "method": "mario", "step": 0, "round": 0, "reward": "diversity", "counts": [3, 0],
        "seed": 1,
    }  # fmt: skip
    assert results["rounds"][0]["method"] == results["obedience"][0]["method"] == "mario"


def test_round_rows_hold_an_interval_per_metric():
    rows = round_rows(
        attempts_of("mario", (0, 1, 2)), QUESTIONS, metrics_of(REWARDS), round=2, split="dev"
    )
    assert rows[0]["reward"] == "accuracy"
    assert rows[0]["mean"] == 0.75
    assert rows[0]["low"] < 0.75 < rows[0]["high"]
    assert {r["round"] for r in rows} == {2}
    # values that are all equal have the rule of three's interval, as in a run's results
    right = attempts_of("mario")
    same = round_rows(right, QUESTIONS, metrics_of(REWARDS), round=2, split="dev")[0]
    assert (same["mean"], same["low"], same["high"]) == (1.0, pytest.approx(1 - 3 / 12), 1.0)


def test_the_terminal_table():
    results = summarise({"SFT": SFT, "MaRio": MARIO}, QUESTIONS, REWARDS)
    rows = table(results, "test")
    assert rows[0][:5] == ["", "n", "accuracy %", "stated accuracy %", "NRG"]
    assert rows[1][:3] == ["SFT", "12", "75.0 [50.0, 95.8]"]
    text = format_table(results, "test", width=90)
    assert max(map(len, text.splitlines())) <= 90
    assert "MaRio − SFT" in text
    assert "+0.200 [−0.350, +0.650] <.001/.002" in text  # twelve times .2: the rule of three's
    assert splits_of(results) == ["test"]


@pytest.mark.parametrize(
    ("value", "fact", "sign", "text"),
    [
        (0.6204, {"percent": True}, False, "62.0"),
        (-0.00004, {"low": 0, "high": 1}, True, "0.000"),
        (-0.25, {"low": -1, "high": 1}, True, "−0.250"),
        (61.28, {"low": 0, "high": 100}, True, "+61.3"),
        (-3.456, {"low": None, "high": 0}, False, "−3.46"),
        (None, {}, False, "–"),
    ],
)
def test_numbers_are_shown_as_their_metric_is_read(value, fact, sign, text):
    assert show(value, fact, sign=sign) == text


_NAMES = str.maketrans(" ,", "__")


def finished(path, methods, config, questions=QUESTIONS):
    """A run as evaluation leaves it."""
    with Run.open(path, config) as run:
        for method, splits in methods.items():
            for split, seeds in splits.items():
                for seed, attempts in seeds.items():
                    run.append(attempts, f"{method}-{split}-{seed}".translate(_NAMES))
        run.append([replace(a, writer="policy") for a in attempts_of("x", range(12))], "rollouts")
        save_questions(run, questions.values())
        run.log("sft", 0, loss=1.5)
        seeds = sorted({s for splits in methods.values() for of in splits.values() for s in of})
        results = summarise(methods, questions, REWARDS, meta={"seeds": seeds, "model": "m"})
        run.write_json("results.json", results)
    return path


def seeded(seed, wrong):
    majority = majority_attempts(QUESTIONS.values(), list(QUESTIONS.values()), split="test")
    return {
        MAJORITY: {"test": {0: majority}},
        "SFT": {"test": {seed: attempts_of("SFT", (0, 1, 2), seed=seed)}},
        "MaRio": {"test": {seed: attempts_of("MaRio", wrong, seed=seed)}},
    }


def test_questions_come_back_from_a_run(tmp_path):
    path = finished(tmp_path / "run", seeded(0, (0,)), {"seed": 0})
    assert read_questions(Run.read(path)) == QUESTIONS


def test_runs_that_differ_in_their_seed_are_seeds_of_one_method(tmp_path):
    one = finished(tmp_path / "a", seeded(0, (0,)), {"method": "mario", "seed": 0})
    two = finished(tmp_path / "b", seeded(1, (0, 1)), {"method": "mario", "seed": 1})
    results, attempts, questions = compare_runs([one, two])
    assert list(results["methods"]) == [MAJORITY, "SFT", "MaRio"]
    row = results["methods"]["MaRio"]["splits"]["test"]["metrics"]["accuracy"]
    assert row["seeds"] == [pytest.approx(11 / 12), pytest.approx(10 / 12)]
    assert len(attempts["MaRio"]) == 24
    assert len(attempts[MAJORITY]) == 12
    assert questions == QUESTIONS
    assert results["meta"]["seeds"] == [0, 1]
    assert [r["run"] for r in results["training"]] == ["a", "b"]
    assert write_report(results, attempts, questions, tmp_path / "report.html").exists()


def test_seeds_of_one_demo_may_lie_in_several_runs(tmp_path):
    """What each trained under the same seed and wrote alike is one row, with one seed."""
    both = []
    for seed, wrong in ((1, (0,)), (2, (0, 1))):
        rows = {**seeded(seed, wrong), "direct": {"test": {0: attempts_of("direct", (3,), seed=0)}}}
        both.append(finished(tmp_path / str(seed), rows, {"seed": 0, "seeds": [seed]}))
    results, attempts, _ = compare_runs(both)
    assert list(results["methods"]) == [MAJORITY, "SFT", "MaRio", "direct"]
    assert len(results["methods"]["MaRio"]["splits"]["test"]["metrics"]["accuracy"]["seeds"]) == 2
    assert len(attempts["direct"]) == 12
    other = {**seeded(3, (0,)), "direct": {"test": {0: attempts_of("direct", (4,), seed=0)}}}
    third = finished(tmp_path / "3", other, {"seed": 0, "seeds": [3]})
    results, _, _ = compare_runs([both[0], third])
    assert list(results["methods"]) == [MAJORITY, "SFT", "MaRio", "direct (1)", "direct (3)"]


def test_the_base_models_row_is_one_where_it_wrote_alike(tmp_path):
    runs = []
    for name, wrong in (("a", (1, 2)), ("b", (1, 2)), ("c", (1,))):
        rows = {**seeded(0, (0,)), BASE: {"test": {0: attempts_of(BASE, wrong)}}}
        runs.append(finished(tmp_path / name, rows, {"beta": name}))
    assert BASE in compare_runs(runs[:2])[0]["methods"]
    assert {f"{BASE} (a)", f"{BASE} (c)"} <= set(compare_runs(runs[::2])[0]["methods"])


def test_runs_of_other_configurations_stand_side_by_side(tmp_path):
    one = finished(tmp_path / "a", seeded(0, (0,)), {"beta": 0.1, "seed": 0})
    two = finished(tmp_path / "b", seeded(0, (0, 1, 2, 3)), {"beta": 0.2, "seed": 0})
    results, _, _ = compare_runs([one, two])
    assert list(results["methods"]) == [MAJORITY, "SFT (a)", "MaRio (a)", "SFT (b)", "MaRio (b)"]
    [row] = [
        c for c in results["comparisons"] if c["b"] == "MaRio (a)" and c["metric"] == "accuracy"
    ]
    assert row["a"] == "MaRio (b)"
    assert row["mean"] == pytest.approx(-3 / 12)


def test_a_run_alone_gives_its_own_results_again(tmp_path):
    path = finished(tmp_path / "a", seeded(0, (0,)), {"seed": 0})
    results, _, _ = compare_runs([path])
    stored = Run.read(path).read_json("results.json")
    assert results["methods"] == stored["methods"]
    assert results["comparisons"] == stored["comparisons"]


def test_runs_that_cannot_be_compared_say_why(tmp_path):
    one = finished(tmp_path / "a", seeded(0, (0,)), {"seed": 0})
    other = {k: replace(q, question="Something else?") for k, q in QUESTIONS.items()}
    two = finished(tmp_path / "b", seeded(0, (0,)), {"seed": 0}, other)
    with pytest.raises(UserError, match="b: question 'q0' is another one"):
        compare_runs([one, two])
    with Run.open(tmp_path / "c", {"seed": 0}):
        pass
    with pytest.raises(UserError, match=r"no results.json; expected a run that was evaluated"):
        compare_runs([one, tmp_path / "c"])


def test_a_majority_row_without_attempts_is_left_out(tmp_path):
    methods = seeded(0, (0,))
    stored = {m: splits for m, splits in methods.items() if m != MAJORITY}
    path = finished(tmp_path / "a", stored, {"seed": 0})
    with Run.open(path, {"seed": 0}) as run:
        run.write_json("results.json", summarise(methods, QUESTIONS, REWARDS))
    results, _, _ = compare_runs([path])
    assert list(results["methods"]) == ["SFT", "MaRio"]


def test_the_choice_that_is_always_answered():
    right = attempts_of("m")
    share = sum(q.answer == "y" for q in QUESTIONS.values()) / 12
    always = [replace(a, prediction="y") for a in right]
    assert one_choice(always, QUESTIONS) == {"label": "(B)", "share": 1.0, "right": share}
    assert one_choice([replace(a, prediction=None) for a in right], QUESTIONS) is None


def test_each_run_keeps_what_it_was_trained_on(tmp_path):
    paths = [
        finished(tmp_path / name, {"MaRio": {"test": {0: attempts_of("MaRio")}}}, {"steps": i})
        for i, name in enumerate(("one", "two"))
    ]
    for path, reward in zip(paths, ("diversity", "consistency"), strict=True):
        with Run.open(path, Run.read(path).config) as run:
            row = {"method": "MaRio", "stages": ["mario"], "rewards": [reward]}
            run.write_json("results.json", {**run.read_json("results.json"), "trained": [row]})
    results, attempts, _ = compare_runs(paths)
    assert [(r["method"], r["run"], r["rewards"]) for r in results["trained"]] == [
        ("MaRio (one)", "one", ["diversity"]),
        ("MaRio (two)", "two", ["consistency"]),
    ]
    assert set(attempts) == {"MaRio (one)", "MaRio (two)"}


def test_rows_that_were_scored_again_are_read_once(tmp_path):
    seeds = {
        seed: [replace(a, id=a.question_id) for a in attempts_of("SFT", seed=seed)]
        for seed in (0, 1)
    }  # attempts' ids do not say their seed
    path = finished(tmp_path / "a", {"SFT": {"test": seeds}}, {})
    again = [a.scored({"utility": 0.5}) for a in seeds[0]]
    with Run.open(path, {}) as run:
        run.append(again, "judged-SFT-test-0")
    run = Run.read(path)
    seeds = final_attempts(run, run.read_json("results.json"))["SFT"]["test"]
    assert [len(seeds[seed]) for seed in (0, 1)] == [12, 12]
    assert {a.rewards["utility"] for a in seeds[0]} == {0.5}
    assert not any("utility" in a.rewards for a in seeds[1])


def test_attempts_of_a_seed_that_results_do_not_name_are_left_out(tmp_path):
    path = finished(tmp_path / "a", {"SFT": {"test": {0: attempts_of("SFT", seed=0)}}}, {})
    with Run.open(path, {}) as run:
        run.append(attempts_of("SFT", seed=5), "final-SFT-test-5")
    run = Run.read(path)
    assert set(final_attempts(run, run.read_json("results.json"))["SFT"]["test"]) == {0}


def test_methods_are_compared_over_the_seeds_that_both_have():
    """A gate that closes on one seed must not make another method's worse seed a gain."""
    questions = {f"q{i}": question(i) for i in range(8)}

    def answers(name, seed, right):
        said = "yes" if right else "no"
        return [attempt(q, "so", said, seed, writer=name, seed=seed) for q in questions.values()]

    methods = {
        "RFT": {"test": {0: answers("RFT", 0, False), 1: answers("RFT", 1, True)}},
        "PPO": {"test": {1: answers("PPO", 1, True)}},
        "other": {"test": {2: answers("other", 2, True)}},
        BASE: {"test": {0: answers(BASE, 0, False)}},
    }
    pairs = [("PPO", "RFT"), ("RFT", BASE), ("PPO", "other")]
    results = summarise(methods, questions, pairs=pairs)
    rows = {(c["a"], c["b"]): c for c in results["comparisons"] if c["metric"] == "accuracy"}
    assert rows["PPO", "RFT"]["mean"] == 0.0
    assert rows["PPO", "RFT"]["seeds"] == [[1], [1]]
    assert rows["RFT", BASE]["mean"] == 0.5  # no seed moves the base model
    assert rows["PPO", "other"]["mean"] == 0.0
    assert results["notes"] == [
        "PPO and other on test: no seed in common; compared over all seeds of each (1 and 2), "
        "without p over seeds.",
    ]


def test_methods_that_share_no_seed_are_compared_over_all_seeds_of_each():
    rows = {seed: attempts_of("m", range(n), seed=seed) for seed, n in enumerate((8, 2, 6, 4))}
    methods = {
        "MaRio": {"test": {0: rows[0], 1: rows[1]}},
        "SFT": {"test": {2: rows[2], 3: rows[3]}},
    }
    results = summarise(methods, QUESTIONS, pairs=[("MaRio", "SFT")])
    [row] = [c for c in results["comparisons"] if c["metric"] == "accuracy"]
    assert row["mean"] == pytest.approx(0.0)
    assert (row["seeds"], row.get("p_seeds")) == ([[0, 1], [2, 3]], None)
    assert results["notes"] == [
        "MaRio and SFT on test: no seed in common; compared over all seeds of each (0, 1 and "
        "2, 3), without p over seeds."
    ]


def test_a_base_row_that_compare_has_labelled_depends_on_no_seed(tmp_path):
    trained = {seed: attempts_of("MaRio", range(seed), seed=seed) for seed in range(3)}
    base = {BASE: {"test": {0: attempts_of(BASE, range(6))}}}
    one = finished(tmp_path / "r1", {**base, "MaRio": {"test": trained}}, {"steps": 1})
    other = {
        BASE: {"test": {0: attempts_of(BASE, range(7))}},
        "SFT": {"test": {0: attempts_of("SFT")}},
    }
    two = finished(tmp_path / "r2", other, {"steps": 2})
    means = []
    for runs, named in (([one], BASE), ([one, two], f"{BASE} (r1)")):
        results, _, _ = compare_runs(runs, pairs=[("MaRio", named)])
        [row] = [c for c in results["comparisons"] if c["metric"] == "accuracy"]
        means.append(row["mean"])
        assert (row["seeds"], "notes" in results) == ([[0, 1, 2], [0]], False)
    assert means == [pytest.approx(5 / 12)] * 2


def test_a_model_that_nobody_trained_is_compared_over_every_training_seed():
    methods = {
        "gpt": {"test": {0: attempts_of("gpt", range(6))}},
        "MaRio": {"test": {seed: attempts_of("MaRio", range(seed), seed=seed) for seed in (1, 2)}},
    }
    results = summarise(methods, QUESTIONS, untrained=["gpt"])
    [row] = [c for c in results["comparisons"] if c["metric"] == "accuracy"]
    assert (row["mean"], row["seeds"]) == (pytest.approx(4.5 / 12), [[1, 2], [0]])
    assert row["by_seed"] == [pytest.approx(5 / 12), pytest.approx(4 / 12)]
    assert "notes" not in results
