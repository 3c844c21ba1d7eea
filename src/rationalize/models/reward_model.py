"""The reward model: a score for a reply to a question (docs/methods/self-motivated.md, stage D).

It reads what the policy learns to write: the prompt without demonstrations, then the rationale with
its answer sentence and EOS. What scores the reply (`Score`) is a scalar head on one of its states,
the log-likelihood under a policy that has learned nothing more, or under a verifier that DPO has
taught to prefer right replies (V-STaR, arXiv 2402.06457, section 3). Its scores have mean 0 and
standard deviation 1 over the SFT model's attempts (over all given attempts, if it was trained by
itself). Inference only: `methods/train_scorers/reward_model.py` trains it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch.nn import Linear

from rationalize.answers import answer_alone, reply_text
from rationalize.errors import UserError
from rationalize.files import write_text
from rationalize.models.context import check_context
from rationalize.models.forward import Row, micro_batches
from rationalize.models.heads import Pooling, load_head, reply_scores
from rationalize.models.logits import token_logprobs
from rationalize.models.policy import Policy, load_policy
from rationalize.models.precision import autocast
from rationalize.models.read_only import read_only
from rationalize.processes import by_first, wait_for
from rationalize.progress import Progress
from rationalize.records import Question
from rationalize.templates import prompt_text

FILE = "reward_model.json"
ADAPTER = "reward"
"""Name of its adapter, if it is one."""

Reads = Literal["reply", "rationale"]
"""`reply`: the rationale with its answer sentence; `rationale`: without it."""

Score = Literal["end", "answer", "mean", "likelihood", "dpo"]
"""What scores a reply: a head on a state of it (`heads.Pooling`); `likelihood`: its mean
log-probability a token; `dpo`: V-STaR's verifier, the log-probability of the whole reply.
"""


class RewardModel:
    """Scaled scores of replies.

    >>> RewardModel.load("runs/reward-model").scores([question], ["Steel is denser."], ["steel"])
    [0.71]
    """

    def __init__(
        self, policy_context: Callable[[], AbstractContextManager[Policy]],
        scalar_head: Linear | None, *, mean: float = 0.0, std: float = 1.0, reads: Reads = "reply",
        score: Score = "end", weights_hash: str = "", batch_tokens: int = 4096,
    ) -> None:  # fmt: skip
        """`policy_context()` yields the policy that scores; `scalar_head` is the head on it, None
        where it scores by its log-probabilities.
        """
        self._policy_context, self._scalar_head = policy_context, scalar_head
        self.mean, self.std, self.reads, self.score = mean, std, reads, score
        self.weights_hash = weights_hash
        self._batch_tokens = batch_tokens

    @classmethod
    def load(cls, folder: Path | str, *, trust_remote_code: bool = False) -> RewardModel:
        """A reward model from its own folder or from the run that trained it.

        An adapter's base model is loaded too. Raises `UserError` if there is no reward model.
        """
        folder = reward_model_folder(folder)
        facts = read_facts(folder)
        # an adapter is loaded onto the base that it was trained on
        source = (folder / (facts.get("adapter_on") or ".")).resolve()
        policy = load_policy(source, tuning="full", trust_remote_code=trust_remote_code)
        if not facts.get("adapter_on"):
            policy = read_only(policy)
        else:
            from rationalize.models.variants import Variants

            variants = Variants.of(policy, source, [])
            variants.load(ADAPTER, folder)
            with variants.active(ADAPTER) as policy:
                pass
        scalar_head = scoring_head(policy, folder)
        policy.model.requires_grad_(False)
        return cls(lambda: nullcontext(policy), scalar_head, **scaling(facts))

    def utilities(
        self, questions: Sequence[Question], rationales: Sequence[str | None]
    ) -> list[float]:
        """COALITION's utility with `judge: reward-model`: the scores of rationales that end in the
        gold answer, as replies in training did. None asks for the reference, 0: the mean of the
        attempts that scores were scaled over. An empty reply was in no training.
        """
        given = [i for i, r in enumerate(rationales) if r is not None]
        scores = self.scores(
            [questions[i] for i in given], [rationales[i] or "" for i in given],
            [questions[i].answer for i in given],
        )  # fmt: skip
        utilities = [0.0] * len(rationales)
        for i, score in zip(given, scores, strict=True):
            utilities[i] = score
        return utilities

    def scores(
        self, questions: Sequence[Question], rationales: Sequence[str],
        predictions: Sequence[str | None],
    ) -> list[float]:  # fmt: skip
        """One score per reply, shifted and scaled by `mean` and `std`."""
        texts = [
            reply(q, r, p, self.reads)
            for q, r, p in zip(questions, rationales, predictions, strict=True)
        ]
        return [(score - self.mean) / self.std for score in self.raw(questions, texts)]

    @torch.no_grad()
    def raw(
        self, questions: Sequence[Question], texts: Sequence[str], progress: Progress | None = None
    ) -> list[float]:
        """The score of each text, without scaling. Raises `OverContext`."""
        done = tokens = 0
        outputs = [0.0] * len(texts)
        with self._policy_context() as policy:
            rows = [
                reward_row(policy, q, t, tag=i)
                for i, (q, t) in enumerate(zip(questions, texts, strict=True))
            ]
            check_context(policy, [(row.prompt_ids, row.response_ids) for row in rows])
            # without a head, logits over the whole vocabulary are needed
            most = self._batch_tokens if self._scalar_head is not None else self._batch_tokens // 4
            for passed in micro_batches(rows, most):
                with autocast(policy.device):
                    scores = self._scores(policy, passed)
                for row, score in zip(passed, scores, strict=True):
                    outputs[row.tag] = score
                done, tokens = done + len(passed), tokens + sum(row.length for row in passed)
                if progress:
                    progress(done, len(rows), tokens)
        return outputs

    def _scores(self, policy: Policy, rows: Sequence[Row]) -> list[float]:
        if self._scalar_head is None:
            by_row = token_logprobs(policy, rows)
            return [(p.mean() if self.score == "likelihood" else p.sum()).item() for p in by_row]
        pooling: Any = self.score
        return reply_scores(policy, self._scalar_head, rows, pooling).tolist()


def reply(question: Question, rationale: str, prediction: str | None, reads: Reads) -> str:
    """The text that is scored: the rationale, with the answer sentence if there is an answer."""
    fits = not question.choices or prediction in question.choices
    if reads == "rationale" or prediction is None or not fits:
        return rationale
    answer = answer_alone(prediction, question.answer, question.choices)
    return reply_text(rationale, answer, question.choices)


def reward_row(policy: Policy, question: Question, text: str, tag: Any = None) -> Row:
    """A row of the question's prompt, without demonstrations, and the text with EOS."""
    prompt = policy.encode_prompt(prompt_text("rationale_answer", question))
    return Row(tuple(prompt), tuple(policy.encode_response(text)), tag=tag)


def save_facts(folder: Path, **facts: Any) -> None:
    """Complete a folder that holds backbone and head; `facts` need `mean`, `std` and `reads`."""
    by_first(lambda: _write_facts(folder, facts))
    wait_for(folder / FILE)


def _write_facts(folder: Path, facts: dict[str, Any]) -> None:
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.safetensors")):
        digest.update(file.read_bytes())
    # and what else a score depends on: scores are cached under the hash
    read = {name: facts.get(name) for name in ("mean", "std", "reads", "score")}
    digest.update(json.dumps(read).encode())
    facts["weights_hash"] = digest.hexdigest()
    write_text(folder / FILE, json.dumps(facts, indent=1) + "\n")


def read_facts(folder: Path | str) -> dict[str, Any]:
    """The facts that `save_facts` wrote. Raises `UserError` if there is no reward model."""
    file = Path(folder) / FILE
    if not file.is_file():
        raise UserError(
            f"{folder}: no {FILE} there; expected the folder of a reward model, made by "
            "`rationalize train reward-model` or `train self-motivated`"
        )
    return json.loads(file.read_text())


def reward_model_folder(folder: Path | str) -> Path:
    """A reward model's folder: `folder` itself, or `model/` of the run that trained it."""
    inside = Path(folder) / "model"
    return inside if (inside / FILE).is_file() else Path(folder)


def has_head(score: Score) -> bool:
    """Whether a scalar head scores, and not log-probabilities."""
    return score in get_args(Pooling)


def scoring_head(policy: Policy, folder: Path) -> Linear | None:
    """The trained head in the folder of a reward model; None where it has none."""
    if not has_head(read_facts(folder).get("score", "end")):
        return None
    return load_head(policy, folder).requires_grad_(False)


def scaling(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts that `RewardModel` takes as keyword arguments; earlier ones had a head at the
    end.
    """
    named = {k: facts[k] for k in ("mean", "std", "reads", "weights_hash")}
    return {**named, "score": facts.get("score", "end")}
