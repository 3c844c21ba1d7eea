"""Configurations on the command line: flags over a file over defaults, and each field explained.

The docstring under a field is its only help text, for `--help` and for `config --explain` alike.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import logging
import textwrap
import typing
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from rationalize.config import dump_yaml, from_dict, load_yaml, nearest, to_dict
from rationalize.config.aliases import suggestion
from rationalize.config.checks import OutOfRange
from rationalize.config.old import new_name, upgrade
from rationalize.config.yaml import read_scalar
from rationalize.errors import UsageError

T = TypeVar("T")
log = logging.getLogger(__name__)


def merge(
    cls: type[T],
    file: str | Path | None,
    argv: Sequence[str],
    *,
    prog: str = "rationalize",
    description: str = "",
    method: str = "",
    preset_flag: str = "--preset",
) -> T:
    """The configuration that defaults, then a preset, then the file, then the flags give."""
    import tyro

    found = _load(cls, file, method) if file else {}
    base, argv = None, list(argv)
    if presets := getattr(cls, "PRESETS", None):
        asked, argv = take(argv, preset_flag)
        in_file = found.pop(preset_flag.removeprefix("--"), None)
        preset = in_file if asked is None else asked
        if preset is not None:
            base = _preset(cls, presets, preset, preset_flag)
    default = from_dict(cls, found, str(file), base=base, missing=tyro.MISSING)
    argv = _into_mappings(argv, default, found)
    default = from_dict(cls, found, str(file), base=base, missing=tyro.MISSING)
    options = _options(default)
    argv = _spread([_todays(token, options, method) for token in argv], options)
    for token in argv:
        name = token.removeprefix("--").partition("=")[0].replace("-", "_")
        if (
            token.startswith("--")
            and name not in {*options, "help"}
            and not _negates(name, options)
        ):
            known = [*options, "config", "out", "overwrite"]
            raise UsageError(f"unknown flag {token}{suggestion(name, filter(None, known))}")
    # A wrong value, the dataclass's own checks included, ends in a message and exit status 2.
    try:
        return tyro.cli(
            cls, prog=prog, description=description, args=argv, default=default,
            config=(tyro.conf.AvoidSubcommands, tyro.conf.HelptextFromCommentsOff),
        )  # fmt: skip
    except OutOfRange as error:
        raise UsageError(f"{_flag_of(str(error), argv)}{error}") from error


def _into_mappings(argv: Sequence[str], default: Any, found: dict[str, Any]) -> list[str]:
    """The arguments without `--limits train=5 dev=2` where a file or preset gives limits already;
    these go to `found`, beside the file's.
    """
    rest: list[str] = []
    items: dict[str, Any] | None = None
    for token in argv:
        name, equals, value = token.partition("=")
        if token.startswith("--"):
            items = _mapping_at(name.removeprefix("--").replace("-", "_"), default, found)
            if items is not None and equals:  # --columns=id=key
                token = value
            elif items is not None:
                continue
        if items is None:
            rest.append(token)
            continue
        key, _, value = token.partition("=")
        numbers = all(isinstance(v, (int, float)) for v in items.values())
        items[key] = read_scalar(value) if numbers else value
    return rest


def _mapping_at(dotted: str, default: Any, found: dict[str, Any]) -> dict[str, Any] | None:
    """The entry of `found` for a mapping that is not empty, made there if need be; else None."""
    *path, last = dotted.split(".")
    for name in (*path, last):
        default = getattr(default, name, None)
    if not isinstance(default, Mapping) or not default:
        return None
    for name in path:
        found = found.setdefault(name, {})
    return found.setdefault(last, dict(default))


def _flag_of(message: str, argv: Sequence[str]) -> str:
    """Which flag gave the setting that a message begins with, where several parts have one."""
    setting = message.partition(" ")[0].partition(".")[0].replace("_", "-")
    flags = (token.partition("=")[0] for token in argv if token.startswith("--"))
    nested = [f for f in flags if f.replace("_", "-").rpartition(".")[2] == setting and "." in f]
    return f"{nested[0]}: " if len(nested) == 1 else ""


def _todays(token: str, options: Mapping[str, Any], method: str) -> str:
    """A flag under today's name; an earlier one warns."""
    name, equals, value = token.partition("=")
    old = name.removeprefix("--").replace("-", "_")
    if not token.startswith("--") or old in options:
        return token
    new = new_name(old, method)
    if new == old or new not in options:
        return token
    flag = "--" + new.replace("_", "-")
    log.warning("%s is called %s now", name, flag)
    return f"{flag}{equals}{value}"


def _load(cls: type, file: str | Path, method: str) -> dict[str, Any]:
    """A file's keys, less what a run's config.yaml adds to its configuration."""
    found = load_yaml(file)
    added = {"method", "base_hash", "processes"} - {f.name for f in dataclasses.fields(cls)}
    other = str(found.get("method", method)).replace(" ", "-")
    if "method" in added and method and other != method:
        raise UsageError(f"{file}: found a configuration of {other!r}, expected one of {method!r}")
    upgraded = upgrade(found, method)
    if gone := sorted(set(_paths(found)) - set(_paths(upgraded))):
        told = ", ".join(gone[:6]) + (f" and {len(gone) - 6} more" if len(gone) > 6 else "")
        log.warning(
            "%s: settings of an earlier version (%s) are read under today's names", file, told
        )
    return {key: value for key, value in upgraded.items() if key not in added}


def _paths(mapping: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Dotted names of a file's settings."""
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            yield from _paths(value, f"{path}{key}.")
        else:
            yield f"{path}{key}"


def _preset(cls: type[T], presets: Mapping[str, Any], name: Any, flag: str) -> T:
    import tyro

    if name not in presets:
        raise UsageError(f"unknown {flag} {name!r}{nearest(str(name), presets)}")
    return from_dict(cls, presets[name], f"{flag} {name}", missing=tyro.MISSING)


def _negates(name: str, options: Mapping[str, Any]) -> bool:
    """`no_resume`, `fit.no_shuffle`: the negative of a boolean flag."""
    head, _, last = name.rpartition(".")
    positive = f"{head}.{last}".lstrip(".").replace("no_", "", 1)
    return last.startswith("no_") and options.get(positive) is bool


def _options(config: Any, path: str = "") -> dict[str, Any]:
    """Dotted flag name to type, for every field below a configuration."""
    hints = typing.get_type_hints(type(config), include_extras=True)
    found: dict[str, Any] = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            found |= _options(value, f"{path}{f.name}.")
        elif isinstance(value, Mapping) and value:
            found |= {f"{path}{f.name}.{key}".replace("-", "_"): Any for key in value}
        elif typing.get_origin(hints[f.name]) is typing.Annotated:
            continue  # positional
        elif not any(map(dataclasses.is_dataclass, typing.get_args(hints[f.name]))):
            found[path + f.name] = hints[f.name]  # an absent nested configuration is set in a file
    return found


def explained_options(cls: type) -> dict[str, tuple[Any, str]]:
    """Dotted flag name to type and help text, for every flag of a configuration."""
    required = dict.fromkeys(
        f.name
        for f in dataclasses.fields(cls)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    )
    config = cls(**dict.fromkeys(required, "x"))
    about = _comments(config)
    return {name: (hint, about.get(name, "")) for name, hint in _options(config).items()}


def _spread(argv: Sequence[str], options: Mapping[str, Any]) -> list[str]:
    """`--rewards a,b` to `--rewards a b`, and `--columns id=key` to `--columns id key`."""
    spread: list[str] = []
    flag = ""
    for token in argv:
        if token.startswith("--"):
            flag = token.removeprefix("--").partition("=")[0].replace("-", "_")
            listed = _is_mapping(options.get(flag)) or flag.rpartition(".")[2] in _COMMA_LISTS
            if "=" in token and listed:
                name, _, token = token.partition("=")
                spread.append(name)
            else:
                spread.append(token)
                continue
        if flag.rpartition(".")[2] in _COMMA_LISTS:
            spread += [part for part in token.split(",") if part]
        elif _is_mapping(options.get(flag)):
            spread += token.split("=", 1)
        else:
            spread.append(token)
    return spread


_COMMA_LISTS = ("rewards",)
"""Lists of names, which hold no comma: they may be given as `a,b`."""


def _is_mapping(hint: Any) -> bool:
    arms = typing.get_args(hint) if typing.get_origin(hint) is not dict else ()
    return any(
        isinstance(h, type) and issubclass(h, Mapping)
        for h in (typing.get_origin(arm) or arm for arm in (hint, *arms))
    )


def explain(config: Any, *, comments: bool = True) -> str:
    """YAML of a whole configuration, valid as a file, each field with its docstring above it."""
    return dump_yaml(to_dict(config), _comments(config) if comments else {})


def _comments(config: Any, path: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    cls: type = type(config)
    for name, text in field_docs(cls).items():
        found[path + name] = text
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            found |= _comments(value, f"{path}{f.name}.")
    return found


@cache
def field_docs(cls: type) -> dict[str, str]:
    """The docstring under each field, read from the source, base classes first."""
    docs: dict[str, str] = {}
    for owner in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(owner) or "PARTS" in vars(owner):
            continue
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        statements = body.body if isinstance(body, ast.ClassDef) else []
        for field, below in pairwise(statements):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
                and isinstance(below.value.value, str)
            ):
                docs[field.target.id] = " ".join(below.value.value.split())
    return docs


def take(argv: Sequence[str], flag: str) -> tuple[str | None, list[str]]:
    """Remove `--flag value` (or `--flag=value`) from the arguments and return its value."""
    rest = list(argv)
    for i, token in enumerate(rest):
        if token == flag:
            if i + 1 == len(rest) or rest[i + 1].startswith("--"):
                raise UsageError(f"{flag} needs a value")
            return rest[i + 1], rest[:i] + rest[i + 2 :]
        if token.startswith(flag + "="):
            return token.partition("=")[2], rest[:i] + rest[i + 1 :]
    return None, rest
