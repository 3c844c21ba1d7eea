"""The command line: parse, then call the library. No torch before a verb runs."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rationalize import __version__
from rationalize.config import nearest, to_dict
from rationalize.config.flags import explain, merge, take
from rationalize.errors import UsageError, UserError, machine_failure
from rationalize.methods import DEMOS, METHODS, TRAINERS, installed, load, method_named
from rationalize.termination import STATUS, Terminated, heed_sigterm
from rationalize.text import printable


@dataclass(frozen=True)
class Command:
    """A verb's configuration and its code; both are imported when they are needed."""

    config: Callable[[], type]
    call: Callable[..., None]
    """Called with the settings; with the run's folder where it has one; and with `overwrite`."""
    about: str
    writes: bool = True
    """Whether it leaves a file or folder, which `--overwrite` may replace."""
    folder: bool = False
    """Whether it fills a run's folder; a second start with the same folder resumes."""
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
        about, writes=function != "ask",
        plan=lambda settings, overwrite: load(f"rationalize.commands.plans:plan_{function}")(
            settings, overwrite
        ),
    )  # fmt: skip


def _plan_of(method: str, about: str) -> Callable[..., list[str]]:
    """The plan of a method's command, or of a demo's."""

    def plan(settings: Any, out: Path, overwrite: bool) -> list[str]:
        from rationalize.methods.launch import plan

        return plan(settings, out, method, about, overwrite=overwrite)

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
        settings, call, method.about, folder=True, method=name, plan=_plan_of(name, method.about)
    )


def _trainer_command(name: str) -> Command:
    """`train` of what is no method: scorers, and the grid of ablations."""
    function, configs, about = TRAINERS[name]

    def settings() -> type:
        from rationalize.config.compose import compose
        from rationalize.methods.base import RunConfig

        return compose(name, [*map(load, configs), RunConfig])

    def call(settings: Any, out: Path, overwrite: bool) -> None:
        from rationalize.config.compose import split

        *others, run_config = split(settings)
        load(function)(run_config, *others, out, overwrite=overwrite)

    def plan(settings: Any, out: Path, overwrite: bool) -> list[str]:
        from rationalize.config.compose import split
        from rationalize.methods.launch import plan_of_run

        *_, run_config = split(settings)
        return [*plan_of_run(run_config), f"trained: {about}"]

    return Command(settings, call, about, folder=True, method=name, plan=plan)


def _demo_command(name: str) -> Command:
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
        plan=_plan_of(demo.method, demo.about),
    )  # fmt: skip


VERBS: Mapping[str, Command] = {
    "demo": _demo_command("mario"),
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
    "export": _verb("export", "ExportConfig", "export",
        "attempts as files that `trl sft` and `trl dpo` read",
    ),
}  # fmt: skip

FORMS = {
    "demo": "demo [--method METHOD] [--out DIR]",
    "train": "train METHOD [--out DIR]",
    "sample": "sample --model M --questions Q --out F",
    "ask": 'ask --model M "question" [--choices ..]',
    "score": "score FILE --rewards a,b --out F",
    "check-rewards": "check-rewards [NAMES] [--people FILE ..]",
    "evaluate": "evaluate --model M --questions Q --out DIR",
    "compare": "compare RUN RUN .. --out report.html",
    "leaderboard": "leaderboard --data DIR [--runs RUN ..] --out DIR",
    "export": "export RUN --format sft|dpo --out F",
    "config": "config METHOD [--explain]",
}


def overview() -> str:
    """What `rationalize --help` prints."""
    about = {name: command.about for name, command in VERBS.items()}
    about |= {"train": "teach a model, or a scorer", "config": "a full configuration, as YAML"}
    verbs = "\n".join(f"  {form:<44} {about[verb]}" for verb, form in FORMS.items())
    methods = "\n".join(f"  {name:<44} {about}" for name, about in trained().items())
    return f"""rationalize {__version__}: small language models that write rationales

{verbs}

methods:
{methods}

Every verb takes --help, --dry-run (check all, print configuration and plan, touch nothing),
--overwrite (replace what lies at --out: else only what the same call wrote is replaced),
--config FILE.yaml (defaults < file < flags), and a flag per field (--fit.learning-rate 1e-4).
Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 143 terminated."""


def run(argv: Sequence[str]) -> None:
    """Parse the arguments and do what they say; raises `UserError`s."""
    if not argv or argv[0] in ("-h", "--help"):
        print(overview())
        if not argv:
            raise UsageError("expected a verb")
        return
    verb, rest = argv[0], list(argv[1:])
    if verb == "--version":
        print(f"rationalize {__version__}")
    elif verb == "config":
        show_config(rest)
    elif verb == "train":
        method, rest = _named(rest, trained())
        if method:
            folder = f"runs/{method.rpartition(':')[2]}"
            execute(f"train {method}", command_of(method), rest, default_out=folder)
    elif verb == "demo":
        found, rest = take(rest, "--method")
        method = found or "mario"
        if method not in DEMOS:
            raise UsageError(f"unknown --method {method!r}{nearest(method, DEMOS)}")
        folder = "runs/demo" if method == "mario" else f"runs/demo-{method}"
        execute("demo", _demo_command(method), rest, default_out=folder)
    elif verb in VERBS:
        execute(verb, VERBS[verb], rest, default_out=f"runs/{verb}")
    else:
        raise UsageError(f"unknown verb {verb!r}{nearest(verb, FORMS)}")


def execute(verb: str, command: Command, argv: list[str], *, default_out: str) -> None:
    """Resolve a verb's configuration, then print it (`--dry-run`) or call the verb."""
    file, argv = take(argv, "--config")
    dry = "--dry-run" in argv
    argv = [a for a in argv if a != "--dry-run"]
    out, overwrite = None, command.writes and "--overwrite" in argv
    if overwrite:
        argv = [a for a in argv if a != "--overwrite"]
    if command.folder:
        found, argv = take(argv, "--out")
        out = Path(found or default_out)
    config, where = _resolve(verb, command, file, argv), [out] if out else []
    if dry:
        destination = ""
        if out:
            from rationalize.runs import destination_of

            settings = {"method": command.method, **to_dict(config)}
            destination = "; " + destination_of(out, settings, overwrite)
        lines = [command.about + destination, *command.plan(config, *where, overwrite)]
        print(f"# rationalize {verb}\n{explain(config, comments=False)}")
        print("# plan: " + printable("\n#   ".join(lines)))
        print("# dry run: nothing was written or downloaded")
        return
    command.call(config, *where, **({"overwrite": overwrite} if command.writes else {}))


def show_config(argv: list[str]) -> None:
    """`config METHOD [--explain] [flags]`: the full configuration, valid as a `--config` file."""
    explained = "--explain" in argv
    known = {**trained(), "demo": VERBS["demo"].about}
    method, argv = _named([a for a in argv if a != "--explain"], known)
    if method:
        file, argv = take(argv, "--config")
        command = VERBS["demo"] if method == "demo" else command_of(method)
        if method == "demo":
            found, argv = take(argv, "--method")
            command = _demo_command(found or "mario")
        config = _resolve(f"config {method}", command, file, argv)
        print(explain(config, comments=explained), end="")


def trained() -> dict[str, str]:
    """What `train` takes -> what it is about."""
    found = {name: method.about for name, method in METHODS.items()}
    return found | {name: about for name, (_, _, about) in TRAINERS.items()}


def command_of(name: str) -> Command:
    """The command of `train NAME`."""
    return _trainer_command(name) if name in TRAINERS else _method_command(name)


def entry() -> None:
    """The program: warnings and output that no terminal can trip over, then the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name or a terminal without Unicode
            stream.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler()
    handler.setFormatter(_PrintableFormatter())
    logging.basicConfig(handlers=[handler])
    heed_sigterm()
    sys.exit(main(sys.argv[1:]))


class _PrintableFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def main(argv: Sequence[str]) -> int:
    """Run and turn errors that a user can mend into a message and an exit status."""
    try:
        run(argv)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except UserError as error:
        print(f"rationalize: {printable(str(error))}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except Exception as error:
        if not (sentence := machine_failure(error)):
            raise
        print(f"rationalize: {printable(sentence)}", file=sys.stderr)
        return 1
    except Terminated as stop:
        where = f" in {'; '.join(stop.places)}" if stop.places else ""
        print(
            f"\nrationalize: stopped by SIGTERM{printable(where)}. Start the same command again to "
            "go on",
            file=sys.stderr,
        )
        return STATUS
    except KeyboardInterrupt:
        print("\ninterrupted; run again with the same directory to resume", file=sys.stderr)
        return 130
    return 0


def _named(argv: list[str], known: Mapping[str, str]) -> tuple[str | None, list[str]]:
    """The METHOD among the arguments and the others; None when it is the help that is asked for."""
    if argv and argv[0] in ("-h", "--help"):
        print("\n".join(f"  {name:<16} {about}" for name, about in known.items()))
        return None, []
    if not argv or argv[0].startswith("-"):
        raise UsageError(f"expected a METHOD first: one of {', '.join(known)}")
    if argv[0] not in known and ":" not in argv[0] and not installed(argv[0]):
        raise UsageError(f"unknown METHOD {argv[0]!r}{nearest(argv[0], known)}")
    return argv[0], argv[1:]


def _resolve(verb: str, command: Command, file: str | None, argv: list[str]) -> Any:
    about = command.about[0].upper() + command.about[1:]
    cls = command.config()
    also = [
        "--config FILE.yaml (values below the flags)",
        "--dry-run (check all, print the configuration and the plan, and stop)",
    ]
    if command.folder:
        also.insert(0, "--out DIR (where the run goes; a second start resumes it)")
    if command.writes:
        also.append("--overwrite (replace what an earlier call left, or lies, at --out)")
    if presets := getattr(cls, "PRESETS", None):
        also.append(f"{command.preset_flag} {'|'.join(presets)} (values below the file)")
    return merge(
        cls, file, argv, prog=f"rationalize {verb}",
        description=f"{about}. Also: {', '.join(also)}.", method=command.method,
        preset_flag=command.preset_flag,
    )  # fmt: skip
