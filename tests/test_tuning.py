"""Which weights learn, at which rates, in what precision, and with how much memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rationalize.cli import main
from rationalize.config.flags import merge
from rationalize.errors import UsageError
from rationalize.methods import DEMOS, METHODS
from rationalize.methods.launch import settings_of
from rationalize.methods.settings import RunConfig
from rationalize.methods.tuning import FILE, lora_rates, settle
from rationalize.models.forward import Row
from rationalize.models.tuning import FULL_BYTES, decide_tuning, device_memory
from rationalize.models.variants import Variants
from rationalize.runs import Run
from rationalize.training.loop import FitConfig
from rationalize.training.objectives import nll
from tests.tiny import tiny_policy

GB = 1_000_000_000


@pytest.mark.parametrize(
    ("parameters", "dtype", "memory", "tuning", "why"),
    [
        (135e6, torch.float32, 16 * GB, "full", "about 5.2 of 16.0 GB"),
        (494e6, torch.float32, 24 * GB, "full", "about 13.9 of 24.0 GB"),
        (494e6, torch.float32, 16 * GB, "lora", "full tuning takes about 13.9 GB"),
        (1544e6, torch.float32, 999 * GB, "lora", "1544M parameters, more than 500M"),
        (135e6, torch.bfloat16, 16 * GB, "lora", "bfloat16, which would round small steps away"),
        (135e6, torch.float32, None, "full", "at most 500M"),
    ],
)
def test_auto_tuning_goes_by_size_and_memory(parameters, dtype, memory, tuning, why):
    decision = decide_tuning(int(parameters), dtype, memory)
    assert decision.tuning == tuning
    assert why in decision.why


def test_the_memory_of_this_machine():
    assert 0.1 * GB < (device_memory(torch.device("cpu")) or GB) < 100_000 * GB
    assert FULL_BYTES >= 16  # weights, gradients and two moments at the least


def test_a_run_keeps_its_tuning(tmp_path, capsys):
    """LoRA by the weights' precision here; a second start reads what the first one decided."""
    settings = settings_of(METHODS["mario"])(dtype="bfloat16")
    base = tiny_policy(dtype=torch.bfloat16)
    with Run.open(tmp_path / "run", {"method": "mario"}) as run:
        (settled,) = settle(run, base, settings)
        assert (settled.tuning, settled.fit.learning_rate, settled.sft.fit.learning_rate) == (
            "lora", 2e-4, 2e-4
        )  # fmt: skip
        err = capsys.readouterr().err
        assert "tuning: LoRA of rank 16 (weights in bfloat16" in err
        assert "fit.learning_rate 0.0002 for 5e-05" in err
        (again,) = settle(run, tiny_policy(), settings)  # now it would be full tuning
        assert again == settled
        assert run.read_json(FILE)["rates"]["fit.control_factor"] == [20.0, 5.0]


def test_a_rate_that_was_set_is_kept(tmp_path):
    config = settings_of(METHODS["sft"])(fit=FitConfig(learning_rate=7e-5), dtype="bfloat16")
    with Run.open(tmp_path / "run", {"method": "sft"}) as run:
        (settled,) = settle(run, tiny_policy(dtype=torch.bfloat16), config)
    assert (settled.tuning, settled.fit.learning_rate) == ("lora", 7e-5)


def test_full_tuning_and_named_lora_change_no_rate(tmp_path, capsys):
    settings = settings_of(METHODS["rft"])()
    with Run.open(tmp_path / "run", {"method": "rft"}) as run:
        assert settle(run, tiny_policy(), settings) == [replace(settings, tuning="full")]
        assert "tuning: full (0M parameters" in capsys.readouterr().err
        named = replace(settings, tuning="lora")
        assert settle(run, tiny_policy(), named) == [named]
        assert "--preset lora" in capsys.readouterr().err
        preset = merge(type(settings), None, ["--preset", "lora"])
        assert settle(run, tiny_policy(), preset) == [preset]
        assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_rates_for_lora(name):
    settings = settings_of(METHODS[name])
    rates = lora_rates(settings())
    assert all(new > old for key, (old, new) in rates.items() if key.endswith("learning_rate"))
    preset = merge(settings, None, ["--preset", "lora"])
    assert preset.tuning == "lora"
    assert rates
    assert lora_rates(preset) == {}  # the same values


def test_what_makes_no_pass_needs_no_rate():
    settings = settings_of(METHODS["grpo"])
    assert {"sft.fit.learning_rate", "fit.learning_rate"} == set(lora_rates(settings()))
    from_a_policy = merge(settings, None, ["--sft.epochs", "0"])
    assert set(lora_rates(from_a_policy)) == {"fit.learning_rate"}


@pytest.mark.parametrize("name", DEMOS)
def test_demos_name_settings_that_exist(name):
    lora_rates(settings_of(DEMOS[name])())


def test_bfloat16_weights_are_for_adapters(capsys):
    with pytest.raises(UsageError, match="dtype=bfloat16 rounds full tuning's small steps away"):
        RunConfig(dtype="bfloat16", tuning="full")
    policy = tiny_policy(tuning="lora", dtype=torch.bfloat16)
    learning = {p.dtype for p in policy.model.parameters() if p.requires_grad}
    assert (policy.dtype, learning) == (torch.bfloat16, {torch.float32})


def test_the_rank_of_adapters(tiny_model, tmp_path):
    policy = RunConfig(model=tiny_model, tuning="lora", lora_rank=3).load_policy()
    assert {p.shape[0] for n, p in policy.model.named_parameters() if "lora_A" in n} == {3}
    base = RunConfig(model=tiny_model, lora_rank=3).load_policy(tuning="full")
    assert Variants.of(base, tmp_path, ["one"]).rank == 3
    with pytest.raises(UsageError, match="lora_rank is 0"):
        RunConfig(lora_rank=0)


@pytest.mark.parametrize("tuning", ["full", "lora"])
@pytest.mark.parametrize("kind", ["decoder", "t5"])
def test_checkpointing_keeps_less_and_learns_the_same(kind, tuning):
    plain = tiny_policy(kind, tuning=tuning)
    saving = tiny_policy(kind, tuning=tuning, gradient_checkpointing=True)
    kept, expected = pass_with_gradients(plain)
    kept_less, gradients = pass_with_gradients(saving)
    assert kept_less < 0.7 * kept
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(gradients, expected, strict=True))
    assert not any(m.training for m in saving.model.modules())


def test_qlora_is_refused_without_an_accelerator(tiny_model, mostly_yes, tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("for machines without an accelerator")
    argv = ["train", "sft", "--model", tiny_model, "--questions", mostly_yes, "--tuning", "qlora"]
    assert main([*argv, "--out", str(tmp_path / "run")]) == 1
    assert "needs an accelerator; found a CPU. Take tuning=lora" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def pass_with_gradients(policy):
    """Bytes that the pass keeps for the gradients, and the gradients."""
    rows = [Row(tuple(range(5, 25)), tuple(range(30, 90)))] * 4
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with policy.checkpointing(), torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        out = nll(policy, rows)
    weights = {p.untyped_storage().data_ptr() for p in policy.model.parameters()}
    out.total.backward()
    total = sum(size for place, size in kept.items() if place not in weights)
    return total, [p.grad for p in policy.model.parameters() if p.grad is not None]
