"""Weights in a folder beside weights in memory: which are the same, and files that hold the same.

Equal weights are written once: where two folders of a run hold the same file, the second one is a
hard link to the first, or a copy on a file system without links.
"""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rationalize.files import link_or_copy


def weight_files(folder: Path) -> list[Path]:
    """The files of weights that `save_pretrained` wrote there."""
    return sorted(folder.glob("*.safetensors"))


def read_tensors(files: Iterable[Path], names: Collection[str] | None = None) -> dict[str, Tensor]:
    """The tensors of these files, or those of some names; mapped, so that none is read twice."""
    tensors: dict[str, Tensor] = {}
    for file in files:
        with safe_open(file, "pt") as stored:
            for name in stored.keys():  # noqa: SIM118
                if names is None or name in names:
                    tensors[name] = stored.get_tensor(name)
    return tensors


def read_names(file: Path) -> set[str]:
    """The names of the tensors in a file."""
    with safe_open(file, "pt") as stored:
        return set(stored.keys())


def stored_alike(folder: Path, tensors: Mapping[str, Tensor]) -> set[str]:
    """Names of the tensors that the folder's files hold in the same bits."""
    alike = set()
    try:
        for file in weight_files(folder):
            with safe_open(file, "pt") as stored:
                for name in set(stored.keys()) & set(tensors):
                    mine, other = tensors[name], stored.get_tensor(name)
                    if mine.dtype == other.dtype and torch.equal(mine.cpu(), other):
                        alike.add(name)
    except (OSError, SafetensorError):
        return set()
    return alike


def holds_model(folder: Path, model: Any) -> bool:
    """Whether the folder holds a model whole, in the same bits."""
    weights = model.state_dict()
    files, alike = weight_files(folder), stored_alike(folder, weights)
    names = {name for file in files for name in read_names(file)}
    # a tied weight is stored once, under one of its names
    in_files = {weights[name].data_ptr() for name in alike}
    return (
        bool(files) and names == alike and all(w.data_ptr() in in_files for w in weights.values())
    )


def take_over_model(source: Path, folder: Path) -> None:
    """What `save_pretrained` wrote to another folder: weights as links, the rest as copies."""
    for file in source.iterdir():
        if file.suffix == ".safetensors":
            link_or_copy(file, folder / file.name)
        elif file.is_file():
            shutil.copyfile(file, folder / file.name)


def link_equal(folder: Path, others: Iterable[Path]) -> None:
    """Replace each file of weights in `folder` by a link to a file of the same bytes in `others`,
    where there is one.
    """
    there = [file for other in others if other != folder for file in weight_files(other)]
    for file in weight_files(folder):
        for known in there:
            if os.path.samefile(known, file):
                break
            if filecmp.cmp(known, file, shallow=False):
                fresh = file.with_name(f".{file.name}.{os.getpid()}.tmp")
                link_or_copy(known, fresh)
                os.replace(fresh, file)
                break
