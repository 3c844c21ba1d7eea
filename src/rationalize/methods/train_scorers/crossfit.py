"""Cross-fitting, which both trained scorers share.

Two folds, each trained on its half of the questions and calibrated on a held-out part of that half.
A training question is later judged by the fold that has not seen it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from rationalize.config import to_dict
from rationalize.config.checks import above, between
from rationalize.errors import UserError
from rationalize.files import sync_folder, write_text
from rationalize.methods.inputs import inputs_of
from rationalize.methods.settings import RunConfig
from rationalize.models.folders import check_model
from rationalize.models.freezing import freeze_lower
from rationalize.models.policy import Policy
from rationalize.models.read_only import leave_file
from rationalize.models.scorers import SCORER_FILE, fold_of
from rationalize.models.stored import link_equal
from rationalize.processes import by_first, wait_for
from rationalize.questions import group_duplicates, hold_out
from rationalize.records import Question
from rationalize.runs import Run, Stage, check_resumable
from rationalize.training.loop import BatchAt, FitConfig, Loss, fit


@dataclass(frozen=True)
class ScorerConfig:
    """What the trained scorers share."""

    folds: Literal[1, 2] = 2
    """2: cross-fitted, no question is scored by a model that saw it; 1: one model, as released."""
    epochs: float = 2.0
    """Passes over a fold's rationales."""
    frozen_layers: float = 0.5
    """Share of the layers, from below, that stay as they are, and the embeddings with them."""
    style: Literal["plain", "chat", "auto"] = "plain"
    """Prompt format; plain text is shorter, and a scorer learns it anyway."""
    held_out: float = 0.2
    """Share of a fold's questions kept aside for its temperature."""
    fit: FitConfig = FitConfig(learning_rate=2e-4, batch_size=16, micro_tokens=640)
    """How a fold learns."""

    def __post_init__(self) -> None:
        above(self, 0, "epochs")
        between(self, 0, 1, "frozen_layers", "held_out")


def cross_fit(
    run_config: RunConfig, config: ScorerConfig, out: Path, kind: str,
    learn: Callable[[Run, str, Sequence[Question], Sequence[Question]], dict[str, Any]],
    train: Sequence[Question] | None = None, *, overwrite: bool = False, **facts: Any,
) -> None:  # fmt: skip
    """Train every fold in `out` and write `scorer.json` there; a second start resumes, or with
    `overwrite` starts anew.

    `learn(run, name, questions, held_out)` trains the fold `name` and returns its entry in
    `scorer.json`. Questions are those of `run_config` unless `train` gives them.
    """
    stored = {"method": kind.replace(" ", "-"), **to_dict(run_config), **to_dict(config)}
    check_resumable(out, stored, overwrite=overwrite)
    check_model(run_config.model)
    if train is None:
        train = run_config.load_splits()["train"]
    base = run_config.load_policy(tuning="full")
    base_hash, inputs = base.weights_hash, inputs_of(stored, {"train": train}, base.tokenizer)
    del base  # every fold loads its own
    with Run.open(out, stored, base_hash=base_hash, inputs=inputs, overwrite=overwrite) as run:

        def make() -> dict[str, Any]:
            parts = fold_parts(train, config, run_config.seed, kind)
            folds = [learn(run, f"fold{fold}", *part) for fold, part in enumerate(parts)]
            seen = folds_of(train, config.folds)
            text = json.dumps({"kind": kind, **facts, "folds": folds, "seen": seen}, indent=1)
            by_first(lambda: write_text(run.path / SCORER_FILE, text + "\n"))
            wait_for(run.path / SCORER_FILE)
            return {}

        Stage(run, kind).once(make)


def train_model(
    run: Run, name: str, run_config: RunConfig, config: ScorerConfig,
    prepare: Callable[[Policy], tuple[Loss, BatchAt, int]],
) -> None:  # fmt: skip
    """Train one model from the base and save it in the run under `name`, in bfloat16.

    `prepare(policy)` gives the loss, the batches and the number of steps.
    """
    stage = Stage(run, name)

    def make() -> dict[str, Any]:
        policy = run_config.load_policy(style=config.style, quantise=False)
        freeze_lower(policy, config.frozen_layers, halve=policy.precision != "float32")
        leave_file(policy.model)
        loss, batch_at, steps = prepare(policy)
        fit(policy, loss, batch_at, config.fit, stage, steps=steps)
        policy.merge()
        policy.model.to(torch.bfloat16)
        # what no fold has learned is in the first file, which all folds share
        frozen = [p for p in policy.model.parameters() if not p.requires_grad]
        size = sum(p.numel() * p.element_size() for p in frozen)
        policy.save(run.folder(name), first_file=size if policy.tuning == "full" else 0)
        by_first(lambda: _link_and_sync(run.path / name))
        return {"steps": steps}

    stage.once(make)


def _link_and_sync(model: Path) -> None:
    link_equal(model, _with_weights(model.parent))
    sync_folder(model)


def _with_weights(scorer: Path) -> set[Path]:
    """Folders with weights in a scorer's folder; in a run, in those of its other scorers too."""
    place = scorer.parent if scorer.parent.name == "scorers" else scorer
    return {file.parent for file in place.rglob("*.safetensors")}


def fold_parts(
    train: Sequence[Question], config: ScorerConfig, seed: int, kind: str
) -> list[tuple[list[Question], list[Question]]]:
    """Of each fold the questions that it learns from, and those that it is calibrated on.

    Raises `UserError` where a fold has none to learn from.
    """
    seen, folds = folds_of(train, config.folds), []
    for fold in range(config.folds):
        questions = [q for q in train if seen[q.id] == fold]
        parts = hold_out(questions, config.held_out, seed)
        learned, held = ([questions[i] for i in sorted(part)] for part in parts)
        if not learned:
            raise UserError(
                f"none of the {len(train)} training questions is left for fold {fold} of the "
                f"{kind}; give more questions (eight or more), or rewards that train no scorer "
                "(--rewards correctness diversity)"
            )
        folds.append((learned, held))
    return folds


def folds_of(questions: Sequence[Question], folds: int) -> dict[str, int]:
    """The fold that trains on each question, by its id; those that ask the same are in one."""
    return {
        questions[i].id: fold_of(questions[group[0]].id) if folds == 2 else 0
        for group in group_duplicates(questions)
        for i in group
    }
