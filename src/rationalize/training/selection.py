"""Keeps the weights that did best on development questions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safetensors.torch import load_file, save_file

from rationalize.files import replacing
from rationalize.runs import Run

if TYPE_CHECKING:
    from rationalize.models.policy import Policy


class BestCheckpoint:
    """The trainable weights of the best step so far, on disk; on a tie the earlier step stays.

    An offer that is repeated after a resume has no effect.
    """

    def __init__(self, run: Run, stage: str) -> None:
        self._run = run
        self._name = f"checkpoints/{stage}-best.json"
        self._weights = run.path / "checkpoints" / f"{stage}-best.safetensors"
        self._record: dict = run.read_json(self._name) if (run.path / self._name).exists() else {}

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
        best = self.scores.get(self.step) if self.step is not None else None
        record = {
            "scores": {**self._record.get("scores", {}), str(step): score},
            "step": step if best is None or score > best else self.step,
        }
        # weights first: a kill in between only repeats the offer
        if record["step"] == step:
            self._weights.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self._weights) as fresh:
                save_file(_trainable(policy), fresh)
        self._record = record
        self._run.write_json(self._name, record)

    def load_into(self, policy: Policy) -> None:
        """Copy the best weights into `policy`. Raises RuntimeError if there was no offer."""
        if self.step is None:
            raise RuntimeError(
                "no checkpoint was offered: nothing was evaluated on development questions"
            )
        tensors = load_file(self._weights)
        for name, parameter in policy.model.named_parameters():
            if name in tensors:
                parameter.data.copy_(tensors[name])

    def forget(self) -> None:
        """Delete weights and record, once the stage has stored both elsewhere."""
        (self._run.path / self._name).unlink(missing_ok=True)
        self._weights.unlink(missing_ok=True)


def _trainable(policy: Policy) -> dict:
    named = policy.model.named_parameters()
    return {n: p.detach().cpu().contiguous() for n, p in named if p.requires_grad}
