"""GGUF files as base models: de-quantised once into a `save_pretrained` folder in the cache.

transformers reads the weights and the tokenizer. Added here: a head that the quantiser wrote twice
is tied again, padding entries of the vocabulary are dropped, and what the file says of itself goes
into a card beside the weights.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import struct
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rationalize.errors import UserError
from rationalize.files import cache_folder, make_folder, write_text
from rationalize.models.cards import CARD
from rationalize.models.folders import files_hash, no_bars
from rationalize.progress import say

FORMAT = 1
"""Of the converted folders; a change makes them anew."""

TIED_BELOW = 0.5
"""Relative distance of head and embedding below which they are one matrix, quantised twice: 2-bit
blocks are at about 0.3, two matrices that were trained apart at 1 and more.
"""

_RENAMED = {
    "qwen2moe": "qwen2_moe", "qwen3moe": "qwen3_moe", "gpt-oss": "gpt_oss",
    "minimax-m2": "minimax_m2",
}  # fmt: skip
_UNUSED_TOKEN = 5  # token type of entries that only pad the vocabulary
_HUB = "https://huggingface.co/"


@dataclass(frozen=True)
class GgufFacts:
    """What a file says of itself; None where it says nothing."""

    architecture: str
    name: str
    """`general.name`, or the file's name."""
    licence: str | None
    hub_id: str | None
    """The repository that the weights come from."""
    eot_id: int | None
    """The token that ends a turn, where it is not the one that ends a text."""
    unused_from: int
    """Ids from here on pad the vocabulary."""


def gguf_facts(path: Path) -> GgufFacts:
    """Facts from a file's header; reads no weights.

    Raises `UserError` for what is no GGUF file, is one part of several, or holds an architecture
    that transformers does not de-quantise.
    """
    from transformers.integrations.gguf.reader import read_gguf_metadata

    try:
        values, _ = read_gguf_metadata(str(path), ("tokenizer.ggml.tokens",))
    except (OSError, ValueError, IndexError, struct.error) as error:
        raise UserError(
            f"{path}: cannot be read as GGUF ({error}); expected a whole GGUF file of version 2 or "
            "3. Download it again"
        ) from error
    parts = values.get("split.count", 1)
    if parts > 1:
        raise UserError(
            f"{path}: one of {parts} parts of a model; expected a single file. Join them with "
            "`llama-gguf-split --merge FIRST OUT`"
        )
    architecture = values["general.architecture"]
    known = _architectures()
    if _RENAMED.get(architecture, architecture) not in known:
        raise UserError(
            f"{path}: holds the architecture {architecture!r}, which transformers cannot "
            f"de-quantise; expected one of {', '.join(sorted(known))}. Give the model as a folder "
            "that save_pretrained wrote, or as a hub id"
        )
    sources = ("general.repo_url", "general.source.repo_url", "general.source.url")
    urls = [str(values[key]) for key in sources if key in values]
    hub_ids = [url.removeprefix(_HUB).strip("/") for url in urls if url.startswith(_HUB)]
    types = values.get("tokenizer.ggml.token_type", [])
    used = len(types)
    while used and types[used - 1] == _UNUSED_TOKEN:
        used -= 1
    return GgufFacts(
        architecture, values.get("general.name") or path.stem, values.get("general.license"),
        hub_ids[0] if hub_ids else None, values.get("tokenizer.ggml.eot_token_id"), used,
    )  # fmt: skip


def _architectures() -> set[str]:
    """Names of model types that transformers de-quantises and that write text."""
    from transformers.integrations.gguf import GGUF_ARCHS
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    return {*GGUF_SUPPORTED_ARCHITECTURES, *GGUF_ARCHS} - {"general", "tokenizer"}


def converted(path: Path) -> Path:
    """The cache's folder with a file's model, converted at its first use; keyed by its content."""
    stat = path.stat()
    digest = files_hash(((str(path), stat.st_size, stat.st_mtime_ns),))
    folder = cache_folder() / f"{path.stem}-{digest[:12]}-{FORMAT}"
    if not (folder / "config.json").exists():
        convert(path, folder, digest=digest)
    return folder


def convert(
    path: Path, folder: Path, *, dtype: torch.dtype | None = None, digest: str | None = None
) -> None:
    """De-quantise a GGUF file into a folder of safetensors, atomically: two processes may do it at
    once.

    `dtype`: of the weights; None: the file's own, and bfloat16 where it holds quantised blocks.
    `digest`, the file's SHA-256, asks for a card beside the weights. Raises `UserError` as
    `gguf_facts` does, and where the disk has no room.
    """
    facts, tensors = gguf_facts(path), _tensors(path)
    dtype = dtype or _stored_dtype({t.tensor_type.name for t in tensors})
    size = sum(int(t.n_elements) for t in tensors)
    make_folder(folder.parent)
    check_disk(path, folder.parent, size * dtype.itemsize)
    say(f"{path.name} ({path.stat().st_size / 1e9:.2f} GB, {facts.architecture}): converted once, "
        f"into {folder}")  # fmt: skip
    model, tokenizer = _load(path, dtype)
    tied = _tie(model, {t.name: int(t.n_bytes) for t in tensors})
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"{path}: names no token that ends a text; expected tokenizer.ggml.eos_token_id in its "
            "header. Give the model as a folder that save_pretrained wrote, or as a hub id"
        )
    fresh = _savable(model, tied)
    pad = tokenizer.pad_token_id
    ends = [tokenizer.eos_token_id]
    ends += [facts.eot_id] if facts.eot_id not in (None, *ends) else []
    fresh.generation_config.eos_token_id = ends if len(ends) > 1 else ends[0]
    fresh.generation_config.pad_token_id = tokenizer.eos_token_id if pad is None else pad
    # write into a temporary folder, then rename it
    beside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        with no_bars():
            fresh.save_pretrained(beside)
        tokenizer.save_pretrained(beside)
        _drop_unused(beside / "tokenizer.json", facts.unused_from)
        if digest:
            write_text(beside / CARD, _card(path, facts, dtype, digest))
        beside.chmod(0o755)
        os.rename(beside, folder)
    except OSError:
        if not (folder / "config.json").exists():  # if it exists, another process was faster
            raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _tensors(path: Path) -> list[Any]:
    """The tensors as the package `gguf` describes them. Raises `UserError` for a cut file."""
    from gguf import GGUFReader

    try:
        return GGUFReader(path).tensors
    except (ValueError, IndexError) as error:
        raise UserError(
            f"{path}: its tensors cannot be read ({error}); expected a whole file. Download it "
            "again"
        ) from error


def _stored_dtype(kinds: set[str]) -> torch.dtype:
    """The float type that loses nothing; bfloat16 for quantised blocks, whose error is larger."""
    halves = kinds - {"F32"}  # norms are in float32 beside any other type
    known = {"F16": torch.float16, "BF16": torch.bfloat16}
    if not halves:
        return torch.float32
    return known.get(halves.pop(), torch.bfloat16) if len(halves) == 1 else torch.bfloat16


def check_disk(path: Path, folder: Path, weights: int) -> None:
    """Raise `UserError` where a folder's disk has no room for weights of so many bytes."""
    needed, free = weights + 64_000_000, shutil.disk_usage(folder).free  # and the tokenizer
    if free < needed:
        raise UserError(
            f"{path}: its converted weights need {needed / 1e9:.1f} GB, and {folder} has "
            f"{free / 1e9:.1f} GB free; make room, or name a folder on another disk as "
            "RATIONALIZE_CACHE"
        )


def _load(path: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """The de-quantised model and its tokenizer."""
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForSeq2SeqLM,
        AutoTokenizer,
        GgufConfig,
    )

    where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    try:
        config = AutoConfig.from_pretrained(**where)
        kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        with _bar_on_a_terminal():
            model = kind.from_pretrained(
                **where, dtype=dtype, quantization_config=GgufConfig(dequantize=True)
            )
        return model, AutoTokenizer.from_pretrained(**where)
    except (KeyError, NotImplementedError, ValueError) as error:
        raise UserError(
            f"{path}: transformers cannot de-quantise it ({error}); expected a model that writes "
            "text, with its tokenizer. Give the model as a folder that save_pretrained wrote, or "
            "as a hub id"
        ) from error


@contextlib.contextmanager
def _bar_on_a_terminal() -> Iterator[None]:
    """Let transformers draw its bar of tensors, but not into a log."""
    quiet = contextlib.redirect_stderr(io.StringIO())
    with no_bars(), contextlib.nullcontext() if sys.stderr.isatty() else quiet:
        yield


def _tie(model: Any, sizes: dict[str, int]) -> bool:
    """Whether head and embedding are one matrix; where the quantiser wrote it twice, the finer copy
    takes both places. `sizes`: bytes in the file by tensor.
    """
    if model.config.tie_word_embeddings:
        return True
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or head.weight.shape != embedding.weight.shape:
        return False
    stride = max(1, len(head.weight) // 4096)
    head_rows = head.weight.detach()[::stride].float()
    distance = (head_rows - embedding.weight.detach()[::stride].float()).norm()
    if distance >= TIED_BELOW * head_rows.norm():
        return False
    finer = head if sizes["output.weight"] >= sizes["token_embd.weight"] else embedding
    head.weight = embedding.weight = finer.weight
    return True


def _savable(model: Any, tied: bool) -> Any:
    """The same weights in a model that can be saved: transformers saves none from a GGUF file."""
    from transformers import AutoConfig

    dropped = {
        "quantization_config", "model_type", "transformers_version", "_name_or_path", "dtype",
        "torch_dtype",
    }  # fmt: skip
    values = {name: v for name, v in model.config.to_dict().items() if name not in dropped}
    config = AutoConfig.for_model(
        model.config.model_type, **{**values, "tie_word_embeddings": tied}
    )
    with torch.device("meta"):  # its own weights are never made
        fresh = type(model)._from_config(config, dtype=model.dtype)
    fresh.load_state_dict(model.state_dict(), assign=True)
    fresh.tie_weights()
    return fresh


def _drop_unused(path: Path, first: int) -> None:
    """Drop the vocabulary's entries from id `first` on: they only fill up the embedding."""
    if not first or not path.exists():
        return
    stored = json.loads(path.read_text(encoding="utf-8"))
    vocab = stored["model"].get("vocab")
    if vocab is None or len(vocab) <= first:
        return
    kept = (
        {t: i for t, i in vocab.items() if i < first} if isinstance(vocab, dict) else vocab[:first]
    )
    stored["model"]["vocab"] = kept
    stored["added_tokens"] = [token for token in stored["added_tokens"] if token["id"] < first]
    write_text(path, json.dumps(stored, ensure_ascii=False))


def _card(path: Path, facts: GgufFacts, dtype: torch.dtype, digest: str) -> str:
    """A card with the file's own name and licence, which `cards.base_facts` reads."""
    fields = {"license": facts.licence, "base_model": facts.hub_id}
    head = "".join(f"{key}: {json.dumps(value)}\n" for key, value in fields.items() if value)
    licence = facts.licence or "the file names none"
    kind = str(dtype).removeprefix("torch.")
    front = f"---\n{head}---\n\n" if head else ""
    return (
        f"{front}# {facts.name}\n\nConverted from `{path.name}` (architecture "
        f"{facts.architecture}, SHA-256 `{digest}`), weights in {kind}.\nLicence: {licence}.\n"
    )
