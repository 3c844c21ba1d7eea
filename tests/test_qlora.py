"""The arithmetic of QLoRA, where bitsandbytes is installed; it has slow kernels for a CPU too."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from rationalize.models.forward import Row
from rationalize.models.policy import load_policy
from rationalize.models.precision import Numbers, frozen_copy
from rationalize.models.quantised import four_bits, has_learned
from rationalize.training.objectives import nll
from tests.tiny import tiny_tokenizer

pytest.importorskip("bitsandbytes", reason="the extra `quant`")

ROWS = [Row((5, 6, 7), (30, 31, 32)), Row((9, 8), (40, 41))]


@pytest.fixture
def policy(tmp_path):
    """A policy under LoRA whose base is in 4 bits, as `load_policy` with `quantise` makes it."""
    config = LlamaConfig(
        vocab_size=300, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.2,
        tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    tiny_tokenizer("decoder").save_pretrained(tmp_path / "base")
    dense = load_policy(tmp_path / "base", device="cpu", numbers=Numbers("bfloat16"))
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path / "base", dtype=torch.bfloat16, **four_bits(torch.device("cpu"))
    )
    made = replace(dense, model=model.eval(), tuning="lora", quantised=True)
    made._wrap()
    return made


def test_what_is_learned_over_4_bits_is_exported_unrounded(policy, tmp_path):
    assert not has_learned(policy.model)
    before = loss_of(policy)
    parameters = [p for p in policy.model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.02)
    for _ in range(5):
        with policy.autocast():
            nll(policy, ROWS).total.backward()
        optimizer.step()
        optimizer.zero_grad()
    after = loss_of(policy)
    assert has_learned(policy.model)
    assert after < before - 1
    policy.export(tmp_path / "out")
    exported = load_policy(tmp_path / "out", device="cpu")
    assert not hasattr(exported.model.config, "quantization_config")
    assert loss_of(exported) == pytest.approx(after, rel=0.03)  # bfloat16's rounding
    assert loss_of(policy) == pytest.approx(after, rel=0.01)  # the export left it alone


def test_a_frozen_copy_stays_in_4_bits(policy):
    copied = replace(policy, model=frozen_copy(policy.model, torch.bfloat16))
    assert loss_of(copied) == pytest.approx(loss_of(policy), rel=0.01)
    assert not any(p.requires_grad for p in copied.model.parameters())


@torch.no_grad()
def loss_of(policy):
    return nll(policy, ROWS).total.item()
