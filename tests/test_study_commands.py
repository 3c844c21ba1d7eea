"""`rationalize study` from files and runs to results and a report."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from rationalize.cli import main
from rationalize.evaluation.results import save_questions, summarise
from rationalize.runs import Run
from rationalize.study.design import load_study
from rationalize.study.store import Store, Vote
from tests.result_toys import QUESTIONS, REWARDS, attempts_of


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    monkeypatch.setenv("RATIONALIZE_CACHE", str(tmp_path / "cache"))


def vote(annotator: int, item: int, side: str) -> Vote:
    return Vote(annotator, item, {"better": side}, "a", 2.0, 1.0)


def write_rows(path, method, scores):
    rows = [
        {"question_id": f"q{i}", "question": f"Which of {i} sinks?", "choices": ["brick", "cork"],
         "answer": "brick", "rationale": f"{method} says {i}.", "prediction": "brick",
         "rewards": {"plausibility": score}} for i, score in enumerate(scores)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_the_command_line_from_files_to_results(tmp_path, capsys):
    files = [write_rows(tmp_path / f"{m}.jsonl", m, [k + i / 9 for i in range(10)])
             for k, m in enumerate(("sft", "mario"))]  # fmt: skip
    folder = str(tmp_path / "s")
    argv = [
        "study",
        "new",
        folder,
        "--sources",
        *files,
        "--ask",
        "better",
        "--attention-checks",
        "0",
    ]
    assert main([*argv, "--annotators", "anna", "--dry-run"]) == 0
    assert not (tmp_path / "s").exists()
    capsys.readouterr()
    assert main([*argv, "--annotators", "anna", "--json", "--quiet"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["items"] == 10
    token = made["links"]["anna"].removeprefix("/s/")
    assert main(["study", "invite", folder, "--annotators", "ben"]) == 0
    assert re.search(r"  ben  /s/[\w-]{32}\n", capsys.readouterr().out)
    store = Store(tmp_path / "s")
    assert store.annotator(token).id == 1
    for who in (1, 2):
        for item in range(10):
            store.add(vote(who, item, "b"))
    assert main(["study", "results", folder]) == 0
    printed = capsys.readouterr().out
    assert "better: people prefer mario to sft: 0.0 [0.0, 30.0] % for sft" in printed
    assert "% for the reward plausibility" in printed
    results = json.loads((tmp_path / "s" / "results.json").read_text())
    assert results["asks"][0]["rewards"][0]["mean"] == 1.0
    assert (tmp_path / "s" / "report.html").is_file()
    # what is wrong is said
    for argv, message in (
        (["new", folder, "--sources", *files], "is not empty"),
        (["new", f"{folder}2", "--sources", files[0]], "expected at least two methods"),
        (["new", f"{folder}2", "--sources", *files, "--methods", "sfd"], "did you mean 'sft'"),
        (["new", f"{folder}2", "--sources", *files, files[0]], "rename the file"),
        (["new", f"{folder}2", "--sources", "nowhere", files[0]], "no such file or run"),
        (["new", f"{folder}2", "--sources", *files, "--items", "0"], "expected at least 1"),
        (["results", str(tmp_path)], "rationalize study new"),
        (["invite", folder, "--annotators", "carl", "ben"], "invited already"),
        (["nothing"], "unknown COMMAND"),
    ):
        assert main(["study", *argv]) in (1, 2)
        assert message in capsys.readouterr().err, argv
    assert not (tmp_path / "s2").exists()
    assert [a.name for a in store.annotators()] == ["anna", "ben"]


def test_scores_of_a_file_are_numbers(tmp_path, capsys):
    good = write_rows(tmp_path / "sft.jsonl", "sft", [True, None, 3])
    bad = write_rows(tmp_path / "mario.jsonl", "mario", [1.0, 2, "high"])
    folder = tmp_path / "s"
    argv = ["study", "new", str(folder), "--attention-checks", "0", "--sources", good]
    assert main([*argv, bad]) == 1
    message = capsys.readouterr().err
    assert f"{bad}, line 3: found 'high' as the score 'plausibility'" in message
    assert not folder.exists()
    assert main([*argv, write_rows(tmp_path / "mario.jsonl", "mario", [1.0, 2, False])]) == 0
    scores = [item.a.rewards["plausibility"] for item in load_study(folder).items]
    assert sorted(scores, key=str) == [1.0, 3.0, None]


def evaluated(path, method: str) -> str:
    attempts = [replace(a, rationale=f"{method}: {a.rationale}") for a in attempts_of(method)]
    with Run.open(path, {"method": "evaluate", "name": method}) as run:
        run.append(attempts, "final")
        save_questions(run, QUESTIONS.values())
        results = summarise({method: {"test": {0: attempts}}}, QUESTIONS, REWARDS, meta={})
        run.write_json("results.json", results)
    return str(path)


def test_runs_are_compared_and_the_study_joins_their_report(tmp_path, capsys):
    runs = [evaluated(tmp_path / m, m) for m in ("SFT", "MaRio")]
    folder = str(tmp_path / "s")
    argv = ["study", "new", folder, "--sources", *runs, "--ask", "better", "--items", "8"]
    assert main([*argv, "--split", "dev"]) == 1
    assert "found no method with rationales for dev questions" in capsys.readouterr().err
    assert main([*argv, "--annotators", "anna"]) == 0
    made = load_study(tmp_path / "s")
    assert made.methods == ("SFT", "MaRio")
    assert made.items[0].a.rationale.startswith("SFT: Because of")
    assert set(made.items[0].a.rewards) == {"consistency", "correctness", "diversity"}
    for item in made.compared:
        Store(tmp_path / "s").add(vote(1, item, "b"))
    out = tmp_path / "report.html"
    assert main(["compare", *runs, "--study", folder, "--out", str(out)]) == 0
    page = out.read_text(encoding="utf-8")
    assert "better: people prefer MaRio to SFT: 0.0 [0.0, 37.5] % for SFT" in page
    assert "One annotator: intervals say nothing about other people." in page
