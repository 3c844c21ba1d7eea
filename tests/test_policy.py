"""Policies: prompts, chat templates, LoRA, references, folders."""

import importlib.metadata
import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from rationalize.errors import UserError
from rationalize.methods.settings import RunConfig
from rationalize.models import default
from rationalize.models.forward import Row
from rationalize.models.logits import token_logprobs
from rationalize.models.policy import load_policy
from rationalize.sampling.local import Sampler, SamplingConfig
from rationalize.templates import DEFAULT_SYSTEM
from tests.tiny import tiny_folder, tiny_policy

KINDS = ("decoder", "t5")

LLAMA = (
    "<s>{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}{% set "
    "messages = messages[1:] %}"
    "{% else %}{% set system = '' %}{% endif %}{% if date_string is not defined %}{% set "
    "date_string = strftime_now('%d %b %Y') %}"
    "{% endif %}<|head|>system\n\nToday: {{ date_string }}\n\n{{ system }}<|eot|>{% for m in "
    "messages %}<|head|>{{ m['role'] }}"
    "\n\n{{ m['content'] }}<|eot|>{% endfor %}{% if add_generation_prompt "
    "%}<|head|>assistant\n\n{% endif %}"
)
MISTRAL = (
    "<s>{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}"
    "{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]{% else %} {{ m['content'] "
    "}}</s>{% endif %}{% endfor %}"
)
QWEN = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful "
    "assistant.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% "
    "endif %}{% endif %}"
)
PHI = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<|user|>\n{{ m['content'] }}<|end|>\n"
    "{% elif m['role'] == 'assistant' %}<|assistant|>\n{{ m['content'] }}<|end|>\n{% endif %}{% "
    "endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
RENDERED = {
    "llama": f"<s><|head|>system\n\nToday: 26 Jul 2024\n\n{DEFAULT_SYSTEM}<|eot|>"
    "<|head|>user\n\nHi<|eot|><|head|>assistant\n\n",
    "mistral": f"<s>[INST] {DEFAULT_SYSTEM}\n\nHi [/INST]",
    "qwen": f"<|im_start|>system\n{DEFAULT_SYSTEM}<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    "<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "phi": f"<|user|>\n{DEFAULT_SYSTEM}\n\nHi<|end|>\n<|assistant|>\n",
}
TEMPLATES = {"llama": LLAMA, "mistral": MISTRAL, "qwen": QWEN, "phi": PHI}


def with_template(template, path):
    folder = tiny_folder("decoder", path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", TEMPLATES)
def test_chat_templates(family, tmp_path):
    """The system line is shown once, whether the template takes one, refuses it or drops it; no
    date, no thinking.
    """
    policy = load_policy(with_template(TEMPLATES[family], tmp_path))
    assert policy.chat
    assert policy.render("Hi") == RENDERED[family]
    assert policy.tokenizer.decode(policy.encode_prompt("Hi")) == RENDERED[family]


@pytest.mark.parametrize("family", TEMPLATES)
def test_exported_template_ends_with_the_baked_controls(family, tmp_path):
    """Anybody who applies the template gets our prompt: system line, fixed date, and the tokens
    where the response begins.
    """
    policy = load_policy(with_template(TEMPLATES[family], tmp_path / "base"))
    policy.add_controls({"correctness": 2, "diversity": 5})
    before = policy.encode_prompt("Hi")
    policy.export(tmp_path / "out", bake={"diversity": 0, "correctness": 0})
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, return_dict=False
    )
    assert ids == before + policy.controls.prefix({"correctness": 0, "diversity": 0})
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    if family in ("llama", "qwen"):
        assert DEFAULT_SYSTEM not in tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False
        )
    again = load_policy(tmp_path / "out")
    assert again.encode_prompt("Hi") == before
    assert again.controls == policy.controls


def test_an_exported_template_says_any_system_line(tmp_path):
    policy = tiny_policy(chat=True, system='Be "brief",\n\\ é \U0001f642.')
    policy.export(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    found = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=False
    )
    assert found == policy.render("Hi")


def test_plain_models(tmp_path):
    """Plain text in, and a one-line template out that carries the control tokens."""
    policy = tiny_policy("decoder")
    assert not policy.chat
    assert policy.tokenizer.decode(policy.encode_prompt("Hi")) == "Hi\n"
    policy.add_controls({"diversity": 5}, copies=2)
    policy.export(tmp_path, bake={"diversity": 0})
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, return_dict=False
    )
    assert ids == policy.encode_prompt("Hi") + policy.controls.prefix({"diversity": 0})
    assert load_policy(tmp_path).style == "plain"


def test_prompts_and_responses_of_a_t5():
    policy = tiny_policy("t5")
    assert policy.encode_prompt("Hi")[-1] == policy.eos_id
    assert policy.encode_response("Hi", eos=False) == policy.encode_prompt("Hi")[:-1]
    assert policy.encode_response("Hi")[-1] == policy.eos_id
    assert policy.decode([*policy.encode_response(" The ice. "), policy.n_vocab + 1]) == "The ice."


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_save_and_load_give_identical_logits(kind, tuning, tmp_path):
    policy = tiny_policy(kind, tuning=tuning)
    policy.add_controls({"correctness": 2, "diversity": 5}, copies=2)
    learn(policy, steps=3)
    learned = logprobs(policy)
    policy.export(tmp_path, bake={"correctness": 0})
    merged = logprobs(policy)
    assert torch.allclose(learned, merged, atol=1e-5)
    loaded = load_policy(tmp_path)
    close = torch.equal if tuning == "full" else torch.allclose
    assert close(logprobs(loaded), merged)
    assert (loaded.n_vocab, loaded.controls, loaded.style) == (
        policy.n_vocab,
        policy.controls,
        policy.style,
    )
    fresh = tiny_policy(kind, tuning=tuning)
    fresh.load_weights(tmp_path)
    assert torch.equal(logprobs(fresh), merged)
    learn(fresh, steps=1)  # and it still learns
    assert not torch.allclose(logprobs(fresh), merged)


@pytest.mark.parametrize("kind", KINDS)
def test_generate_never_writes_a_control_token_from_an_exported_model(kind, tmp_path):
    policy = tiny_policy(kind)
    policy.add_controls({"correctness": 2, "diversity": 5})
    with torch.no_grad():
        policy._own_rows().mul_(20)  # else they are rare anyway
    policy.export(tmp_path, bake={"diversity": 0})
    model = (AutoModelForSeq2SeqLM if kind == "t5" else AutoModelForCausalLM).from_pretrained(
        tmp_path
    )
    ids = torch.tensor([policy.encode_prompt("Which falls?")])
    options = {"max_new_tokens": 20, "num_return_sequences": 50, "do_sample": True, "top_k": 0}
    given = 1 if kind == "t5" else ids.shape[1]
    assert (model.generate(ids, **options, suppress_tokens=None)[:, given:] >= policy.n_vocab).any()
    assert (model.generate(ids, **options)[:, given:] < policy.n_vocab).all()


def test_baked_prefix_of_a_t5_is_recorded(tmp_path):
    """`generate(decoder_input_ids=...)` with it reads what our own forward pass reads."""
    policy = tiny_policy("t5")
    policy.add_controls({"diversity": 5})
    policy.export(tmp_path, bake={"diversity": 0})
    prefix = json.loads((tmp_path / "rationalize.json").read_text())["decoder_prefix"]
    assert prefix == [policy.start_id, *policy.controls.prefix({"diversity": 0})]
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    ids = torch.tensor([policy.encode_prompt("Which falls?")])
    out = model.generate(
        ids, decoder_input_ids=torch.tensor([prefix]), max_new_tokens=5, do_sample=False
    )
    ours = Sampler(policy, shadow=False).sample_ids(
        ["Which falls?"],
        SamplingConfig(temperature=0.0, max_new_tokens=5),
        seeds=[0],
        controls=[{"diversity": 0}],
    )
    assert out[0, 2:].tolist() == ours[0][0]


@pytest.mark.parametrize("kind", KINDS)
def test_lora_reference_is_the_start(kind):
    """Only the adapter and the control rows learn; switched off, the model is what it was."""
    policy = tiny_policy(kind, tuning="lora")
    learn(policy, steps=2)
    start = logprobs(policy, controls=False)
    reference = policy.become_reference()
    policy.add_controls({"correctness": 2, "diversity": 5})
    learning = [n for n, p in policy.model.named_parameters() if p.requires_grad]
    assert all("lora_" in n or "trainable_tokens_delta" in n for n in learning)
    words = policy.model.get_input_embeddings().weight[: policy.n_vocab].clone()
    learn(policy, steps=3)
    assert not torch.allclose(logprobs(policy, controls=False), start, atol=1e-3)
    with reference() as frozen, torch.no_grad():
        assert torch.allclose(logprobs(frozen, controls=False), start, atol=1e-5)
    assert torch.equal(policy.model.get_input_embeddings().weight[: policy.n_vocab], words)


def test_full_reference_is_a_frozen_copy():
    policy = tiny_policy("decoder")
    start = logprobs(policy, controls=False)
    reference = policy.become_reference()
    policy.add_controls({"diversity": 5})
    learn(policy, steps=2)
    with reference() as frozen:
        assert torch.equal(logprobs(frozen, controls=False), start)
        assert not any(p.requires_grad for p in frozen.model.parameters())
    with pytest.raises(ValueError, match="no adapter"), policy.reference():
        pass


def test_half_reference_is_what_autocast_computes():
    """KL is exactly 0 before the first step, although the copy is half the size."""
    policy = tiny_policy("decoder", precision="auto")
    reference = policy.become_reference()
    with policy.autocast():
        start = logprobs(policy, controls=False)
    with reference() as frozen:
        assert torch.equal(logprobs(frozen, controls=False), start)


def test_an_adapter_is_drawn_by_the_seed_of_its_run(tmp_path):
    def drawn(policy):
        weights = policy.model.named_parameters()
        return torch.cat([p.flatten() for n, p in weights if "lora_A" in n]).detach().clone()

    tiny_policy("decoder").save(tmp_path)
    zero, one = (
        RunConfig(model=str(tmp_path), tuning="lora", seed=seed).load_policy() for seed in (0, 1)
    )
    assert torch.equal(drawn(zero), drawn(tiny_policy("decoder", tuning="lora")))
    first = drawn(one)
    assert not torch.equal(drawn(zero), first)
    one.merge()
    assert torch.equal(drawn(one), first)
    one.load_weights(tmp_path)
    assert torch.equal(drawn(one), first)


def test_lora_merges_in_float32(tmp_path):
    policy = tiny_policy("decoder", tuning="lora", dtype=torch.bfloat16)
    learn(policy, steps=2)
    policy.merge()
    kinds = {
        p.dtype for n, p in policy.model.get_base_model().named_parameters() if "lora" not in n
    }
    assert kinds == {torch.bfloat16}
    frequencies = [b for n, b in policy.model.named_buffers() if "inv_freq" in n]
    assert frequencies[0].dtype == torch.float32


def test_a_folder_remembers_its_system_line(tmp_path):
    policy = tiny_policy("decoder", chat=True, system="Be brief.")
    policy.export(tmp_path)
    assert load_policy(tmp_path).system == "Be brief."
    assert load_policy(tmp_path, system=None).system is None
    assert (
        load_policy(tmp_path, style="plain").tokenizer.decode(
            load_policy(tmp_path, style="plain").encode_prompt("x")
        )
        == "x\n"
    )


def test_weights_hash_names_the_weights(tmp_path):
    a, b = tiny_folder("decoder", tmp_path / "a"), tiny_folder("decoder", tmp_path / "b", seed=1)
    assert load_policy(a).weights_hash == load_policy(a).weights_hash != load_policy(b).weights_hash
    tiny_folder("decoder", a, seed=2)
    assert load_policy(a).weights_hash not in (
        tiny_policy("decoder").weights_hash,
        load_policy(b).weights_hash,
    )


def test_run_folders_and_missing_models(tmp_path):
    tiny_folder("decoder", tmp_path / "run" / "model")
    assert load_policy(tmp_path / "run").n_vocab == 300
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="weights and tokenizer"):
        load_policy(tmp_path / "empty")


def test_default_model_without_its_wheel(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", missing)
    assert default.default_model() == default.HUB_ID


def learn(policy, steps):
    """A few plain steps on whatever learns."""
    parameters = [p for p in policy.model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.3)
    for _ in range(steps):
        loss = -torch.cat(token_logprobs(policy, rows_of(policy))).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@torch.no_grad()
def logprobs(policy, controls=True):
    return torch.cat(token_logprobs(policy, rows_of(policy, controls)))


def rows_of(policy, controls=True):
    named = dict.fromkeys(policy.controls.bins, 1) if policy.controls and controls else None
    ids = tuple(policy.controls.prefix(named)) if named else ()
    return [
        Row(tuple(policy.encode_prompt(q)), tuple(policy.encode_response(r)), ids)
        for q, r in (
            ("Which falls?", "The stone."),
            ("Ice or grass?", "Ice is smoother, so it is (A)."),
        )
    ]
