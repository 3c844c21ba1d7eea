"""QLoRA (arXiv 2305.14314): an adapter over a base model in 4 bits, which learns nothing itself.

Linear layers are held as NF4 blocks with doubly quantised scales, as in the paper; embeddings and
norms keep their type. An export de-quantises the base and adds the adapter in float32, so that what
was learned is not rounded to 4 bits. What goes on from an export is quantised anew.
"""

from __future__ import annotations

import copy
import importlib.util
from typing import Any

import torch

from rationalize.errors import UserError


def check_quantising(device: torch.device) -> None:
    """Raise `UserError` where a base model cannot be held in 4 bits."""
    if device.type != "cuda":
        raise UserError(
            "tuning=qlora holds the base model in 4 bits, which needs an accelerator; found a "
            f"{device.type.upper()}. Take tuning=lora with dtype=bfloat16 here"
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            "tuning=qlora needs the package bitsandbytes; pip install 'rationalize[quant]'"
        )


def four_bits(device: torch.device) -> dict[str, Any]:
    """Options of `from_pretrained` for a model in 4 bits on a device."""
    from transformers import BitsAndBytesConfig

    kind = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )  # fmt: skip
    return {"quantization_config": kind, "device_map": {"": device}}


def has_learned(model: Any) -> bool:
    """Whether an adapter is no longer zero."""
    return any(p.any() for name, p in model.named_parameters() if ".lora_B." in name)


def dense_with_adapter(model: Any) -> Any:
    """A copy of a model in 4 bits, de-quantised, with its adapter (if it has one) merged."""
    from peft import PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    if not isinstance(model, PeftModel):
        return copy.deepcopy(model).dequantize()
    name = model.active_adapter
    learned = get_peft_model_state_dict(model, adapter_name=name)
    dense = copy.deepcopy(model).unload().dequantize()
    dtype = dense.dtype
    for parameter in dense.parameters():
        parameter.data = parameter.data.float()
    merged = get_peft_model(dense, copy.deepcopy(model.peft_config[name]))
    set_peft_model_state_dict(merged, learned)
    merged = merged.merge_and_unload()
    for parameter in merged.parameters():
        parameter.data = parameter.data.to(dtype)
    return merged
