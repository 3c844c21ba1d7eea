"""`completion`: scripts for bash, zsh and fish, from the same table as `--help`.

All flags stand in the script, so that no key press waits for python.
"""

from __future__ import annotations

import shlex
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rationalize.commands.table import (
    EVERYWHERE,
    FORMS,
    SHELLS,
    STUDY,
    VERBS,
    Command,
    command_of,
    demo_command,
    trained,
)
from rationalize.config.flags import explained_options
from rationalize.methods import DEMOS, METHODS


@dataclass(frozen=True)
class Flag:
    """A flag as a shell completes it."""

    about: str
    choices: tuple[str, ...] = ()
    """Values that it can have; none: files."""
    alone: bool = False
    """Whether it takes no value."""


PLAN = {
    "--on": Flag("a machine by its figures, such as h100"),
    "--right": Flag("share of replies that are right"),
    "--fresh": Flag("measure again", alone=True),
}  # fmt: skip
"""A plan's own flags."""


def script(shell: str) -> str:
    """The script for a shell of `SHELLS`."""
    flags = {
        **{verb: flags_of(command) for verb, command in VERBS.items()},
        **{f"train {name}": flags_of(command_of(name)) for name in trained()},
        **{f"study {name}": flags_of(command) for name, command in STUDY.items()},
    }
    flags["demo"] = {"--method": Flag("what teaches", tuple(DEMOS))}
    for name in DEMOS:
        flags["demo"] |= flags_of(demo_command(name))
    for name in trained():
        flags[f"config {name}"] = {"--explain": Flag("each field explained", alone=True)}
        flags[f"config {name}"] |= flags[f"train {name}"]
    flags["config demo"] = {"--explain": Flag("each field explained", alone=True), **flags["demo"]}
    flags["plan demo"] = {**PLAN, **flags["demo"]}
    for name in METHODS:
        flags[f"plan {name}"] = {**PLAN, **flags[f"train {name}"]}
    words = {"": tuple(FORMS), "train": tuple(trained()), "config": (*trained(), "demo"),
             "plan": (*METHODS, "demo"), "study": tuple(STUDY),
             "completion": tuple(SHELLS)}  # fmt: skip
    return _fish(words, flags) if shell == "fish" else _bash(words, flags, zsh=shell == "zsh")


def flags_of(command: Command) -> dict[str, Flag]:
    """A command's flags, those of every verb among them."""
    cls = command.config()
    found: dict[str, Flag] = {}
    for name, (hint, about) in explained_options(cls).items():
        found["--" + name.replace("_", "-")] = Flag(about, choices_of(hint), hint is bool)
    for name, about in EVERYWHERE.items():
        found[name] = Flag(about, alone=name != "--config")
    if command.writes:
        found["--overwrite"] = Flag("replace what lies at --out", alone=True)
    if command.folder:
        found["--out"] = Flag("folder of the run")
    if presets := getattr(cls, "PRESETS", None):
        found[command.preset_flag] = Flag("a named set of values", tuple(presets))
    return found


def choices_of(hint: Any) -> tuple[str, ...]:
    """The values of a `Literal`, also within an optional or a list.

    >>> choices_of(Literal["a", "b"] | None)
    ('a', 'b')
    """
    if typing.get_origin(hint) is Literal:
        return tuple(map(str, typing.get_args(hint)))
    return tuple(c for arm in typing.get_args(hint) for c in choices_of(arm))


def _bash(
    words: Mapping[str, tuple[str, ...]], flags: Mapping[str, Mapping[str, Flag]], *, zsh: bool
) -> str:
    """For bash, and for zsh by its `bashcompinit`."""
    lines = ["# completes the commands of rationalize; made by `rationalize completion`"]
    if zsh:
        lines += [
            "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }",
            "autoload -Uz bashcompinit && bashcompinit",
        ]
    lines += [
        "_rationalize() {",
        '    local at="" values="" flag="${COMP_WORDS[COMP_CWORD-1]}"',
        '    local word="${COMP_WORDS[COMP_CWORD]}"',
        "    COMPREPLY=()",
        '    if [ "$COMP_CWORD" -gt 1 ]; then at="${COMP_WORDS[1]}"; fi',
        f'    case "$at" in {"|".join(w for w in words if w)})',
        '        if [ "$COMP_CWORD" -gt 2 ]; then at="$at ${COMP_WORDS[2]}"; fi ;;',
        "    esac",
        '    case "$at:$flag" in',
    ]
    for at, of_command in flags.items():
        for name, flag in of_command.items():
            if flag.choices:
                lines.append(f'        "{at}:{name}") values="{" ".join(flag.choices)}" ;;')
    lines += [
        "    esac",
        '    if [ -n "$values" ]; then COMPREPLY=($(compgen -W "$values" -- "$word")); return; fi',
        '    case "$at" in',
    ]
    for at, of_words in words.items():
        lines.append(f'        "{at}") values="{" ".join(of_words)}" ;;')
    for at, of_command in flags.items():
        lines.append(f'        "{at}") values="{" ".join(of_command)}" ;;')
    lines += [
        "    esac",
        '    case "$at:$word" in',
        f"        {'|'.join(f'{shlex.quote(at)}:*' for at in words)}|*:-*)",
        '            COMPREPLY=($(compgen -W "$values" -- "$word")) ;;',
        "    esac",
        "}",
        "complete -o default -F _rationalize rationalize  # files where nothing else fits",
    ]
    return "\n".join(lines) + "\n"


def _fish(words: Mapping[str, tuple[str, ...]], flags: Mapping[str, Mapping[str, Flag]]) -> str:
    lines = [
        "# completes the commands of rationalize; made by `rationalize completion`",
        "function __rationalize_at  # whether the line begins with these words",
        "    set -l line (commandline -opc)[2..]",
        "    set -l n (count $argv)",
        '    test (count $line) -ge $n; and test "$line[1..$n]" = "$argv"',
        "end",
        "function __rationalize_next  # whether exactly these words come before this one",
        "    set -l line (commandline -opc)[2..]",
        '    test "$line" = "$argv"',
        "end",
    ]
    for at, of_words in words.items():
        lines.append(
            f"complete -c rationalize -f -n '__rationalize_next {at}' -a '{' '.join(of_words)}'"
        )
    for at, of_command in flags.items():
        for name, flag in of_command.items():
            about = flag.about.partition(". ")[0]
            lines.append(" ".join([
                f"complete -c rationalize -n '__rationalize_at {at}' -l {name.removeprefix('--')}",
                *([] if flag.alone else ["-r"]),
                *(["-f", "-a", f"'{' '.join(flag.choices)}'"] if flag.choices else []),
                "-d", _fish_quoted(about),
            ]))  # fmt: skip
    return "\n".join(lines) + "\n"


def _fish_quoted(text: str) -> str:
    text = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"
