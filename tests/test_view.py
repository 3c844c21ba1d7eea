"""`rationalize view`, and the page of a run that goes on."""

import json
import os
import re
import shutil
import threading
from contextlib import contextmanager
from http.client import HTTPConnection

import pytest

from rationalize.commands.view import ViewConfig, open_view, view
from rationalize.errors import UserError
from rationalize.evaluation.results import save_questions, summarise
from rationalize.methods.base import log_dev
from rationalize.progress import PROGRESS, progress_bar
from rationalize.report.view import render_view, watched
from rationalize.runs import Run
from tests.browser import Page, needs_browser
from tests.result_toys import QUESTIONS, REWARDS, attempts_of
from tests.toys import experiment

EVIL = "<img src=x onerror=\"document.title='pwned'\"></script><script>alert(1)</script>"


@contextmanager
def served(*paths):
    with open_view(ViewConfig(tuple(map(str, paths)), port=0)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def asked(port, path="/", host=None, method="GET"):
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(method, path, headers={"Host": host or f"127.0.0.1:{port}"})
    answer = connection.getresponse()
    return answer.status, answer.read().decode(), answer.headers


def begun(path):
    """A run at work, with a log and attempts."""
    run = Run.open(path, {"method": "mario"})
    for step in range(4):
        run.log("mario", step, loss=2.0 - step / 4)
    for r in range(2):
        row = {
            "round": r,
            "split": "dev",
            "reward": "accuracy",
            "mean": 0.5,
            "low": 0.4,
            "high": 0.6,
        }
        run.log("mario/rounds", 2 * r, **row)
    run.append(attempts_of("mario", split="dev"), "mario-dev2")
    return run


def finished(path, wrong=()):
    with begun(path) as run:
        methods = {"SFT": {"test": {0: attempts_of("SFT", (1, 2))}},
                   "MaRio": {"test": {0: attempts_of("MaRio", wrong)}}}  # fmt: skip
        for method, splits in methods.items():
            run.append(splits["test"][0], f"final-{method}")
        run.write_json(
            "results.json", summarise(methods, QUESTIONS, REWARDS, meta={"model": path.name})
        )
        save_questions(run, QUESTIONS.values())
        (path / "report.html").write_text("the report")
    return path


def test_a_running_run_is_followed(tmp_path):
    with (
        begun(tmp_path / "one") as run,
        served(run.path) as port,
        progress_bar("mario", "steps") as p,
    ):
        p(3, 12, 90)
        status, page, headers = asked(port)
        assert status == 200
        assert "one: running" in page
        assert re.search(r"<bdi>mario</bdi>: 3 of 12 steps", page)
        assert "Because of 11." in page
        assert page.count("<svg") == 2  # accuracy by round, loss by step
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert json.loads((run.path / PROGRESS).read_bytes())["pid"] == os.getpid()
        run.log("mario", 4, loss=0.5)
        run.write_json("stages.json", {"sft-0": {}})
        assert "Done: sft-0." in asked(port)[1]
        before = {f: f.stat().st_mtime_ns for f in run.path.rglob("*") if f.is_file()}
        asked(port)
        assert {f: f.stat().st_mtime_ns for f in run.path.rglob("*") if f.is_file()} == before
    assert not (run.path / PROGRESS).exists()
    assert "one: not running" in render_view(watched([str(run.path)]))
    (run.path / PROGRESS).write_text(json.dumps({"pid": 2**22 + 1, "what": "mario", "unit": "steps",
                                                 "done": 3, "total": 12}))  # fmt: skip
    assert "one: stopped" in render_view(watched([str(run.path)]))
    Run.open(run.path, {"method": "mario"}).close()  # a second start forgets what a kill left
    assert not (run.path / PROGRESS).exists()


def test_a_run_that_was_deleted_while_it_was_open_stops_no_other(tmp_path):
    gone = Run.open(tmp_path / "gone", {"method": "sft"})
    shutil.rmtree(gone.path)
    with Run.open(tmp_path / "other", {"method": "sft"}) as run, progress_bar("sft", "steps") as p:
        p(1, 2, 0)
        assert json.loads((run.path / PROGRESS).read_bytes())["done"] == 1


def test_several_runs_share_their_charts_and_can_be_compared(tmp_path):
    runs = [finished(tmp_path / name, wrong) for name, wrong in (("a", (1,)), ("b", (1, 2, 3)))]
    with served(*runs) as port:
        _, page, _ = asked(port)
        assert page.count("<svg") == 2
        assert "mario · a" in page or "<bdi>a</bdi>" in page
        assert asked(port, "/runs/1")[:2] == (200, "the report")
        status, compared, _ = asked(port, "/compare")
        assert status == 200
        assert "MaRio (b) and MaRio (a) cannot be told apart in accuracy" in compared
        assert asked(port, "/runs/2")[0] == 404
        assert asked(port, "/../etc/passwd")[0] == 404


def test_it_is_for_this_machine_and_for_reading_only(tmp_path):
    with begun(tmp_path / "one") as run, served(run.path) as port:
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{port + 1}"):
            status, text, _ = asked(port, host=host)
            assert (status, "mario" in text) == (403, False)
        assert asked(port, host=f"localhost:{port}")[0] == 200
        assert asked(port, method="POST")[0] == 501
        assert asked(port, method="HEAD")[:2] == (200, "")
        with pytest.raises(UserError, match=f"port {port} of 127.0.0.1 cannot be listened on"):
            view(ViewConfig((str(run.path),), port=port))
    with pytest.raises(UserError, match="expected the folder of a run"):
        open_view(ViewConfig((str(tmp_path),)))


@needs_browser
def test_the_page_follows_and_no_text_of_a_model_does_anything(tmp_path):
    run = begun(tmp_path / "one")
    evil = [a.scored({"correctness": 1.0}) for a in attempts_of("mario")]
    evil = [
        type(a)(**{**a.__dict__, "rationale": EVIL, "prompt": EVIL, "writer": EVIL}) for a in evil
    ]
    run.append(evil, "mario-round1")
    with run, served(run.path) as port, Page(f"http://127.0.0.1:{port}/", width=400) as page:
        assert page.evaluate("document.querySelector('details').open")
        page.evaluate("document.querySelector('details').open = false")
        run.log("mario", 4, loss=0.5)
        run.write_json("stages.json", {"sft-0": {}})
        changed = (
            "new Promise(done => { const look = setInterval(() => { if (document.body.innerText"
            ".includes('Done: sft-0.')) { clearInterval(look); done(true) } }, 50) })"
        )
        assert page.evaluate(changed)
        assert not page.evaluate("document.querySelector('details').open")
        assert page.evaluate("document.title") == "Runs: one"
        assert EVIL in page.evaluate("document.querySelector('.attempt').textContent")
        assert page.console == []
        assert page.overflow <= 0
        assert {*page.requests} == {f"http://127.0.0.1:{port}/"}


def test_the_page_is_rewritten_after_every_round_and_needs_no_clock(tmp_path):
    dev = list(QUESTIONS.values())
    exp = experiment(tmp_path / "run", dev, dev)
    stage = exp.stage("mario")
    pages = []
    for step, wrong in ((0, (1, 2, 3)), (2, (1,))):
        own = [
            a.scored({r.name: 0.5 for r in exp.suite.rewards}) for a in attempts_of("mario", wrong)
        ]
        attempts = stage.attempts(f"dev{step}", lambda own=own: own)
        log_dev(exp, stage, attempts, round=step // 2, step=step)
        pages.append((exp.run.path / "report.html").read_text())
        log_dev(exp, stage, attempts, round=step // 2, step=step)
        assert (exp.run.path / "report.html").read_text() == pages[-1]  # the same after a resume
    assert "mario after step 0" in pages[0]
    assert "mario, step 0 answers 75.0 % of 12 dev questions right" in pages[0]
    assert "This run goes on" in pages[1]
    assert "mario, step 2 and mario, step 0 cannot be told apart in accuracy" in pages[1]
    assert not list(exp.run.path.rglob(".*.tmp"))
