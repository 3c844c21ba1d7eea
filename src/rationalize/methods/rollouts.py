"""What rollout servers cannot do exactly, refused before anything is trained."""

from __future__ import annotations

from functools import partial
from typing import Any

from rationalize.config import nested
from rationalize.errors import UsageError
from rationalize.methods.settings import RunConfig
from rationalize.processes import by_first
from rationalize.sampling.config import SamplingConfig
from rationalize.sampling.rollout_servers import ask_kinds
from rationalize.sampling.rollouts import NO_CONTROLS, NOT_QUANTISED, check_sampling


def check_rollouts(config: Any, run: RunConfig) -> list[str]:
    """What the run's rollout servers are, a line each; none where there are none.

    `config` is the method's own. Raises `UsageError` where servers could not write what the method
    asks for, and `UserError` where one is of a kind that takes no weights, or none answers.
    """
    if not run.rollouts:
        if run.rollout_folder:
            raise UsageError(
                f"rollout_folder is {run.rollout_folder}, but --rollouts names no servers; name "
                "them, or leave it out"
            )
        return []
    if run.tuning == "qlora":
        raise UsageError(f"--rollouts: found tuning=qlora; {NOT_QUANTISED}")
    if run.parallel == "fsdp":
        raise UsageError(
            "--rollouts: found parallel=fsdp; servers are given weights that the first process "
            "holds whole so far. Take --parallel ddp"
        )
    for path, part in nested(config):
        if isinstance(part, SamplingConfig):
            check_sampling(part, path)
        if getattr(part, "CONTROLS", False) and run.tuning == "lora":
            raise UsageError(f"--rollouts: found control tokens with tuning=lora; {NO_CONTROLS}")
    return by_first(partial(ask_kinds, run.rollouts))
