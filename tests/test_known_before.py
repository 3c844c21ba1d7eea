"""What can be known to be wrong is told before a folder exists; a dry run tells the same."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from toys import attempt, question

from rationalize.attempt_files import save_attempts
from rationalize.cli import main
from rationalize.errors import UsageError, UserError
from rationalize.methods import METHODS
from rationalize.methods.launch import checked, longest_reply, settings_of
from rationalize.models.folders import check_model
from rationalize.questions import load_questions
from rationalize.rewards import DIAGNOSTICS, REWARDS
from rationalize.rewards.known import known_rewards


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("x")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"question": "?", "answer": "a"}) + "\n")
    return tmp_path


WRONG = [
    (["train", "mario", "--rewards", "correctnes,diversity"], "unknown reward 'correctnes'"),
    (["train", "mario", "--rewards", "no_such:fn"], "no module 'no_such'"),
    (["train", "mario", "--rewards", "length", "diversity"], "length: a diagnostic"),
    (["train", "mario", "--rewards", "reward_model"], "--reward-model DIR"),
    (["train", "mario", "--verifier", "runs/nope"], "runs/nope: no scorer.json there"),
    (["train", "filt-acc", "--answer-scorer", "folder"], "folder: no scorer.json there"),
    (["train", "filt-acc", "--select-by", "acuracy"], "did you mean 'accuracy'"),
    (["train", "grpo", "--select-by", "truncated"], "select_by: unknown metric 'truncated'"),
    (["train", "dpo", "--select-by", "repetition"], "select_by: unknown metric 'repetition'"),
    (["train", "dpo", "--attempts", "nope.jsonl"], "nope.jsonl: no such file or folder"),
    (["train", "coalition", "--variant-sources", "builtin", "nope.jsonl"],
     "nope.jsonl: no such file or folder"),
    (["train", "coalition", "--instruction.source", "nope.jsonl"],
     "nope.jsonl: no such file or folder, and"),
    (["train", "coalition", "--draws", "4", "--candidates.sampling.beams", "3"],
     "at most 3 different texts"),
    (["train", "coalition", "--candidates.sampling.temperature", "0"],
     "at most 1 different texts"),
    (["train", "grpo", "--weights", "correctness=-1"],
     "weights.correctness is -1; expected at least 0"),
    (["train", "sft", "--model", "nope/a/b"], "nope/a/b: there is no such folder"),
    (["train", "sft", "--model", "folder/nope"], "folder/nope: there is no such folder"),
    (["train", "sft", "--model", "folder"], "folder: no config.json there"),
    (["train", "sft", "--model", "rows.jsonl"], "rows.jsonl: is a file"),
    (["train", "sft", "--questions", "nope.jsonl"], "nope.jsonl: no such file"),
    (["train", "sft", "--questions", "folder/nope"], "folder/nope: no such file"),
    (["train", "verifier", "--model", "./nope"], "./nope: there is no such folder"),
    (["train", "coalition-grid", "--arms", "nope"], "unknown arms ['nope']"),
    (["train", "sft", "--questions", "builtin:dev=0"], "builtin:dev=0: no development questions"),
    (["demo", "--mario.rewards", "nope"], "unknown reward 'nope'"),
    (["demo", "--verifier", "nope"], "nope: no scorer.json there"),
    (["evaluate", "--model", "default", "--questions", "builtin", "--rewards", "lenght"],
     "unknown reward 'lenght'"),
    (["evaluate", "--model", "./nope", "--questions", "builtin"], "there is no such folder"),
    (["evaluate", "--model", "default", "--questions", "builtin", "--rewards", "plausibility"],
     "--verifier DIR"),
    (["sample", "--model", "./nope", "--questions", "builtin"], "there is no such folder"),
    (["score", "rows.jsonl", "--rewards", "consistency"], "--answer-scorer DIR"),
    (["score", "rows.jsonl", "--out", "s.parquet"], "expected a name ending in .jsonl or .gz"),
    (["score", "rows.jsonl", "--rewards"], "expected at least one reward"),
    (["score", "nowhere.jsonl"], "nowhere.jsonl: no such file; expected rows"),
    (["export", "rows.jsonl", "--out", "x.csv"], "expected a name ending in .jsonl or .jsonl.gz"),
    (["export", "nowhere"], "nowhere"),
    (["compare"], "the folder of at least one run"),
    (["compare", "folder", "--pairs", "a - b"], "folder: no config.yaml there"),
    (["compare", "folder", "--pairs", "a"], "expected two methods"),
    (["check-rewards", "lenght"], "unknown reward 'lenght'"),
    (["check-rewards", "length", "--people", "nowhere.jsonl"], "nowhere.jsonl: no such file"),
    (["check-rewards", "length", "--references", "nowhere"], "nowhere: no such file or folder"),
    (["check-rewards", "length", "--people", "x", "--strict"], "--strict is about attacks"),
    (["check-rewards", "length", "--questions", "nope.jsonl"], "nope.jsonl: no such file"),
    (["check-rewards", "length", "--limit", "1"], "expected at least two"),
    (["leaderboard", "--data", "folder", "--rewards", "nope"], "unknown reward 'nope'"),
    (["leaderboard", "--data", "nowhere"], "nowhere: no such file or folder"),
    (["leaderboard", "--data", "folder"], "found no reference_rationales"),
]  # fmt: skip


@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["start", "dry"])
@pytest.mark.parametrize(("argv", "told"), WRONG, ids=[told for _, told in WRONG])
def test_a_mistake_is_told_and_leaves_nothing(argv, told, dry, here, capsys):
    before = sorted(here.rglob("*"))
    assert main([*argv, *dry]) in (1, 2)
    assert told in capsys.readouterr().err
    assert sorted(here.rglob("*")) == before


def test_a_corrected_command_starts_in_the_same_folder(tiny_model, mostly_yes, here):
    flags = ["--model", tiny_model, "--questions", mostly_yes, "--epochs", "0.1", "--out", "run"]
    assert main(["train", "sft", *flags, "--fit.batch-size", "4"]) == 0
    assert main(["train", "sft", *flags, "--fit.batch-size", "8"]) == 1  # it has finished a stage
    assert main(["train", "sft", *flags, "--fit.batch-size", "8", "--overwrite"]) == 0
    assert main(["train", "sft", *flags, "--fit.batch-size", "8"]) == 0


def test_pairs_of_a_comparison_are_methods_of_the_runs(tiny_model, here, capsys):
    flags = ["--model", tiny_model, "--questions", "builtin", "--limit", "2"]
    argv = ["evaluate", *flags, "--max-new-tokens", "2", "--name", "MaRio", "--out", "run"]
    assert main(argv) == 0
    for dry in ([], ["--dry-run"]):
        asked = ["compare", "run", "--out", "page.html", *dry]
        assert main([*asked, "--pairs", "mario - sft"]) == 2
        assert "unknown method 'sft' among the pairs" in capsys.readouterr().err
        assert main([*asked, "--study", "nowhere"]) == 1
        assert not (here / "page.html").exists()
    assert main(["compare", "run", "--dry-run"]) == 0
    assert "runs: run (majority answer, MaRio)" in capsys.readouterr().out
    assert main(["compare", "run", "--pairs", "MARIO - majority answer", "--out", "p.html"]) == 0


def test_a_dry_run_prints_the_plan(tiny_model, mostly_yes, here, capsys):
    argv = ["train", "mario", "--model", tiny_model, "--questions", mostly_yes, "--dry-run"]
    assert main(argv) == 0
    plan = capsys.readouterr().out
    assert "24 train, 6 dev, 6 test; 24 rationales at 24 train questions" in plan
    assert "rewards: correctness, diversity, consistency, plausibility" in plan
    assert "trained: answer scorer; verifier; SFT, to start from" in plan
    argv = ["sample", "--model", tiny_model, "--questions", mostly_yes, "--n", "3", "--dry-run"]
    assert main(argv) == 0
    assert "questions: 24 train, 3 replies each" in capsys.readouterr().out
    assert sorted(p.name for p in here.iterdir()) == ["folder", "rows.jsonl"]


def test_every_reward_is_known_without_its_model():
    assert [r.name for r in known_rewards([*REWARDS, *DIAGNOSTICS])] == list(REWARDS)
    with pytest.raises(UserError, match="needs a verifier"):
        known_rewards(["plausibility"], verifier=False)


def test_hub_ids_are_not_taken_for_folders(here, monkeypatch):
    for model in ("default", "gpt2", "Qwen/Qwen2.5-0.5B-Instruct"):
        check_model(model)
    with pytest.raises(UserError, match="no such file or folder"):
        load_questions("folder/train")


@pytest.fixture
def long_rationales(tmp_path):
    row = {"answer": "word", "rationales": ["Word by word it goes on. " * 20]}
    rows = [{"id": str(i), "question": f"Which {i}?", **row} for i in range(8)]
    for split in ("train", "dev", "test"):
        of = [{**row, "id": split + row["id"], "question": split + row["question"]} for row in rows]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in of))
    return str(tmp_path)


def words(text: str) -> int:
    return len(text.split())


def test_what_writes_nothing_of_its_own_is_evaluated_with_replies_like_the_teachers(
    long_rationales, caplog
):
    sft, direct, mario = (
        checked(settings_of(METHODS[name])(questions=long_rationales))
        for name in ("sft", "direct", "mario")
    )
    assert longest_reply(sft, words) == longest_reply(direct, words) == 20 * 6 + 5 + 1
    assert longest_reply(sft, lambda text: words(text) / 10) == 64  # at least
    assert not caplog.records
    assert longest_reply(mario, words) == 64
    assert "100 % of the teacher's replies are longer than the 64 tokens" in caplog.text
    assert "Let replies have 126" in caplog.text


def test_a_length_that_is_set_stands_and_its_shortness_is_told(long_rationales, caplog):
    settings = settings_of(METHODS["sft"])(questions=long_rationales)
    set_to = {n: checked(replace(settings, evaluation_tokens=n)) for n in (10, 200)}
    assert longest_reply(set_to[200], words) == 200
    assert not caplog.records
    assert longest_reply(set_to[10], words) == 10
    assert "longer than the 10 tokens" in caplog.text


def test_what_a_method_writes_is_looked_at_whatever_it_is_evaluated_with(long_rationales, caplog):
    settings = settings_of(METHODS["grpo"])(questions=long_rationales, evaluation_tokens=200)
    assert longest_reply(checked(settings), words) == 200
    assert "Let replies have 126: `sampling.max_new_tokens` is 64" in caplog.text


@pytest.mark.parametrize("argv", [["train", "sft", "--dry-run"], ["plan", "sft", "--dry-run"]])
def test_a_dry_run_counts_bad_rows_and_writes_no_file_of_them(argv, here, long_rationales, caplog):
    with open(f"{long_rationales}/train.jsonl", "a") as file:
        file.write('{"question": "?"}\n')
    before = sorted(here.rglob("*"))
    assert main([*argv, "--questions", long_rationales, "--skip-bad-rows", "new/left.jsonl"]) == 0
    assert sorted(here.rglob("*")) == before
    assert "1 bad rows of" in caplog.text
    assert "would be left out, listed in new/left.jsonl" in caplog.text


def test_a_dry_run_of_score_takes_what_a_start_takes(here, caplog, capsys):
    good = {"question": "?", "answer": "Ann", "rationale": "x", "prediction": "Ann"}
    with open("rows.jsonl", "a") as file:
        file.write(json.dumps(good) + "\n")
    argv = ["score", "rows.jsonl", "--skip-bad-rows", "bad.jsonl", "--out", "s.jsonl"]
    before = sorted(here.rglob("*"))
    assert main([*argv, "--dry-run"]) == 0
    assert "rows: 1 of rows.jsonl" in capsys.readouterr().out
    assert "1 bad rows of rows.jsonl would be left out, listed in bad.jsonl" in caplog.text
    assert sorted(here.rglob("*")) == before
    assert main(argv) == 0
    assert (here / "bad.jsonl").exists()


def test_a_dry_run_of_export_counts_its_rows(here, capsys):
    save_attempts(
        [attempt(question(i), "so", "yes", writer="teacher") for i in range(2)], "a.jsonl"
    )
    for more, status in ([], 0), (["--split", "unseen"], 1):
        for dry in (["--dry-run"], []):
            assert main(["export", "a.jsonl", "--keep", "all", *more, *dry]) == status
    assert "rows: 1 of 2 attempts; left out: 1 duplicate" in capsys.readouterr().out


def test_values_from_python_are_checked_as_a_files_are(tmp_path):
    from rationalize import train
    from rationalize.training.loop import FitConfig

    for wrong, told in (
        ({"tuning": "Full"}, "tuning"), ({"epochs": "1"}, "epochs"), ({"fit": 3}, "fit"),
        ({"fit": FitConfig(schedule="Linear")}, "schedule"), ({"epoch": 1.0}, "epoch"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=told):
            train("sft", tmp_path / "run", **wrong)
    assert not (tmp_path / "run").exists()
