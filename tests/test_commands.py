"""Commands beside train and demo: what they write, and what a wrong file or flag says."""

from __future__ import annotations

import json
import os
import re
from importlib.util import find_spec
from types import SimpleNamespace

import pytest

from rationalize.cli import main
from rationalize.commands.rationale_file import RationaleFile
from rationalize.commands.resolve import bins_of, load
from rationalize.commands.resumable_file import (
    begin,
    end,
    partial_folder,
    shards_of,
    work_folder,
)
from rationalize.commands.score import score_rows
from rationalize.errors import UsageError, UserError
from rationalize.models.control import ControlTokens
from rationalize.questions import BadRows, builtin_questions, load_questions, load_splits
from rationalize.runs import Run, Stage

BRICK = {
    "question": "Which sinks?",
    "choices": ["brick", "cork"],
    "answer": "brick",
    "rationale": "A brick is heavy",
    "prediction": "brick",
    "note": {"by": ["me"]},
}


def write(path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def read(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_score_keeps_every_field_and_adds_rewards(tmp_path, capsys):
    rows = [
        {**BRICK, "rewards": {"human": 4}},
        {**BRICK, "prediction": "cork"},
        {**BRICK, "prediction": None},
        {"question": "2+2?", "answer": "4", "completion": "Two and two. So the answer is 4."},
    ]
    file = write(tmp_path / "in.jsonl", rows)
    out = tmp_path / "made" / "out.jsonl"
    assert main(["score", file, "--rewards", "correctness,length", "--out", str(out)]) == 0
    scored = read(out)
    assert [r["rewards"].pop("correctness") for r in scored] == [1.0, 0.0, 0.0, 1.0]
    assert [r["rewards"].pop("length") for r in scored] == [4.0, 4.0, 4.0, 3.0]
    assert scored[0]["rewards"] == {"human": 4}
    assert [{k: v for k, v in r.items() if k != "rewards"} for r in scored] == [
        {k: v for k, v in r.items() if k != "rewards"} for r in rows
    ]
    assert "correctness" in capsys.readouterr().out


def test_score_finds_questions_elsewhere_and_maps_columns(tmp_path):
    questions = write(tmp_path / "q.jsonl", [{"id": "q1", **BRICK, "rationale": None}])
    file = write(tmp_path / "in.jsonl", [{"key": "q1", "why": "Heavy.", "said": "(A)"}])
    out = tmp_path / "out.jsonl"
    columns = ["question_id=key", "rationale=why", "prediction=said"]
    flags = ["--questions", questions, "--columns", *columns, "--out", str(out)]
    assert main(["score", file, *flags]) == 0
    assert read(out)[0]["rewards"] == {"correctness": 1.0, "diversity": 1.0}


def test_a_rationale_without_a_prediction_is_no_wrong_answer(tmp_path, capsys):
    row = {**{k: v for k, v in BRICK.items() if k != "prediction"}, "predicted": "brick"}
    file, out = write(tmp_path / "in.jsonl", [row]), str(tmp_path / "out.jsonl")
    assert main(["score", file, "--out", out]) == 1
    message = capsys.readouterr().err
    assert "line 1: found no 'prediction', which correctness reads" in message
    assert "here perhaps --columns prediction=predicted" in message
    with pytest.raises(BadRows, match="row 1: found no 'prediction'"):
        score_rows([row], ["correctness"])
    assert score_rows([row], ["length"])[0]["rewards"] == {"length": 4.0}
    assert main(["score", file, "--columns", "prediction=predicted", "--out", out]) == 0
    assert read(tmp_path / "out.jsonl")[0]["rewards"]["correctness"] == 1.0


def test_bad_rows_are_listed_or_left_out_and_written_down(tmp_path, capsys):
    file = tmp_path / "in.jsonl"
    bad = [
        b"\xff\n",
        b"{\n",
        b"[1]\n",
        json.dumps({"rationale": "x"}).encode() + b"\n",
        json.dumps({"question": "q"}).encode() + b"\n",
        json.dumps({**BRICK, "answer": "stone"}).encode() + b"\n",
        json.dumps({**BRICK, "choices": "brick"}).encode() + b"\n",
        json.dumps({**BRICK, "rationale": 3}).encode() + b"\n",
        json.dumps({**BRICK, "rewards": 3}).encode() + b"\n",
    ]
    file.write_bytes(b"".join([json.dumps(BRICK).encode(), b"\n", *bad]))
    out, left = tmp_path / "out.jsonl", tmp_path / "left.jsonl"
    assert main(["score", str(file), "--out", str(out)]) == 1
    message = capsys.readouterr().err
    assert not out.exists()
    for part in [
        "9 bad rows",
        "line 2: found a byte that is not UTF-8",
        "line 3: found broken JSON",
    ]:
        assert part in message
    assert "line 7: found answer = 'stone'; expected one of the choices" in message
    assert main(["score", str(file), "--out", str(out), "--skip-bad-rows", str(left)]) == 0
    assert (len(read(out)), len(read(left))) == (1, 9)


def test_rows_are_skipped_wherever_the_flag_is_named(tiny, tmp_path, capsys):
    asked = [{**BRICK, "id": f"q{i}", "question": f"Which of {i} sinks?"} for i in range(3)]
    bad = write(tmp_path / "bad.jsonl", [*asked, {"question": "?"}])
    good = write(tmp_path / "rs.jsonl", [{"id": "q1", "rationale": "x", "prediction": "brick"}])
    other = write(tmp_path / "other.jsonl", [{**BRICK, "id": "z"}])
    skip = ["--skip-bad-rows", str(tmp_path / "left.jsonl")]
    evaluate = ["evaluate", "--model", tiny, "--questions", other, "--max-new-tokens", "2"]
    for argv in (
        ["score", good, "--questions", bad, "--out", str(tmp_path / "out.jsonl")],
        [*evaluate, "--train", bad, "--out", str(tmp_path / "run")],
    ):
        capsys.readouterr()
        assert main(argv) == 1
        assert "or skip them with --skip-bad-rows FILE" in capsys.readouterr().err
        assert main([*argv, *skip]) == 0
    for argv in (
        ["check-rewards", "length", "--questions", bad],
        ["check-rewards", "length", "--people", bad],
        ["study", "new", str(tmp_path / "s"), "--sources", bad, other],
    ):
        assert main(argv) == 1
        message = capsys.readouterr().err
        assert "bad row" in message
        assert "--skip-bad-rows" not in message


def test_one_id_is_one_question(tmp_path):
    rows = [
        {**BRICK, "question_id": "1"},
        {**BRICK, "question_id": "1", "question": "Which swims?"},
    ]
    write(tmp_path / "in.jsonl", rows)
    with pytest.raises(BadRows, match=r"line 2: found question '1' with another text than before"):
        RationaleFile(tmp_path / "in.jsonl", {}).check(None)


@pytest.mark.parametrize(
    ("argv", "status", "message"),
    [
        (["--rewards", "divrsity"], 2, "did you mean 'diversity'"),
        (["--columns", "rational=x"], 2, "unknown field 'rational'; did you mean 'rationale'"),
        (["--rewards", "plausibility"], 1, "needs a verifier"),
        (["--questions", "nowhere"], 1, "nowhere: no such file"),
    ],
)
def test_what_a_wrong_call_of_score_says(tmp_path, capsys, argv, status, message):
    file = write(tmp_path / "in.jsonl", [BRICK])
    assert main(["score", file, *argv, "--out", str(tmp_path / "out.jsonl")]) == status
    assert message in capsys.readouterr().err


def test_score_says_when_there_is_no_file(tmp_path, capsys):
    assert main(["score", str(tmp_path / "no.jsonl")]) == 1
    assert "no.jsonl: no such file" in capsys.readouterr().err


def test_check_rewards_tests_what_needs_no_scorer(tmp_path, capsys):
    out = tmp_path / "checks.json"
    assert main(["check-rewards", "--limit", "8", "--out", str(out)]) == 0
    assert "suspicious: " in capsys.readouterr().out
    tested = {row["reward"] for row in json.loads(out.read_text())}
    assert {"correctness", "diversity", "length"} <= tested
    assert not tested & {"consistency", "plausibility", "fluency"}
    assert main(["check-rewards", "diversity,length", "--limit", "8"]) == 0


def test_control_names_bins():
    policy = SimpleNamespace(name="m", controls=ControlTokens({"diversity": 5, "correctness": 2}))
    assert bins_of({}, policy) == {"diversity": 0, "correctness": 0}
    assert bins_of({"diversity": "worst"}, policy) == {"diversity": 4, "correctness": 0}
    assert bins_of({"diversity": "3", "correctness": "best"}, policy) == {
        "diversity": 3,
        "correctness": 0,
    }
    assert bins_of({"diversity": "random"}, policy) == {
        "diversity": (0, 1, 2, 3, 4),
        "correctness": 0,
    }
    with pytest.raises(UsageError, match="number from 0 \\(best\\) to 4"):
        bins_of({"diversity": "5"}, policy)
    with pytest.raises(UsageError, match="did you mean 'diversity'"):
        bins_of({"divers": "best"}, policy)
    bare = SimpleNamespace(name="m", controls=None)
    assert bins_of({}, bare) is None
    with pytest.raises(UsageError, match="has no control tokens"):
        bins_of({"diversity": "best"}, bare)


def test_a_run_without_a_model_says_so(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    with pytest.raises(UserError, match="has no model/ yet"):
        load(str(tmp_path))


def test_an_unfinished_file_goes_on_and_refuses_other_settings(tmp_path):
    out = tmp_path / "a.jsonl"
    with work_folder(out) as folder:
        begin(folder, {"seed": 0})
        (folder / "shards").mkdir()
        (folder / "shards" / "0.json").write_text("[]")
    with work_folder(out) as folder:
        begin(folder, {"seed": 0})
        assert len(shards_of(folder)) == 1
        with pytest.raises(UserError, match="other settings"):
            begin(folder, {"seed": 1})
        end(folder)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> str:
    from tests.tiny import tiny_folder

    return str(tiny_folder("decoder", tmp_path_factory.mktemp("tiny") / "tiny"))


QUICK = ["--limit", "6", "--max-new-tokens", "4", "--questions", "builtin"]


def test_sample_goes_on_after_a_stop_to_the_same_file(tiny, tmp_path, monkeypatch):
    whole, stopped = tmp_path / "whole.jsonl", tmp_path / "stopped.jsonl"
    flags = ["sample", "--model", tiny, "--questions", "builtin", "--limit", "132",
             "--max-new-tokens", "2", "--shots", "1"]  # fmt: skip
    assert main([*flags, "--out", str(whole)]) == 0
    assert len(read(whole)) == 132

    def replace(source, target, real=os.replace):
        if "0000-000002" in str(target):  # two shards of 64 are stored
            raise KeyboardInterrupt
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        assert main([*flags, "--out", str(stopped)]) == 130
    assert not stopped.exists()
    assert len(shards_of(partial_folder(stopped))) == 2
    assert main([*flags, "--out", str(stopped)]) == 0
    assert read(stopped) == read(whole)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["stopped.jsonl", "whole.jsonl"]


@pytest.mark.skipif(find_spec("ray") is not None, reason="the extra `ray` is installed")
def test_without_the_extra_ray_the_executor_is_refused(tiny, tmp_path, capsys):
    flags = ["sample", "--model", tiny, *QUICK, "--out", str(tmp_path / "a"), "--executor", "ray"]
    assert main(flags) == 1
    assert "pip install 'rationalize[ray]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["score", "a.jsonl", "--address", "auto"], "add --executor ray"),
        (["score", "a.jsonl", "--executor", "ray", "--cache", "c"], "--cache"),
        (["score", "a.jsonl", "--executor", "ray", "--actor-cpus", "0"], "at least 1"),
        (["sample", "--model", "m", "--questions", "q", "--server", "http://a", "--executor",
          "ray"], "--server"),
    ],
)  # fmt: skip
def test_settings_of_an_executor_that_do_not_go_together_are_told(flags, told, capsys):
    assert main(flags) == 2
    assert told in capsys.readouterr().err


def test_sample_writes_questions_that_can_be_read_again(tiny, tmp_path):
    out = tmp_path / "q.jsonl"
    flags = ["sample", "--model", tiny, *QUICK, "--out", str(out)]
    assert main([*flags, "--write", "questions"]) == 0
    again = load_questions(out)
    assert [q.id for q in again] == [q.id for q in builtin_questions()["train"][:6]]
    assert main([*flags, "--keep-correct", "--overwrite"]) == 0
    assert all(row["prediction"] == row["gold"] for row in read(out))


def test_ask_prints_a_reply(tiny, capsys):
    flags = ["--model", tiny, "--choices", "brick", "cork", "--n", "2", "--temperature", "1"]
    assert main(["ask", "Which sinks?", *flags, "--max-new-tokens", "3"]) == 0
    assert capsys.readouterr().out.count("answer: ") == 2
    assert main(["ask", "Which sinks?", *flags, "--control", "diversity=best"]) == 2
    assert "has no control tokens" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--out", "a.csv"], ".jsonl or .jsonl.gz or .parquet for --write attempts"),
        (["--write", "questions", "--out", "q.parquet"], ".jsonl for --write questions"),
        (["--write", "questions", "--out", "q.jsonl.gz"], ".jsonl for --write questions"),
    ],
)
def test_sample_writes_no_format_under_anothers_name(
    tiny, flags, expected, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    for dry in ([], ["--dry-run"]):
        assert main(["sample", "--model", tiny, *QUICK, *flags, *dry]) == 2
        assert f"expected a name ending in {expected}" in capsys.readouterr().err


def test_evaluate_then_compare(tiny, tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    flags = ["evaluate", "--model", tiny, *QUICK]
    assert main([*flags, "--name", "greedy", "--out", str(first)]) == 0
    assert main([*flags, "--name", "drawn", "--temperature", "1", "--out", str(second)]) == 0
    cell = json.loads((first / "results.json").read_text())["methods"]["greedy"]["splits"]["test"]
    assert cell["metrics"]["accuracy"]["n"] == 6
    assert (first / "report.html").exists()
    before = (first / "results.json").read_bytes()
    assert main([*flags, "--name", "greedy", "--out", str(first)]) == 0  # a second start
    assert (first / "results.json").read_bytes() == before
    assert main([*flags, "--name", "other", "--out", str(first)]) == 1
    assert "name: 'greedy'" in capsys.readouterr().err

    page = tmp_path / "page.html"
    runs = [str(first), str(second)]
    results = json.loads((second / "results.json").read_text())
    del results["meta"]  # nothing that is compared
    (second / "results.json").write_text(json.dumps(results))
    assert main(["compare", *runs, "--pairs", "drawn - greedy", "--out", str(page)]) == 0
    assert "drawn − greedy" in capsys.readouterr().out
    assert "majority answer" in page.read_text()
    assert main(["compare", str(tmp_path), "--out", str(page)]) == 1
    assert main(["compare", *runs, "--pairs", "drawn", "--out", str(page)]) == 2


def test_where_an_evaluation_lies_is_no_setting_of_it(tiny, tmp_path, capsys):
    flags = ["evaluate", "--model", tiny, *QUICK, "--name", "tiny", "--temperature", "1"]
    runs = [tmp_path / "first", tmp_path / "second"]
    for seed, run in enumerate(runs):
        assert main([*flags, "--seed", str(seed), "--out", str(run)]) == 0
    assert "out" not in Run.read(runs[0]).config
    with open(runs[0] / "config.yaml", "a") as file:
        file.write(f"out: {runs[0]}\n")  # as an earlier version stored it
    capsys.readouterr()
    assert main(["compare", *map(str, runs), "--out", str(tmp_path / "page.html"), "--json"]) == 0
    cell = json.loads(capsys.readouterr().out)["methods"]["tiny"]["splits"]["test"]
    assert cell["seeds"] == [0, 1]
    moved = runs[0].rename(tmp_path / "moved")
    assert main([*flags, "--seed", "0", "--out", str(moved)]) == 0


def test_several_samples_are_worth_a_curve(tiny, tmp_path, capsys):
    from rationalize.methods.train_scorers.reward_model import (
        RankData,
        RewardModelConfig,
        learn_rank,
    )
    from rationalize.training.loop import HeadFitConfig
    from tests.tiny import tiny_policy
    from tests.toys import told_apart

    questions, attempts = told_apart(8)
    judge, policy = Run.open(tmp_path / "rm", {}), tiny_policy()
    config = RewardModelConfig(fit=HeadFitConfig(batch_size=8))
    data = RankData(attempts, questions)
    learn_rank(policy, data, config, Stage(judge, "rm"), judge.folder("model"))
    flags = ["evaluate", "--model", tiny, *QUICK, "--name", "tiny", "--limit", "3"]
    flags += ["--temperature", "1", "--rewards", "correctness,reward_model", "--reward-model"]
    one, four = tmp_path / "one", tmp_path / "four"
    assert main([*flags, str(judge.path), "--n", "1", "--out", str(one)]) == 0
    assert "votes" not in json.loads((one / "results.json").read_text())
    assert main([*flags, str(judge.path), "--n", "4", "--out", str(four)]) == 0
    rows = json.loads((four / "results.json").read_text())["votes"]
    rules = ("any (pass@k)", "majority (maj@k)", "best by reward model")
    assert [(r["rule"], r["k"]) for r in rows] == [(rule, k) for rule in rules for k in (1, 2, 4)]
    assert {(r["method"], r["n"]) for r in rows} == {("tiny on test", 3)}
    assert "best by reward model, k = 4: 0.000 [0.000, 1.000]" in capsys.readouterr().out
    assert "maj@k" in (four / "report.html").read_text()


def test_evaluating_a_run_takes_over_its_log(tmp_path):
    from tests.tiny import tiny_folder

    with Run.open(tmp_path / "run", {"method": "sft", "questions": "builtin:train=8"}) as run:
        run.log("sft", 0, loss=2.0)
        row = {"stages": ["mario"], "rewards": ["diversity"]}
        other = {"method": "FILT-ACC", "stages": ["filt-acc"], "rewards": ["correctness"]}
        run.write_json("results.json", {"trained": [{"method": "MaRio", **row}, other]})
        run.finish("export", method="MaRio", seed=0)
    tiny_folder("decoder", tmp_path / "run" / "model")
    out = tmp_path / "evaluated"
    model = str(tmp_path / "run")
    assert main(["evaluate", "--model", model, *QUICK, "--limit", "2", "--out", str(out)]) == 0
    results = json.loads((out / "results.json").read_text())
    assert results["training"] == [{"stage": "sft", "step": 0, "loss": 2.0}]
    name = list(results["methods"])[-1]
    assert results["trained"] == [{"method": name, **row}]


def test_evaluate_asks_the_split_that_a_run_cut_from_its_file(tmp_path):
    from tests.tiny import tiny_folder

    of_file = {"question": "stem"}
    rows = [{**BRICK, "stem": f"Which sinks in test {i}?"} for i in range(40)]
    file = write(tmp_path / "all.jsonl", rows)
    with Run.open(
        tmp_path / "run", {"method": "sft", "questions": file, "columns": of_file}
    ) as run:
        run.finish("export", method="SFT", seed=0)
    tiny_folder("decoder", tmp_path / "run" / "model")
    kept = {q.question for q in load_splits(file, columns=of_file)["dev"]}
    assert 0 < len(kept) < 20
    flags = ["--model", str(tmp_path / "run"), "--questions", file, "--max-new-tokens", "4"]
    out = tmp_path / "evaluated"
    assert main(["evaluate", *flags, "--split", "dev", "--out", str(out)]) == 0
    asked = {a.prompt for a in Run.read(out).attempts() if a.prompt}
    assert len(asked) == len(kept)
    assert all(any(q in prompt for q in kept) for prompt in asked)


def test_a_named_split_of_one_file_is_the_part_that_a_run_cuts(tiny, tmp_path, capsys):
    rows = [{**BRICK, "question": f"Which sinks in test {i}?"} for i in range(40)]
    file = write(tmp_path / "all.jsonl", rows)
    parts = {split: {q.question for q in part} for split, part in load_splits(file).items()}
    flags = ["sample", "--model", tiny, "--questions", file, "--max-new-tokens", "4", "--out"]
    for split, expected in (("dev", parts["dev"]), (None, set().union(*parts.values()))):
        out = tmp_path / f"{split}.jsonl"
        named = ["--split", split] if split else []
        assert main([*flags, str(out), *named]) == 0
        assert {json.loads(line)["question"] for line in out.read_text().splitlines()} == expected
    capsys.readouterr()
    assert main([*flags, str(tmp_path / "x.jsonl"), "--split", "validation"]) == 2
    assert "a part is train, dev, test; leave --split out to ask all" in capsys.readouterr().err
    flags = ["evaluate", "--model", tiny, "--questions", file, "--dry-run"]
    assert main([*flags, "--out", str(tmp_path / "run"), "--split", "test"]) == 0
    assert f"questions: {len(parts['test'])} test, 1 reply each" in capsys.readouterr().out
    assert main([*flags, "--out", str(tmp_path / "run")]) == 0
    assert "questions: 40 of the whole file, 1 reply each" in capsys.readouterr().out


def test_weights_in_a_runs_folder_are_not_evaluated_on_what_it_learned_from(tmp_path, capsys):
    from tests.tiny import tiny_folder

    rows = [{**BRICK, "question": f"Which sinks in test {i}?"} for i in range(40)]
    file = write(tmp_path / "all.jsonl", rows)
    with Run.open(tmp_path / "run", {"method": "sft", "questions": file}):
        pass
    flags = ["evaluate", "--questions", file, "--dry-run", "--out", str(tmp_path / "out")]
    kept = len(load_splits(file)["test"])
    for weights in ("model", "policies/last"):
        tiny_folder("decoder", tmp_path / "run" / weights)
        (tmp_path / "run" / weights / "rationalize.json").write_text("{}")
        assert main([*flags, "--model", str(tmp_path / "run" / weights)]) == 0
        assert f"questions: {kept} test, 1 reply each" in capsys.readouterr().out


def test_evaluate_refuses_questions_that_were_trained_on(tiny, tmp_path, capsys):
    trained = write(tmp_path / "train.jsonl", [{**BRICK, "id": "a"}])
    asked = write(tmp_path / "test.jsonl", [{**BRICK, "id": "b"}])
    flags = ["evaluate", "--model", tiny, "--questions", asked, "--out", str(tmp_path / "run")]
    assert main([*flags, "--train", trained]) == 1
    message = capsys.readouterr().err
    assert "1 questions are in two splits" in message
    assert "--skip-bad-rows" not in message  # what was learned from stays
    assert not (tmp_path / "run").exists()


def test_ask_under_chosen_bins(tmp_path, capsys):
    from tests.tiny import tiny_policy

    policy = tiny_policy("decoder")
    policy.add_controls({"diversity": 3, "correctness": 2})
    policy.export(tmp_path / "model", bake={"diversity": 0, "correctness": 0})
    (tmp_path / "config.yaml").write_text("method: mario\n")  # a run is as good as its model
    flags = ["--model", str(tmp_path), "--max-new-tokens", "2"]
    for asked, shown in [([], "diversity 0"), (["--control", "diversity=worst"], "diversity 2")]:
        assert main(["ask", "Which sinks?", *flags, *asked, "--guidance", "1"]) == 0
        assert f"under {shown}, correctness 0\n" in capsys.readouterr().out
    assert main(["ask", "Which sinks?", *flags, "--control", "diversity=random"]) == 0
    assert re.search(r"under diversity [012], correctness 0\n", capsys.readouterr().out)
