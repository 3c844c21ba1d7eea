"""An exported folder writes in plain transformers what was measured before, or is refused."""

import json

import pytest
import torch
from tiny import CHAT_TEMPLATE, tiny_folder
from toys import experiment, question
from transformers import AutoModelForCausalLM, AutoTokenizer

from rationalize import train
from rationalize.errors import UserError
from rationalize.methods.base import Asked
from rationalize.methods.outcome import Best, export
from rationalize.methods.settings import RunConfig
from rationalize.models.exported import compare_export, kept_replies
from rationalize.models.policy import load_policy
from rationalize.models.precision import frozen_copy
from rationalize.runs import Run
from rationalize.sampling.local import Sampler, SamplingConfig
from rationalize.sampling.writing import PromptOptions, Provenance, Recorded, write_attempts
from rationalize.training.loop import FitConfig

GREEDY = SamplingConfig(temperature=0.0, max_new_tokens=16)
HOSTILE = {
    "repetition_penalty": 1.8, "do_sample": True, "temperature": 0.7, "top_k": 20,
    "no_repeat_ngram_size": 2, "forced_eos_token_id": 5, "max_length": 21,
    "begin_suppress_tokens": [40, 41, 42], "suppress_tokens": [50, 51], "num_beams": 2,
}  # fmt: skip


def edit(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def base_model(folder, kind):
    """A tiny base whose generation config and tokenizer do what ours must not, or must say."""
    tiny_folder("t5" if kind == "t5" else "decoder", folder, chat=kind == "chat")
    edit(folder / "generation_config.json", **HOSTILE)
    if kind == "chat":
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.chat_template = {
            "default": "{{ strftime_now('%d %B') }}" + CHAT_TEMPLATE, "tool_use": "x"
        }  # fmt: skip
        tokenizer.save_pretrained(folder)
    if kind == "plain":  # a token before every text, and the end behind it
        around = [{"SpecialToken": {"id": t, "type_id": 0}} for t in ("<|start|>", "<|end|>")]
        text = [{"Sequence": {"id": "A", "type_id": 0}}]
        pair = [*text, {"Sequence": {"id": "B", "type_id": 1}}]
        ids = {"<|end|>": 0, "<|start|>": 1}
        tokens = {t: {"id": t, "ids": [i], "tokens": [t]} for t, i in ids.items()}
        edit(folder / "tokenizer.json", post_processor={
            "type": "TemplateProcessing", "single": [around[0], *text, around[1]], "pair": pair,
            "special_tokens": tokens,
        })  # fmt: skip
    return folder


@pytest.fixture(scope="module", params=["plain", "chat", "t5"])
def base(request, tmp_path_factory):
    return base_model(tmp_path_factory.mktemp(request.param) / "base", request.param)


def measure(policy, control=None):
    """Replies of a policy as a run keeps them."""
    recorded = Recorded(Sampler(policy, shadow=False))
    attempts = write_attempts(
        recorded, [question(i) for i in range(4)], GREEDY, Provenance("test", 0),
        PromptOptions(control=control),
    )  # fmt: skip
    kept = kept_replies(policy, attempts, recorded.ids, policy.dtype)
    return {a.id: a for a in attempts}, kept


def test_a_run_compares_its_model_with_what_it_measured(base, tmp_path):
    train(
        "sft", tmp_path, model=str(base), questions="builtin:train=8,dev=2,test=4,unseen=2",
        epochs=1, evaluations=1, evaluation_tokens=12, precision="float32",
        fit=FitConfig(learning_rate=3e-3, batch_size=8),
    )  # fmt: skip
    compared = Run.read(tmp_path).done("export")["compared"]
    assert compared["not_compared"] is None
    assert compared["replies"] == 3
    assert compared["tokens"] > 3
    written = json.loads((tmp_path / "model/generation_config.json").read_text())
    assert not set(written) & (HOSTILE.keys() - {"suppress_tokens", "do_sample"})
    assert written["do_sample"] is False
    assert written.get("suppress_tokens") in (None, [*range(300, 304)])  # the T5's unused rows


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_a_policy_under_control_tokens_is_exported_with_them(base, tmp_path, tuning):
    policy = load_policy(base, device="cpu", tuning=tuning)
    policy.add_controls({"diversity": 3, "correctness": 3})
    control = {"diversity": 0, "correctness": 0}
    attempts, kept = measure(policy, control)
    policy.export(tmp_path / "model", bake=control)
    compared = compare_export(policy, tmp_path / "model", attempts, kept)
    assert (compared["replies"], compared["not_compared"]) == (3, None)
    guided = compare_export(policy, tmp_path / "model", attempts, kept, guidance=1.0)
    assert guided["replies"] == 0
    assert "guidance 1, which transformers lacks" in guided["not_compared"]
    policy.export(tmp_path / "other", bake={**control, "correctness": 2})
    if not policy.is_encoder_decoder:
        with pytest.raises(UserError, match="reads the prompt otherwise"):
            compare_export(policy, tmp_path / "other", attempts, kept, guidance=1.0)


def test_rounding_of_bfloat16_is_no_difference(base, tmp_path):
    policy = load_policy(base, device="cpu")
    policy.export(tmp_path / "model")
    policy.model = frozen_copy(policy.model, torch.bfloat16)
    attempts, kept = measure(policy)
    assert kept["precision"] == "bfloat16"
    assert compare_export(policy, tmp_path / "model", attempts, kept)["replies"] == 3


def with_penalty(folder):
    edit(folder / "generation_config.json", repetition_penalty=1.8)


def with_sampling(folder):
    edit(folder / "generation_config.json", do_sample=True, temperature=3.0)


def with_another_system_line(folder):
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("careful", "careless"))


def with_other_weights(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.model.layers[0].mlp.down_proj.weight.data *= 1.5
    model.save_pretrained(folder)


def without_a_layer(folder):
    edit(folder / "config.json", num_attention_heads=3)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (with_penalty, "writes otherwise"), (with_sampling, "writes otherwise"),
        (with_other_weights, "writes otherwise"),
        (with_another_system_line, "reads the prompt otherwise"),
        (without_a_layer, "does not load"),
    ],
)  # fmt: skip
def test_another_export_is_refused_with_both_texts(tmp_path, spoil, said):
    policy = load_policy(tiny_folder("decoder", tmp_path / "base", chat=True), device="cpu")
    attempts, kept = measure(policy)
    policy.export(tmp_path / "model")
    assert compare_export(policy, tmp_path / "model", attempts, kept)["replies"] == 3
    spoil(tmp_path / "model")
    with pytest.raises(UserError, match=said) as error:
        compare_export(policy, tmp_path / "model", attempts, kept)
    if "otherwise" in said:
        assert "\n  measured: " in str(error.value)
        assert "\n  exported: " in str(error.value)


def test_a_refused_export_is_put_aside_and_made_again(tmp_path):
    folder, run = tiny_folder("decoder", tmp_path / "base"), tmp_path / "run"
    policy = load_policy(folder, device="cpu")
    exp = experiment(
        run, [], [question(i) for i in range(4)], policy=policy, config=RunConfig(str(folder))
    )
    exp.evaluate(policy, "SFT", "dev")
    other = load_policy(tiny_folder("decoder", tmp_path / "other", seed=1), device="cpu")
    with pytest.raises(UserError, match="Nothing learned is lost"):
        export(exp, Best("SFT", 0, other, Asked()))
    assert exp.run.done("export") is None
    assert not (run / "model").exists()
    assert (run / "model-refused/config.json").exists()

    export(exp, Best("SFT", 0, policy, Asked()))
    assert exp.run.done("export")["compared"]["replies"] == 3
    assert not (run / "model-refused").exists()
    written = (run / "model/config.json").stat().st_mtime_ns
    export(exp, Best("SFT", 0, policy, Asked()))  # is done
    assert (run / "model/config.json").stat().st_mtime_ns == written


def test_what_cannot_be_compared_is_said(tmp_path):
    policy = load_policy(tiny_folder("decoder", tmp_path / "base"), device="cpu")
    policy.export(tmp_path / "model")
    earlier = compare_export(policy, tmp_path / "model", {}, None)
    assert "an earlier version" in earlier["not_compared"]
    questions = [question(i, question="Is <|end|> a word?") for i in range(2)]
    recorded = Recorded(Sampler(policy))
    attempts = write_attempts(recorded, questions, GREEDY, Provenance("test", 0))
    kept = kept_replies(policy, attempts, recorded.ids, torch.float32)
    told = compare_export(policy, tmp_path / "model", {a.id: a for a in attempts}, kept)
    assert told["not_compared"] == "every prompt has the text of a special token"
