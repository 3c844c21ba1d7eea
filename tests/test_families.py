"""A sample of `make matrix`: families that keep other states than keys and values, or more than
text; and what the probe at loading says of models that it cannot drive.
"""

from __future__ import annotations

import logging
from functools import partial

import pytest
import torch
import transformers as hf
from transformers import BertConfig, BertLMHeadModel

from rationalize.errors import UserError
from rationalize.models import probe as probing
from rationalize.models.context import over_context
from rationalize.models.forward import local_window, plain_model
from rationalize.models.policy import load_policy
from rationalize.models.precision import Numbers
from rationalize.models.probe import Decoding, find_decoding
from rationalize.models.variants import Variants
from rationalize.sampling.local import Sampler, SamplingConfig
from tests.families import COLUMNS, build, check, families
from tests.tiny import tiny_policy, tiny_tokenizer

GREEDY = SamplingConfig(temperature=0.0, max_new_tokens=8)
NO_PREFIX = str(Decoding(prefix=False))
SAMPLE = {
    "qwen3_5_text": NO_PREFIX, "lfm2": NO_PREFIX, "falcon_h1": NO_PREFIX, "minimax": NO_PREFIX,
    "rwkv": str(Decoding(batch=False)), "gemma3": "", "qwen2_5_vl": "",
}  # fmt: skip


@pytest.mark.parametrize("family", SAMPLE)
def test_a_family_writes_learns_and_exports_right(family, tmp_path):
    build(family, tmp_path / family)
    assert check(tmp_path / family) == {"decoding": SAMPLE[family], **dict.fromkeys(COLUMNS, "yes")}


def test_the_registry_names_each_family_once():
    names = [name for kind in ("causal", "seq2seq", "pictures") for name in families(kind)]
    assert len(names) == len(set(names))
    assert set(SAMPLE) <= set(names)


def test_a_model_that_reads_ahead_is_refused_by_name(tmp_path):
    tokenizer = tiny_tokenizer("decoder")
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=4,
        intermediate_size=32, pad_token_id=0,
    )  # fmt: skip
    BertLMHeadModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"'bert' cannot be used here .*depend on later tokens"):
        load_policy(tmp_path, device="cpu")


@pytest.mark.parametrize("kind", ["decoder", "t5"])
def test_attention_with_a_plain_cache_takes_the_fastest_way(kind):
    assert tiny_policy(kind).decoding == Decoding()


def test_a_cache_that_is_not_that_of_the_rows_is_not_used():
    policy = tiny_policy("decoder")
    attention = plain_model(policy).model.layers[0].self_attn

    def forget(module, args, kwargs):  # keys of earlier steps count for nothing
        cache = kwargs["past_key_values"]
        if cache is not None and cache.get_seq_length():
            cache.layers[0].keys = torch.zeros_like(cache.layers[0].keys)

    attention.register_forward_pre_hook(forget, with_kwargs=True)
    assert find_decoding(policy) == Decoding(cache=False)


def test_a_slower_way_is_told_once(tmp_path, caplog):
    build("mamba", tmp_path / "told")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            load_policy(tmp_path / "told", device="cpu")
    told = [r.getMessage() for r in caplog.records if r.name == probing.__name__]
    assert told == [f"told (mamba): {NO_PREFIX}"]


def test_a_window_of_the_text_model_counts(tmp_path):
    build("gemma3", tmp_path / "gemma3")
    policy = load_policy(tmp_path / "gemma3", device="cpu")
    assert not hasattr(policy.model.config, "sliding_window")
    assert local_window(policy) == policy.model.config.text_config.sliding_window == 16


def test_an_adapter_leaves_the_vision_model_and_kernels_alone(tmp_path):
    for family, left_out in (("gemma3", "vision"), ("mamba", "out_proj")):
        build(family, tmp_path / family)
        policy = load_policy(tmp_path / family, device="cpu", tuning="lora")
        adapted = [n for n, p in policy.model.named_parameters() if p.requires_grad]
        assert adapted
        assert not any(left_out in name for name in adapted)
        assert any(
            isinstance(module, torch.nn.Linear) and left_out in name
            for name, module in plain_model(policy).named_modules()
        )


def made(kind, config, folder):
    """A tiny model of a configuration, with weights that make its replies differ."""
    tokenizer = tiny_tokenizer("decoder")
    torch.manual_seed(0)
    sizes = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 2,
        "bos_token_id": None, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    model = kind(config(**sizes))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load_policy(folder, device="cpu", numbers=Numbers("float32"))


ROPE = {"rope_theta": 10_000.0, "original_max_position_embeddings": 64}


def test_queries_that_grow_with_their_position_are_no_llamas(tmp_path):
    """Ministral 3: the factor is 1 for all that a probe reads."""
    rope = {**ROPE, "rope_type": "yarn", "factor": 16.0, "llama_4_scaling_beta": 1.0}
    config = partial(
        hf.Ministral3Config, intermediate_size=64, num_attention_heads=4, num_key_value_heads=2,
        head_dim=8, max_position_embeddings=1024, rope_parameters=rope,
    )  # fmt: skip
    policy = made(hf.Ministral3ForCausalLM, config, tmp_path)
    assert not policy.own_steps
    prompt = "stone " * 60
    [[ours]] = Sampler(policy, shadow=False).sample_ids([prompt], GREEDY, seeds=[0])
    ids = torch.tensor([policy.encode_prompt(prompt)])
    theirs = policy.model.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :]
    assert ours == theirs.tolist()


def test_angles_that_change_with_the_length_end_the_context(tmp_path):
    """`longrope` takes its factors once for a whole batch."""
    factors = {"short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 4.0, 8.0]}
    config = partial(
        hf.Phi3Config, intermediate_size=64, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=1024, original_max_position_embeddings=64,
        rope_parameters={"rope_type": "longrope", "rope_theta": 10_000.0, **factors},
    )  # fmt: skip
    policy = made(hf.Phi3ForCausalLM, config, tmp_path)
    assert over_context(policy, 40, 24) == ""
    assert over_context(policy, 40, 25).endswith("65 are beyond the model's context of 64")


def test_variants_leave_kernels_alone_too(tmp_path):
    build("mamba", tmp_path)
    base = load_policy(tmp_path, device="cpu")
    variants = Variants.of(base, tmp_path, ["one", "two"])
    adapted = [n for n, p in variants.base.model.named_parameters() if "lora_" in n]
    assert {n.split(".")[-2] for n in adapted} == {"one", "two"}
    assert not any("out_proj" in name for name in adapted)


def test_beams_of_models_without_an_exact_cache_do_not_depend_on_the_batch(tmp_path):
    config = partial(
        hf.RecurrentGemmaConfig, intermediate_size=64, num_attention_heads=4,
        num_key_value_heads=1, head_dim=8, lru_width=32, attention_window_size=64,
    )  # fmt: skip
    policy = made(hf.RecurrentGemmaForCausalLM, config, tmp_path / "gemma")
    assert not policy.decoding.cache
    prompts, beams = ["Ice", "Tom has four apples and eats one."], SamplingConfig(
        temperature=0.0, beams=3, max_new_tokens=5
    )  # fmt: skip
    sampler = Sampler(policy, shadow=False)
    together = sampler.sample_ids(prompts, beams, seeds=[0, 0])
    alone = [sampler.sample_ids([p], beams, seeds=[0])[0] for p in prompts]
    assert together == alone
    build("rwkv", tmp_path / "rwkv")
    one_by_one = load_policy(tmp_path / "rwkv", device="cpu")
    with pytest.raises(UserError, match="cannot be reordered as a beam search needs it"):
        Sampler(one_by_one, shadow=False).sample(prompts, beams, seeds=[0, 0])
