"""No verb replaces what it did not write for the same purpose."""

from __future__ import annotations

import json

import pytest
from toys import attempt, question

from rationalize.attempt_files import save_attempts
from rationalize.cli import main
from rationalize.commands.output_file import OutputFile
from rationalize.commands.resumable_file import begin, shards_of, work_folder
from rationalize.errors import UserError
from rationalize.runs import Run, check_resumable, unlock

MINE = '{"of": "mine"}\n'
QUICK = ["--questions", "builtin", "--limit", "2", "--max-new-tokens", "2"]


@pytest.fixture(autouse=True)
def remembered(tmp_path_factory, monkeypatch):
    """What was written is remembered in a folder of the test's own."""
    monkeypatch.setenv("RATIONALIZE_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def attempts(tmp_path):
    q = question(0)
    file = tmp_path / "given" / "attempts.jsonl"
    file.parent.mkdir()
    save_attempts([attempt(q, "it is", "yes"), attempt(q, "it is not", "no", 1)], file)
    return str(file)


@pytest.fixture
def runs(tmp_path, tiny_model):
    out = tmp_path / "given" / "run"
    assert main(["evaluate", "--model", tiny_model, *QUICK, "--out", str(out)]) == 0
    return [str(out)]


def calls(tiny_model, attempts, runs):
    return {
        "sample": ["sample", "--model", tiny_model, *QUICK],
        "score": ["score", attempts, "--rewards", "length", "--columns", "answer=gold",
                  "question=question_id", "choices=question_id"],
        "export": ["export", attempts],
        "compare": ["compare", *runs],
        "check-rewards": ["check-rewards", "length", "--limit", "2"],
    }  # fmt: skip


def listing(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("verb", ["sample", "export", "compare", "check-rewards"])
def test_a_file_of_the_users_stays_and_overwrite_insists(
    verb, tmp_path, tiny_model, attempts, runs, capsys
):
    argv = calls(tiny_model, attempts, runs)[verb]
    out = tmp_path / "out" / "all.jsonl"
    out.parent.mkdir()
    out.write_text(MINE)
    assert main([*argv, "--out", str(out)]) == 1
    said = capsys.readouterr().err
    assert str(out) in said
    assert "--overwrite" in said
    assert listing(out.parent) == {out.relative_to(out.parent): MINE.encode()}

    assert main([*argv, "--out", str(out), "--overwrite"]) == 0
    written = out.read_bytes()
    assert written != MINE.encode()
    assert main([*argv, "--out", str(out)]) == 0  # the same call again
    out.write_bytes(written + b"\n")  # edited since
    assert main([*argv, "--out", str(out)]) == 1
    assert out.read_bytes() == written + b"\n"


@pytest.mark.parametrize("verb", ["sample", "export", "compare", "check-rewards"])
def test_parents_are_made(verb, tmp_path, tiny_model, attempts, runs):
    out = tmp_path / "a" / "b" / "c.jsonl"
    assert main([*calls(tiny_model, attempts, runs)[verb], "--out", str(out)]) == 0
    assert out.is_file()


@pytest.mark.parametrize("verb", ["sample", "export", "compare", "check-rewards"])
def test_a_place_that_cannot_be_is_a_sentence(verb, tmp_path, tiny_model, attempts, runs, capsys):
    (tmp_path / "file").write_text(MINE)
    argv = calls(tiny_model, attempts, runs)[verb]
    assert main([*argv, "--out", str(tmp_path / "file" / "x.jsonl")]) == 1
    assert "rationalize: " in capsys.readouterr().err


def test_another_models_attempts_stay(tmp_path, tiny_model, capsys):
    out = tmp_path / "attempts.jsonl"
    argv = ["sample", "--model", tiny_model, *QUICK, "--out", str(out)]
    assert main(argv) == 0
    before = out.read_bytes()
    assert main([*argv, "--seed", "1"]) == 1
    assert "seed: 0 there, 1 asked for" in capsys.readouterr().err
    assert main(["check-rewards", "length", "--limit", "2", "--out", str(out)]) == 1
    assert "what `rationalize sample` wrote" in capsys.readouterr().err
    assert out.read_bytes() == before


def test_score_replaces_no_file(tmp_path, capsys):
    row = {"question": "?", "choices": ["a", "b"], "answer": "a", "rationale": "r",
           "prediction": "a"}  # fmt: skip
    given, out = tmp_path / "in.jsonl", tmp_path / "out" / "out.jsonl"
    given.write_text(json.dumps(row) + "\n")
    argv = ["score", str(given), "--rewards", "length", "--out", str(out)]
    assert main(argv) == 0
    assert main(argv) == 0
    assert main([*argv[:3], "correctness", *argv[4:]]) == 1
    assert "rewards" in capsys.readouterr().err
    assert main(["score", str(given), "--rewards", "length", "--out", str(given)]) == 1
    assert json.loads(given.read_text()) == row
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.jsonl", "out"]


def test_without_a_cache_the_same_call_is_refused_and_nothing_breaks(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RATIONALIZE_CACHE", str(tmp_path / "file"))
    out = OutputFile(tmp_path / "a.txt", "sample", {"seed": 0})
    out.claim()
    out.path.write_text("x")
    out.sign()
    with pytest.raises(UserError, match="--overwrite"):
        out.check()


def test_a_folder_named_like_unfinished_work_stays(tmp_path):
    theirs = tmp_path / "a.jsonl.partial"
    theirs.mkdir()
    (theirs / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match=r"thesis\.tex"), work_folder(tmp_path / "a.jsonl"):
        pass
    assert listing(theirs) == {theirs.joinpath("thesis.tex").relative_to(theirs): b"x"}


def test_unfinished_work_that_has_stored_nothing_begins_anew(tmp_path):
    out = tmp_path / "a"
    with work_folder(out) as folder:
        begin(folder, {"seed": 0})
    with work_folder(out) as folder:
        begin(folder, {"seed": 1})
        (folder / "shards").mkdir()
        (folder / "shards" / "0.json").write_text("[]")
    with work_folder(out) as folder:
        with pytest.raises(UserError, match="other settings"):
            begin(folder, {"seed": 2})
        begin(folder, {"seed": 2}, overwrite=True)
        assert shards_of(folder) == []


def test_no_run_is_put_among_somebodys_files(tmp_path, tiny_model, capsys):
    for name in ("a.csv", "b.csv", "c.csv", "d.csv"):
        (tmp_path / name).write_text("x")
    before = listing(tmp_path)
    for argv in (
        ["train", "sft", "--model", tiny_model],
        ["train", "verifier", "--model", tiny_model],
        ["demo", "--model", tiny_model],
        ["evaluate", "--model", tiny_model, *QUICK],
    ):
        assert main([*argv, "--out", str(tmp_path)]) == 1
        said = capsys.readouterr().err
        assert "holds a.csv, b.csv, c.csv and 1 more, and no run" in said
    assert listing(tmp_path) == before


def test_overwrite_deletes_the_run_and_nothing_that_lay_beside_it(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.md").write_text("x")
    for seed in range(3):
        with Run.open(tmp_path, {"method": "sft", "seed": seed}, overwrite=True) as run:
            assert run.done("sft") is None
            assert run.read_json("rounds.json") is None
            run.finish("sft")
            run.write_json("rounds.json", {})
    assert (tmp_path / "mine" / "notes.md").read_text() == "x"
    assert Run.read(tmp_path).config["seed"] == 2


def test_a_run_that_has_stored_nothing_begins_anew(tmp_path):
    first, second = {"method": "sft", "seed": 0}, {"method": "sft", "seed": 1}
    run = Run.open(tmp_path, first, base_hash="a")
    run.log("sft", 0, loss=1.0)
    with pytest.raises(UserError, match="another configuration"):  # it is still open
        Run.open(tmp_path, second)
    run.close()
    check_resumable(tmp_path, second)
    with Run.open(tmp_path, second, base_hash="b") as run:
        assert run.config == second
        assert run.metrics() == []
        run.append([], "round0")
    with pytest.raises(UserError, match="another configuration"):
        Run.open(tmp_path, first)
    unlock(tmp_path)
    assert Run.read(tmp_path).config == second


def test_another_calls_rewards_are_told_by_name(tmp_path):
    def file(*names):
        settings = {"rewards": [[name, "1", "", None] for name in names]}
        return OutputFile(tmp_path / "a.jsonl", "score", settings)

    (tmp_path / "a.jsonl").write_text(MINE)
    file("length", "diversity").sign()
    with pytest.raises(UserError, match="rewards: length, diversity there, length asked for"):
        file("length").check()


def test_a_project_with_a_config_yaml_is_no_run(tmp_path):
    """Nor is one put there: the file would be read as the run's."""
    (tmp_path / "config.yaml").write_text("foo: 1\n")
    for overwrite in (False, True):
        with (
            pytest.raises(UserError, match=r"another configuration|a config\.yaml that no run"),
            Run.open(tmp_path, {"method": "sft"}, overwrite=overwrite),
        ):
            pass
    assert [p.name for p in tmp_path.iterdir() if p.name != "lock"] == ["config.yaml"]
    assert (tmp_path / "config.yaml").read_text() == "foo: 1\n"


def test_an_export_takes_what_a_question_accepts_as_right(tmp_path):
    from rationalize.records import Question

    asked = Question("q", "Where?", "New York", accepted=("NYC",))
    said = ["New York", "NYC", "Boston"]
    attempts = [attempt(asked, f"Look {i}.", s, i, prompt="p") for i, s in enumerate(said)]
    save_attempts(attempts, tmp_path / "a.jsonl", {"q": asked})
    flags = ["export", str(tmp_path / "a.jsonl"), "--format"]
    assert main([*flags, "dpo", "--out", str(tmp_path / "dpo.jsonl")]) == 0
    pairs = [json.loads(line) for line in (tmp_path / "dpo.jsonl").read_text().splitlines()]
    assert len(pairs) == 2
    assert all("Boston" in p["rejected"] and "Boston" not in p["chosen"] for p in pairs)
    assert main([*flags, "sft", "--out", str(tmp_path / "sft.jsonl")]) == 0
    assert len((tmp_path / "sft.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("asked", [["a"], ["a", ""], [str(i) for i in range(30)]])
def test_ask_reads_its_question_as_files_are_read(asked, capsys):
    assert main(["ask", "Which?", "--choices", *asked, "--model", "default"]) == 2
    assert "found" in capsys.readouterr().err
