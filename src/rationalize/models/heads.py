"""A scalar head on a language model: one linear output on its last hidden states.

A reward model has such a head at the last token of a reply; PPO's value head is one at every token.
While it is trained, the head is a submodule of the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import Linear

from rationalize.errors import UserError
from rationalize.models.forward import Row, collate, hidden_at_response, plain_model

if TYPE_CHECKING:
    from rationalize.models.policy import Policy

HEAD_FILE = "scalar_head.safetensors"

HEAD_NAME = "scalar_head"
"""Name of the submodule while the head is attached."""


def new_head(policy: Policy, *, zero: bool = False, seed: int = 0) -> Linear:
    """A head `d -> 1` without bias: drawn from N(0, 1 / (d + 1)), or zero-initialised."""
    d = plain_model(policy).get_output_embeddings().weight.shape[1]
    scalar_head = Linear(d, 1, bias=False, device=policy.device)
    with torch.no_grad():
        drawn = torch.randn(1, d, generator=torch.Generator().manual_seed(seed))
        scalar_head.weight.copy_(torch.zeros(1, d) if zero else drawn * (d + 1) ** -0.5)
    return scalar_head


@contextmanager
def attached(policy: Policy, scalar_head: Linear) -> Iterator[None]:
    """Make the head a submodule of the model: it is trained, and it is in checkpoints."""
    setattr(policy.model, HEAD_NAME, scalar_head)
    try:
        yield
    finally:
        delattr(policy.model, HEAD_NAME)  # models are saved without it


def head_values(scalar_head: Linear, hidden_Nd: Tensor) -> Tensor:
    """The head's output (N,) on hidden states (N, d), in float32 and without autocast."""
    with torch.autocast(hidden_Nd.device.type, enabled=False):
        return torch.nn.functional.linear(hidden_Nd.float(), scalar_head.weight.float())[:, 0]


def reply_scores(policy: Policy, scalar_head: Linear, rows: Sequence[Row]) -> Tensor:
    """The head's output (B,) after the last token of each row's response."""
    # states are taken where a token is predicted: one more token, never read itself, gives the
    # state after the last one
    longer = [replace(row, response_ids=(*row.response_ids, policy.eos_id)) for row in rows]
    ends = torch.tensor([len(row.response_ids) for row in longer]).cumsum(0) - 1
    hidden_Nd = hidden_at_response(policy, collate(longer, policy))  # N with the added tokens
    return head_values(scalar_head, hidden_Nd[ends.to(policy.device)])


def save_head(scalar_head: Linear, folder: Path) -> None:
    """Write the weights into `folder`, in float32, for `load_head`."""
    save_file(
        {"weight": scalar_head.weight.detach().float().cpu().contiguous()}, folder / HEAD_FILE
    )


def load_head(policy: Policy, folder: Path) -> Linear:
    """The head that `save_head` wrote. Raises `UserError` if there is none."""
    file = folder / HEAD_FILE
    if not file.is_file():
        raise UserError(f"{folder}: no {HEAD_FILE} there; expected the folder of a reward model")
    scalar_head = new_head(policy, zero=True)
    with torch.no_grad():
        scalar_head.weight.copy_(load_file(file)["weight"])
    return scalar_head
