"""A sample of `make matrix`: families that keep other states than keys and values, or more than
text; and what the probe at loading says of models that it cannot drive.
"""

from __future__ import annotations

import logging

import pytest
import torch
from transformers import BertConfig, BertLMHeadModel

from rationalize.errors import UserError
from rationalize.models import probe as probing
from rationalize.models.forward import local_window, plain_model
from rationalize.models.policy import load_policy
from rationalize.models.probe import Decoding, find_decoding
from tests.families import COLUMNS, build, check, families
from tests.tiny import tiny_policy, tiny_tokenizer

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
