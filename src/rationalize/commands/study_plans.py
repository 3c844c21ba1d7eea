"""What `study COMMAND` would do (`--dry-run`), in lines; raises what a start would raise first."""

from __future__ import annotations

from typing import Any

from rationalize.commands.study import designed, opened, output_of


def plan_new(config: Any, overwrite: bool) -> list[str]:
    study = designed(config)
    return [
        f"methods: {', '.join(study.methods)}",
        f"comparisons: {len(study.compared)}, attention checks: {len(study.checks)}",
        f"asked: {', '.join(ask.name for ask in study.asks.questions)}",
        *study.notes,
    ]


def plan_invite(config: Any, overwrite: bool) -> list[str]:
    opened(config.folder)
    return [f"links for: {', '.join(config.annotators)}"]


def plan_serve(config: Any, overwrite: bool) -> list[str]:
    opened(config.folder)
    return [f"address: http://{config.host}:{config.port}"]


def plan_results(config: Any, overwrite: bool) -> list[str]:
    _, store = opened(config.folder)
    return [f"votes: {len(store.votes())}, verdicts of judges: {len(store.verdicts())}"]


def plan_export_votes(config: Any, overwrite: bool) -> list[str]:
    _, store = opened(config.folder)
    output_of(config, overwrite).check()
    return [f"votes: {len(store.votes())}"]


def plan_judge(config: Any, overwrite: bool) -> list[str]:
    from rationalize.study.judging import prompts

    study, _ = opened(config.folder)
    return [f"prompts: {len(list(prompts(study)))} to {config.model} at {config.server}"]
