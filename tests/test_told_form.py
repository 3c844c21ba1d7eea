"""Prompts that say the form of the answer: who gets them, and what is made of them."""

import json
from dataclasses import replace

import pytest
from loopback import serving
from tiny import tiny_folder, tiny_policy
from toys import GOOD, attempt, experiment, question

from rationalize.attempt_files import load_attempts, save_attempts
from rationalize.cli import main
from rationalize.errors import UserError
from rationalize.methods.coalition.config import InstructionConfig
from rationalize.methods.coalition.tuning import with_rationales
from rationalize.methods.experiment import baselines
from rationalize.methods.own_attempts import (
    RejectConfig,
    WriteConfig,
    learned_text,
    own_attempts,
)
from rationalize.methods.sft import StartConfig
from rationalize.models.policy import load_policy
from rationalize.questions.demonstrations import BUILT_IN, Demonstrations
from rationalize.records import Question
from rationalize.rewards import Reward
from rationalize.rewards.suite import COLUMNS, score_key
from rationalize.sampling.local import Sampler, SamplingConfig
from rationalize.sampling.writing import PromptOptions, Provenance, write_attempts
from rationalize.templates import (
    INSTRUCTION,
    MODES,
    listed_choices,
    prompt_text,
    template_version,
    untold,
)

FREE = Question(id="f", question="How many?", answer="1,200")
ASKED = [question(0), question(1, choices=("a", "yes")), FREE]
ASKED += [replace(FREE, answer=answer) for answer in ("no", "Paris")]
SHORT = SamplingConfig(temperature=0.0, max_new_tokens=2)
PLAIN, TOLD = "Explain, then answer.", "Explain, then answer. End with: So the answer is "


def given(mode):
    return "Because." if mode in ("refine", "answer_from_rationale") else None


def test_the_form_is_that_of_the_question():
    told = [prompt_text("rationale_answer", q, told=True).rpartition(TOLD)[2] for q in ASKED]
    assert told == ["(letter).", "(letter).", "(number).", "yes or no.", "(answer)."]
    assert prompt_text("answer", FREE, told=True).endswith("\nAnswer. Write only (number).")
    for mode in ("rationale", "refine"):  # they have no answer
        assert prompt_text(mode, FREE, given(mode), told=True).endswith(INSTRUCTION[mode])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("q", ASKED)
def test_what_is_told_can_be_taken_out(mode, q):
    plain, told = (prompt_text(mode, q, given(mode), told=t) for t in (False, True))
    assert untold(told) == untold(plain) == plain
    assert template_version(plain) == "1"
    assert template_version(told) == ("1" if told == plain else "2")
    if mode == "rationale_answer":
        assert listed_choices(told) == listed_choices(plain) == q.choices


def test_demonstrations_show_the_form_and_nothing_is_told():
    shown = Demonstrations(BUILT_IN, 1)
    options = PromptOptions(demos=shown, told=True)
    paris = ASKED[-1]  # no demonstration is of its form
    attempts = write_attempts(
        Sampler(tiny_policy()), [question(0), paris], SHORT, Provenance("test", 0), options
    )
    few_shot, alone = (a.prompt for a in attempts)
    assert few_shot == prompt_text("rationale_answer", question(0), demos=shown.before(question(0)))
    assert alone.endswith(TOLD + "(answer).")


def test_scores_of_plain_prompts_keep_their_keys():
    row = dict.fromkeys(COLUMNS, "x") | {"prompts": f"2 + 2?\n{PLAIN}"}
    reward = Reward("r", lambda **_: [])
    # as it was before a form could be told
    assert score_key(reward, row).hex() == "706ea3381ba34ac173fc5dd940f61f33818e6142"
    assert score_key(reward, row | {"prompts": f"2 + 2?\n{TOLD}(number)."}) != score_key(
        reward, row
    )


def test_what_was_trained_here_is_asked_as_it_was_trained(tmp_path, capsys):
    base, trained = tiny_folder("decoder", tmp_path / "base", chat=True), tmp_path / "trained"
    policy = load_policy(base, device="cpu")
    policy.save(trained)
    assert (policy.knows_form, load_policy(trained, device="cpu").knows_form) == (False, True)

    def asked(model, *flags):
        out = tmp_path / f"{model.name}{len(flags)}.jsonl"
        argv = ["sample", "--model", str(model), "--questions", "builtin", "--limit", "1"]
        assert main([*argv, "--max-new-tokens", "2", "--out", str(out), *flags]) == 0
        return load_attempts(out)[0].prompt.splitlines()[-1]

    assert asked(base) == TOLD + "(letter)."
    assert asked(trained) == PLAIN
    assert asked(base, "--form", "plain") == PLAIN
    assert asked(trained, "--form", "told") == TOLD + "(letter)."

    def untrained(model):
        out = tmp_path / f"evaluated-{model.name}"
        argv = ["evaluate", "--model", str(model), "--questions", "builtin", "--limit", "1"]
        assert main([*argv, "--max-new-tokens", "2", "--out", str(out)]) == 0
        methods = json.loads((out / "results.json").read_text())["methods"]
        return [name for name, entry in methods.items() if entry.get("untrained")]

    assert (untrained(base), untrained(trained)) == (["base"], [])


def test_a_served_model_is_told_unless_it_is_known_to_need_none(tmp_path):
    def asked(*flags):
        out = tmp_path / f"a{''.join(flags)}.jsonl"
        with serving() as server:
            argv = ["sample", "--server", server.url, "--model", "m", "--questions", "builtin"]
            assert main([*argv, "--limit", "1", "--out", str(out), *flags]) == 0
            return server.bodies[0]["messages"][-1]["content"].splitlines()[-1]

    assert asked() == TOLD + "(letter)."
    assert asked("--form", "plain") == PLAIN
    assert asked("--mode", "answer") == "Answer. Write only (letter)."


def test_the_base_models_rows_are_told_and_trained_rows_are_not(tmp_path):
    train = [question(i, rationales=(GOOD,)) for i in range(4)]
    policy = tiny_policy()
    folder = tmp_path / "base"
    exp = experiment(tmp_path / "run", train, [question(9)], policy=policy, evaluation=SHORT)
    exp = replace(exp, config=replace(exp.config, model=str(tiny_folder("decoder", folder))))
    rows = baselines(exp, StartConfig(epochs=0.1), 1).methods
    last = {row: next(a.prompt for of in splits["dev"].values() for a in of).splitlines()[-1]
            for row, splits in rows.items() if row != "majority answer"}  # fmt: skip
    assert last == {
        "base, zero-shot": TOLD + "(letter).", "base, few-shot": PLAIN,
        "direct fine-tune": "Answer.",
    }  # fmt: skip


def test_a_base_model_without_demonstrations_writes_told_and_learns_plain(tmp_path):
    exp = experiment(tmp_path / "run", [question(0)])
    config = WriteConfig(shots=0, hints="all", sampling=SHORT)
    policy = tiny_policy()
    attempts = own_attempts(exp, policy, config, exp.stage("a"), "writes", few_shot=True)
    assert [a.prompt.splitlines()[-1] for a in attempts] == [TOLD + "(letter)."] * 2
    right = replace(attempts[0], prediction="yes")
    assert learned_text(right, question(0))[0].endswith(f"\n{PLAIN}")
    # what goes on from something trained is not told, nor a base that was trained here
    [tuned] = own_attempts(exp, policy, replace(config, hints="off"), exp.stage("b"), "writes")
    policy.knows_form = True
    ours, _ = own_attempts(exp, policy, config, exp.stage("c"), "writes", few_shot=True)
    assert {a.prompt.splitlines()[-1] for a in (tuned, ours)} == {PLAIN}


def test_coalitions_bootstrap_is_told_where_it_has_no_demonstrations(tmp_path):
    exp, config = experiment(tmp_path, [FREE]), InstructionConfig(shots=0, imperfect=SHORT)
    stage = exp.stage("ift")
    with pytest.raises(UserError, match="can be learned from"):
        with_rationales(exp, tiny_policy(), [FREE], config, stage, RejectConfig())
    assert [a.prompt for a in stage.stored("bootstrap")] == [
        prompt_text("rationale_answer", FREE, told=True)
    ]


def test_exported_rows_are_plain(tmp_path):
    q, out = question(0), tmp_path / "sft.jsonl"
    prompts = [prompt_text("rationale_answer", q, told=told) for told in (True, False)]
    attempts = [attempt(q, GOOD, "yes", i, prompt=p) for i, p in enumerate(prompts)]
    save_attempts(attempts, tmp_path / "a.jsonl")
    assert main(["export", str(tmp_path / "a.jsonl"), "--out", str(out)]) == 0
    [row] = [json.loads(line) for line in out.read_text().splitlines()]  # now one is a double
    assert row["prompt"] == prompts[1] + "\n"
