"""Settings as an earlier version called them: whole files, parts of files, flags, and a folder."""

import json
import logging
import shutil
from pathlib import Path

import pytest
from tiny import tiny_folder

from rationalize.cli import main
from rationalize.commands.table import command_of, demo_command
from rationalize.config import load_yaml, to_dict
from rationalize.config.flags import merge
from rationalize.config.old import is_old, new_name, upgrade
from rationalize.errors import UsageError, UserError
from rationalize.runs import Run, check_resumable, read_config

FIXTURES = Path(__file__).parent / "fixtures"


def fit(**changes):
    """How a part learned."""
    return {
        "learning_rate": 1e-3, "control_factor": 1.0, "head_rate": 0.0, "batch_size": 8,
        "schedule": "linear", "warmup": 0.05, "max_grad_norm": 1.0, "beta1": 0.9, "beta2": 0.99,
        "epsilon": 1e-8, "precision": "float32", "micro_tokens": 2048, "checkpoint_every": 60.0,
        **changes,
    }  # fmt: skip


def part(**own):
    """A method's or a stage's whole configuration: its own settings beside the run's."""
    return {
        "model": "m", "questions": "q", "columns": {}, "train_limit": 9, "dev_limit": 0,
        "test_limit": 0, "teacher_limit": 0, "skip_bad_rows": None, "tuning": "lora",
        "init": "sft", "sft_epochs": 3.0, "sft_fit": fit(learning_rate=2e-3),
        "answer_scorer": "a", "verifier": "v", "reward_model": None,
        "evaluation_sampling": {
            "temperature": 0.0, "top_p": 1.0, "top_k": 0, "max_new_tokens": 24, "n": 1, "beams": 1,
        },
        "seed": 4, "trust_remote_code": False, **own,
    }  # fmt: skip


SAMPLING = {"temperature": 1.0, "top_p": 0.9, "top_k": 0, "max_new_tokens": 32, "n": 2, "beams": 1}
WRITE = {"shots": 2, "demos": "builtin", "hints": "off", "sampling": SAMPLING}
SELECT = {"min_words": 5, "dedupe": "none", "true_equations": False, "positives": 2}
RESTARTS = {
    "rounds": 2, "write": WRITE, "select": SELECT, "warm_up": 12, "warm_up_epochs": 2.0,
    "fit": fit(),
}  # fmt: skip
RANK = {
    "kept": part(**RESTARTS), "redraw": {**WRITE, "shots": 0},
    "rm": part(attempts=None, select=SELECT, epochs=2.0, fit=fit(head_rate=1e-2)),
    "ppo": part(mode="rm", least_spread=0.2, prompts=6, fit=fit(), sampling={"n": 3}),
}  # fmt: skip
COALITION = {
    "judge": "ift", "fit": fit(), "variant_fit": fit(),
    "candidates": {"filtered": False, "sampling": SAMPLING},
    "instruction": part(warm_up=0.5, fit=fit(learning_rate=5e-4)),
    "controller": {"epochs": 2.0, "fit": fit()},
}  # fmt: skip
DIRECT = {"direct_epochs": 0.5, "sft": part(epochs=2.0, evaluations=1, fit=fit(batch_size=4))}

RUN = {"model": "m", "limits.train": 9, "tuning": "lora", "seed": 4, "precision": "float32",
       "checkpoint_every": 60.0, "evaluation_tokens": 24}  # fmt: skip
SCORER = {key: RUN[key] for key in ("model", "tuning", "seed", "precision")}
FROM_SFT = {"sft.epochs": 3.0, "sft.fit.learning_rate": 2e-3}
SCORED = {"answer_scorer": "a", "verifier": "v"}
SEEDED = {"rft.seed_rationales": 12, "rft.seed_epochs": 2.0, "rft.write.sampling.n": 2}
RANKED = {
    **SEEDED, "redraw.n": 2, "redraw.max_new_tokens": 32, "rm.epochs": 2.0,
    "rm.fit.head_rate": 1e-2, "ppo.min_advantage_std": 0.2, "ppo.prompts": 6, "ppo.sampling.n": 3,
}  # fmt: skip
VARIED = {"instruction.warm_up": 0.5, "instruction.fit.learning_rate": 5e-4,
          "candidates.filtered": False, "controller.epochs": 2.0, "answer_scorer": "a"}  # fmt: skip

WHOLE = {
    "sft": (part(epochs=5.0, fit=fit()), {**RUN, "epochs": 5.0, "fit.learning_rate": 1e-3}),
    "direct": (part(epochs=5.0, fit=fit()), {**RUN, "epochs": 5.0}),
    "filt-acc": (
        part(rollouts=7, fit=fit(), sampling=SAMPLING),
        {**RUN, **FROM_SFT, **SCORED, "prompts": 7, "sampling.n": 2},
    ),
    "mario": (
        part(rollouts=7, side="left", product="raw", variant="additive",
             fit=fit(control_factor=5.0), draw="balanced", obedience="ends"),
        {**RUN, **FROM_SFT, **SCORED, "prompts": 7, "variant": "additive-left",
         "fit.control_factor": 5.0, "over_draw": 0.0, "token_questions": 1_000},
    ),
    "star": (part(**RESTARTS), {**RUN, "seed_rationales": 12, "write.sampling.n": 2}),
    "rft": (part(**RESTARTS), {**RUN, "seed_rationales": 12, "select.positives": 2}),
    "dpo": (
        part(write=WRITE, select=SELECT, levels=3, fit=fit()),
        {**RUN, **FROM_SFT, "levels": 3, "sampling.n": 2, "select.dedupe": "none"},
    ),
    "self-motivated": (part(**RANK, rounds=2), {**RUN, **RANKED, "rounds": 2}),
    "coalition": (part(**COALITION), {**RUN, **VARIED, "judge": "ift"}),
    "coalition-grid": (part(**COALITION, full="runs/c"), {**RUN, **VARIED, "full": "runs/c"}),
    "answer-scorer": (part(texts="modes", fit=fit()), {**SCORER, "texts": "modes"}),
    "verifier": (part(negatives=4, fit=fit()), {**SCORER, "negatives": 4}),
    "reward-model": (
        part(attempts="runs/rft", select=SELECT, fit=fit(head_rate=1e-2)),
        {**SCORER, "attempts": "runs/rft", "fit.head_rate": 1e-2},
    ),
    "demo": (
        part(**DIRECT, scorer=part(epochs=2.0, fit=fit()), statements=part(negatives=4, fit=fit()),
             filt_acc=part(rollouts=7, fit=fit()),
             mario=part(rollouts=8, variant="product", product="raw", side="right",
                        fit=fit(control_factor=5.0))),
        {**RUN, **SCORED, "sft.epochs": 2.0, "sft.fit.batch_size": 4, "direct.epochs": 0.5,
         "direct.fit.batch_size": 4, "train_answer_scorer.epochs": 2.0,
         "train_verifier.negatives": 4, "filt_acc.prompts": 7, "mario.prompts": 8,
         "mario.variant": "product-raw", "mario.fit.control_factor": 5.0},
    ),
    "coalition-demo": (
        part(**COALITION, **DIRECT),
        {**RUN, **VARIED, "sft.epochs": 2.0, "direct.epochs": 0.5, "direct.fit.batch_size": 4},
    ),
    "self-motivated-demo": (
        part(**RANK, **DIRECT, modes=["rm+z"], rounds=1, star=part(**RESTARTS),
             dpo=part(write=WRITE, select=SELECT, levels=3, fit=fit())),
        {**RUN, **RANKED, "direct.epochs": 0.5, "direct.fit.batch_size": 4,
         "star.seed_rationales": 12, "dpo.levels": 3, "dpo.sampling.n": 2,
         "dpo.select.dedupe": "none"},
    ),
}  # fmt: skip
"""Method -> its whole configuration then, and some of what it is now."""


def settings_class(method):
    demo = method.removesuffix("demo").rstrip("-") or "mario"
    command = demo_command(demo) if method.endswith("demo") else command_of(method)
    return command.config()


def flat(settings, path=""):
    found = {}
    for key, value in settings.items():
        inner = flat(value, f"{path}{key}.") if isinstance(value, dict) else {}
        found |= inner or {f"{path}{key}": value}
    return found


@pytest.mark.parametrize("method", WHOLE)
def test_a_whole_configuration_of_every_method(method, tmp_path, caplog):
    stored, expected = WHOLE[method]
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps({"method": method, **stored, "base_hash": "9f2c"}))
    cls = settings_class(method)
    settings = merge(cls, file, [], method=method)
    found = flat(to_dict(settings))
    assert {key: found[key] for key in expected} == expected
    assert f"{file}: settings of an earlier version" in caplog.text
    caplog.clear()
    file.write_text(json.dumps({"method": method, **to_dict(settings)}))
    assert merge(cls, file, [], method=method) == settings
    assert caplog.text == ""


@pytest.mark.parametrize("method", ["mario", "rft"])
def test_a_file_that_an_earlier_version_wrote(method):
    file = FIXTURES / f"old_{method}.yaml"
    assert is_old(load_yaml(file))
    settings = flat(to_dict(merge(settings_class(method), file, [], method=method)))
    assert not is_old(settings)
    assert settings["evaluation_tokens"] == 24
    assert settings["precision"] == "float32"
    assert settings["checkpoint_every"] == 0.2
    names = {"mario": ("variant", "additive-left"), "rft": ("seed_rationales", 6)}
    name, value = names[method]
    assert settings[name] == value
    assert merge(settings_class(method), file, ["--seed", "3"], method=method).seed == 3


def test_a_part_of_a_file():
    assert upgrade({"rollouts": 7, "fit": {"precision": "float32", "warmup": 0.1}}, "mario") == {
        "prompts": 7, "precision": "float32", "fit": {"warmup": 0.1},
    }  # fmt: skip
    assert upgrade({"kept": {"warm_up": 5}, "ppo": {"least_spread": 0.5}}, "self-motivated") == {
        "rft": {"seed_rationales": 5}, "ppo": {"min_advantage_std": 0.5},
    }  # fmt: skip
    assert upgrade({"sft_epochs": 1.0, "init": "sft"}, "dpo") == {"sft": {"epochs": 1.0}}
    assert upgrade({"init": "model"}, "dpo") == {"sft": {"epochs": 0.0}}
    assert upgrade({"evaluation_sampling": {"max_new_tokens": 9}}) == {"evaluation_tokens": 9}
    assert upgrade({"instruction": {"warm_up": 0.1}}) == {"instruction": {"warm_up": 0.1}}
    assert upgrade({"fit": {"beta2": 0.99, "epsilon": 1e-8}}) == {}
    assert upgrade({}) == {}


@pytest.mark.parametrize(
    ("side", "product", "variant", "today"),
    [
        ("right", "normalised", "additive", "additive"),
        ("left", "normalised", "additive", "additive-left"),
        ("left", "raw", "product", "product-raw"),
        ("right", "normalised", "product", "product"),
        ("left", "raw", "classic", "classic"),
    ],
)
def test_side_and_product_are_variants(side, product, variant, today):
    stored = {"side": side, "product": product, "variant": variant}
    assert upgrade(stored, "mario") == {"variant": today}
    assert upgrade({"mario": stored}, "demo") == {"mario": {"variant": today}}


def test_todays_configurations_are_as_they_were(caplog):
    for stored in (
        {"method": "mario", "sft": {"epochs": 1.0}, "fit": {"control_factor": 5.0}, "prompts": 3},
        {"method": "self-motivated", "redraw": {"n": 4}, "rm": {"fit": {"head_rate": 0.1}}},
        {"method": "my_file:mine", "warm_up": 3, "kept": 1, "fit": {"head_rate": 0.1}, "init": "x"},
    ):
        assert upgrade(stored) == stored
    assert caplog.text == ""


def test_flags_under_their_earlier_names_warn(capsys, caplog):
    flags = ["--kept.warm-up", "5", "--redraw.sampling.n=3", "--ppo.least-spread", "0.5"]
    with caplog.at_level(logging.WARNING):
        assert main(["config", "self-motivated", *flags]) == 0
    assert "--kept.warm-up is called --rft.seed-rationales now" in caplog.text
    assert "--redraw.sampling.n is called --redraw.n now" in caplog.text
    printed = capsys.readouterr().out
    assert "  seed_rationales: 5\n" in printed
    assert "  min_advantage_std: 0.5\n" in printed
    assert new_name("fit.precision", "sft") == "precision"
    assert new_name("warm_up", "my_file:mine") == "warm_up"
    assert main(["config", "mario", "--warm-up-epochs", "5"]) == 2
    assert "unknown flag --warm-up-epochs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("sft", {"fit": fit(beta2=0.999)}, r"fit\.beta2 is 0\.999: AdamW's beta2 is 0\.99, fixed"),
        ("sft", {"evaluation_sampling": {"temperature": 0.7}},
         r"evaluation_sampling\.temperature is 0\.7: development and test replies are greedy"),
        ("mario", {"fit": fit(precision="bfloat16")}, "precision is float32 in one part and"),
        ("self-motivated", {"redraw": {**WRITE, "hints": "all"}}, r"redraw\.hints is all"),
    ],
)  # fmt: skip
def test_what_has_no_place_any_more_is_refused_by_name(method, changes, message, tmp_path):
    stored = part(**changes)
    with pytest.raises(UsageError, match=message):
        upgrade(stored, method)
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps({"method": method, **stored}))
    assert read_config(file)["seed"] == 4  # its results can be read all the same


def test_a_folder_of_an_earlier_version_resumes_and_is_read(tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    shutil.copytree(FIXTURES / "old_run", out)
    monkeypatch.chdir(tmp_path)
    tiny_folder("decoder", tmp_path / "tiny")
    assert Run.read(out).config["evaluation_tokens"] == 12
    before, learned = (
        json.loads((out / "results.json").read_text()),
        (out / "metrics.jsonl").read_bytes(),
    )
    assert main(["train", "sft", "--config", "run/config.yaml", "--out", "run"]) == 0
    after = json.loads((out / "results.json").read_text())
    assert (out / "metrics.jsonl").read_bytes() == learned  # nothing was learned again
    for name, row in before["methods"].items():  # there are metrics that came later
        for split, cell in row["splits"].items():
            metrics = after["methods"][name]["splits"][split]["metrics"]
            for key, old in cell["metrics"].items():  # intervals without width were widened
                assert (metrics[key]["mean"], metrics[key]["seeds"]) == (old["mean"], old["seeds"])
    assert (out / "model" / "README.md").exists()
    assert main(["compare", "run", "run", "--out", "page.html"]) == 0
    flags = ["--config", "run/config.yaml", "--fit.learning-rate", "1", "--out", "run"]
    assert main(["train", "sft", *flags]) == 1
    assert "fit.learning_rate: 0.003 in the run, 1.0 asked for" in capsys.readouterr().err
    with pytest.raises(UserError, match="another configuration"):
        check_resumable(out, {"method": "direct"})
