"""What a person or another program sees: lines, tables, one JSON document, completion, warnings."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
from result_toys import QUESTIONS, attempts_of
from tiny import tiny_folder

from rationalize import Run
from rationalize.cli import main
from rationalize.commands.completion import choices_of, script
from rationalize.commands.table import FORMS, VERBS, trained
from rationalize.evaluation.diagnostics import TOO_NARROW
from rationalize.evaluation.results import summarise
from rationalize.evaluation.terminal import format_results, format_warnings
from rationalize.evaluation.warnings import warnings
from rationalize.progress import hushed, progress_bar, say


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_folder("decoder", tmp_path_factory.mktemp("tiny")))


@pytest.fixture
def document(capsys):
    """What a command with `--json` prints: one document on stdout, and what stderr has."""

    def call(*argv, status=0):
        assert main([*map(str, argv), "--json"]) == status
        shown = capsys.readouterr()
        return json.loads(shown.out), shown.err

    return call


def test_verbs_print_their_results_as_json(tmp_path, document, model, capsys):
    asked = ["--model", model, "--questions", "builtin", "--limit", 3]
    attempts, err = document("sample", *asked, "--out", tmp_path / "a.jsonl")
    assert (attempts["attempts"], attempts["questions"]) == (3, 3)
    assert "a.jsonl: 3 of 3 attempts" in err

    [reply], err = document("ask", "Which sinks?", "--choices", "a", "b", "--model", model)
    assert {"rationale", "prediction", "reply"} <= reply.keys()
    assert "answer: " in err

    scored, _ = document(
        "score", tmp_path / "a.jsonl", "--rewards", "length", "--out", tmp_path / "s.jsonl"
    )
    assert scored["rows"] == 3
    assert scored["rewards"]["length"]["defined"] == 3

    pick = ["export", tmp_path / "a.jsonl", "--keep", "all", "--out", tmp_path / "e.jsonl"]
    assert main([*map(str, pick), "--json"]) in (0, 1)  # 1: a tiny model never ends its replies
    shown = capsys.readouterr()
    assert not shown.out or json.loads(shown.out)["rows"] <= 3

    run = tmp_path / "run"
    results, err = document("evaluate", *asked, "--rewards", "length", "--out", run)
    assert results == json.loads((run / "results.json").read_text())
    assert "mean and 95 % interval" in err
    compared, _ = document("compare", run, "--out", tmp_path / "page.html")
    assert list(compared["methods"]) == list(results["methods"])


def test_settings_and_plans_are_json_too(tmp_path, document, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings, _ = document("config", "sft", "--epochs", 3)
    assert settings["epochs"] == 3
    plan, err = document("train", "sft", "--dry-run")
    assert any("questions: " in line for line in plan["plan"])
    assert plan["configuration"]["questions"] == "builtin"
    assert "# dry run" in err
    assert document("--version")[0]["version"]


def test_an_error_leaves_stdout_empty(capsys):
    assert main(["export", "nowhere.parquet", "--json"]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "nowhere.parquet" in shown.err


SHORT = "def short(completions, **columns):\n    return [1 / (1 + len(c)) for c in completions]\n"


def test_strict_checks_end_with_status_1(tmp_path, monkeypatch, document, capsys):
    (tmp_path / "my_short.py").write_text(SHORT)
    monkeypatch.chdir(tmp_path)
    asked = ["check-rewards", "my_short:short", "--limit", "8"]
    assert main(asked) == 0
    assert "suspicious: short" in capsys.readouterr().out
    rows, err = document(*asked, "--strict", status=1)
    assert {"short"} == {row["reward"] for row in rows if not row["ok"]}
    assert "checks failed: short under empty" in err
    assert main(["check-rewards", "correctness", "--limit", "8", "--strict"]) == 0
    assert main(["check-rewards", "--people", "x.jsonl", "--strict"]) == 2
    assert "no pass or fail" in capsys.readouterr().err


def test_quiet_leaves_results_and_errors(tmp_path, model, capsys):
    asked = ["ask", "Which sinks?", "--model", model]
    assert main(asked) == 0
    loud = capsys.readouterr()
    assert loud.err.startswith("rationalize 0.")
    assert main([*asked, "--quiet"]) == 0
    quiet = capsys.readouterr()
    assert (quiet.err, quiet.out) == ("", loud.out)
    assert main([*asked, "--quiet", "--json"]) == 0
    both = capsys.readouterr()
    assert (both.err, len(json.loads(both.out))) == ("", 1)
    with hushed():
        say("hidden")
    say("shown")
    assert capsys.readouterr().err == "shown\n"


def test_time_left_counts_from_this_start(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with progress_bar("sft", "steps") as progress:
        progress(900, 1000, 0)  # an earlier start's
        for now[0], done in ((30.0, 910), (60.0, 920)):
            progress(done, 1000, 0)
    assert [line.rpartition(", ")[2] for line in capsys.readouterr().err.splitlines()] == [
        "270 s left", "240 s left"
    ]  # fmt: skip


def test_what_is_told_only_if_it_takes_long(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr("rationalize.progress.time.monotonic", lambda: clock[0])

    def work(seconds):
        with progress_bar("scores", "texts", if_long=True) as progress:
            for done in (64, 128, 192, 200):
                clock[0] += seconds
                progress(done, 200, 0)
        return capsys.readouterr().err

    assert work(4) == ""  # 16 seconds
    assert work(19) == "scores: 128/200 texts, 21 s left\nscores: 200/200 texts\n"


def test_a_resumed_run_says_what_is_done(tmp_path, capsys):
    with Run.open(tmp_path, {"method": "sft"}) as run:
        run.finish("sft", steps=3)
    assert capsys.readouterr().err == ""
    with Run.open(tmp_path, {"method": "sft"}):
        assert capsys.readouterr().err == f"resuming the run in {tmp_path} (done: sft)\n"


def results_of(**changes):
    return {**summarise({"SFT": {"test": {0: attempts_of("SFT")}}}, QUESTIONS), **changes}


def test_tables_are_as_wide_as_the_terminal(monkeypatch):
    results = results_of()
    monkeypatch.setenv("COLUMNS", "60")
    lines = format_results(results).split("warning: ")[0].splitlines()
    assert max(map(len, lines)) <= 60
    monkeypatch.setenv("COLUMNS", "200")
    assert len(format_results(results).splitlines()) < len(lines)


def test_the_terminal_ends_in_the_pages_warnings():
    results = results_of()
    cell = results["methods"]["SFT"]["splits"]["test"]
    cell["one_choice"] = {"label": "A", "share": 1.0, "right": 0.4}
    cell["metrics"]["parse_rate"]["mean"] = cell["stated"] = 0.0
    pool = {"method": "MaRio", "seed": 0, "round": 0, "reward": "diversity", "counts": [99, 1]}
    results["bins"] = [pool]
    results["notes"] = [f"note {i}" for i in range(9)]
    told = format_results(results).splitlines()
    shown = [line.removeprefix("warning: ") for line in told if line.startswith("warning: ")]
    assert shown == warnings(results)[:8]
    assert told[-1] == f"and {len(warnings(results)) - 8} more warnings: see the report"
    for text in ("answer A", "could be read from none", TOO_NARROW):
        assert any(text in line for line in shown), text
    assert format_warnings({**results_of(), "methods": {}}) == ""


@pytest.fixture(scope="module")
def scripts():
    return {shell: script(shell) for shell in ("bash", "zsh", "fish")}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ([""], [*FORMS]),
        (["ch"], ["check-rewards"]),
        (["train", "mar"], ["mario"]),
        (["train", "mario", "--fit.lea"], ["--fit.learning-rate"]),
        (["train", "mario", "--track", ""], ["tensorboard", "wandb", "trackio"]),
        (["export", "runs/x", "--format", "d"], ["dpo"]),
        (["demo", "--method", "c"], ["coalition"]),
        (["config", "sft", "--exp"], ["--explain"]),
        (["score", "my"], []),  # files
    ],
)
def test_bash_completes(scripts, line, expected):
    words = " ".join(f"'{w}'" for w in ["rationalize", *line])
    code = f"COMP_WORDS=({words}); COMP_CWORD={len(line)}; _rationalize; echo ${{COMPREPLY[@]}}"
    found = subprocess.run(
        ["bash", "--norc", "-c", scripts["bash"] + code], capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == expected
    assert found.stderr == ""


def test_scripts_name_every_command(scripts):
    for shell, text in scripts.items():
        for name in (*VERBS, *(f"train {name}" for name in trained())):
            assert name in text, (shell, name)
    assert "-l fit.learning-rate -r" in scripts["fish"]
    assert choices_of(tuple[str, ...]) == ()


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_can_read_their_script(scripts, shell, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    (tmp_path / "script").write_text(scripts[shell])
    subprocess.run([shell, "-n", tmp_path / "script"], check=True)
