"""The command line: parse, then call the library. No torch before a verb runs."""

from __future__ import annotations

import errno
import importlib
import io
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from rationalize import __version__
from rationalize.config import load_yaml, nearest, to_dict
from rationalize.errors import UsageError, UserError
from rationalize.flags import explain, merge, take
from rationalize.text import printable


@dataclass(frozen=True)
class Command:
    """Where a verb's code is, and what it does in a line."""

    module: str
    config: str
    function: str
    about: str
    folder: bool = False
    """The function is called with `(config, out)`; a second start with the same folder resumes."""
    preset_flag: str = "--preset"
    """Chooses one of the configuration's `PRESETS`."""


METHODS: Mapping[str, Command] = {
    "sft": Command(
        "rationalize.methods.sft", "SftConfig", "train_sft",
        "imitate the teacher's rationales", True,
    ),
    "direct": Command(
        "rationalize.methods.sft", "SftConfig", "train_direct",
        "question to answer, no rationale", True,
    ),
    "filt-acc": Command(
        "rationalize.methods.expert_iteration", "ExpertIterationConfig", "train_expert_iteration",
        "imitate one's own rationales that led to the right answer", True,
    ),
    "star": Command(
        "rationalize.methods.expert_iteration", "StarConfig", "train_star",
        "the same in rounds that restart from the base model, with hints", True,
    ),
    "rft": Command(
        "rationalize.methods.expert_iteration", "RftConfig", "train_rft",
        "imitate many sampled attempts that were right, equal ones once", True,
    ),
    "dpo": Command(
        "rationalize.methods.iterative_dpo", "IterativeDpoConfig", "train_iterative_dpo",
        "right over wrong attempts by DPO and NLL, in rounds", True,
    ),
    "self-motivated": Command(
        "rationalize.methods.self_motivated", "SelfMotivatedConfig", "train_self_motivated",
        "correctness ranks own attempts, the rank trains a reward model, PPO learns from it", True,
    ),
    "mario": Command(
        "rationalize.methods.mario", "MarioConfig", "train_mario",
        "several rewards at once, one control token each", True,
    ),
    "coalition": Command(
        "rationalize.methods.coalition", "CoalitionConfig", "train_coalition",
        "variants write, refine each other and learn by preference", True,
    ),
    "coalition-grid": Command(
        "rationalize.methods.coalition_grid", "CoalitionGridConfig", "run_grid",
        "the coalition and its ablations, from shared candidates", True,
    ),
    "answer-scorer": Command(
        "rationalize.methods.answer_scorer", "AnswerScorerConfig", "train_answer_scorer",
        "how likely an answer is, given a rationale or none", True,
    ),
    "reward-model": Command(
        "rationalize.methods.reward_model", "RewardModelConfig", "train_reward_model",
        "how good a reply is, from the rank that correctness gives attempts", True,
    ),
    "verifier": Command(
        "rationalize.methods.verifier", "VerifierConfig", "train_verifier",
        "how plausible a statement is", True,
    ),
}  # fmt: skip

DEMOS: Mapping[str, Command] = {
    "mario": Command(
        "rationalize.methods.demo", "DemoConfig", "run_demo",
        "teach the embedded model on built-in questions, to a report", True, "--size",
    ),
    "coalition": Command(
        "rationalize.methods.coalition_demo", "CoalitionDemoConfig", "run_coalition_demo",
        "variants of the embedded model on built-in questions, to a report", True, "--size",
    ),
    "self-motivated": Command(
        "rationalize.methods.self_motivated_demo", "SelfMotivatedDemoConfig",
        "run_self_motivated_demo",
        "the embedded model learns from its own attempts, to a report", True, "--size",
    ),
}  # fmt: skip

VERBS: Mapping[str, Command] = {
    "demo": DEMOS["mario"],
    "sample": Command("rationalize.commands.sample", "SampleConfig", "sample", "write attempts"),
    "ask": Command(
        "rationalize.commands.sample", "AskConfig", "ask",
        "one question, answered on the terminal",
    ),
    "score": Command(
        "rationalize.commands.score", "ScoreConfig", "score",
        "score anybody's rationales",
    ),
    "check-rewards": Command(
        "rationalize.commands.check", "CheckRewardsConfig", "check_rewards",
        "rewards attacked, or compared with people's votes",
    ),
    "evaluate": Command(
        "rationalize.commands.evaluate", "EvaluateConfig", "evaluate",
        "accuracy and every reward, with intervals",
    ),
    "compare": Command(
        "rationalize.commands.evaluate", "CompareConfig", "compare",
        "runs side by side, with paired tests",
    ),
    "leaderboard": Command(
        "rationalize.commands.leaderboard", "LeaderboardConfig", "leaderboard",
        "other models' rationales and runs on the same test questions",
    ),
    "export": Command(
        "rationalize.commands.export", "ExportConfig", "export",
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
    methods = "\n".join(f"  {name:<44} {command.about}" for name, command in METHODS.items())
    return f"""rationalize {__version__}: small language models that write rationales

{verbs}

methods:
{methods}

Every verb takes --help, --dry-run (print the resolved configuration and the plan, touch nothing),
--config FILE.yaml (defaults < file < flags), and a flag per field (--fit.learning-rate 1e-4).
Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""


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
        method, rest = _method(rest, METHODS)
        if method:
            execute(f"train {method}", METHODS[method], rest, default_out=f"runs/{method}")
    elif verb == "demo":
        found, rest = take(rest, "--method")
        method = found or "mario"
        if method not in DEMOS:
            raise UsageError(f"unknown --method {method!r}{nearest(method, DEMOS)}")
        folder = "runs/demo" if method == "mario" else f"runs/demo-{method}"
        execute("demo", DEMOS[method], rest, default_out=folder)
    elif verb in VERBS:
        execute(verb, VERBS[verb], rest, default_out=f"runs/{verb}")
    else:
        raise UsageError(f"unknown verb {verb!r}{nearest(verb, FORMS)}")


def execute(verb: str, command: Command, argv: list[str], *, default_out: str) -> None:
    """Resolve a verb's configuration, then print it (`--dry-run`) or call the verb."""
    file, argv = take(argv, "--config")
    dry = "--dry-run" in argv
    argv = [a for a in argv if a != "--dry-run"]
    out = None
    if command.folder:
        found, argv = take(argv, "--out")
        out = Path(found or default_out)
    config = _resolve(verb, command, file, argv)
    if dry:
        print(f"# rationalize {verb}\n{explain(config, comments=False)}")
        print(f"# plan: {command.about}{_destination(out, config)}")
        print("# dry run: nothing was written or downloaded")
        return
    function = _load(command, command.function)
    if out is None:
        function(config)
    else:
        function(config, out)


def show_config(argv: list[str]) -> None:
    """`config METHOD [--explain] [flags]`: the full configuration, valid as a `--config` file."""
    targets = {**METHODS, **{k: v for k, v in VERBS.items() if v.folder}}
    explained = "--explain" in argv
    method, argv = _method([a for a in argv if a != "--explain"], targets)
    if method:
        file, argv = take(argv, "--config")
        config = _resolve(f"config {method}", targets[method], file, argv)
        print(explain(config, comments=explained), end="")


def entry() -> None:
    """The program: warnings and output that no terminal can trip over, then the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name or a terminal without Unicode
            stream.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler()
    handler.setFormatter(_PrintableFormatter())
    logging.basicConfig(handlers=[handler])
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
    except (OSError, SafetensorError) as error:
        if not disk_is_full(error):
            raise
        print(
            f"rationalize: the disk is full ({printable(str(error))}); make room and start the "
            "same command again: a run goes on from its last checkpoint",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; run again with the same directory to resume", file=sys.stderr)
        return 130
    return 0


def disk_is_full(error: Exception) -> bool:
    """Whether a write failed for want of room (safetensors has errors of its own kind)."""
    full = (errno.ENOSPC, errno.EDQUOT)
    return getattr(error, "errno", None) in full or any(
        f"os error {n})" in str(error) for n in full
    )


def _method(argv: list[str], known: Mapping[str, Command]) -> tuple[str | None, list[str]]:
    """The METHOD among the arguments and the others; None when it is the help that is asked for."""
    if argv and argv[0] in known:
        return argv[0], argv[1:]
    if argv and argv[0] in ("-h", "--help"):
        print("\n".join(f"  {name:<16} {command.about}" for name, command in known.items()))
        return None, []
    if not argv or argv[0].startswith("-"):
        raise UsageError(f"expected a METHOD first: one of {', '.join(known)}")
    raise UsageError(f"unknown METHOD {argv[0]!r}{nearest(argv[0], known)}")


def _resolve(verb: str, command: Command, file: str | None, argv: list[str]) -> Any:
    about = command.about[0].upper() + command.about[1:]
    cls = _load(command, command.config)
    also = [
        "--config FILE.yaml (values below the flags)",
        "--dry-run (print the configuration and stop)",
    ]
    if command.folder:
        also.insert(0, "--out DIR (where the run goes; a second start resumes it)")
    if presets := getattr(cls, "PRESETS", None):
        also.append(f"{command.preset_flag} {'|'.join(presets)} (values below the file)")
    return merge(
        cls,
        file,
        argv,
        prog=f"rationalize {verb}",
        description=f"{about}. Also: {', '.join(also)}.",
        method=verb.split()[-1],
        preset_flag=command.preset_flag,
    )


def _load(command: Command, name: str) -> Any:
    return getattr(importlib.import_module(command.module), name)


def _destination(out: Path | None, config: Any) -> str:
    """What would happen to the run's folder; raises what a start would raise there."""
    if out is None:
        return ""
    if not (out / "config.yaml").exists():
        return f"; a new run in {out}"
    from rationalize.runs import check_resumable

    stored = load_yaml(out / "config.yaml")
    added = {key: stored[key] for key in ("method",) if key in stored}
    check_resumable(out, {**added, **to_dict(config)}, base_hash=stored.get("base_hash"))
    return f"; resume the run in {out}"
