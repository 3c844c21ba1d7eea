"""Which prompts a sampler in this process writes together, and how many samples of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rationalize.models.streams import Query

MAX_ROWS = 256
"""Rows of a batch; products of more are no faster."""


@dataclass(frozen=True)
class Bounds:
    """What a batch keeps to, beside `MAX_ROWS`."""

    tokens: int
    """Tokens whose keys and values it may keep."""
    kept: Callable[[int, int, int], int]
    """Tokens that are kept for a prompt of so many, so many samples, and new tokens of each."""
    new: int
    """New tokens of a sample."""
    pads: bool
    """Whether prompts of several lengths may share a batch."""

    def fit(self, prompts: int, length: int, samples: int) -> bool:
        """Whether so many prompts (views of one counted), of at most so many tokens, fit."""
        tokens = prompts * self.kept(length, samples, self.new)
        return tokens <= self.tokens and prompts * samples <= MAX_ROWS


def samples_at_once(longest: int, views: int, n: int, bounds: Bounds) -> int:
    """Samples of a prompt to write together: all n where those of the longest prompt fit, else
    parts alike in size.
    """
    most = next((k for k in range(n, 1, -1) if bounds.fit(views, longest, k)), 1)
    return -(-n // -(-n // most))


def batches(queries: Sequence[tuple[Query, ...]], n: int, bounds: Bounds) -> Iterator[list[int]]:
    """Indices of queries to write together, longest first, n samples of each. Queries of a batch
    have equally many views and control tokens, and one length if the model cannot pad.
    """

    def shape(i: int) -> tuple[int, int, int]:
        return len(queries[i]), len(queries[i][0].control_ids), len(queries[i][0].prompt_ids)

    batch: list[int] = []
    for i in sorted(range(len(queries)), key=shape, reverse=True):
        views, controls, length = shape(batch[0] if batch else i)  # the first is the longest
        full = not bounds.fit((len(batch) + 1) * views, length + controls, n)
        alike = 2 if bounds.pads else 3  # of the shape's numbers
        if batch and (full or shape(i)[:alike] != shape(batch[0])[:alike]):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
