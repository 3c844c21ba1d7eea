"""Sampling from HTTP servers: one that behaves, and one that does not. All of them on loopback."""

from __future__ import annotations

import email.utils
import socket
import threading
import time

import pytest

from rationalize.errors import UsageError, UserError
from rationalize.records import Question
from rationalize.sampling.config import HttpConfig, SamplingConfig
from rationalize.sampling.server import ServerSampler
from rationalize.sampling.writing import PromptOptions, Provenance, write_attempts
from rationalize.templates import DEFAULT_SYSTEM
from tests.loopback import (
    cut,
    cut_chunked,
    drip,
    garble,
    hang_up,
    replies,
    says,
    serving,
    silence,
)

ONCE = SamplingConfig()


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    """An empty cache, no key, and a proxy that nothing here may use."""
    monkeypatch.setenv("RATIONALIZE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("RATIONALIZE_API_KEY", raising=False)


class Sleepless(ServerSampler):
    """Does not sleep between retries, but notes how long it would have."""

    def __init__(self, server, model="m", http=None, **options) -> None:
        self.slept: list[float] = []
        super().__init__(server, model, http, sleep=self.slept.append, **options)

    def ask(self, prompts=("p",), config=ONCE, seeds=None):
        return self.sample(list(prompts), config, seeds=seeds or range(len(prompts)))


def texts(completions_PG):
    return [[c.text for c in completions_G] for completions_G in completions_PG]


# --- what is asked ------------------------------------------------------------------------------


def test_a_chat_is_asked_as_a_local_policy_is():
    config = SamplingConfig(temperature=0.7, top_p=0.9, top_k=40, max_new_tokens=9, n=3)
    with serving(answer=replies(" one ", "four", "nine")) as server:
        (found,) = Sleepless(server.url).ask(["Which sinks?"], config)
        ((path, _),) = server.heads
        (body,) = server.bodies
    assert [c.text for c in found] == ["one", "four", "nine"]
    assert {c.finish for c in found} == {"stop"}
    assert sum(c.n_tokens for c in found) == 15
    assert path == "/v1/chat/completions"
    assert isinstance(body.pop("seed"), int)
    assert body == {
        "model": "m", "max_tokens": 9, "temperature": 0.7, "top_p": 0.9, "top_k": 40, "n": 3,
        "messages": [
            {"role": "system", "content": DEFAULT_SYSTEM},
            {"role": "user", "content": "Which sinks?"},
        ],
    }  # fmt: skip


def test_a_base_model_completes_text_after_a_line_break_up_to_an_empty_line():
    with serving(answer=replies("heavy", finish="length")) as server:
        sampler = Sleepless(server.url + "/api/v3/", http=HttpConfig(endpoint="completions"))
        ((found,),) = sampler.ask(["Q: a\nA:"])
        assert server.heads[0][0] == "/api/v3/completions"
        assert (server.bodies[0]["prompt"], server.bodies[0]["stop"]) == ("Q: a\nA:\n", ["\n\n"])
    assert (found.text, found.finish, found.n_tokens) == ("heavy", "length", 5)


def test_a_chat_that_goes_on_after_its_answer_is_cut_there():
    said = "Steel.\n\nSo the answer is (A).\n\nWhich floats? So the answer is (B)."
    with serving(answer=replies(said)) as server:
        sampler = Sleepless(server.url)
        for stop, kept in ((None, said), ("\n\n", "Steel.\n\nSo the answer is (A).")):
            [[found]] = sampler.sample(["p"], ONCE, seeds=[0], stop=stop)
            assert (found.text, found.finish) == (kept, "stop")


def test_fields_are_added_changed_and_left_out():
    fields = {"seed": "null", "max_tokens": "null", "max_completion_tokens": "32", "min_p": "0.1",
              "reasoning_effort": "low"}  # fmt: skip
    with serving() as server:
        Sleepless(server.url, http=HttpConfig(fields=fields, system="")).ask()
        (body,) = server.bodies
    assert body.pop("messages") == [{"role": "user", "content": "p"}]
    assert body == {"model": "m", "temperature": 1.0, "max_completion_tokens": 32, "min_p": 0.1,
                    "reasoning_effort": "low"}  # fmt: skip


def test_greedy_is_asked_for_once_whatever_n_and_seed():
    config = SamplingConfig(temperature=0, top_p=0.5, n=3)
    with serving() as server:
        sampler = Sleepless(server.url)
        (found,) = sampler.ask(config=config)
        assert sampler.ask(["p", "p"], config, seeds=[8, 9]) == [found, found]
        (body,) = server.bodies
    assert len(found) == 3
    assert (body["temperature"], "top_p" in body, "n" in body) == (0, False, False)


def test_a_server_that_ignores_n_is_asked_for_the_rest_with_other_seeds():
    with serving(replies("a", "b", n=2), answer=replies("c", n=1)) as server:
        sampler = Sleepless(server.url)
        assert texts(sampler.ask(config=SamplingConfig(n=4))) == [["a", "b", "c", "c"]]
        assert [body.get("n", 1) for body in server.bodies] == [4, 2, 1]
        assert len({body["seed"] for body in server.bodies}) == 3
    assert (sampler.bill.answers, sampler.bill.completion_tokens) == (3, 20)


def test_controls_and_beams_are_refused():
    with serving() as server:
        sampler = Sleepless(server.url)
        question = Question(id="1", question="Which sinks?", answer="")
        options = PromptOptions(control={"diversity": 0})
        with pytest.raises(UsageError, match="no control tokens"):
            write_attempts(sampler, [question], ONCE, Provenance("s", 0), options)
        with pytest.raises(UsageError, match="no beams"):
            sampler.ask(config=SamplingConfig(beams=2))
        assert server.bodies == []


@pytest.mark.parametrize(
    "url",
    ["localhost:80", "ftp://h", "http://", "http://me:secret@h", "http://h/v1?key=secret",
     "http://h:port", "http://a b", "http://[::1", f"http://{'a' * 70}.com", "file:///etc/passwd"],
)  # fmt: skip
def test_addresses_that_are_none(url):
    with pytest.raises(UsageError, match=r"--server: .*http\(s\)://host") as caught:
        ServerSampler(url, "m")
    assert "secret" not in str(caught.value)


# --- what goes wrong and passes -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (says({"error": {"message": "slow down"}}, 429), "429"),
        (says(b"", 500), "500"),
        (says(b"<html>", 502), "502"),
        (cut, "a cut connection"),
        (cut_chunked, "a cut connection"),
        (hang_up, "a cut connection"),
        (garble, "a cut connection"),
        (silence, "a time-out"),
        (drip, "a time-out"),
        (says(b'{"choices": ['), "broken JSON"),
        (says(b"<html>Log in to the network</html>"), "broken JSON"),
        (says(b"\xff\xfe"), "broken JSON"),
        (says(b"[" * 100_000), "broken JSON"),
        (says({"error": {"message": "upstream", "code": 502}}), "an answer without choices"),
        (says({"choices": []}), "an answer without choices"),
        (says({"choices": None}), "an answer without choices"),
        (says([1]), "an answer without choices"),
    ],
)
def test_what_passes_is_asked_again(act, reason, caplog):
    timeout = 0.5 if reason == "a time-out" else 60.0
    with serving(act, answer=replies("x")) as server:
        sampler = Sleepless(server.url, http=HttpConfig(timeout=timeout))
        assert texts(sampler.ask()) == [["x"]]
        retries = dict(sampler.bill.retries)
        assert len(server.bodies) == 1 + sum(retries.values())
    assert retries.pop(reason) >= 1
    assert not retries
    assert "asking again in" in caplog.text
    assert f"after {reason}" in str(sampler.bill)


def test_waits_grow_and_end():
    with serving(answer=says({"error": "busy\x1b[2J"}, 503)) as server:
        sampler = Sleepless(server.url)
        with pytest.raises(UserError, match=r"answered 503 \('busy\\x1b\[2J'\); 8 times"):
            sampler.ask()
        assert len(server.bodies) == 8
    assert [2**k / 2 <= s <= 2**k for k, s in enumerate(sampler.slept[:6])] == [True] * 6
    assert len(sampler.slept) == 7
    assert 30 <= sampler.slept[6] <= 60


@pytest.mark.parametrize(
    ("asked", "low", "high"),
    [("7", 7, 8), ("7.5", 7.5, 8.5), (email.utils.formatdate(1e9 + 40, usegmt=True), 40, 41),
     ("0", 0.5, 1), ("soon", 0.5, 1), ("-3", 0.5, 1), ("nan", 0.5, 1), ("1 Jan 1", 0.5, 1),
     (email.utils.formatdate(1e9 - 40), 0.5, 1)],
)  # fmt: skip
def test_retry_after_is_honoured(asked, low, high, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1e9)
    with serving(says(b"", 429, Retry_After=asked)) as server:
        sampler = Sleepless(server.url)
        sampler.ask()
    (slept,) = sampler.slept
    assert low <= slept <= high


def test_a_server_that_asks_for_an_hour_is_left():
    with serving(says(b"", 429, Retry_After="3600")) as server:
        with pytest.raises(UserError, match="asks to wait 3600 s; start again after that"):
            Sleepless(server.url).ask()
        assert len(server.bodies) == 1


def test_nothing_listens():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(UserError, match="nothing listens there; 8 times"):
            Sleepless(url).ask()


# --- what does not pass -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (says({"error": {"message": "who?"}}, 401), r"401 \('who\?'\).*_API_KEY, which is not set"),
        (says(b"", 403), "key in the environment variable RATIONALIZE_API_KEY"),
        (says({"message": "no such model"}, 404), "'no such model'.*--model that exist"),
        (says({"detail": "top_k?"}, 400), r"top_k\?.*--http.fields.*The prompt ends in 'p'"),
        (says(b"\xff{", 422), "answered 422"),
        (says({"error": {"code": "context_length_exceeded"}}, 400), "exceeded.*prompt ends in 'p'"),
        (says(b"", 301, Location="http://[elsewhere"), r"moved to 'http://\[elsewhere'"),
        (says({"error": {"message": "pay", "code": "insufficient_quota"}}, 429), "no quota left"),
        (says({"choices": [{"text": "x"}]}), "found the choice.*message.content"),
        (says({"choices": [None]}), "found the choice 'null'"),
        (says({"choices": [{"message": {"content": ["x"]}}]}), "expected text or null"),
    ],
)
def test_what_does_not_pass_is_said_at_once(act, said):
    with serving(act) as server:
        sampler = Sleepless(server.url)
        with pytest.raises(UserError, match=said):
            sampler.ask()
        assert len(server.bodies) == 1
    assert sampler.slept == []


def test_one_refusal_ends_the_others_and_keeps_what_was_answered():
    with serving(replies("x"), replies("x"), says(b"", 401)) as server:
        with pytest.raises(UserError, match="401"):
            Sleepless(server.url, http=HttpConfig(concurrency=1)).ask("abcdefgh")
        assert len(server.bodies) == 3
        sampler = Sleepless(server.url)
        sampler.ask("abcdefgh")
        assert len(server.bodies) == 3 + 6
    assert (sampler.bill.cached, sampler.bill.answers) == (2, 6)


def test_an_interrupt_keeps_what_is_under_way():
    interrupted = threading.Event()
    prompts = [str(i) for i in range(40)]

    def enough(*_):
        interrupted.set()
        raise KeyboardInterrupt

    def act(handler):
        assert interrupted.wait(60)
        replies("x")(handler)

    with serving(replies("x"), answer=act) as server:
        sampler = Sleepless(server.url, http=HttpConfig(concurrency=2))
        with pytest.raises(KeyboardInterrupt):
            sampler.sample(prompts, ONCE, seeds=range(40), progress=enough)
        paid = len(server.bodies)
        assert 2 <= paid < 40
        again = Sleepless(server.url)
        again.ask(prompts)
    assert (again.bill.cached, again.bill.answers) == (paid, 40 - paid)


def test_an_answer_without_end():
    with serving(answer=replies("x" * (33 << 20))) as server:
        with pytest.raises(UserError, match="more than 32 MiB"):
            Sleepless(server.url).ask()
        assert len(server.bodies) == 1


# --- text that is not to be trusted ---------------------------------------------------------------


def test_texts_that_are_odd_are_kept_counted_and_named():
    megabytes = "heavy " * 500_000
    script = [
        replies(None),
        says({"choices": [{"message": {"tool_calls": []}, "finish_reason": None}],
              "usage": {"prompt_tokens": 7, "completion_tokens": 0}}),
        replies("a\ud800b"),
        replies("\ud83d\ude00"),
        replies("cut", finish="content_filter"),
        replies(megabytes, usage=False),
        says({"choices": [{"message": {"content": "c"}}],
              "usage": {"prompt_tokens": -1, "completion_tokens": 1e999}}),
    ]  # fmt: skip
    with serving(*script) as server:
        sampler = Sleepless(server.url, http=HttpConfig(concurrency=1))
        found = [c for (c,) in sampler.ask("abcdefg")]
        again = Sleepless(server.url)
        assert [c for (c,) in again.ask("abcdefg")] == found
        assert len(server.bodies) == len(script)
    assert [c.text for c in found] == [
        "", "", "a\ufffdb", "\U0001f600", "cut", megabytes.strip(), "c"
    ]  # fmt: skip
    assert [c.finish for c in found] == ["stop"] * 4 + ["length"] + ["stop"] * 2
    shown = str(sampler.bill)
    for part in (
        "2 replies without text",
        "1 replies with unpaired surrogates, which were replaced",
        "1 replies cut by the server's filter",
        "2 answers did not count their tokens",
        "35 prompt and 20 completion tokens",
    ):
        assert part in shown
    assert again.bill.oddities == sampler.bill.oddities


# --- what is paid -------------------------------------------------------------------------------


def test_nothing_is_paid_twice():
    two, five = SamplingConfig(n=2), SamplingConfig(n=5)
    with serving(replies("a", "b"), replies("c", "d", "e")) as server:
        first = Sleepless(server.url)
        assert texts(first.ask(config=two)) == [["a", "b"]]
        assert texts(Sleepless(server.url).ask(config=five)) == [["a", "b", "c", "d", "e"]]
        assert [body["n"] for body in server.bodies] == [2, 3]
        other = Sleepless(server.url, http=HttpConfig(concurrency=1, timeout=9))
        assert texts(other.ask(["p", "p"], two, seeds=[0, 0])) == [["a", "b"]] * 2
        assert len(server.bodies) == 2
        assert "2 replies were on disk" in str(other.bill)

        other.ask(config=two, seeds=[1])
        other.ask(config=SamplingConfig(n=2, top_p=0.5))
        other.ask(["q"], two)
        Sleepless(server.url, "another").ask(config=two)
        Sleepless(server.url, http=HttpConfig(system="Be brief.")).ask(config=two)
        Sleepless(server.url, http=HttpConfig(fields={"min_p": "0.1"})).ask(config=two)
        assert len(server.bodies) == 8


def test_more_choices_than_asked_for_are_kept():
    with serving(replies("a", "b", "c", n=3)) as server:
        assert texts(Sleepless(server.url).ask()) == [["a"]]
        assert texts(Sleepless(server.url).ask(config=SamplingConfig(n=3))) == [["a", "b", "c"]]
        assert len(server.bodies) == 1


def test_a_cache_that_cannot_be_used(tmp_path):
    (tmp_path / "replies.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(UserError, match=r"replies.sqlite: .*RATIONALIZE_CACHE"):
        ServerSampler("http://h", "m", cache=tmp_path)


def test_no_more_requests_are_under_way_than_allowed():
    """Three wait for each other, then for a fourth, which must not come before one is answered."""
    limit, under_way, peak = 3, 0, 0
    together = threading.Condition()

    def act(handler):
        nonlocal under_way, peak
        with together:
            under_way += 1
            peak = max(peak, under_way)
            together.notify_all()
            assert together.wait_for(lambda: peak >= limit, timeout=60)
            together.wait_for(lambda: peak > limit, timeout=0.2)
            under_way -= 1
        replies("x")(handler)

    with serving(*[act] * 4) as server:
        Sleepless(server.url, http=HttpConfig(concurrency=limit)).ask("abcd")
    assert peak == limit
