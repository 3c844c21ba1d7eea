"""A run is pinned to its inputs: with others it is refused, or goes on where none was used."""

import json
from dataclasses import replace

import pytest
from tiny import tiny_tokenizer
from toys import attempt, question

from rationalize.cli import main
from rationalize.config import to_dict
from rationalize.config.compose import split
from rationalize.errors import UserError
from rationalize.methods import METHODS
from rationalize.methods.inputs import inputs_of
from rationalize.methods.launch import settings_of
from rationalize.rewards.adapters import user_reward
from rationalize.runs import Run

TRAIN, TEST = [question(i) for i in range(5)], [question(i) for i in range(5, 8)]
SPLITS = {"train": TRAIN, "test": TEST}


@pytest.fixture
def begun(tmp_path):
    """Opens a run that has stored attempts at training questions."""

    def start(splits=SPLITS, *, settings=None, tokenizer=None, rewards=()):
        inputs = inputs_of(settings or {}, splits, tokenizer, rewards)
        with Run.open(tmp_path / "run", {}, inputs=inputs) as run:
            scored = attempt(TRAIN[0], "so it is", "yes", rewards={"brevity": 0.5})
            run.append([scored], "mario-round0")
        return run

    return start


def refused(start, *args, **options):
    with pytest.raises(UserError, match="was begun with other inputs") as caught:
        start(*args, **options)
    return str(caught.value)


def other(questions, **changes):
    return [replace(questions[0], **changes), *questions[1:]]


def test_other_training_questions_and_rationales_are_named(begun):
    begun()
    said = refused(begun, {**SPLITS, "train": other(TRAIN, answer="no")})
    assert "  questions of train: q0 changed\n" in said
    assert "rationales" not in said
    said = refused(begun, {**SPLITS, "train": other(TRAIN, rationales=("because",))})
    assert "  rationales of train: q0 new\n" in said
    assert "questions of train" not in said
    said = refused(begun, {**SPLITS, "train": TRAIN[4:]})
    assert "questions of train: q0, q1, q2 and 1 more gone" in said
    said = refused(begun, {**SPLITS, "train": TRAIN[::-1]})
    assert "questions of train: the same in another order" in said
    begun()


def test_test_questions_may_change_until_they_are_read(begun, caplog):
    begun()
    changed = {**SPLITS, "test": other(TEST, answer="no")}
    run = begun(changed)
    assert "questions of test: q5 changed; nothing that is stored comes from it" in caplog.text
    run.append([attempt(TEST[0], "so it is", "yes")], "final-MaRio-test-0")
    begun(changed)  # recorded
    assert "questions of test: q5 changed" in refused(begun)


def test_a_run_that_has_stored_nothing_is_begun_anew(tmp_path):
    for splits in (SPLITS, {**SPLITS, "train": TRAIN[1:]}):
        with Run.open(tmp_path, {}, inputs=inputs_of({}, splits)):
            pass
    recorded = json.loads((tmp_path / "inputs.json").read_text())
    assert list(recorded["questions of train"]) == ["q1", "q2", "q3", "q4"]


def test_a_run_of_an_earlier_version_is_pinned_from_now_on(begun):
    run = begun()
    (run.path / "inputs.json").unlink()
    begun({**SPLITS, "train": TRAIN[1:]})
    assert "q0 new" in refused(begun)


def test_a_reward_counts_by_its_code_and_once_it_has_scored(begun, tmp_path, monkeypatch, caplog):
    module = tmp_path / "mine_pinned.py"
    module.write_text("def brevity(completions, **_):\n    return [0.0] * len(completions)\n")
    monkeypatch.syspath_prepend(tmp_path)
    brevity = user_reward("mine_pinned:brevity")
    begun(rewards=[brevity])
    module.write_text("# a comment\n" + module.read_text())
    run = begun(rewards=[brevity])
    module.write_text(module.read_text().replace("0.0", "1.0"))
    assert "rewards: brevity changed" in refused(begun, rewards=[brevity])
    # its bug was mended before it scored anything
    (run.path / "attempts" / "manifest.json").unlink()
    run.append([attempt(TRAIN[0], "so it is", "yes", rewards={"diversity": 0.5})], "first")
    inputs = inputs_of({}, SPLITS, None, [brevity])
    with Run.open(run.path, {}, inputs=inputs):
        assert "rewards: brevity changed; nothing that is stored comes from it" in caplog.text


def test_files_that_settings_name_count_by_their_contents(begun, tmp_path):
    file, folder = tmp_path / "demos.jsonl", tmp_path / "scorer"
    file.write_text("{}\n")
    (folder / "fold0").mkdir(parents=True)
    (folder / "fold0" / "model.safetensors").write_text("w")
    settings = {"write": {"demos": str(file)}, "answer_scorer": str(folder), "verifier": "vera",
                "variant_sources": ["", str(file)]}  # fmt: skip
    begun(settings=settings)
    (folder / "results.json").write_text("{}")  # says nothing of what is read
    begun(settings=settings)
    file.write_text("{}\n{}\n")
    (folder / "fold0" / "model.safetensors").write_text("v")
    said = refused(begun, settings=settings)
    changed = f"write.demos {file}, answer_scorer {folder}, variant_sources {file}"
    assert f"files: {changed} changed" in said


def test_another_chat_template_is_named(begun):
    tokenizer = tiny_tokenizer("decoder", chat=True)
    begun(tokenizer=tokenizer)
    begun(tokenizer=tokenizer)
    tokenizer.chat_template += " "
    assert "tokenizer: chat template changed" in refused(begun, tokenizer=tokenizer)


def test_a_dry_run_says_it_too(tmp_path, tiny_model, capsys):
    file, out = tmp_path / "q.jsonl", tmp_path / "run"
    row = {"choices": ["yes", "no"], "answer": "yes", "rationales": ["so"]}
    rows = [{"id": f"q{i}", "question": f"Is it {i}?", **row} for i in range(40)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = settings_of(METHODS["sft"])(model=tiny_model, questions=str(file))
    stored = {"method": "sft", **to_dict(settings)}
    with Run.open(out, stored, inputs=inputs_of(stored, split(settings)[-1].load_splits())) as run:
        run.finish("a stage")
    argv = ["train", "sft", "--model", tiny_model, "--questions", str(file), "--dry-run"]
    assert main([*argv, "--out", str(out)]) == 0
    file.write_text(file.read_text().replace("so", "because"))
    assert main([*argv, "--out", str(out)]) == 1
    said = capsys.readouterr().err
    assert "was begun with other inputs" in said
    assert "rationales of train: " in said
    assert "questions of" not in said
