"""The reward model: how good is this reply to this question? Inference only;
`methods/reward_model.py` trains it.

It reads what the policy learns to write: the prompt without demonstrations, the rationale with its
answer sentence, the end. Its scores have mean 0 and deviation 1 over the SFT model's attempts
(of one that was trained alone: over all that it was given).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from torch.nn import Linear

from rationalize.answers import answer_alone, reply_text
from rationalize.errors import UserError
from rationalize.files import write_text
from rationalize.models.choices import cast_linears_to_bf16
from rationalize.models.forward import Row, micro_batches
from rationalize.models.heads import load_head, reply_scores
from rationalize.models.policy import Policy, load_policy
from rationalize.models.precision import autocast
from rationalize.records import Question
from rationalize.templates import prompt_text

FILE = "reward_model.json"
ADAPTER = "reward"
"""The name of its adapter, where it is one."""

Reads = Literal["reply", "rationale"]
"""Whether the answer sentence is read."""


class RewardModel:
    """Scaled scores of replies.

    >>> RewardModel.load("runs/reward-model").scores([question], ["Steel is denser."], ["steel"])
    [0.71]
    """

    def __init__(
        self,
        opened: Callable[[], AbstractContextManager[Policy]],
        scalar_head: Linear,
        *,
        mean: float = 0.0,
        std: float = 1.0,
        reads: Reads = "reply",
        weights_hash: str = "",
        batch_tokens: int = 4096,
    ) -> None:
        """`opened()` yields the policy whose weights score, `scalar_head` is the head on it."""
        self._opened, self._unit = opened, scalar_head
        self.mean, self.std, self.reads = mean, std, reads
        self.weights_hash = weights_hash
        self._batch_tokens = batch_tokens

    @classmethod
    def load(cls, folder: Path | str, *, trust_remote_code: bool = False) -> RewardModel:
        """A reward model that `save_facts` completed, or the run that trained it; adapters bring
        their base model along.
        """
        folder = reward_model_folder(folder)
        facts = read_facts(folder)
        policy, scalar_head = load_parts(folder, facts, trust_remote_code=trust_remote_code)
        return cls(lambda: nullcontext(policy), scalar_head, **scaling(facts))

    def utilities(
        self, questions: Sequence[Question], rationales: Sequence[str | None]
    ) -> list[float]:
        """The scores of rationales without an answer; None is the empty one. (For COALITION, in
        the place of the answer's likelihood.)
        """
        return self.scores(questions, [r or "" for r in rationales], [None] * len(rationales))

    def scores(
        self,
        questions: Sequence[Question],
        rationales: Sequence[str],
        predictions: Sequence[str | None],
    ) -> list[float]:
        """One scaled score per reply."""
        texts = [
            reply(q, r, p, self.reads)
            for q, r, p in zip(questions, rationales, predictions, strict=True)
        ]
        return [(score - self.mean) / self.std for score in self.raw(questions, texts)]

    @torch.no_grad()
    def raw(self, questions: Sequence[Question], texts: Sequence[str]) -> list[float]:
        """The head's own output for each text."""
        found = [0.0] * len(texts)
        with self._opened() as policy:
            rows = [
                reward_row(policy, q, t, tag=i)
                for i, (q, t) in enumerate(zip(questions, texts, strict=True))
            ]
            for passed in micro_batches(rows, self._batch_tokens):
                with autocast(policy.device):
                    scores = reply_scores(policy, self._unit, passed)
                for row, score in zip(passed, scores.tolist(), strict=True):
                    found[row.tag] = score
        return found


def reply(question: Question, rationale: str, prediction: str | None, reads: Reads) -> str:
    """The text that is read: the rationale, with the answer sentence if there is an answer."""
    fits = not question.choices or prediction in question.choices
    if reads == "rationale" or prediction is None or not fits:
        return rationale
    answer = answer_alone(prediction, question.answer, question.choices)
    return reply_text(rationale, answer, question.choices)


def reward_row(policy: Policy, question: Question, text: str, tag: Any = None) -> Row:
    """The question without demonstrations, and the text with its end."""
    prompt = policy.encode_prompt(prompt_text("rationale_answer", question))
    return Row(tuple(prompt), tuple(policy.encode_response(text)), tag=tag)


def save_facts(folder: Path, **facts: Any) -> None:
    """Complete a folder that holds backbone and head; `mean`, `std` and `reads` are needed."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.safetensors")):
        digest.update(file.read_bytes())
    facts["weights_hash"] = digest.hexdigest()
    write_text(folder / FILE, json.dumps(facts, indent=1) + "\n")


def read_facts(folder: Path | str) -> dict[str, Any]:
    """What was measured when it was trained. Raises `UserError` where there is no reward model."""
    file = Path(folder) / FILE
    if not file.is_file():
        raise UserError(
            f"{folder}: no {FILE} there; expected the folder of a reward model, made by "
            "`rationalize train reward-model` or `train self-motivated`"
        )
    return json.loads(file.read_text())


def reward_model_folder(folder: Path | str) -> Path:
    """A reward model's own folder: this one, or `model/` of the run that trained it."""
    inside = Path(folder) / "model"
    return inside if (inside / FILE).is_file() else Path(folder)


def scaling(facts: dict[str, Any]) -> dict[str, Any]:
    return {k: facts[k] for k in ("mean", "std", "reads", "weights_hash")}


def load_parts(
    folder: Path, facts: dict[str, Any], *, trust_remote_code: bool = False
) -> tuple[Policy, Linear]:
    """Backbone and head, frozen; an adapter is put on the base that it was trained on."""
    if not facts.get("adapter_on"):
        policy = cast_linears_to_bf16(
            load_policy(folder, tuning="full", trust_remote_code=trust_remote_code)
        )
    else:
        from rationalize.models.variants import Variants

        source = (folder / facts["adapter_on"]).resolve()
        variants = Variants.of(
            load_policy(source, tuning="full", trust_remote_code=trust_remote_code), source, []
        )
        variants.load(ADAPTER, folder)
        with variants.active(ADAPTER) as policy:
            pass
    scalar_head = load_head(policy, folder)
    policy.model.requires_grad_(False)
    return policy, scalar_head.requires_grad_(False)
