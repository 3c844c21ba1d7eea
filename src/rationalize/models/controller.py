"""COALITION's controller: which variant writes, which refines, or whether to keep the rationale.

It reads the question (and the rationale, never its author) and chooses among letters; the letters'
rows of the lm-head are its classifier, so that it is an adapter like any other. Inference only:
`methods/coalition/controller.py` trains it.
"""

from __future__ import annotations

import string
from collections.abc import Sequence

import torch
from torch import Tensor

from rationalize.errors import UserError
from rationalize.models.context import check_context
from rationalize.models.forward import Row, collate, hidden_at_response
from rationalize.models.logits import head
from rationalize.models.policy import Policy
from rationalize.models.precision import autocast
from rationalize.models.scorers import softmax
from rationalize.records import Question
from rationalize.templates import question_text

KEEP = "keep"
"""The controller's choice to leave a rationale as it is."""


def letter_ids(policy: Policy, count: int) -> list[int]:
    """Token ids of the first `count` letters. Raises `UserError` if they are not one token each."""
    if count > len(string.ascii_uppercase):
        raise UserError(
            f"a controller chooses among at most {len(string.ascii_uppercase)} options, a letter "
            f"each; found {count}. Take fewer variants"
        )
    ids = [policy.encode_response(c, eos=False) for c in string.ascii_uppercase[:count]]
    if any(len(tokens) != 1 for tokens in ids) or len({tokens[0] for tokens in ids}) != count:
        raise UserError(
            f"{policy.name}: the letters A to {string.ascii_uppercase[count - 1]} are not one "
            "token each; a controller needs a tokenizer in which they are"
        )
    return [tokens[0] for tokens in ids]


def controller_row(policy: Policy, question: Question, rationale: str | None, tag=None) -> Row:
    """A row that asks who writes (`rationale` None) or refines; its response is one letter."""
    asks = "Who explains?" if rationale is None else f"Explanation: {rationale}\nWho corrects?"
    prompt = policy.encode_prompt(f"{question_text(question)}\n{asks}")
    return Row(tuple(prompt), (letter_ids(policy, 1)[0],), tag=tag)


def choice_logits(policy: Policy, rows: Sequence[Row], count: int) -> Tensor:
    """Logits (B, count) of the letters at the end of each row's prompt."""
    logits = head(policy, hidden_at_response(policy, collate(rows, policy)))
    return logits[:, letter_ids(policy, count)].float()


@torch.no_grad()
def choose(
    policy: Policy, questions: Sequence[Question], rationales: Sequence[str | None], count: int,
    *, batch: int = 16,
) -> list[list[float]]:  # fmt: skip
    """Per question the probabilities of `count` choices. Raises `OverContext`."""
    rows = [
        controller_row(policy, q, r, tag=i)
        for i, (q, r) in enumerate(zip(questions, rationales, strict=True))
    ]
    check_context(policy, [(row.prompt_ids, row.response_ids) for row in rows])
    rows.sort(key=lambda row: row.length)  # batches of similar length need little padding
    probabilities: list[list[float]] = [[] for _ in rows]
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        with autocast(policy.device):
            logits = choice_logits(policy, part, count)
        for row, row_logits in zip(part, logits.tolist(), strict=True):
            probabilities[row.tag] = softmax(row_logits)
    return probabilities
