"""Policies on disk: `save_pretrained` folders with one additional file, `rationalize.json`."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rationalize.errors import UserError
from rationalize.files import looks_local, write_text
from rationalize.models.encoding import TEMPLATE_VALUES, own_generation_config, words_of
from rationalize.models.stored import holds_model, take_over_model
from rationalize.processes import by_first, wait_for

if TYPE_CHECKING:
    from rationalize.models.policy import Policy

FACTS = "rationalize.json"


@contextmanager
def no_bars() -> Iterator[None]:
    """Switch off transformers' progress bars, which would break up our own.

    The switch also applies to downloads from the hub, so it is restored afterwards.
    """
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def is_gguf(model: str | Path) -> bool:
    """Whether a model's name is a GGUF file's.

    >>> is_gguf("models/qwen.Q8_0.gguf"), is_gguf("owner/name-GGUF")
    (True, False)
    """
    return str(model).lower().endswith(".gguf")


def check_model(model: str | Path) -> None:
    """Raise `UserError` where no model can be there. Loads nothing, and does not ask the hub."""
    name, folder = str(model), Path(model)
    if name == "default":
        return
    if folder.is_dir():
        if (folder / "adapter_config.json").is_file():
            raise UserError(
                f"{model}: this is an adapter{_adapted(folder)}, not a model; merge it first "
                "(peft: PeftModel.from_pretrained(base, adapter).merge_and_unload(), then "
                "save_pretrained of model and tokenizer), and name that folder"
            )
        if any((p / "config.json").is_file() for p in (folder, folder / "model")):
            return
        if (folder / "config.yaml").is_file():
            raise UserError(
                f"{model}: this run has no model/ yet; expected a finished run. Start it again to "
                "resume it, or name a model"
            )
        raise UserError(
            f"{model}: no config.json there; expected a folder that save_pretrained wrote, with "
            "config.json, weights and tokenizer, or the folder of a finished run"
        )
    if folder.is_file() and is_gguf(name):
        from rationalize.models.gguf import gguf_facts

        gguf_facts(folder)
        return
    if folder.is_file() or looks_local(name):
        absent = "there is no such file" if is_gguf(name) else "there is no such folder"
        kind = "is a file" if folder.is_file() else absent
        raise UserError(
            f"{model}: {kind}; expected `default`, a folder with a model, a finished run, a GGUF "
            "file, or a hub id"
        )


def _adapted(folder: Path) -> str:
    """What an adapter is an adapter of, as far as it says so."""
    try:
        base = json.loads((folder / "adapter_config.json").read_bytes())["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError):
        return ""
    return f" of {base}" if base else ""


def read_facts(source: str | Path) -> dict[str, Any]:
    """The facts that `save_policy` wrote beside the weights; empty for other models."""
    path = Path(source) / FACTS
    return json.loads(path.read_text()) if path.exists() else {}


def snapshot(source: str | Path) -> Path | None:
    """The folder of a model's files, of a hub id that of its snapshot; None where there is none."""
    from transformers.utils import cached_file

    if Path(source).is_dir():
        return Path(source)
    config = cached_file(
        str(source), "config.json", local_files_only=True,
        _raise_exceptions_for_missing_entries=False,
    )  # fmt: skip
    return Path(config).parent if config else None


def weights_hash(source: str | Path, model: Any) -> str:
    """SHA-256 of the safetensors files of a folder, or of a hub id's snapshot.

    If there are no such files, of the loaded tensors.
    """
    folder = snapshot(source)
    files = sorted(folder.glob("*.safetensors")) if folder else []
    if files:
        return files_hash(tuple((str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files))
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


@functools.lru_cache(maxsize=64)
def files_hash(files: tuple[tuple[str, int, int], ...]) -> str:
    """Hash of (path, size, time of change) files; a changed file misses the cache."""
    digest = hashlib.sha256()
    for path, _, _ in files:
        with open(path, "rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def save_policy(
    policy: Policy, folder: Path, *, bake: Mapping[str, int] | None = None,
    stored: Path | None = None, first_file: int = 0, told: Mapping[str, Any] | None = None,
) -> None:  # fmt: skip
    """Write a folder that transformers, vLLM and lm-eval load without this package.

    The adapter must have been merged (see `Policy.export`). `bake` names the bins whose control
    tokens the chat template puts before every response; a plain decoder-only model gets a one-line
    template for it. An encoder-decoder has no such place: pass the `decoder_prefix` of
    `rationalize.json` to `generate(decoder_input_ids=...)`. The generation config is ours
    (`own_generation_config`). Where the folder `stored` holds the same weights, its files are
    linked, or copied on a file system without links. `first_file`: bytes of the weights that shall
    be in a file of their own. `told`: facts beside ours. Raises `UserError` if `bake` is given and
    the policy has no control tokens. Several processes all call it, and the first one writes.
    """
    by_first(partial(_write, policy, folder, bake, stored, first_file, told or {}))
    wait_for(folder / FACTS)


def _write(
    policy: Policy, folder: Path, bake: Mapping[str, int] | None, stored: Path | None,
    first_file: int, told: Mapping[str, Any],
) -> None:  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    controls, tokenizer = policy.controls, policy.tokenizer
    template = tokenizer.chat_template
    facts: dict[str, Any] = {
        "n_vocab": policy.n_vocab, "style": policy.style, "system": policy.system,
        "chat_template": template, **told,
    }  # fmt: skip
    if bake and not controls:
        raise UserError(
            f"{policy.name} has no control tokens, so {dict(bake)} cannot be put into its chat "
            "template"
        )
    if controls:
        facts["controls"] = {
            "bins": dict(controls.bins), "copies": controls.copies,
            "first_id": controls.first_id, "lowest": dict(controls.lowest),
        }  # fmt: skip
        facts["baked"] = dict(bake or {})
    policy.model.generation_config = own_generation_config(policy)
    prefix = controls.prefix(bake or {}) if controls else []
    if policy.is_encoder_decoder:
        facts["decoder_prefix"] = [policy.start_id, *prefix]
    elif prefix or policy.chat:
        tokenizer.chat_template = _exported_template(policy, prefix)
    # the policy itself keeps the template without a baked prefix
    try:
        if stored and holds_model(stored, policy.model):
            take_over_model(stored, folder)
        else:
            with no_bars():
                split = {"max_shard_size": first_file} if first_file else {}
                policy.model.save_pretrained(folder, **split)
        tokenizer.save_pretrained(folder)
    finally:
        tokenizer.chat_template = template
    write_text(folder / FACTS, json.dumps(facts, indent=1))


def _exported_template(policy: Policy, prefix: list[int]) -> str:
    """The chat template with our default system line, and control tokens before the response."""
    words = "".join(policy.tokenizer.convert_ids_to_tokens(prefix))
    response = "{% if add_generation_prompt %}" + words + "{% endif %}"
    if not policy.chat:
        lines = "{% for message in messages %}{{ message['content'] + '\\n' }}{% endfor %}"
        return _before_text(policy.tokenizer) + lines + response
    template = policy.tokenizer.chat_template
    head = "".join(
        f"{{% set {name} = {json.dumps(value)} %}}"
        for name, value in TEMPLATE_VALUES.items()
        if re.search(rf"\b{name}\b", template)
    )
    # the system line is put in only if the caller's messages have none
    if policy.system:
        # jinja takes the two halves of an escaped emoji for two characters
        system = json.dumps(policy.system, ensure_ascii=False)
        opening = f"[{{'role': 'system', 'content': {system}}}] + messages"
        if policy.folds_system:
            folded = f"{system} + '\\n\\n' + messages[0]['content']"
            opening = f"[{{'role': 'user', 'content': {folded}}}] + messages[1:]"
        absent = "messages[0]['role'] != 'system'"
        head += f"{{% if {absent} %}}{{% set messages = {opening} %}}{{% endif %}}"
    return head + template + response


def _before_text(tokenizer: Any) -> str:
    """What the tokenizer puts before a text, as text: a chat template must say it itself."""
    before, ids = [], tokenizer("a")["input_ids"]
    if (word := words_of(tokenizer, "a")[0]) in ids:
        before = ids[: ids.index(word)]
    return "".join(tokenizer.convert_ids_to_tokens(before))
