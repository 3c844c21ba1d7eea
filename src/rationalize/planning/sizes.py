"""A model's figures, loaded or from its configuration alone, and what a process holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rationalize.models.forward import plain_model
from rationalize.models.loading import auto_class
from rationalize.models.policy import Policy
from rationalize.planning.speeds import Sizes
from rationalize.runs.clock import peak_mib


def sizes_of(policy: Policy, process: float) -> Sizes:
    """Of a loaded policy, in a process that held so many bytes before."""
    return _of(plain_model(policy), policy.name, process)


def sizes_from(source: str, name: str, *, trusted: bool = False) -> Sizes:
    """From a model's configuration: no weights are read."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(source, trust_remote_code=trusted)
    with torch.device("meta"):
        model = auto_class(config).from_config(config, trust_remote_code=trusted)
    return _of(model, name, 0.0)


def _of(model: Any, name: str, process: float) -> Sizes:
    config = model.config.get_text_config()
    embedding = model.get_input_embeddings().weight
    width = getattr(config, "hidden_size", embedding.shape[1])
    heads = getattr(config, "num_attention_heads", 1) or 1
    groups = getattr(config, "num_key_value_heads", heads) or heads
    layers = getattr(config, "num_hidden_layers", 1) or 1
    parameters = sum(p.numel() for p in dict.fromkeys(model.parameters()))
    own = (p.numel() for n, p in model.named_parameters() if "lora_" in n)
    return Sizes(
        name=name, parameters=parameters - sum(own), head=embedding.numel(), layers=layers,
        cache=2 * 2 * layers * width * groups // heads, process=process,
        activations=activations_of(layers, width, embedding.shape[0]),
    )  # fmt: skip


def activations_of(layers: int, width: int, vocabulary: int) -> float:
    """Bytes of a token of a pass that learns: what a layer keeps for its gradient, 71 for each of
    its width (41 kB a token and layer of SmolLM2-135M: `training.loop.CPU_PASS`), and of a third of
    the tokens, the responses, logits in float32.
    """
    return 71 * layers * width + vocabulary * 4 / 3


def resident() -> float:
    """Bytes that this process has held at most so far."""
    return (peak_mib() or 0) * 2**20


def folder_stamp(source: str) -> list[Any]:
    """What tells a folder's model from another: names, sizes and times of its files."""
    folder = Path(source)
    if not folder.is_dir():
        return [source]
    files = sorted(p for p in folder.iterdir() if p.is_file())
    return [source, *((p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files)]
