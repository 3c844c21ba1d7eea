"""What the page's sections are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rationalize.evaluation.metrics import Metric, metrics_from_facts, settle_worst
from rationalize.evaluation.tables import splits_of
from rationalize.records import Attempt, Question
from rationalize.report.browser import browser_data


@dataclass(frozen=True)
class Material:
    """Results with the attempts and questions behind them."""

    results: Mapping[str, Any]
    """The structure of results.json."""
    attempts: Mapping[str, Sequence[Attempt]]
    """By method."""
    questions: Mapping[str, Question]
    """By id."""

    @cached_property
    def metrics(self) -> list[Metric]:
        everything = [a for of_method in self.attempts.values() for a in of_method]
        return settle_worst(metrics_from_facts(self.results["metrics"]), everything, self.questions)

    @cached_property
    def first(self) -> str:
        """The first split, which correlations, scatter charts and suspects are of."""
        return splits_of(self.results)[0]

    @cached_property
    def of_first(self) -> dict[str, list[Attempt]]:
        """Each method's attempts at the first split."""
        of_split = {m: [a for a in of if a.split == self.first] for m, of in self.attempts.items()}
        return {method: attempts for method, attempts in of_split.items() if attempts}

    @cached_property
    def pair(self) -> list[str]:
        """The two methods compared when the page opens: of the first comparison of methods that
        write rationales, else the last two.
        """
        writing = [m for m, of in self.attempts.items() if any(a.mode != "answer" for a in of)]
        for row in self.results["comparisons"]:
            if {row["a"], row["b"]} <= set(writing):
                return [row["a"], row["b"]]
        return [*reversed(writing[-2:])]

    @cached_property
    def browser(self) -> dict[str, Any]:
        """The data of the browser of questions."""
        return browser_data(self.attempts, self.questions, self.metrics, self.pair)
