"""`plan METHOD`: what a run takes, before it is begun; and what a dry run says of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rationalize.config.flags import take
from rationalize.errors import UsageError
from rationalize.methods import Demo, Method

if TYPE_CHECKING:
    from rationalize.methods.launch import Checked
    from rationalize.planning.runs import PlanOptions

ABOUT = """rationalize plan METHOD [flags of `train METHOD`]
rationalize plan demo [--method NAME] [flags of `demo`]

What a run takes: questions, replies, steps and tokens by stage, time, peak memory and disk. Its
speed is measured on this machine in some seconds, once for a model, machine and version.
  --on MACHINE   another machine by its figures: h100x8, a100, ..; or TFLOP/s in bfloat16, TB/s and
                 GB: bf16=990,bandwidth=3.35,memory=80
  --right SHARE  share of replies that are taken to be right, where a stage learns from those (0.5)
  --fresh        measure again
  --dry-run      measure nothing: the work alone, and what an earlier plan has measured

methods:"""


def options_of(argv: list[str]) -> tuple[PlanOptions, list[str]]:
    """A plan's own flags, and the arguments that are the run's. Raises `UsageError`."""
    from rationalize.planning.runs import PlanOptions

    on, argv = take(argv, "--on")
    share, argv = take(argv, "--right")
    try:
        right = float(share) if share else PlanOptions.right
    except ValueError:
        right = -1.0
    if not 0 < right < 1:
        raise UsageError(f"--right {share}: expected a share between 0 and 1, such as 0.5")
    fresh = "--fresh" in argv
    return PlanOptions(on or "", right, fresh), [a for a in argv if a != "--fresh"]


def plan(what: Method | Demo, name: str, settings: Any, options: PlanOptions) -> dict[str, Any]:
    """Print the plan of a method or demo; returns it for `--json`."""
    from rationalize.methods.launch import method_stage
    from rationalize.planning.plan import as_text
    from rationalize.planning.runs import plan_run

    made = plan_run(what, method_stage(name), settings, options)
    print("\n".join(as_text(made)))
    return made.as_dict()


def planned_work(what: Method | Demo, name: str, known: Checked) -> list[str]:
    """The lines of a dry run on the run's work: what is known without a model."""
    from rationalize.methods.launch import method_stage
    from rationalize.planning.plan import as_text
    from rationalize.planning.runs import dry_plan

    made = dry_plan(what, method_stage(name), known)
    return as_text(made)[1:] if made else []
