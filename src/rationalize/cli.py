"""The command line: parse, then call the library. No torch before a verb runs."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import (
    AbstractContextManager,
    contextmanager,
    nullcontext,
    redirect_stderr,
    redirect_stdout,
)
from pathlib import Path
from typing import Any

from rationalize import __version__
from rationalize.commands.plan import ABOUT, options_of, plan
from rationalize.commands.table import (
    FORMS,
    SHELLS,
    STUDY,
    VERBS,
    Command,
    command_of,
    demo_command,
    overview,
    trained,
)
from rationalize.config import nearest, to_dict
from rationalize.config.flags import explain, merge, take
from rationalize.errors import CheckFailed, UsageError, UserError, machine_failure
from rationalize.files import plain
from rationalize.methods import DEMOS, METHODS, Demo, Method, installed, method_named
from rationalize.processes import ProcessLost, World, launched, leave
from rationalize.progress import hushed, say
from rationalize.termination import STATUS, Terminated, arrived, heed_sigterm
from rationalize.text import printable

RESIZE = "--world-size-may-change"


def run(argv: Sequence[str]) -> Any:
    """Parse the arguments, do what they say and return its results; raises `UserError`s."""
    if not argv or argv[0] in ("-h", "--help"):
        print(overview())
        if not argv:
            raise UsageError("expected a verb")
        return None
    verb, rest = argv[0], list(argv[1:])
    if verb == "--version":
        print(f"rationalize {__version__}")
        return {"version": __version__}
    if verb == "config":
        return show_config(rest)
    if verb == "completion":
        return show_completion(rest)
    if verb == "plan":
        return show_plan(rest)
    if verb == "train":
        method, rest = _named(rest, trained())
        if method is None:
            return None
        folder = f"runs/{method.rpartition(':')[2]}"
        return execute(f"train {method}", command_of(method), rest, default_out=folder)
    if verb == "demo":
        method, rest = _demo(rest)
        folder = "runs/demo" if method == "mario" else f"runs/demo-{method}"
        return execute("demo", demo_command(method), rest, default_out=folder)
    if verb == "study":
        action, rest = _named(rest, {name: c.about for name, c in STUDY.items()}, "COMMAND")
        if action is None:
            return None
        if action not in STUDY:
            raise UsageError(f"unknown COMMAND {action!r}{nearest(action, STUDY)}")
        return execute(f"study {action}", STUDY[action], rest, default_out="")
    if verb in VERBS:
        return execute(verb, VERBS[verb], rest, default_out=f"runs/{verb}")
    raise UsageError(f"unknown verb {verb!r}{nearest(verb, FORMS)}")


def execute(verb: str, command: Command, argv: list[str], *, default_out: str) -> Any:
    """Resolve a verb's configuration, then print it (`--dry-run`) or call the verb."""
    file, argv = take(argv, "--config")
    dry = "--dry-run" in argv
    argv = [a for a in argv if a != "--dry-run"]
    out, overwrite = None, command.writes and "--overwrite" in argv
    if overwrite:
        argv = [a for a in argv if a != "--overwrite"]
    may_change = (command.folder or command.resumes) and RESIZE in argv
    if may_change:
        argv = [a for a in argv if a != RESIZE]
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
        with _advised(config), _dry():
            lines = [command.about + destination, *command.plan(config, *where, overwrite)]
        print(f"# rationalize {verb}\n{explain(config, comments=False)}")
        print("# plan: " + printable("\n#   ".join(lines)))
        print("# dry run: nothing was written or downloaded")
        return {"configuration": to_dict(config), "plan": lines}
    with _advised(config), _resizing() if may_change else nullcontext():
        asked = {"overwrite": overwrite} if command.writes else {}
        result = command.call(config, *where, **asked)
    return _stored(out) if out else result


@contextmanager
def _advised(config: Any) -> Iterator[None]:
    """Within it, bad rows are to be skipped only where the command has the flag."""
    try:
        yield
    except UserError as error:
        from rationalize.questions import BadRows

        if isinstance(error, BadRows) and not hasattr(config, "skip_bad_rows"):
            raise error.to_correct() from error
        raise


def _dry() -> AbstractContextManager[None]:
    from rationalize.questions.bad_rows import bad_rows_only_told

    return bad_rows_only_told()


def _resizing() -> AbstractContextManager[None]:
    from rationalize.runs import size_may_change

    return size_may_change()


def show_config(argv: list[str]) -> dict[str, Any] | None:
    """`config METHOD [--explain] [flags]`: the full configuration, valid as a `--config` file."""
    explained = "--explain" in argv
    known = {**trained(), "demo": VERBS["demo"].about}
    method, argv = _named([a for a in argv if a != "--explain"], known)
    if method is None:
        return None
    file, argv = take(argv, "--config")
    command = VERBS["demo"] if method == "demo" else command_of(method)
    if method == "demo":
        demo, argv = _demo(argv)
        command = demo_command(demo)
    config = _resolve(f"config {method}", command, file, argv)
    print(explain(config, comments=explained), end="")
    return to_dict(config)


def show_plan(argv: list[str]) -> dict[str, Any] | None:
    """`plan METHOD [flags]`, `plan demo [--method NAME] [flags]`: what the run would take."""
    if not argv or argv[0] in ("-h", "--help"):
        print(ABOUT)
    known = {**{name: METHODS[name].about for name in METHODS}, "demo": VERBS["demo"].about}
    name, argv = _named(argv, known)
    if name is None:
        return None
    options, argv = options_of(argv)
    dry = "--dry-run" in argv
    argv = [a for a in argv if a != "--dry-run"]
    file, argv = take(argv, "--config")
    what: Method | Demo
    if name == "demo":
        demo, argv = _demo(argv)
        command, what = demo_command(demo), DEMOS[demo]
    else:
        command, what = command_of(name), method_named(name)
    # the flags of a run that do not change what it takes
    found, argv = take(argv, "--out")
    overwrite = "--overwrite" in argv
    argv = [a for a in argv if a not in ("--overwrite", RESIZE)]
    config = _resolve(f"plan {name}", command, file, argv)
    with _dry():
        if not dry:
            return plan(what, command.method, config, options)
        lines = command.plan(config, Path(found or f"runs/{command.method}"), overwrite)
    print("\n".join(map(printable, lines)))
    return {"plan": lines}


def show_completion(argv: list[str]) -> None:
    """`completion SHELL`: a script that completes verbs, methods, flags and their choices."""
    shell, rest = _named(argv, SHELLS, "SHELL")
    if shell is None:
        return
    if rest:
        raise UsageError(f"completion {shell}: unknown {rest[0]!r}; expected nothing more")
    from rationalize.commands.completion import script

    say("completion: reading every command's flags")
    print(script(shell), end="")


def _stored(out: Path) -> dict[str, Any]:
    """What a run's folder holds of its results."""
    from rationalize.runs import Run

    run = Run.read(out)
    files = {"stages": "stages.json", "results": "results.json"}
    return {"run": str(out), **{name: run.read_json(file) for name, file in files.items()}}


def entry() -> None:
    """The program: warnings and output that no terminal can trip over, then the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name or a terminal without Unicode
            stream.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler()
    handler.setFormatter(_PrintableFormatter())
    logging.basicConfig(handlers=[handler])
    place = launched()
    heed_sigterm(together=not place.alone)
    if not place.first:
        logging.getLogger().setLevel(logging.ERROR)
    status = main(sys.argv[1:])
    if status and not place.alone:  # what connects it with the others cannot be taken down in order
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


class _PrintableFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def main(argv: Sequence[str]) -> int:
    """Run and turn errors that a user can mend into a message and an exit status."""
    quiet, as_json = "--quiet" in argv, "--json" in argv
    argv = [a for a in argv if a not in ("--quiet", "--json")]
    place = launched()
    if not place.first:
        return _follow(argv, place)
    try:
        # with --json stdout holds one document; all else goes to stderr, or with --quiet nowhere
        beside = redirect_stdout(io.StringIO() if quiet else sys.stderr)
        with hushed(quiet), beside if as_json else nullcontext():
            result = run(argv)
            leave()
        if as_json and result is not None:
            _print_json(result)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except UserError as error:
        if as_json and isinstance(error, CheckFailed):
            _print_json(error.result)
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


_TOLD_AFTER = 5.0
"""Seconds that another process waits with an error: what befalls all of them is told by the first,
whose end makes the launcher end the others.
"""


def _follow(argv: Sequence[str], place: World) -> int:
    """Run beside the first process, and tell nothing but what befalls this one alone."""
    warnings.simplefilter("ignore")
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            run(argv)
            leave()
    except ProcessLost:  # the first one says it
        return 1
    except Terminated:
        return STATUS
    except Exception as error:
        for _ in range(round(_TOLD_AFTER / 0.1)):
            time.sleep(0.1)
            if arrived():  # the launcher ends all: another process has told it
                return STATUS
        told = str(error) if isinstance(error, UserError) else machine_failure(error)
        print(f"rationalize, process {place.rank} of {place.size}: "
              f"{printable(told or traceback.format_exc())}", file=sys.stderr)  # fmt: skip
        return 2 if isinstance(error, UsageError) else 1
    return 0


def _print_json(result: Any) -> None:
    """One document; what is not finite is null, and every character is ASCII."""
    print(json.dumps(plain(result), indent=1))


def _named(
    argv: list[str], known: Mapping[str, str], what: str = "METHOD"
) -> tuple[str | None, list[str]]:
    """The METHOD (or `what`) among the arguments, and the others; None where help is asked for."""
    if argv and argv[0] in ("-h", "--help"):
        print("\n".join(f"  {name:<16} {about}" for name, about in known.items()))
        return None, []
    if not argv or argv[0].startswith("-"):
        raise UsageError(f"expected a {what} first: one of {', '.join(known)}")
    if argv[0] not in known and ":" not in argv[0] and not installed(argv[0]):
        raise UsageError(f"unknown {what} {argv[0]!r}{nearest(argv[0], known)}")
    return argv[0], argv[1:]


def _demo(argv: list[str]) -> tuple[str, list[str]]:
    """The method of a demo, and the other arguments. Raises `UsageError` for an unknown one."""
    found, argv = take(argv, "--method")
    method = found or "mario"
    if method not in DEMOS:
        raise UsageError(f"unknown --method {method!r}{nearest(method, DEMOS)}")
    return method, argv


def _resolve(verb: str, command: Command, file: str | None, argv: list[str]) -> Any:
    if command.folder or not {"-h", "--help"} & {*argv}:
        say(f"rationalize {__version__}: {verb}")  # before anything large is imported
    about = command.about[0].upper() + command.about[1:]
    cls = command.config()
    also = [
        "--config FILE.yaml (values below the flags)",
        "--dry-run (check all, print the configuration and the plan, and stop)",
        "--json (results as one JSON document on stdout)",
        "--quiet (no progress)",
    ]
    if command.folder:
        also.insert(0, "--out DIR (where the run goes; a second start resumes it)")
    if command.writes:
        also.append("--overwrite (replace what an earlier call left, or lies, at --out)")
    if command.folder or command.resumes:
        also.append(f"{RESIZE} (let another number of processes go on with a run)")
    if presets := getattr(cls, "PRESETS", None):
        also.append(f"{command.preset_flag} {'|'.join(presets)} (values below the file)")
    return merge(
        cls, file, argv, prog=f"rationalize {verb}",
        description=f"{about}. Also: {', '.join(also)}.", method=command.method,
        preset_flag=command.preset_flag,
    )  # fmt: skip
