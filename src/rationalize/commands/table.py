"""The table of verbs: what `--help`, shell completion and the command line itself read.

A verb's configuration and code are imported when they are needed: no torch here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rationalize import __version__
from rationalize.methods import DEMOS, METHODS, TRAINERS, Demo, Method, load, method_named


@dataclass(frozen=True)
class Command:
    """A verb's configuration and its code; both are imported when they are needed."""

    config: Callable[[], type]
    call: Callable[..., Any]
    """Called with the settings; with the run's folder where it has one; and with `overwrite`.
    Returns what `--json` prints; for a run that is what its folder holds.
    """
    about: str
    writes: bool = True
    """Whether it leaves a file or folder, which `--overwrite` may replace."""
    folder: bool = False
    """Whether it fills a run's folder; a second start with the same folder resumes."""
    resumes: bool = False
    """Whether it does so in a folder that its own settings name."""
    preset_flag: str = "--preset"
    """Chooses one of the configuration's `PRESETS`."""
    method: str = ""
    """What `config.yaml` calls it."""
    plan: Callable[..., list[str]] = lambda *_: []
    """What a start would do, in lines (`--dry-run`); called as `call` is. Raises what a start would
    raise before it writes.
    """


def _verb(module: str, config: str, function: str, about: str) -> Command:
    """A verb without a run's folder: its configuration and function, by name."""
    place = f"rationalize.commands.{module}"
    return Command(
        lambda: load(f"{place}:{config}"),
        lambda settings, **options: load(f"{place}:{function}")(settings, **options),
        about, writes=function not in ("ask", "view"),
        resumes=function in ("evaluate", "leaderboard"),
        plan=lambda settings, overwrite: load(f"rationalize.commands.plans:plan_{function}")(
            settings, overwrite
        ),
    )  # fmt: skip


def _study(config: str, function: str, about: str) -> Command:
    """`study COMMAND`; only the export's file can be replaced."""
    home = "rationalize.commands.study"
    return Command(
        lambda: load(f"{home}:{config}"),
        lambda settings, **options: load(f"{home}:{function}")(settings, **options),
        about, writes=function == "export_votes",
        plan=lambda settings, overwrite: load(f"{home}_plans:plan_{function}")(settings, overwrite),
    )  # fmt: skip


def _plan_of(what: Method | Demo, name: str) -> Callable[..., list[str]]:
    """The plan of a method's command, or of a demo's, which `config.yaml` calls `name`."""

    def plan(settings: Any, out: Path, overwrite: bool) -> list[str]:
        from rationalize.commands.plan import planned_work
        from rationalize.methods.launch import plan

        lines, known = plan(settings, out, name, what.about, overwrite=overwrite)
        return [*lines, *(planned_work(what, name, known) if known else ())]

    return plan


def _method_command(name: str) -> Command:
    """`train METHOD` of the table, of another package, or `my_file:my_method`."""
    method = method_named(name)

    def settings() -> type:
        from rationalize.methods.launch import settings_of

        return settings_of(method)

    def call(settings: Any, out: Path, overwrite: bool) -> None:
        from rationalize.methods.launch import train

        train(name, out, settings, overwrite=overwrite)

    return Command(
        settings, call, method.about, folder=True, method=name, plan=_plan_of(method, name)
    )


def _trainer_command(name: str) -> Command:
    """`train` of what is no method: scorers, and the grid of ablations."""
    trainer = TRAINERS[name]

    def settings() -> type:
        from rationalize.config.compose import compose
        from rationalize.methods.settings import RunConfig

        return compose(name, [*map(load, trainer.configs), RunConfig])

    def call(settings: Any, out: Path, overwrite: bool) -> None:
        from rationalize.config.compose import split

        *others, run_config = split(settings)
        load(trainer.train)(run_config, *others, out, overwrite=overwrite)

    def plan(settings: Any, out: Path, overwrite: bool) -> list[str]:
        from rationalize.config.compose import split
        from rationalize.methods.launch import plan_of_run

        *others, run_config = split(settings)
        own = [run_config, *others]
        lines = load(trainer.plan)(*own) if trainer.plan else plan_of_run(run_config)
        return [*lines, f"trained: {trainer.about}"]

    return Command(settings, call, trainer.about, folder=True, method=name, plan=plan)


def demo_command(name: str) -> Command:
    """The command of `demo --method NAME`."""
    demo = DEMOS[name]

    def settings() -> type:
        from rationalize.methods.launch import settings_of

        return settings_of(demo)

    def call(settings: Any, out: Path, overwrite: bool) -> None:
        from rationalize.methods.launch import demo as run_demo

        run_demo(name, out, settings, overwrite=overwrite)

    return Command(
        settings, call, demo.about, folder=True, preset_flag="--size", method=demo.method,
        plan=_plan_of(demo, demo.method),
    )  # fmt: skip


VERBS: Mapping[str, Command] = {
    "demo": demo_command("mario"),
    "sample": _verb("sample", "SampleConfig", "sample", "write attempts"),
    "ask": _verb("sample", "AskConfig", "ask",
        "one question, answered on the terminal",
    ),
    "score": _verb("score", "ScoreConfig", "score",
        "score anybody's rationales",
    ),
    "check-rewards": _verb("check", "CheckRewardsConfig", "check_rewards",
        "rewards attacked, or compared with people's votes",
    ),
    "evaluate": _verb("evaluate", "EvaluateConfig", "evaluate",
        "accuracy and every reward, with intervals",
    ),
    "compare": _verb("evaluate", "CompareConfig", "compare",
        "runs side by side, with paired tests",
    ),
    "leaderboard": _verb("leaderboard", "LeaderboardConfig", "leaderboard",
        "other models' rationales and runs on the same test questions",
    ),
    "view": _verb("view", "ViewConfig", "view",
        "runs in a browser, while they go on",
    ),
    "export": _verb("export", "ExportConfig", "export",
        "attempts as files that `trl sft` and `trl dpo` read",
    ),
}  # fmt: skip

STUDY: Mapping[str, Command] = {
    "new": _study("NewConfig", "new", "rationales of two or more methods side by side, blinded"),
    "invite": _study("InviteConfig", "invite", "personal links for further annotators"),
    "serve": _study("ServeConfig", "serve", "the study's pages, until Ctrl-C"),
    "results": _study("ResultsConfig", "results", "preferences, agreement, ranking, judges"),
    "export": _study(
        "ExportVotesConfig", "export_votes", "votes for check-rewards --people and Label Studio"
    ),
    "judge": _study("JudgeConfig", "judge", "a model behind a server answers the study"),
}  # fmt: skip

FORMS = {
    "demo": "demo [--method METHOD] [--out DIR]",
    "train": "train METHOD [--out DIR]",
    "plan": "plan METHOD [--on MACHINE]",
    "sample": "sample --model M --questions Q --out F",
    "ask": 'ask --model M "question" [--choices ..]',
    "score": "score FILE --rewards a,b --out F",
    "check-rewards": "check-rewards [NAMES] [--people FILE ..]",
    "evaluate": "evaluate --model M --questions Q --out DIR",
    "compare": "compare RUN RUN .. --out report.html",
    "leaderboard": "leaderboard --data DIR [--runs RUN ..] --out DIR",
    "study": "study new|serve|results|.. DIR",
    "view": "view RUN [RUN ..] [--port P]",
    "export": "export RUN --format sft|dpo --out F",
    "config": "config METHOD [--explain]",
    "completion": "completion bash|zsh|fish",
}

SHELLS = {
    "bash": "source it in ~/.bashrc, or put it into bash-completion's folder as `rationalize`",
    "zsh": "source it in ~/.zshrc",
    "fish": "put it into ~/.config/fish/completions/rationalize.fish",
}
"""What `completion` can write a script for, and where that goes."""

EVERYWHERE = {
    "--help": "the flags of a command",
    "--dry-run": "check all, print configuration and plan, touch nothing",
    "--config": "a YAML file: defaults < file < flags",
    "--json": "results as one JSON document on stdout; all else goes to stderr",
    "--quiet": "no progress; results, warnings and errors stay",
}
"""Flags of every verb."""


def overview() -> str:
    """What `rationalize --help` prints."""
    about = {name: command.about for name, command in VERBS.items()}
    about |= {
        "train": "teach a model, or a scorer", "study": "people compare rationales, blinded",
        "plan": "what `train METHOD` or `demo` takes: work, minutes, memory",
        "config": "a full configuration, as YAML",
        "completion": "a script that completes flags for your shell",
    }  # fmt: skip
    verbs = "\n".join(f"  {form:<44} {about[verb]}" for verb, form in FORMS.items())
    methods = "\n".join(f"  {name:<44} {about}" for name, about in trained().items())
    flags = EVERYWHERE | {"--overwrite": "replace what lies at --out, whoever wrote it"}
    everywhere = "\n".join(f"  {flag:<44} {about}" for flag, about in flags.items())
    return f"""rationalize {__version__}: small language models that write rationales

{verbs}

methods:
{methods}

every verb takes a flag per field (--fit.learning-rate 1e-4), and:
{everywhere}

Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 143 terminated."""


def trained() -> dict[str, str]:
    """What `train` takes -> what it is about."""
    found = {name: method.about for name, method in METHODS.items()}
    return found | {name: trainer.about for name, trainer in TRAINERS.items()}


def command_of(name: str) -> Command:
    """The command of `train NAME`."""
    return _trainer_command(name) if name in TRAINERS else _method_command(name)
