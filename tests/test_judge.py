"""A model behind a server as a judge: of single rationales as a reward, of pairs in a study."""

from __future__ import annotations

import json
import re

import pytest

from rationalize.cli import main
from rationalize.errors import UserError
from rationalize.methods.scoring import Scoring, check_scoring
from rationalize.rewards import load_rewards
from rationalize.rewards.judge import Judge, rating
from rationalize.sampling.config import HttpConfig
from rationalize.study.asks import BETTER
from rationalize.study.judging import answer, ask_judge, prompts
from rationalize.study.results import study_results
from rationalize.study.store import Store, Vote
from tests.loopback import Handler, replies, says, serving
from tests.reward_toys import FREE, attempt, scores
from tests.study_toys import EACH, stored, study


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    monkeypatch.setenv("RATIONALIZE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RATIONALIZE_API_KEY", raising=False)


def prompt_of(handler: Handler) -> str:
    return handler.body["messages"][-1]["content"]


def likes(text: str):
    """A judge that prefers what has this text, wherever it stands."""

    def act(handler: Handler) -> None:
        prompt = prompt_of(handler)
        if "<explanation 1>" not in prompt:
            verdict = "yes" if text in prompt else "no"
        else:
            first = prompt.split("<explanation 1>")[1].split("</explanation 1>")[0]
            verdict = "1" if text in first else "2"
        replies(f"It says why. Verdict: {verdict}")(handler)

    return act


def test_ratings_are_read_from_the_end_of_a_reply():
    said = {
        "Rating: 4": 4, "**Rating:** 3": 3, "Rating: 1 is too low.\nRating: 5": 5, "rating = 2.": 2,
        "Rating: 4/5": 4, "Rating: 6": None, "Rating: 4.5": None, "Rating: 12": None, "": None,
        "I cannot say.": None,
    }  # fmt: skip
    assert {reply: rating(reply) for reply in said} == said
    assert rating(None) is None


def test_the_reward_judge_asks_and_stores(tmp_path):
    def act(handler: Handler) -> None:
        stars = 5 if "dense" in prompt_of(handler) else 1
        replies(f"Because. Rating: {stars}" if "mumble" not in prompt_of(handler) else "Mm.")(
            handler
        )

    attempts = [attempt("Steel is dense."), attempt("No."), attempt("mumble"), attempt(" "),
                attempt("2 + 2 is dense.", FREE, "4")]  # fmt: skip
    with serving(answer=act) as server:
        judge = Judge.at(f"big/model@{server.url}/v1")
        [reward] = load_rewards(["judge"], judge=judge)
        assert scores(reward, *attempts) == [1.0, 0.0, None, 0.0, 1.0]
        assert len(server.bodies) == 4  # an empty rationale is not asked about
        body = server.bodies[0]
        assert (body["model"], body["temperature"]) == ("big/model", 0.0)
        text = next(
            prompt for b in server.bodies if "2 + 2?" in (prompt := b["messages"][-1]["content"])
        )
        assert "<answer>4</answer>\n<explanation>\n2 + 2 is dense.\n</explanation>" in text
        again = Judge.at(f"big/model@{server.url}/v1")
        assert scores(load_rewards(["judge"], judge=again)[0], *attempts)[0] == 1.0
        assert len(server.bodies) == 4  # stored replies are not paid for twice
        assert again.weights_hash == judge.weights_hash
        other = Judge("big/model", f"{server.url}/v1", HttpConfig(system="Be strict."))
        assert other.weights_hash != judge.weights_hash
    with pytest.raises(UserError, match="--judge-model NAME@URL"):
        load_rewards(["judge"])


def test_a_judge_as_a_reward_of_ones_own(tmp_path, monkeypatch):
    with serving(answer=replies("Rating: 4")) as server:
        (tmp_path / "judge_here.py").write_text(
            "from rationalize.rewards.judge import Judge, judge\n"
            f"reward = judge(Judge.at('big@{server.url}'))\n"
        )
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(tmp_path)
        [reward] = load_rewards(["judge_here:reward"])
        assert reward.trainable
        assert scores(reward, attempt("It is.")) == [0.75]
    with pytest.raises(UserError, match="as a reward of your own"):
        check_scoring(Scoring(("correctness", "judge")))


def test_the_command_line_scores_with_a_judge(tmp_path, capsys):
    rows = [
        {"question": "Ice?", "answer": "yes", "rationale": r, "prediction": "yes"} for r in "ab"
    ]
    file = tmp_path / "in.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    argv = ["score", str(file), "--rewards", "judge", "--out", str(tmp_path / "out.jsonl")]
    with serving(replies("Rating: 2"), answer=replies("Rating: 5")) as server:
        assert main([*argv, "--judge-model", f"m@{server.url}"]) == 0
    scored = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert sorted(row["rewards"]["judge"] for row in scored) == [0.25, 1.0]
    assert main([*argv, "--overwrite"]) == 1
    assert "--judge-model NAME@URL" in capsys.readouterr().err
    assert main([*argv, "--overwrite", "--judge-model", "m"]) == 2
    assert "expected NAME@URL" in capsys.readouterr().err
    assert (
        main(["check-rewards", "judge", "--judge-model", "m@http://localhost:9", "--dry-run"]) == 0
    )


def test_a_pair_is_asked_in_both_orders():
    made = study(n=2, asks=[BETTER, EACH], checks=1)
    asked = list(prompts(made))
    assert len(asked) == 2 * 2 * 2  # items, questions, orders; checks are for people
    first, second = asked[0].prompt, asked[1].prompt
    texts = [made.items[0].a.rationale, made.items[0].b.rationale]
    assert [first.index(t) for t in texts] == sorted(first.index(t) for t in texts)
    assert [second.index(t) for t in texts] == sorted(
        (second.index(t) for t in texts), reverse=True
    )
    assert not any(method in one.prompt for one in asked for method in made.methods)
    said = {
        "Verdict: 1": "a", "verdict: **2**": "b", "Verdict: same": "same", "Verdict: tie": "same",
        "Verdict: Explanation 2": "b", "Verdict: yes": None, "1": None, "Verdict: 12": None,
    }  # fmt: skip
    assert {reply: answer(asked[0], reply) for reply in said} == said
    assert answer(asked[1], "Verdict: 1") == "b"
    assert [answer(asked[2], f"Verdict: {word}") for word in ("yes", "no", "1")] == [
        "yes",
        "no",
        None,
    ]


@pytest.mark.parametrize(
    ("act", "for_a", "consistent", "first", "with_people"),
    [
        (likes("count 1"), 0.0, 1.0, 0.5, 1.0),
        (replies("Verdict: 1"), 0.5, 0.0, 1.0, 0.5),  # whatever stands first: ties, and told
        (replies("Verdict: same"), 0.5, 1.0, None, 0.5),
        (replies("Hm."), None, None, None, None),
    ],
)
def test_position_bias_and_agreement_with_people(act, for_a, consistent, first, with_people):
    made = study(n=4, asks=[BETTER])
    votes = [Vote(who, i, {"better": "b"}, "a", 1.0, 1.0) for who in (1, 2) for i in range(4)]
    with serving(answer=act) as server:
        verdicts = ask_judge(made, Judge("m", server.url), "m")
    found = study_results(made, [], votes, verdicts)["judges"]
    [judge] = found
    [ask] = judge["asks"]

    def mean(row):
        return row and row["mean"]

    [preference] = ask["preferences"] or [None]
    assert (ask["verdicts"], ask["unreadable"]) == (8, 8 if for_a is None else 0)
    assert mean(preference) == for_a
    assert ask["consistent"] == consistent
    assert mean(ask["first"]) == first
    assert mean(ask["people"]) == with_people


def test_study_judge_on_the_command_line(tmp_path, capsys):
    store, _ = stored(tmp_path / "s", study(n=3, asks=[BETTER, EACH]))
    store.add(Vote(1, 0, {"better": "b", "fine/a": "no", "fine/b": "yes"}, "a", 1.0, 1.0))
    folder = str(tmp_path / "s")
    with serving(answer=likes("count 1")) as server:
        argv = ["study", "judge", folder, "--server", server.url, "--model", "big"]
        assert main(argv) == 0
        assert main(argv) == 0
        assert len(server.bodies) == 12  # the second time from the disk
    shown = capsys.readouterr()
    assert "big: 12 verdicts, 0 of them unreadable" in shown.out
    assert "12 answers, 84 prompt and 60 completion tokens" in shown.err
    assert len(Store(tmp_path / "s").verdicts()) == 12
    assert main(["study", "results", folder]) == 0
    printed = capsys.readouterr().out
    assert "The judge big" in printed
    assert re.search(r"better +agrees with people, % +100\.0", printed)
    assert re.search(r"fine +agrees with people, % +100\.0", printed)
    with serving(answer=says({"error": {"message": "no such model"}}, 404)) as server:
        argv = ["study", "judge", folder, "--server", server.url, "--model", "none"]
        assert main(argv) == 1
    assert "expected a server and a --model that exist" in capsys.readouterr().err
    assert len(store.verdicts()) == 12
