"""Reads a base model's hub id and licence from its model card."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import yaml

from rationalize.models.folders import is_gguf

CARD = "README.md"


class BaseFacts(NamedTuple):
    """Facts on a base model; None if unknown."""

    hub_id: str | None
    licence: str | None
    """The card's `license`."""


def base_facts(model: str) -> BaseFacts:
    """Facts on `default`, on a folder or run (from its card), on a GGUF file, or on a hub id.

    A hub id's card is read from the hub's cache; nothing is downloaded.
    """
    from rationalize.models.default import HUB_ID, LICENCE

    if model == "default":
        return BaseFacts(HUB_ID, LICENCE)
    folder = Path(model)
    if is_gguf(model):
        from rationalize.models.gguf import gguf_facts

        header = gguf_facts(folder)
        return BaseFacts(header.hub_id, header.licence)
    if folder.is_dir():
        facts = read_card(folder / "model" if (folder / "model").is_dir() else folder)
        return BaseFacts(_text(facts.get("base_model")), _text(facts.get("license")))
    from transformers.utils import cached_file

    card = cached_file(
        model, CARD, local_files_only=True, _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )  # fmt: skip
    return BaseFacts(model, _text(read_card(Path(card).parent).get("license")) if card else None)


def read_card(folder: Path) -> dict[str, Any]:
    """The YAML front matter of the card in a folder; empty if there is none."""
    path = folder / CARD
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    head, end, _ = text.removeprefix("---\n").partition("\n---")
    if not text.startswith("---\n") or not end:
        return {}
    try:
        facts = yaml.safe_load(head)
    except yaml.YAMLError:
        return {}
    return facts if isinstance(facts, dict) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
