"""The page of a run that goes on: rewritten after every evaluation on development questions."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rationalize.evaluation.metrics import metrics_of
from rationalize.evaluation.results import merge_log, summarise_metrics
from rationalize.processes import by_first
from rationalize.records import Attempt
from rationalize.report import write_report

if TYPE_CHECKING:
    from rationalize.methods.base import Experiment
    from rationalize.runs import Stage

log = logging.getLogger(__name__)


def show_progress(
    exp: Experiment, stage: Stage, attempts: Sequence[Attempt], step: int
) -> None:  # fmt: skip
    """Rewrite `report.html`: the stage's newest development attempts beside its first ones, and all
    curves so far. A run inside another one has no page of its own.

    Nothing of it depends on a clock, and the end of the run replaces it.
    """
    by_first(lambda: _show(exp, stage, attempts, step))


def _show(exp: Experiment, stage: Stage, attempts: Sequence[Attempt], step: int) -> None:
    run = exp.run
    if not attempts or not (run.path / "config.yaml").exists():
        return
    now, methods = f"{stage.name}, step {step}", {}
    first = min((row["step"] for row in stage.metrics("rounds")), default=step)
    if first < step and (before := stage.stored(f"dev{first}")):
        methods[f"{stage.name}, step {first}"] = before
    methods[now] = list(attempts)
    questions = {q.id: q for q in exp.dev}
    results = summarise_metrics(
        {name: {"dev": {of[0].seed: of}} for name, of in methods.items()}, questions,
        metrics_of(exp.suite.trainable, exp.suite.diagnostics),
        meta={"config": run.config},
    )  # fmt: skip
    state = (
        f"This run goes on: last evaluated was {stage.name} after step {step}. Shown are "
        "development questions, which select what is kept; the results on other questions stand "
        "here at the end. The page is rewritten after every round: reload it, or follow the run "
        "with `rationalize view`."
    )
    merge_log(results, run.metrics())
    try:
        write_report(results, methods, questions, run.path / "report.html", state=state)
    except OSError as error:  # learning goes on; the end of the run says it again
        log.warning("report.html cannot be written yet: %s", error)
