"""Models that are not whole, and prompts that are too long for them: a sentence each."""

import json
from contextlib import nullcontext

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_folder, tiny_policy
from toys import question

from rationalize.errors import UserError
from rationalize.models.choices import ChoiceScorer
from rationalize.models.context import over_context
from rationalize.models.controller import choose
from rationalize.models.forward import Row
from rationalize.models.policy import load_policy
from rationalize.models.reach import lora_reach
from rationalize.models.reward_model import RewardModel
from rationalize.runs import Run, Stage
from rationalize.sampling.local import Sampler, SamplingConfig
from rationalize.sampling.writing import PromptOptions, Provenance, write_attempts
from rationalize.training.loop import FitConfig, fit
from rationalize.training.objectives import nll

SHORT = SamplingConfig(temperature=0.0, max_new_tokens=4)


@pytest.fixture
def folder(tmp_path):
    return tiny_folder("decoder", tmp_path / "model")


def rewritten(folder, change):
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})


def refused(folder):
    with pytest.raises(UserError) as caught:
        load_policy(folder, device="cpu")
    return str(caught.value)


def without(name):
    return lambda tensors: {n: t for n, t in tensors.items() if n != name}


def test_weights_under_a_prefix_are_not_drawn_at_random(folder):
    rewritten(folder, lambda tensors: {f"base_model.{n}": t for n, t in tensors.items()})
    said = refused(folder)
    assert "weights of the model are not in its files: lm_head.weight" in said
    assert "they carry the prefix 'base_model.'" in said


def test_a_missing_weight_is_named(folder):
    rewritten(folder, without("model.norm.weight"))
    assert "1 weights of the model are not in its files: model.norm.weight. Res" in refused(folder)


def test_a_weight_too_many_is_said(folder, caplog):
    rewritten(folder, lambda tensors: {**tensors, "v_head.weight": torch.zeros(1)})
    load_policy(folder, device="cpu")
    assert "weights that the model does not use: v_head.weight" in caplog.text


def test_weights_that_are_no_numbers_are_refused(folder):
    def spoil(tensors):
        tensors["model.norm.weight"][3] = float("nan")
        return tensors

    rewritten(folder, spoil)
    assert "1 weights are infinite or not a number: model.norm.weight" in refused(folder)


def test_a_cut_file_is_a_sentence(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert "no model could be loaded from" in refused(folder)


def test_quantised_weights_need_their_library(folder):
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps(config))
    said = refused(folder)
    assert "quantised (bitsandbytes), and a library for that is not installed" in said
    assert "name the unquantised model" in said


def test_an_adapter_is_to_be_merged_first(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "some/base"}')
    assert "this is an adapter of some/base, not a model; merge it first" in refused(tmp_path)


@pytest.mark.parametrize(
    ("kind", "prompt", "response", "words"),
    [
        ("decoder", 508, 4, ""),
        ("decoder", 509, 4, "513 are beyond the model's context of 512"),
        ("t5", 9000, 900, ""),
    ],
)
def test_what_is_beyond_the_context(kind, prompt, response, words):
    found = over_context(tiny_policy(kind), prompt, response)
    assert found.endswith(words)
    assert bool(found) == bool(words)


def test_a_prompt_beyond_the_context_is_refused():
    with pytest.raises(UserError, match=r"up to 4 of a response: 2,005 are beyond .* of 512"):
        Sampler(tiny_policy()).sample(["Why?", "word " * 400], SHORT, seeds=[0, 1])


def test_a_row_beyond_the_context_is_refused_where_it_would_be_learned(tmp_path):
    with pytest.raises(UserError, match=r"s, step 0: a prompt of 2 tokens .* beyond .* of 512"):
        fit(
            tiny_policy(), nll, lambda _: [Row((5, 6), (7,) * 600)], FitConfig(),
            Stage(Run.open(tmp_path, {}), "s"), steps=1,
        )  # fmt: skip


def test_what_is_beyond_the_context_is_not_scored():
    policy, q, long = tiny_policy(), question(0), "word " * 400
    model = RewardModel(lambda: nullcontext(policy), None, score="likelihood")
    for score in (
        lambda text: ChoiceScorer(policy).score(["Why?", text], [["yes"], ["no"]]),
        lambda text: ChoiceScorer(policy).score(["Why?", "So?"], [["yes"], [text]]),
        lambda text: model.raw([q, q], ["Yes.", text]),
        lambda text: choose(policy, [q, q], [None, text], 2),
    ):
        assert score("word")
        with pytest.raises(
            UserError, match=r"is to score a prompt of .* context of 512 \(the prom"
        ):
            score(long)


def test_demonstrations_are_cut_before_a_prompt_is_refused(caplog):
    demos = [question(i, rationales=("because of this and that " * 3,)) for i in range(4)]
    options = PromptOptions(demos=demos)
    source = Provenance("train", 0)
    long = question(9, question="Is it a very long question, " * 9 + "is it?")
    short, cut = write_attempts(Sampler(tiny_policy()), [question(8), long], SHORT, source, options)
    shown = [a.prompt.count("because of this") // 3 for a in (short, cut)]
    assert 4 >= shown[0] > shown[1] >= 1
    assert "prompts were beyond the model's context: up to" in caplog.text


def test_what_lora_reaches_is_told():
    assert lora_reach(tiny_policy(tuning="lora")).endswith(", in all of its matrices")
    policy = tiny_policy(tuning="lora")
    conv = torch.nn.Conv1d(32, 32, 4).requires_grad_(False)  # as in a recurrent layer
    policy.model.get_base_model().conv = conv
    assert "in layers that hold 81.8% of its matrices" in (said := lora_reach(policy))
    assert "not reached: conv.weight (tuning=full teaches all)" in said
