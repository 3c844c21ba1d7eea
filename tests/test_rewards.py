"""Every reward against vectors worked out by hand, and what happens when a reward misbehaves."""

import asyncio
import dataclasses
import functools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rationalize.errors import UsageError, UserError
from rationalize.records import Question
from rationalize.rewards import (
    DIAGNOSTICS,
    REWARDS,
    BadReward,
    Reward,
    RewardSuite,
    load_rewards,
    to_trl,
)
from rationalize.rewards.answer_leak import leaks
from rationalize.rewards.diversity import diversity_of
from rationalize.rewards.mentions import names_answer, sentences
from rationalize.rewards.option_copying import copied_share
from rationalize.rewards.repetition import repeated_share
from tests.reward_toys import FREE, QUESTION, FakeAnswerScorer, FakeVerifier, attempt, scores


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a b a b a", 1 / 2 * 2 / 3),
        ("x x x x", 1 / 3 * 1 / 2),
        ("a b", 1.0),
        ("word", 1.0),
        ("", 1.0),
        ("ease in ease in ease in cutting through. Ease in cutting through.", 0.33939),
        ("the cat sat on the mat and the cat slept", 8 / 9),
    ],
)
def test_diversity_vectors(text, value):
    assert diversity_of(text) == pytest.approx(value, abs=5e-6)
    assert scores(load_rewards(["diversity"])[0], attempt(text)) == [diversity_of(text)]


@given(st.lists(st.sampled_from("ab"), max_size=12))
def test_diversity_and_repetition_stay_in_range(letters):
    assert 0 < diversity_of(" ".join(letters)) <= 1
    assert 0 <= repeated_share(" ".join(letters)) < 1


def test_correctness_by_match_and_missing_answer():
    correctness = load_rewards(["correctness"])[0]
    free = attempt("r", FREE, prediction="It is 4")
    attempts = [attempt("r"), attempt("r", prediction="wood"), attempt("r", prediction=None), free]
    assert scores(correctness, *attempts) == [1.0, 0.0, 0.0, 1.0]
    assert correctness.levels == (1.0, 0.0)


def test_consistency_is_the_gain_in_gold_probability():
    scorer = FakeAnswerScorer({"good": [0.1, 0.9], "bad": [0.7, 0.3], "sum": [0.8]})
    reward = load_rewards(["consistency"], answer_scorer=scorer)[0]
    got = scores(
        reward,
        attempt("good"),
        attempt("bad"),
        attempt("  "),
        attempt("sum", FREE),
        attempt("good"),
    )
    assert got == pytest.approx([0.3, -0.3, 0.0, 0.3, 0.3])


def test_discrete_consistency_has_three_levels():
    helped = Question("q3", "?", "wood", ("wood", "steel"))  # wrong without a rationale
    scorer = FakeAnswerScorer({"good": [0.1, 0.9], "bad": [0.7, 0.3]})
    reward = load_rewards(["consistency_discrete"], answer_scorer=scorer)[0]
    assert scores(reward, attempt("good"), attempt("bad"), attempt("")) == [0.0, -1.0, 0.0]
    assert scores(reward, attempt("bad", helped), questions=[helped]) == [1.0]
    assert scores(reward, attempt("good", FREE)) == [None]  # undefined without choices


def test_consistency_without_gold_is_undefined():
    unknown = Question("q4", "?", "", ("wood", "steel"))
    reward = load_rewards(["consistency"], answer_scorer=FakeAnswerScorer({}))[0]
    assert scores(reward, attempt("good", unknown), questions=[unknown]) == [None]


def test_plausibility_reads_the_stripped_rationale_alone():
    reward = load_rewards(["plausibility"], verifier=FakeVerifier())[0]
    assert scores(reward, attempt(" true "), attempt("odd"), attempt(" ")) == [0.9, 0.1, 0.0]


def test_diagnostics_count_faults():
    length, copying, leak, repetition = load_rewards(
        ["length", "option_copying", "answer_leak", "repetition"]
    )
    text = attempt("It must be steel, not wood.")
    assert scores(length, text) == [6.0]
    assert scores(copying, text) == [pytest.approx(2 / 6)]
    assert scores(copying, attempt("r", FREE)) == [None]
    assert scores(leak, text, attempt("It must be steel."), attempt("So (B).")) == [0.0, 1.0, 1.0]
    assert scores(repetition, attempt("a b c d a b c")) == [pytest.approx(3 / 7)]
    assert repeated_share("") == copied_share("", ["a"]) == 0.0
    assert not any(r.trainable for r in load_rewards(["length", "repetition"]))


def test_leaks_by_sentence():
    assert not leaks("Steel is heavier than wood. 2.5 kg more.", "steel", ("wood", "steel"))
    assert leaks("Steel is heavier than wood. It is steel", "steel", ("wood", "steel"))
    assert leaks("so it is 4 of them", "4", None)
    assert not leaks("so it is 14 of them", "4", None)
    assert sentences("It is 2.5. So there!\nYes") == ["It is 2.5.", "So there!", "Yes"]
    assert names_answer("the HEAVY cart wins", "the heavy cart", None)
    assert not names_answer("the heavy old cart", "the heavy cart", None)


class FakeWeights:
    weights_hash = "fake"

    def scores(self, questions, rationales, predictions):
        return [float(len(r)) for r in rationales]


def test_every_reward_of_the_list_can_be_made():
    scorer, verifier = FakeAnswerScorer({}), FakeVerifier()
    names = [n for n in REWARDS if n != "fluency"]  # fluency needs a model: see test_scorers.py
    rewards = load_rewards(
        names, answer_scorer=scorer, verifier=verifier, reward_model=FakeWeights(),
        judge=FakeWeights(),
    )  # fmt: skip
    assert [r.name for r in rewards] == names
    faithful = {"simulatability", "truncation_drop", "removal_drop", "negation_drop"}
    cheap = {"prediction_leak", *DIAGNOSTICS} - {"fluency"}
    assert {r.name for r in rewards if not r.trainable} == cheap | faithful


def test_unknown_name_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'diversity'"):
        load_rewards(["diversty"])
    with pytest.raises(UserError, match="train answer-scorer"):
        load_rewards(["consistency"])


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([1.0], "returned 1 scores for 2 completions"),
        ([1.0, math.nan], "completion 1 the score nan"),
        ([1.0, 1.5], r"outside its range \[0, 1\]"),
        ([1.0, "high"], "expected a number or None"),
        ([1.0, "0.5"], "expected a number or None"),
        ([1.0, [0.5]], "expected a number or None"),
        ([1.0, 10**400], "expected a number or None"),
        (0.5, "returned float; expected a list of 2 scores"),
        (None, "returned None; expected a list of 2 scores"),
        ("ab", "returned str; expected a list"),
        (b"ab", "returned bytes; expected a list"),
        ({"a": 1.0, "b": 0.5}, "returned dict; expected a list"),
        ({1.0, 0.5}, "returned set; expected a list"),
        ({"a": 1.0, "b": 0.5}.values(), "returned dict_values; expected a list"),
        ((x for x in (1.0, 0.5)), "returned generator; expected a list"),
        (np.ones((2, 1)), r"returned ndarray of shape \(2, 1\); expected a list"),
        (np.ones(()), r"returned ndarray of shape \(\); expected a list"),
    ],
)
def test_a_misbehaving_reward_is_named(returned, message):
    reward = Reward("mine", lambda **_: returned, range=(0.0, 1.0))
    with pytest.raises(BadReward, match=message) as error:
        scores(reward, attempt("a"), attempt("b"))
    assert "'mine'" in str(error.value)


def test_levels_are_checked_and_exceptions_pass_through():
    with pytest.raises(BadReward, match="its levels are 1, 0"):
        scores(Reward("half", lambda **_: [0.5], levels=(1.0, 0.0)), attempt("a"))

    def broken(**_):
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        scores(Reward("broken", broken), attempt("a"))


def test_gold_is_hidden_from_rewards_that_do_not_declare_it():
    seen = []
    reward = Reward("peek", lambda gold, completions, **_: seen.extend(gold) or [0.0] * len(gold))
    scores(reward, attempt("a"))
    assert seen == [None]


def test_equal_attempts_are_scored_once():
    calls = []
    reward = Reward(
        "count", lambda completions, **_: calls.extend(completions) or [0.0] * len(completions)
    )
    assert scores(reward, attempt("a"), attempt("a"), attempt("b")) == [0.0] * 3
    assert calls == ["a", "b"]


def test_suite_refuses_twins_and_strangers():
    with pytest.raises(UserError, match="duplicate reward names: diversity"):
        RewardSuite(load_rewards(["diversity", "diversity"]))
    with pytest.raises(UserError, match="'q1', which is not among the 0 questions"):
        RewardSuite(load_rewards(["length"])).score([attempt("a")], {})


def test_user_rewards_by_place(tmp_path, monkeypatch):
    (tmp_path / "shouting_rewards.py").write_text(
        "from rationalize.rewards import Reward\n"
        "def shouts(prompts, completions, **kwargs):\n"
        "    return [float('!' in c) for c in completions]\n"
        "calm = Reward('calm', lambda completions, **_: [1.0 for _ in completions], range=(0, 1))\n"
        "number = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    shouts, calm = load_rewards(["shouting_rewards:shouts", "shouting_rewards:calm"])
    assert (shouts.name, shouts.cacheable, calm.cacheable) == ("shouts", False, True)
    assert scores(shouts, attempt("Steel!"), attempt("Steel.")) == [1.0, 0.0]
    assert scores(calm, attempt("Steel!")) == [1.0]
    with pytest.raises(UsageError, match="no module 'shouting_reward'"):
        load_rewards(["shouting_reward:shouts"])
    with pytest.raises(UsageError, match="has no 'shout'"):
        load_rewards(["shouting_rewards:shout"])
    with pytest.raises(UsageError, match="is int; expected a Reward"):
        load_rewards(["shouting_rewards:number"])


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Loads the function `f` of a module with these lines."""
    monkeypatch.chdir(tmp_path)

    def load(*lines):
        name = f"mine_{abs(hash((str(tmp_path), lines)))}"
        (tmp_path / f"{name}.py").write_text("\n".join(lines) + "\n")
        return load_rewards([f"{name}:f"])[0]

    return load


def test_async_rewards_are_awaited_on_one_loop():
    loops = set()

    async def later(completions, **_):
        loops.add(asyncio.get_running_loop())
        await asyncio.sleep(0)
        return [float(len(c)) for c in completions]

    class Caller:
        async def __call__(self, completions, scale=1, **_):
            return [scale * s for s in await later(completions)]

    for function in (later, Caller(), functools.partial(Caller(), scale=1)):
        assert scores(Reward("later", function), attempt("abc")) == [3.0]

    async def inside():  # as in a notebook, whose own loop is running
        return scores(Reward("later", later), attempt("abc"))

    assert asyncio.run(inside()) == [3.0]
    assert len(loops) == 1

    async def broken(**_):
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        scores(Reward("broken", broken), attempt("a"))

    async def generator(completions, **_):
        yield 1.0

    with pytest.raises(BadReward, match="returned async_generator"):
        scores(Reward("generator", generator), attempt("a"))


MESSAGES = "    return [float(len(c[0]['content'])) for c in completions]"


@pytest.mark.parametrize(
    "lines",
    [
        ["def f(completions, **kwargs):", MESSAGES],
        ["async def f(completions, **kwargs):", MESSAGES],
        ["def f(completions: list[list[dict[str, str]]]):", MESSAGES],
        ["from __future__ import annotations", "def f(completions: list[Messages]):", MESSAGES],
        ["def f(prompts, completions):", "    assert prompts[0][0]['role'] == 'user'", MESSAGES],
        ["def f(completions, **_):",
         "    return [float(len(m.get('content'))) for c in completions for m in c]"],
        ["from rationalize.rewards import Reward", "def g(completions, **_):", MESSAGES,
         "f = Reward('f', g)"],
    ],
)  # fmt: skip
def test_a_reward_that_reads_messages_gets_messages(mine, lines):
    reward = mine(*lines)
    assert scores(reward, attempt("abc")) == [3.0]
    assert scores(reward, attempt("abcd"), attempt("")) == [4.0, 0.0]


def test_trls_keywords_are_there(mine):
    reward = mine(
        "def f(prompts, completions, answer, id, log_extra, log_metric, trainer_state=None, **kw):",
        "    log_extra('seen', completions)",
        "    log_metric('mean', 0.5)",
        "    assert 'completion' not in kw and kw['gold'] == answer",
        "    return [None if i == 'q2' else float(a == 'steel') for a, i in zip(answer, id)]",
    )
    assert scores(reward, attempt("a"), attempt("b", FREE)) == [1.0, None]
    few = mine("def f(completions): return [1.0 for _ in completions]")
    assert scores(few, attempt("a")) == [1.0]


def test_further_columns_come_from_the_question_and_the_row(mine):
    asked = dataclasses.replace(QUESTION, extra={"level": 2, "prompts": "never"})
    every = (
        "def f(completions, level, note=None, **kw): return [l * n for l, n in zip(level, note)]"
    )
    suite = RewardSuite([mine(every)])
    rows = [{"note": 10, "completion": "x"}, {"note": 20}]
    scored = suite.score([attempt("a"), attempt("b")], {"q1": asked}, columns=rows)
    assert [a.rewards["f"] for a in scored] == [20.0, 40.0]
    declared = Reward("level", lambda level, **_: level, columns=("level",))
    other = dataclasses.replace(FREE, extra={})
    suite = RewardSuite([declared])  # cached: the column is part of the key
    both = [attempt("a"), attempt("a", other)]
    assert [a.rewards["level"] for a in suite.score(both, {"q1": asked, "q2": other})] == [2, None]
    with pytest.raises(UserError, match=r"'level' asks for level; .*columns prompts, completions"):
        suite.score([attempt("a")], {"q1": QUESTION})


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("def f(a, /, **_): return [0.0]", "takes a by position alone"),
        ("def f(completion_ids, **_): return [0.0]", "asks for completion_ids, which only TRL's"),
        ("class f: pass", "is a class; expected a Reward"),
        ("f = 1 +", "cannot be imported: SyntaxError"),
        ("import nonesuch_at_all", "cannot be imported: ModuleNotFoundError"),
        ("raise RuntimeError('no key')", "cannot be imported: RuntimeError: 'no key'"),
    ],
)
def test_what_is_no_reward_is_said_in_a_sentence(mine, line, said):
    with pytest.raises(UserError, match=said):
        mine(line)


def test_a_bug_in_a_users_reward_is_a_sentence_with_its_line(mine):
    reward = mine("def f(completions, **kw):", "    x = 1", "    return [c / 0 for c in [x]]")
    with pytest.raises(
        BadReward, match=r"raised ZeroDivisionError at .*\.py:3: 'division"
    ) as caught:
        scores(reward, attempt("a"))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert caught.value.__cause__.__traceback__
    missing = mine("def f(completions, **kw):", "    return kw['solution']")
    with pytest.raises(BadReward, match=r"KeyError at .*:2: .*solution.*there are .*question_id"):
        scores(missing, attempt("a"))
    not_text = mine("def f(completions, **kw):", "    return [c['content'] for c in completions]")
    with pytest.raises(BadReward, match="raised TypeError"):
        scores(not_text, attempt("a"))
    ours = mine(
        "from rationalize.errors import UserError",
        "def f(**kw):",
        "    raise UserError('no such file')",
    )
    with pytest.raises(UserError, match=r"^no such file$"):
        scores(ours, attempt("a"))


def test_our_rewards_in_trl():
    function = to_trl(load_rewards(["correctness"])[0])
    assert function.__name__ == "correctness"
    columns = {"answer": ["steel", "steel"], "choices": [["wood", "steel"]] * 2}
    texts = ["It is dense. So the answer is (B).", "So the answer is (A)."]
    assert function(prompts=["p", "p"], completions=texts, **columns) == [1.0, 0.0]
    messages = [[{"role": "assistant", "content": t}] for t in texts]
    prompts = [[{"role": "user", "content": "Which?"}]] * 2
    assert function(prompts=prompts, completions=messages, completion_ids=[], **columns) == [
        1.0,
        0.0,
    ]
    others = {"answer": ["New York"] * 2, "accepted": [["NYC"], None]}
    said = ["It is big. So the answer is NYC."] * 2
    assert function(prompts=["p", "p"], completions=said, **others) == [1.0, 0.0]
    assert to_trl(load_rewards(["length"])[0])(prompts=["p"], completions=["One two."]) == [2.0]


@pytest.mark.parametrize(("answer", "choices", "said"), [
    ("A", ["brick", "cork"], "(A)"), (0, ["brick", "cork"], "(A)"), (4, None, "4"),
    ("brick", {"text": ["brick", "cork"], "label": ["1", "2"]}, "(A)"),
    ("2 + 2 = 4\n#### 4", None, "4"), ("A", None, "A"), ("yes", None, "yes"),
])  # fmt: skip
def test_trls_rows_are_read_as_question_files_are(answer, choices, said):
    function = to_trl(load_rewards(["correctness"])[0])
    columns = {"answer": [answer], **({"choices": [choices]} if choices else {})}
    for reply, worth in ((said, 1.0), ("(B)" if choices else "7", 0.0)):
        completions = [f"Look. So the answer is {reply}."]
        assert function(prompts=["p"], completions=completions, **columns) == [worth]
    with pytest.raises(UserError, match="row 0 of a batch: found"):
        function(prompts=["p"], completions=["a"], answer=["glass"], choices=[["brick", "cork"]])


def test_a_reward_of_users_own_goes_on_to_trl(mine):
    logged = []
    function = to_trl(
        mine(
            "def f(completions, solution, log_extra, **kw):",
            "    log_extra('solution', solution)",
            "    return [float(c == s) for c, s in zip(completions, solution)]",
        )
    )
    parts = [{"type": "text", "text": "fo"}, {"type": "text", "text": "ur"}]
    completions = [
        [
            {"role": "assistant", "content": "", "tool_calls": []},
            {"role": "assistant", "content": parts},
        ],
        [{"role": "assistant", "content": None}],
        [],
    ]
    columns = {
        "solution": ["four", "", "x"],
        "completion_ids": [[1], [2], []],
        "trainer_state": None,
    }
    assert function(
        prompts=[[{"role": "user", "content": "Which?"}]] * 3, completions=completions,
        log_extra=lambda *given: logged.append(given), **columns,
    ) == [1.0, 1.0, 0.0]  # fmt: skip
    assert logged == [("solution", ["four", "", "x"])]
