"""Rows of one prompt as branches of one sequence, so that the prompt is read once.

    prompt  controls 1  response 1  controls 2  response 2  ..
    0 .. P-1     P ..                    P ..                   positions

A branch attends to the prompt and to itself, at the positions that it would have in a row of its
own: every state is what it would be there. Pure index work; `forward.py` runs the model on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PADDING = -1


@dataclass(frozen=True)
class Packed:
    """Token sequences, and where in them each response token is predicted."""

    ids: list[list[int]]
    positions: list[list[int]]
    branches: list[list[int]]
    """0 in the prompt, then the number of the branch."""
    sequence_of: list[int]
    """(N,) for all rows' response tokens, laid end to end in the order of the rows."""
    place: list[int]
    """(N,) within the sequence."""

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(map(len, self.ids))


def pack(
    prompts: Sequence[tuple[int, ...]], controls: Sequence[tuple[int, ...]],
    responses: Sequence[tuple[int, ...]], *, longest: int,
) -> Packed:  # fmt: skip
    """Rows with equal prompts in one sequence, as long as that is of `longest` tokens at most (its
    attention grows with the square); 0: each row in its own.

    The last response token is predicted and never read.
    """
    packed = Packed([], [], [], [], [])
    newest: dict[tuple[int, ...], int] = {}  # sequence of a prompt
    for prompt, control, response in zip(prompts, controls, responses, strict=True):
        tail = (*control, *response[:-1])
        if prompt not in newest or len(packed.ids[newest[prompt]]) + len(tail) > longest:
            newest[prompt] = len(packed.ids)
            packed.ids.append(list(prompt))
            packed.positions.append(list(range(len(prompt))))
            packed.branches.append([0] * len(prompt))
        s = newest[prompt]
        start, branch = len(packed.ids[s]), packed.branches[s][-1] + 1
        packed.ids[s] += tail
        packed.positions[s] += range(len(prompt), len(prompt) + len(tail))
        packed.branches[s] += [branch] * len(tail)
        # the first response token is predicted at the last control, or where the prompt ends
        first = start + len(control) - 1 if control else len(prompt) - 1
        later = start + len(control)
        packed.place.extend([first, *range(later, later + len(response) - 1)])
        packed.sequence_of.extend([s] * len(response))
    return packed


def branch_mask(branches: Sequence[Sequence[int]], dtype: torch.dtype) -> Tensor:
    """What is added to attention scores, (B, 1, L, L): 0 where a token is seen, else the lowest."""
    width = max(map(len, branches))
    rows = [[*own, *[PADDING] * (width - len(own))] for own in branches]
    branch = torch.tensor(rows)
    key, query = branch[:, None, :], branch[:, :, None]
    seen = torch.ones(width, width, dtype=torch.bool).tril() & ((key == 0) | (key == query))
    return torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)[:, None]
