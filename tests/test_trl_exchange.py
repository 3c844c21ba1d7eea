"""What goes to and fro between us and TRL: reward functions, and files of attempts.

Needs the extra `trl`; skipped without it.
"""

import contextlib
import dataclasses
import importlib
import io
import json

import pytest
from tiny import tiny_folder
from toys import attempt, question

from rationalize.answers import has_marker
from rationalize.attempt_files import save_attempts
from rationalize.cli import main
from rationalize.errors import UserError
from rationalize.evaluation.results import save_questions
from rationalize.records import attempt_row
from rationalize.rewards import RewardSuite, load_rewards, to_trl
from rationalize.runs import Run
from rationalize.templates import prompt_text

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")

CPU = {"use_cpu": True, "bf16": False, "report_to": [], "max_steps": 1, "logging_steps": 1}


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def written(n=4, **changes):
    """Questions, and at each a right reply, a wrong one and one without an answer."""
    questions = [question(i) for i in range(n)]
    attempts = [
        attempt(q, f"{words} {q.id}", prediction, prompt=prompt_text("rationale_answer", q),
                rewards={"correctness": float(prediction == "yes")}, **changes)
        for q in questions
        for words, prediction in (("The stone", "yes"), ("The leaf", "no"), ("Ice", None))
    ]  # fmt: skip
    return questions, attempts


def test_trls_own_reward_is_ours_by_name():
    (reward,) = load_rewards(["trl.rewards:think_format_reward"])
    questions, attempts = written(2)
    thought = [
        dataclasses.replace(a, completion=f"<think>{a.rationale}</think> yes") if i % 2 else a
        for i, a in enumerate(attempts)
    ]
    scored = RewardSuite([reward]).score(thought, {q.id: q for q in questions})
    assert [a.rewards["think_format_reward"] for a in scored] == [0, 1, 0, 1, 0, 1]


def test_a_column_of_its_own_comes_from_the_questions_or_is_missed_by_name():
    (reward,) = load_rewards(["trl.rewards:accuracy_reward"])
    questions, attempts = written(2)
    suite = RewardSuite([reward])
    for missed in (
        lambda: suite.score(attempts, {q.id: q for q in questions}),
        lambda: suite.check_questions(questions),
    ):
        with pytest.raises(UserError, match=r"asks for solution; .* have the columns prompts"):
            missed()
    assert reward.columns == ("solution",)
    suite.check_questions([dataclasses.replace(questions[0], extra={"solution": "4"})])


def test_a_factory_of_rewards_is_not_a_reward():
    (factory,) = load_rewards(["trl.rewards:get_soft_overlong_punishment"])
    assert factory.columns == ("max_completion_len", "soft_punish_cache")


@pytest.mark.parametrize("messages", [False, True])
def test_our_rewards_train_in_trls_grpo(tmp_path, messages):
    rewards = load_rewards(["correctness", "length", "diversity", "answer_leak"])
    calls = []

    def spied(reward):
        function = to_trl(reward)

        def call(prompts, completions, **columns):
            scores = function(prompts, completions, **columns)
            calls.append((reward.name, columns["id"], completions, scores))
            return scores

        call.__name__ = reward.name
        return call

    questions = {q.id: q for q in map(question, range(4))}
    rows = []
    for q in questions.values():
        text = prompt_text("rationale_answer", q)
        prompt = [{"role": "user", "content": text}] if messages else text + "\n"
        rows.append({"prompt": prompt, "id": q.id, "question": q.question, "answer": q.answer,
                     "choices": list(q.choices)})  # fmt: skip
    trainer = trl.GRPOTrainer(
        model=str(tiny_folder("decoder", tmp_path / "model", chat=messages)),
        reward_funcs=[spied(r) for r in rewards],
        args=trl.GRPOConfig(
            output_dir=str(tmp_path / "out"), num_generations=4, per_device_train_batch_size=4,
            max_completion_length=12, beta=0.0, learning_rate=1e-2, **{**CPU, "max_steps": 2},
        ),
        train_dataset=datasets.Dataset.from_list(rows),
    )  # fmt: skip
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    trainer.train()
    logged = [line for line in trainer.state.log_history if "reward" in line]
    assert len(logged) == 2
    assert all(f"rewards/{r.name}/mean" in line for line in logged for r in rewards)
    assert {name for name, *_ in calls} == {r.name for r in rewards}
    by_name = {r.name: r for r in rewards}
    for name, ids, completions, scores in calls:
        texts = [c[-1]["content"] if messages else c for c in completions]
        assert not any(map(has_marker, texts))  # random words: all rationale, no answer
        replies = [attempt(questions[i], t, None) for i, t in zip(ids, texts, strict=True)]
        again = RewardSuite([by_name[name]]).score(replies, questions)
        assert scores == [a.rewards[name] for a in again]
    assert len({tuple(s) for name, _, _, s in calls if name == "length"}) > 1
    assert any(not p.equal(before[n]) for n, p in trainer.model.named_parameters())


def exported(tmp_path, *flags):
    _, attempts = written()
    save_attempts(attempts, tmp_path / "attempts.jsonl")
    out = tmp_path / "data" / "train.jsonl"
    file = str(tmp_path / "attempts.jsonl")
    assert main(["export", file, "--out", str(out), *flags]) == 0
    return out, attempts


def trl_command(name, folder, model, out):
    """`trl sft` or `trl dpo`, in this process."""
    script = importlib.import_module(f"trl.scripts.{name}")
    given = {"dataset_name": folder, "model_name_or_path": model, "output_dir": out,
             "use_cpu": True, "bf16": False, "max_steps": 1, "report_to": "none",
             "dtype": "float32", "save_strategy": "no",
             "per_device_train_batch_size": 2}  # fmt: skip
    argv = [part for k, v in given.items() for part in (f"--{k}", str(v))]
    parser = script.make_parser(prog=name)
    with contextlib.redirect_stdout(io.StringIO()):
        script.main(*parser.parse_args_and_config(argv))


@pytest.mark.parametrize("name", ["sft", "dpo"])
@pytest.mark.parametrize("messages", [False, True])
def test_trls_commands_train_on_exports(tmp_path, name, messages):
    flags = ["--messages"] if messages else []
    out, _ = exported(tmp_path, "--format", name, *flags)
    model = tiny_folder("decoder", tmp_path / "model", chat=messages)
    trl_command(name, out.parent, model, tmp_path / "taught")
    assert (tmp_path / "taught" / "model.safetensors").stat().st_size > 0


@pytest.mark.parametrize("messages", [False, True])
def test_trl_reads_the_tokens_that_we_would_learn(tmp_path, messages):
    """The prompt's ids are our policy's own, and the loss is on the reply and its end alone."""
    from rationalize.models.policy import load_policy

    flags = ["--messages"] if messages else []
    out, attempts = exported(tmp_path, "--format", "sft", *flags)
    folder = tiny_folder("decoder", tmp_path / "model", chat=messages)
    policy = load_policy(folder, system=None, device="cpu")
    trainer = trl.SFTTrainer(
        str(folder), args=trl.SFTConfig(output_dir=str(tmp_path / "out"), **CPU),
        train_dataset=datasets.load_dataset(str(out.parent), split="train"),
    )  # fmt: skip
    right = [a for a in attempts if a.rewards["correctness"]]
    assert len(trainer.train_dataset) == len(right) == 4
    for row, reply in zip(trainer.train_dataset, right, strict=True):
        prompt, response = (
            policy.encode_prompt(reply.prompt),
            policy.encode_response(reply.completion),
        )
        assert row["input_ids"][: len(prompt) + len(response)] == prompt + response
        batch = trainer.data_collator([row])
        assert batch["labels"][0][: len(prompt)].unique().tolist() == [-100]
        assert batch["labels"][0][len(prompt) :][: len(response)].tolist() == response


def test_export_of_a_run_says_what_it_leaves_out(tmp_path, capsys):
    _, attempts = written()
    _, cut = written(1, finish="length")
    _, hinted = written(1, hinted=True)
    _, test = written(1, split="test")
    with Run.open(tmp_path / "run", {}) as run:
        run.append([*attempts, *cut, *hinted, *test, attempts[0]], "round-0")
    out = tmp_path / "dpo.jsonl"
    assert main(["export", str(tmp_path / "run"), "--format", "dpo", "--out", str(out)]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 4
    assert rows[0] == {
        "prompt": attempts[0].prompt + "\n",
        "chosen": "The stone q0. So the answer is (A).",
        "rejected": "The leaf q0. So the answer is (B).",
    }
    printed = capsys.readouterr().out
    for part in (
        "4 pairs of 22 attempts", "3 cut at the length limit", "3 written with the answer",
        "1 duplicate", "3 not of split train", "4 without an answer",
    ):  # fmt: skip
        assert part in printed


def test_export_keeps_all_or_the_right_ones(tmp_path, capsys):
    assert len(exported(tmp_path)[0].read_text().splitlines()) == 4
    assert len(exported(tmp_path, "--keep", "all")[0].read_text().splitlines()) == 12
    out, _ = exported(tmp_path, "--format", "sft", "--messages")
    row = json.loads(out.read_text().splitlines()[0])
    assert row["completion"][0]["role"] == "assistant"
    file = str(tmp_path / "attempts.jsonl")
    assert main(["export", file, "--split", "dev"]) == 1
    message = capsys.readouterr().err
    assert "none of 12 attempts makes a row (12 not of split dev" in message
    assert "(train, 'w')" in message
    assert main(["export", file, "--out", str(tmp_path / "x.parquet")]) == 2
    assert "expected a name ending in .jsonl" in capsys.readouterr().err


def test_datasets_reads_any_text(tmp_path):
    q = question(0)
    odd = "a \ud800 b \x00 \u2028 <s> \u202e"
    save_attempts([attempt(q, odd, "yes")], tmp_path / "a.jsonl")
    out = tmp_path / "data" / "train.jsonl"
    assert main(["export", str(tmp_path / "a.jsonl"), "--out", str(out)]) == 0
    (row,) = datasets.load_dataset(str(out.parent), split="train")
    assert row["completion"] == odd.replace("\ud800", "\ufffd") + ". So the answer is (A)."


def test_an_attempt_without_a_score_is_right_by_its_prediction(tmp_path):
    _, attempts = written(1)
    rows = [{**attempt_row(a), "rewards": {}} for a in attempts]
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    out = tmp_path / "o.jsonl"
    assert main(["export", str(file), "--format", "dpo", "--out", str(out)]) == 0
    (row,) = map(json.loads, out.read_text().splitlines())
    assert row["chosen"].startswith("The stone")


@pytest.mark.parametrize("format", ["sft", "dpo"])
@pytest.mark.parametrize("source", ["run", "file"])
def test_a_choice_is_right_only_if_it_is_the_gold_one(tmp_path, capsys, source, format):
    """Of the choices 24 and 24 hours one is right, though a free-form 24 hours would match 24.

    A run holds its questions; of a file the prompts alone list the choices.
    """
    q = dataclasses.replace(question(0), answer="24", choices=("24", "24 hours"))
    prompt = prompt_text("rationale_answer", q) if source == "file" else "Solved.\n\nWhen?"
    attempts = [attempt(q, f"The clock says {p}", p, prompt=prompt) for p in q.choices]
    out = tmp_path / "out.jsonl"
    if source == "file":
        save_attempts(attempts, tmp_path / "attempts.jsonl")
    else:
        with Run.open(tmp_path / "run", {}) as run:
            run.append(attempts, "final")
            save_questions(run, [q])
    given = tmp_path / ("run" if source == "run" else "attempts.jsonl")
    assert main(["export", str(given), "--out", str(out), "--format", format]) == 0
    (row,) = map(json.loads, out.read_text().splitlines())
    assert row["completion" if format == "sft" else "chosen"].startswith("The clock says 24.")
    assert ("1 wrong" in capsys.readouterr().out) == (format == "sft")
