"""What servers answer beside plain text: parts, reasoning, ends of all kinds, refusals; and several
servers at once. All of them on loopback.
"""

from __future__ import annotations

import json
import socket
import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rationalize.attempt_files import load_attempts
from rationalize.cli import main
from rationalize.errors import UsageError, UserError
from rationalize.questions import builtin_questions
from rationalize.records import Completion
from rationalize.sampling.addresses import Addresses, addresses_of, endpoints_of
from rationalize.sampling.choices import read_choice
from rationalize.sampling.config import HttpConfig, SamplingConfig
from rationalize.sampling.http import Failed, Refused, Transient
from rationalize.sampling.replies import Reply, ReplyCache
from rationalize.sampling.server import ServerSampler
from tests.loopback import cut, hang_up, replies, says, serving

ONE = HttpConfig(concurrency=1)


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    """An empty cache, and no key."""
    monkeypatch.setenv("RATIONALIZE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RATIONALIZE_API_KEY", raising=False)


def sampler(url, http=ONE):
    return ServerSampler(url, "m", http, sleep=lambda seconds: None)


def ask(asker, prompts, config=SamplingConfig()):  # noqa: B008
    completions_PG = asker.sample(list(prompts), config, seeds=range(len(prompts)))
    return [[c.text for c in completions_G] for completions_G in completions_PG]


def read(content=None, finish="stop", *, counted=True, chat=True, **message):
    """A choice with this message, read."""
    holder = {"message": {"content": content, **message}} if chat else {"text": content, **message}
    return read_choice({**holder, "finish_reason": finish}, chat=chat, counted=counted, url="u")


# --- text and reasoning -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "text", "reasoning"),
    [
        ([{"type": "text", "text": "It is "}, {"type": "text", "text": "ice."}], "It is ice.", ""),
        ([{"text": "ice"}], "ice", ""),
        ({"type": "output_text", "text": "ice"}, "ice", ""),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "Cold?"}]},
          {"type": "text", "text": "ice"}], "ice", "Cold?"),
        ([{"type": "reasoning", "summary": [{"text": "Cold?"}]}, {"type": "text", "text": None}],
         "", "Cold?"),
        ([], "", ""),
        (None, "", ""),
    ],
)  # fmt: skip
def test_content_in_parts(content, text, reasoning):
    reply = read(content)
    assert (reply.completion, reply.reasoning) == (Completion(text, "stop", 0), reasoning)


@pytest.mark.parametrize(
    "field",
    [
        {"reasoning_content": "Cold?"},
        {"reasoning": "Cold?", "reasoning_details": [{"type": "reasoning.text", "text": "Cold?"}]},
        {"reasoning_details": [{"text": "Co"}, {"text": "ld?"}, {"data": "encrypted"}]},
        {"thinking": " Cold?\n", "reasoning_content": None},
    ],
)
def test_reasoning_is_kept_beside_the_reply(field):
    reply = read("So the answer is (A).", **field)
    assert (reply.completion.text, reply.reasoning) == ("So the answer is (A).", "Cold?")
    assert reply.oddities == ("with reasoning in a field of its own, which no rationale holds",)
    (said,) = read(None, "length", **field).oddities
    assert "still reasoning at the length limit: raise --max-new-tokens" in said
    assert read("", **field).oddities == ("that are all reasoning, without text",)


def test_other_parts_and_refusals_are_counted():
    assert read([{"type": "image_url"}, {"type": "text", "text": "x"}]).oddities == (
        "with a part of type 'image_url', left out",
    )
    assert "in which the model refuses, in a field of its own" in read(refusal="No.").oddities
    for content in (3, ["x"], [[]], True):
        with pytest.raises(UserError, match=r"expected text or null in its message\.content"):
            read(content)


def test_reasoning_is_stored_also_in_a_file_of_an_earlier_version(tmp_path):
    old = sqlite3.connect(tmp_path / "replies.sqlite")
    with old:
        old.execute(
            "CREATE TABLE replies (key BLOB, sample INTEGER, text TEXT, finish TEXT, n_tokens "
            "INTEGER, oddities TEXT, PRIMARY KEY (key, sample)) WITHOUT ROWID"
        )
        old.execute("INSERT INTO replies VALUES (?, 0, 'old', 'stop', 3, '[]')", (b"k",))
    old.close()
    new = Reply(Completion("new", "length", 4), ("odd",), "Cold?")
    for _ in range(2):  # opened twice: the column is added once
        cache = ReplyCache(tmp_path)
        cache.put(b"k", 1, [new])
        assert cache.get(b"k") == [Reply(Completion("old", "stop", 3)), new]


# --- ends ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "finish"),
    [("stop", "stop"), ("STOP", "stop"), ("end_turn", "stop"), ("eos", "stop"), (None, "stop"),
     ("", "stop"), ({"type": "stop"}, "stop"), ("FinishReason.STOP", "stop"),
     ("stop-sequence", "stop"), ("length", "length"), ("MAX_TOKENS", "length"),
     ("model_length", "length"), ("FINISH_REASON_MAX_TOKENS", "length"),
     ("content_filter", "length"), ("SAFETY", "length"), ("tool_calls", "length"),
     ("repetition", "length"), (7, "length")],
)  # fmt: skip
def test_ends_have_many_names(reason, finish):
    assert read("Ice.", reason).completion.finish == finish


@given(st.text(min_size=1))
def test_an_unknown_end_is_never_success(reason):
    reason = f"{reason}?"
    try:
        reply = read("Ice.", reason)
    except Failed:
        assert "error" in reason.lower()
    else:
        assert reply.completion.finish == "length"
        assert "unknown finish reason" in reply.oddities[0]


@pytest.mark.parametrize(
    "choice",
    [
        {"message": {"content": ""}, "finish_reason": "error", "error": {"message": "upstream"}},
        {"message": {"content": "Ic"}, "finish_reason": "error"},
        {"message": {"content": "Ice."}, "finish_reason": "stop", "error": {"code": 502}},
        {"message": {"content": None}, "finish_reason": "network_error"},
        {"message": {"content": "Ic"}, "finish_reason": "abort"},
        {"message": {"content": ""}, "finish_reason": "insufficient_system_resource"},
        {"message": {"content": ""}, "finish_reason": "stop"},
        {"message": {"content": None}, "finish_reason": None},
    ],
)
def test_a_failure_behind_success_is_asked_again_and_not_stored(choice):
    with serving(says({"choices": [choice]}), answer=replies("Ice.")) as server:
        asker = sampler(server.url)
        assert ask(asker, "p") == [["Ice."]]
        assert len(server.bodies) == 2 == 1 + sum(asker.bill.retries.values())
        assert ask(sampler(server.url), "p") == [["Ice."]]
        assert len(server.bodies) == 2


def test_of_several_choices_the_good_ones_are_kept():
    good = {"message": {"content": "Ice."}, "finish_reason": "stop"}
    bad = {"message": {"content": "Ic"}, "finish_reason": "error"}
    with serving(says({"choices": [bad, good]}), answer=replies("Snow.")) as server:
        assert ask(sampler(server.url), "p", SamplingConfig(n=2)) == [["Ice.", "Snow."]]


def test_a_provider_that_goes_on_failing_ends_the_verb():
    failed = says({"choices": [{"message": {"content": ""}, "finish_reason": "error"}]})
    with serving(replies("Ice."), answer=failed) as server:
        with pytest.raises(UserError, match="start again to resume"):
            ask(sampler(server.url), "abcdefghijklm")
        assert len(server.bodies) == 1 + 8 * 8
        server.answer = replies("Ice.")
        assert ask(sampler(server.url), "abcdefghijklm") == [["Ice."]] * 13
        assert len(server.bodies) == 1 + 8 * 8 + 12


# --- refusals -----------------------------------------------------------------------------------


def refused(message, code=None, status=400):
    return says({"error": {"message": message, "code": code}}, status)


def on_prompts(bad, act, good):
    """An act that is `act` for the prompts in `bad`, else `good`."""

    def choose(handler):
        (act if handler.body["messages"][-1]["content"] in bad else good)(handler)

    return choose


@pytest.mark.parametrize(
    "act",
    [
        refused("The prompt triggered the content management policy.", "content_filter"),
        refused("This model's maximum context length is 8192 tokens.", "context_length_exceeded"),
        refused("prompt is too long: 210000 tokens > 200000 maximum"),
        refused("The input token count (9) exceeds the maximum number of tokens allowed", 400),
        refused("the request exceeds the available context size", 400),
        refused("Input data may contain inappropriate content", "data_inspection_failed"),
        refused("Your input was flagged", 403, status=403),
        refused("input is too large to process", status=500),
        refused("Request too large: limit 30000, requested 40000 tokens", "tokens", status=429),
        says(b"", 413),
        says({"error": {"message": "flagged by moderation", "code": 403}}),
    ],
)
def test_a_prompt_that_is_refused_is_skipped_counted_and_shown(act, caplog):
    with serving(answer=on_prompts("ac", act, replies("Ice."))) as server:
        asker = sampler(server.url)
        assert ask(asker, "abcd") == [[], ["Ice."], [], ["Ice."]]
        assert len(server.bodies) == 4
    assert "2 prompts skipped, which the server refused" in str(asker.bill)
    assert "The prompt ends in 'a'" in caplog.text
    assert "The prompt ends in 'c'" in caplog.text


@pytest.mark.parametrize(
    ("act", "requests"),
    [
        (refused("Unsupported parameter: 'max_tokens'", "unsupported_parameter"), 1),
        (refused("top_k: Extra inputs are not permitted", 422, status=422), 1),
        (refused("temperature must be 1"), 2),
        (refused("maximum context length is 5 tokens"), 16),
        (says(b"", 401), 1),
        (says(b"", 404), 1),
    ],
)
def test_what_all_prompts_share_ends_the_verb(act, requests):
    with serving(answer=act) as server:
        with pytest.raises(UserError):
            ask(sampler(server.url), [str(i) for i in range(40)])
        assert len(server.bodies) == requests


def test_after_a_reply_an_unclear_refusal_is_of_the_prompt():
    unclear = refused("Bad Request")
    with serving(answer=on_prompts("bcd", unclear, replies("Ice."))) as server:
        assert ask(sampler(server.url), "abcde") == [["Ice."], [], [], [], ["Ice."]]
        assert ask(sampler(server.url), "abc") == [["Ice."], [], []]  # the first from the disk
        with pytest.raises(UserError, match=r"Bad Request.*--http.fields.*The prompt ends in 'b'"):
            ask(sampler(server.url), "b")


def test_a_server_that_refuses_everything_ends_the_verb_after_a_resume_too():
    with serving(answer=replies("Ice.")) as server:
        assert ask(sampler(server.url), "a") == [["Ice."]]
        url = server.url
        server.answer = refused("Model is not loaded")
        prompts = "a" + "".join(chr(0x100 + i) for i in range(60))
        with pytest.raises(UserError, match="Model is not loaded"):
            ask(sampler(url), prompts)


def test_sample_and_evaluate_go_on_without_the_refused(tmp_path, capsys, caplog):
    first, second, third = builtin_questions()["test"][:3]
    act = refused("The prompt triggered the content policy.", "content_filter")

    def answer(handler):
        bad = second.question in handler.body["messages"][-1]["content"]
        (act if bad else replies("So the answer is (A)."))(handler)

    run, out = tmp_path / "run", tmp_path / "a.jsonl"
    flags = ["--model", "m", "--questions", "builtin", "--split", "test", "--limit", "3"]
    with serving(answer=answer) as server:
        flags += ["--server", server.url, "--http.concurrency", "1"]
        assert main(["sample", *flags, "--out", str(out), "--n", "2"]) == 0
        shown = capsys.readouterr()
        assert "4 of 4 attempts at 3 questions; 4 parsed" in shown.out
        assert "; 1 skipped" in shown.out
        assert "1 prompts skipped, which the server refused" in shown.err
        assert (
            f"1 of 3 questions have no attempt, because their prompts were refused: {second.id}"
            in (caplog.text)
        )
        assert {a.question_id for a in load_attempts(out)} == {first.id, third.id}
        assert main(["evaluate", *flags, "--out", str(run)]) == 0
        assert f"1 of 3 questions are left out: {second.id}" in capsys.readouterr().out
        results = json.loads((run / "results.json").read_text())
        assert results["meta"]["skipped"] == [second.id]
        for method in results["methods"].values():  # the model and the majority
            assert method["splits"]["test"]["metrics"]["accuracy"]["n"] == 2
        before = (run / "results.json").read_bytes()
        assert main(["evaluate", *flags, "--out", str(run)]) == 0
        assert (run / "results.json").read_bytes() == before


# --- addresses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("", "/v1/chat/completions"),
        ("/", "/v1/chat/completions"),
        ("/v1/", "/v1/chat/completions"),
        ("/v1/chat/completions", "/v1/chat/completions"),
        ("?api-version=2024-10-21", "/v1/chat/completions?api-version=2024-10-21"),
        ("/openai/deployments/m?api-version=1&region=x",
         "/openai/deployments/m/chat/completions?api-version=1&region=x"),
        ("/d/m/chat/completions?api-version=1", "/d/m/chat/completions?api-version=1"),
    ],
)  # fmt: skip
def test_where_requests_go(address, path):
    with serving() as server:
        ask(sampler(server.url + address), "p")
        assert server.heads[0][0] == path


def test_addresses_of_another_endpoint_and_with_a_key():
    with pytest.raises(UsageError, match="ends in /chat/completions, expected /completions"):
        endpoints_of("http://h/v1/chat/completions", HttpConfig(endpoint="completions"))
    with pytest.raises(UsageError, match="ends in /completions, expected /chat/completions"):
        endpoints_of("http://h/v1/completions", HttpConfig())
    for query in (
        "api-key=s3cret",
        "sig=s3cret",
        "access_token=s3cret",
        "v=1&subscription-key=s3cret",
    ):
        with pytest.raises(UsageError, match="a key in its query") as caught:
            sampler(f"http://h/v1?{query}")
        assert "s3cret" not in str(caught.value)


def test_the_key_in_a_header_of_its_own(monkeypatch):
    monkeypatch.setenv("RATIONALIZE_API_KEY", "k-0123456789abcdef")
    with serving() as server:
        ask(sampler(server.url, HttpConfig(key_header="api-key")), "p")
        ask(sampler(server.url, HttpConfig()), "q")
        (_, own), (_, bearer) = server.heads
    assert own["Api-Key"] == "k-0123456789abcdef"
    assert "Authorization" not in own
    assert bearer["Authorization"] == "Bearer k-0123456789abcdef"


def test_prompts_are_spread_and_stored_under_the_first_address():
    with serving(answer=replies("Ice.")) as one, serving(answer=replies("Ice.")) as two:
        both = f"{one.url}, {two.url}/v1"
        ask(sampler(both), "abcdefgh")
        assert len(one.bodies) == len(two.bodies) == 4
        again = sampler(one.url)
        ask(again, "abcdefgh")
        assert again.bill.cached == 8


def test_a_dead_address_is_left_out_and_told(caplog):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{free.getsockname()[1]}"
        with serving(answer=replies("Ice.")) as alive:
            asker = sampler(f"{dead},{alive.url}", HttpConfig(concurrency=3))
            assert ask(asker, "abcdef") == [["Ice."]] * 6
            assert len(alive.bodies) == 6
    assert asker.bill.retries == {}  # asked elsewhere at once
    assert f"left out: {dead}/v1/chat/completions: nothing listens there" in str(asker.bill)
    assert "nothing listens there; left out: 1 addresses go on" in caplog.text


def test_an_address_that_fails_three_times_in_a_row_is_left_out():
    prompts = [str(i) for i in range(30)]
    with serving(answer=replies("Ice.")) as good, serving(answer=cut) as bad:
        asker = sampler(f"{bad.url},{good.url}", HttpConfig(concurrency=8))
        assert ask(asker, prompts) == [["Ice."]] * 30
        assert len(bad.bodies) <= 8
    with serving(says(b"", 503), says(b"", 503), says(b"", 503), answer=replies("Ice.")) as last:
        assert ask(sampler(last.url), "p") == [["Ice."]]  # there is no other


def test_an_address_whose_check_refuses_it_is_left_out_unless_it_is_the_last():
    def check(url):
        if url.startswith(refused):
            raise UserError("it has other weights")

    once = says(b"", 503)
    with serving(once) as one, serving(once, answer=hang_up) as two:
        refused = one.url
        addresses = Addresses(endpoints_of(f"{one.url},{two.url}", HttpConfig()), check)
        for _ in range(3):  # one fails, two fails, one is refused and two fails again
            with pytest.raises(Transient):
                addresses.post({})
        assert addresses.left_out == ["it has other weights"]
        assert (len(one.bodies), len(two.bodies)) == (1, 2)
        refused = two.url
        with pytest.raises(UserError, match="it has other weights"):
            addresses.post({})


def test_slow_down_is_no_sign_of_death():
    busy = [says(b"", 429)] * 5
    with serving(*busy, answer=replies("Ice.")) as one, serving(answer=replies("Ice.")) as two:
        asker = sampler(f"{one.url},{two.url}")
        ask(asker, "abcdefghij")
        assert asker.bill.left_out == []
        assert len(one.bodies) > 5


def test_a_second_start_may_name_more_servers(tmp_path):
    run = str(tmp_path / "run")
    flags = ["evaluate", "--model", "m", "--questions", "builtin", "--limit", "2", "--out", run]
    with serving() as one, serving() as two:
        assert main([*flags, "--server", one.url]) == 0
        assert main([*flags, "--server", f"{one.url},{two.url}"]) == 0
        assert len(one.bodies) == 2
        assert two.bodies == []


def test_addresses_without_names():
    assert addresses_of("http://a,, http://a ,http://b") == ["http://a", "http://b"]
    for none in ("", ",", " , "):
        with pytest.raises(UsageError, match="expected http"):
            sampler(none)


def test_a_refusal_says_whose_fault_it_is():
    with pytest.raises(Refused) as caught:
        read("x", "stop", chat=False, error={"code": "content_filter"})
    assert caught.value.fault == "prompt"
