"""Keep the weights that did best on development questions."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from safetensors.torch import load_file, save_file

from rationalize.runs import Run

if TYPE_CHECKING:
    from rationalize.models.policy import Policy


class BestCheckpoint:
    """The trainable weights of the best step so far, on disk; ties keep the earlier step.

    Offers may be repeated (resume).
    """

    def __init__(self, run: Run, stage: str) -> None:
        self._run = run
        self._name = f"checkpoints/{stage}-best.json"
        self._weights = run.path / "checkpoints" / f"{stage}-best.safetensors"
        self._record: dict = run.read_json(self._name) if (run.path / self._name).exists() else {}

    @property
    def step(self) -> int | None:
        return self._record.get("step")

    @property
    def scores(self) -> dict[int, float]:
        """Score of every step offered."""
        return {int(s): v for s, v in self._record.get("scores", {}).items()}

    def offer(self, step: int, score: float, policy: Policy) -> None:
        if step in self.scores:
            return
        best = self.scores.get(self.step) if self.step is not None else None
        record = {
            "scores": {**self._record.get("scores", {}), str(step): score},
            "step": step if best is None or score > best else self.step,
        }
        if record["step"] == step:
            self._weights.parent.mkdir(parents=True, exist_ok=True)
            fresh = self._weights.with_suffix(".new")
            save_file(_trainable(policy), fresh)
            os.replace(fresh, self._weights)
        self._record = record
        self._run.write_json(self._name, record)

    def load_into(self, policy: Policy) -> None:
        if self.step is None:
            raise RuntimeError(
                "no checkpoint was offered: nothing was evaluated on development questions"
            )
        tensors = load_file(self._weights)
        for name, parameter in policy.model.named_parameters():
            if name in tensors:
                parameter.data.copy_(tensors[name])

    def forget(self) -> None:
        """Drop weights and record, once the stage has stored both elsewhere."""
        (self._run.path / self._name).unlink(missing_ok=True)
        self._weights.unlink(missing_ok=True)


def _trainable(policy: Policy) -> dict:
    return {
        n: p.detach().cpu().contiguous()
        for n, p in policy.model.named_parameters()
        if p.requires_grad
    }
