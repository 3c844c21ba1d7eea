"""A model's weights from a folder or the hub, refused where they are not all there, or not numbers.

transformers draws a weight that a file lacks at random, and says so in a warning alone.
"""

from __future__ import annotations

import logging
import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from rationalize.errors import UserError
from rationalize.models.folders import no_bars
from rationalize.text import listed

log = logging.getLogger(__name__)

LOAD_ERRORS = (OSError, ValueError, RuntimeError, ImportError, SafetensorError)
"""What transformers raises of a model that cannot be loaded."""


def auto_class(config: Any) -> Any:
    """The class of transformers that loads this configuration's model."""
    import transformers as hf

    if config.is_encoder_decoder:
        return hf.AutoModelForSeq2SeqLM
    # models of images or sound that have no class for text alone are used with text alone
    several = type(config) in hf.MODEL_FOR_MULTIMODAL_LM_MAPPING
    if several and type(config) not in hf.MODEL_FOR_CAUSAL_LM_MAPPING:
        return hf.AutoModelForMultimodalLM
    return hf.AutoModelForCausalLM


def load_weights(kind: Any, source: str, config: Any, **options: Any) -> Any:
    """The model of a class of transformers, with all of its weights.

    Raises `UserError` where weights are missing, of another shape, not finite, or quantised without
    the library for it; says which are not used.
    """
    try:
        with no_bars() if Path(source).is_dir() else nullcontext():
            model, report = kind.from_pretrained(source, output_loading_info=True, **options)
    except ImportError as error:
        raise UserError(_needs_library(source, config, error)) from error
    missing, unexpected = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    if missing:
        raise UserError(_missing(source, missing, unexpected))
    if unexpected:
        log.warning("%s: weights that the model does not use: %s", source, listed(unexpected))
    spoiled = [name for name, p in model.named_parameters() if not _finite(p)]
    if spoiled:
        raise UserError(
            f"{source}: {len(spoiled)} weights are infinite or not a number: {listed(spoiled)}; "
            "the training that wrote them has diverged, or the file was damaged. Name an earlier "
            "checkpoint or another model"
        )
    return model


@torch.no_grad()
def _finite(tensor: Tensor) -> bool:
    """Whether all of its numbers are: most often the sum says it, at a tenth of the cost."""
    return bool(tensor.sum().isfinite() or tensor.isfinite().all())


def _missing(source: str, missing: list[str], unexpected: list[str]) -> str:
    text = f"{source}: {len(missing)} weights of the model are not in its files: {listed(missing)}"
    if not unexpected:
        return f"{text}. Restore the files, or name another model"
    prefix = _common_prefix(missing, unexpected)
    hint = f" (they carry the prefix {prefix!r}: save the model without it)" if prefix else ""
    return (
        f"{text}; in the files, but not in the model: {listed(unexpected)}{hint}. Name a folder "
        "that the model's own save_pretrained wrote"
    )


def _common_prefix(missing: list[str], unexpected: list[str]) -> str:
    """What stands before every missing name in the files, if that is the difference."""
    found = {u.removesuffix(m) for u in unexpected for m in missing if u.endswith(m)}
    return min(found, key=len) if found else ""


def _needs_library(source: str, config: Any, error: ImportError) -> str:
    first = re.split(r"\n|(?<=\.) ", str(error).strip())[0]
    quantised = getattr(config, "quantization_config", None)
    if not quantised:
        return f"{source}: the model needs a package that is not installed: {first}"
    method = quantised["quant_method"] if isinstance(quantised, dict) else quantised.quant_method
    return (
        f"{source}: its weights are quantised ({method}), and a library for that is not installed: "
        f"{first} Better name the unquantised model: tuning=qlora quantises it where it learns"
    )
