"""Keeps the weights that did best on development questions, and the last ones beside them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor

from rationalize.files import replacing
from rationalize.models.stored import read_tensors, stored_alike, weight_files
from rationalize.processes import by_first, wait_for
from rationalize.runs import Stage

if TYPE_CHECKING:
    from rationalize.models.policy import Policy

Key = TypeVar("Key")


def best_of(scores: Mapping[Key, float]) -> Key:
    """The key of the highest score on development questions; of equals the earliest: what has
    learned less.

    >>> best_of({"start": 0.5, "round0": 0.7, "round1": 0.7})
    'round0'
    """
    return max(scores, key=scores.__getitem__)


class BestCheckpoint:
    """The trainable weights of the best step of a stage so far, on disk; `best_of` is the rule.

    Offers may be repeated (resume). What the folder `start` holds already is not written again, and
    the weights of the `last` step not at all: the policy has them. The stage deletes the files when
    it ends.
    """

    def __init__(self, stage: Stage, *, last: int, start: Path | None = None) -> None:
        self._run, self._stage = stage.run, stage
        self._last, self._start = last, start
        self._name = f"checkpoints/{stage.name}-best.json"
        self._weights = stage.run.path / "checkpoints" / f"{stage.name}-best.safetensors"
        self._record: dict = self._run.read_json(self._name) or {}

    @property
    def step(self) -> int | None:
        """The best step; None before the first offer."""
        return self._record.get("step")

    @property
    def scores(self) -> dict[int, float]:
        """The score of each step that was offered."""
        return {int(s): v for s, v in self._record.get("scores", {}).items()}

    def offer(self, step: int, score: float, policy: Policy) -> None:
        """Store the weights of `policy` if `score` is above all earlier ones."""
        if step in self.scores:
            return
        scores = {**self.scores, step: score}
        best = best_of(scores)
        if best == step != self._last:
            named = policy.model.named_parameters()
            learning = {n: p.detach() for n, p in named if p.requires_grad}
            # weights first: a kill in between only repeats the offer
            by_first(partial(self._store, learning))
        self._record = {"scores": {str(k): v for k, v in scores.items()}, "step": best}
        self._run.write_json(self._name, self._record)

    def _store(self, learning: Mapping[str, Tensor]) -> None:
        """Write the weights that the folder `start` does not hold."""
        self._weights.parent.mkdir(parents=True, exist_ok=True)
        at_start = stored_alike(self._start, learning) if self._start else set()
        fresh_weights = {n: p for n, p in learning.items() if n not in at_start}
        with replacing(self._weights) as fresh:
            save_file({n: p.cpu().contiguous() for n, p in fresh_weights.items()}, fresh)

    def load_into(self, policy: Policy, *, keep_last: bool = False) -> dict[str, Any]:
        """Leave the best weights in the policy, which has those of the last step; returns the facts
        that the stage ends with.

        `keep_last`: the policy's own weights, if they are not the best, are stored for `last_of`.
        """
        if self.step is None:
            raise RuntimeError(
                "no checkpoint was offered: nothing was evaluated on development questions"
            )
        if keep_last and self.step != max(self.scores):
            save_last(self._stage, policy)
        if self.step != self._last:
            learning = {n: p for n, p in policy.model.named_parameters() if p.requires_grad}
            wait_for(self._weights)
            stored = read_tensors([self._weights])
            lacking = set(learning) - set(stored)
            if lacking and self._start:
                stored |= read_tensors(weight_files(self._start), lacking)
            with torch.no_grad():
                for name, parameter in learning.items():
                    parameter.copy_(stored[name])
        return {"step": self.step, "scores": {str(k): v for k, v in self.scores.items()}}


def save_last(stage: Stage, policy: Policy) -> None:
    """Store where a stage's training ended, since what it keeps is something else."""
    if policy.tuning != "full":  # saving merges an adapter, and the best one is loaded into it
        policy = replace(policy, model=copy.deepcopy(policy.model))
    policy.save(stage.run.folder(stage.kind, _last(stage).name))


def last_of(stage: Stage) -> Path | None:
    """The weights of `save_last`; None where the stage keeps the last ones, or no others."""
    return folder if by_first((folder := _last(stage)).is_dir) else None


def _last(stage: Stage) -> Path:
    return stage.folder.with_name(f"{stage.folder.name}-last")
