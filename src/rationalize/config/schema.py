"""Configurations: frozen dataclasses to dictionaries and back; errors name the key. No torch here.

A value comes from the dataclass's default, then from a YAML file, then from a flag.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from rationalize.config.checks import OutOfRange
from rationalize.errors import UsageError

T = TypeVar("T")


def nearest(word: str, candidates: Iterable[str], *, listed: bool = False) -> str:
    """`; did you mean 'seed'?`; all candidates when none is near, unless the message lists them."""
    names = sorted(candidates)
    found = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if not found:  # the last part of a dotted name may be right and the path wrong
        found = [n for n in names if n.rsplit(".", 1)[-1] == word.rsplit(".", 1)[-1]]
    if found:
        return f"; did you mean {found[0]!r}?"
    return "" if listed else f"; expected one of: {', '.join(names)}"


def nested(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """A configuration, named `path`, and all that are nested in it, by their dotted names."""
    yield path, config
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            yield from nested(value, f"{path}.{f.name}".lstrip("."))


def to_dict(config: Any) -> dict[str, Any]:
    """Plain dictionaries, lists and scalars; the inverse of `from_dict`."""
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config) if f.init}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def from_dict(
    cls: type[T],
    mapping: Mapping[str, Any],
    where: str = "configuration",
    *,
    base: T | None = None,
    missing: Any = dataclasses.MISSING,
) -> T:
    """Build a configuration; unknown keys and wrong types are `UsageError`s with the key's path.

    Keys that the mapping lacks come from `base`, else from the defaults. A required field that has
    neither becomes `missing`, or is an error when none is given.
    """
    return _build(cls, mapping, "", where, base, missing)


def _build(cls: Any, mapping: Any, path: str, where: str, base: Any, missing: Any) -> Any:
    if not isinstance(mapping, Mapping):
        raise _wrong(mapping, f"the keys of {cls.__name__}", path, where)
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    for key in mapping:
        if key not in fields:
            raise UsageError(f"{where}: unknown key {f'{path}{key}'!r}{nearest(str(key), fields)}")
    values: dict[str, Any] = {}
    for name, f in fields.items():
        below = getattr(base, name) if base is not None else _default(f)
        if name in mapping:
            values[name] = _convert(mapping[name], hints[name], path + name, where, below)
        elif below is not dataclasses.MISSING:
            values[name] = below
        elif missing is not dataclasses.MISSING:
            values[name] = missing
        else:
            expected = _words(hints[name])
            raise UsageError(f"{where}: key {path + name!r} is missing; expected {expected}")
    try:
        return cls(**values)
    except (ValueError, OutOfRange) as error:  # the dataclass's own check of its values
        raise UsageError(f"{where}: {path.rstrip('.') + ': ' if path else ''}{error}") from error


def _default(f: dataclasses.Field[Any]) -> Any:
    return f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default


def _convert(value: Any, hint: Any, path: str, where: str, below: Any = None) -> Any:
    """One value to its annotated type; nothing is guessed (`"3"` is no number, `true` no 1).

    `below` is the field's default: a nested configuration that is given in part keeps the rest of
    it.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _convert(value, args[0], path, where, below)
    if origin in (Union, types.UnionType):
        return _convert_union(value, hint, path, where, below)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        base = below if isinstance(below, hint) else None
        return _build(hint, value, path + ".", where, base, dataclasses.MISSING)
    wrong = _wrong(value, _words(hint), path, where)
    if hint in (Any, object):
        return value
    if origin is Literal:
        for allowed in args:
            if type(allowed) is type(value) and allowed == value:
                return value
        choices = [str(a) for a in args]
        near = nearest(value, choices, listed=True) if isinstance(value, str) else ""
        raise UsageError(f"{wrong}{near}")
    if hint in (None, type(None)):
        ok = value is None
    elif hint is float:
        ok = isinstance(value, int | float) and not isinstance(value, bool)
        try:
            value = float(value) if ok else value
        except OverflowError:  # a whole number of hundreds of digits
            raise wrong from None
    elif hint is int:
        if isinstance(value, float) and value.is_integer():  # 1e3
            value = int(value)
        ok = isinstance(value, int) and not isinstance(value, bool)
    elif hint is Path:
        ok = isinstance(value, str | Path)
        value = Path(value) if ok else value
    elif hint in (bool, str):
        ok = isinstance(value, hint)
    elif (origin or hint) in (tuple, list, Sequence, collections.abc.Sequence):
        return _convert_sequence(value, hint, path, where)
    elif (origin or hint) in (dict, Mapping, collections.abc.Mapping):
        if not isinstance(value, Mapping):
            raise wrong
        key_hint, value_hint = args or (Any, Any)
        return {
            _convert(k, key_hint, f"{path} (key)", where): _convert(
                v, value_hint, f"{path}.{k}", where
            )
            for k, v in value.items()
        }
    else:
        raise TypeError(f"{path}: a configuration cannot hold {hint}")
    if not ok:
        raise wrong
    return value


def _convert_union(value: Any, hint: Any, path: str, where: str, below: Any) -> Any:
    arms = typing.get_args(hint)
    if value is None and type(None) in arms:
        return None
    real = [arm for arm in arms if arm is not type(None)]
    if len(real) == 1:
        return _convert(value, real[0], path, where, below)
    for arm in sorted(real, key=lambda arm: arm is not type(value)):  # an exact type first
        try:
            return _convert(value, arm, path, where, below)
        except UsageError:
            continue
    raise _wrong(value, _words(hint), path, where)


def _convert_sequence(value: Any, hint: Any, path: str, where: str) -> Any:
    origin, args = typing.get_origin(hint) or hint, typing.get_args(hint)
    if not isinstance(value, list | tuple):
        raise _wrong(value, _words(hint), path, where)
    if origin is tuple and args and args[-1] is not Ellipsis:
        if len(value) != len(args):
            raise _wrong(value, _words(hint), path, where)
        hints = list(args)
    else:
        hints = [args[0] if args else Any] * len(value)
    made = [_convert(v, h, f"{path}[{i}]", where) for i, (v, h) in enumerate(zip(value, hints))]
    return made if origin is list else tuple(made)


def _wrong(value: Any, expected: str, path: str, where: str) -> UsageError:
    at = f"key {path.rstrip('.')!r}: " if path else ""
    return UsageError(f"{where}: {at}found {shown(value)}, expected {expected}")


def shown(value: Any) -> str:
    """A value in an error message: its kind and at most 80 characters."""
    names: dict[Any, str] = {str: "the text", list: "the list", tuple: "the list", dict: "the keys"}
    text = f"{names.get(type(value), '')} {value!r}".strip()
    return text if len(text) <= 80 else text[:77] + "..."


_NAMES: dict[Any, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}


def _words(hint: Any) -> str:
    """A type in words: `tuple[float, ...] | None` -> `a list, each a number, or null`."""
    if hint in _NAMES:
        return _NAMES[hint]
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _words(args[0])
    if origin in (Union, types.UnionType):
        arms = [_words(a) for a in args if a is not type(None)]
        return ", or ".join([*arms, "null"] if type(None) in args else arms)
    if origin is Literal:
        return "one of " + ", ".join(map(str, args))
    if dataclasses.is_dataclass(hint):
        return f"the keys of {getattr(hint, '__name__', hint)}"
    if (origin or hint) in (tuple, list, Sequence, collections.abc.Sequence):
        if origin is tuple and args and args[-1] is not Ellipsis:
            return f"a list of {len(args)}: " + ", ".join(_words(a) for a in args)
        return f"a list, each {_words(args[0])}" if args else "a list"
    if (origin or hint) in (dict, Mapping, collections.abc.Mapping):
        return f"keys with, each, {_words(args[1])}" if args else "keys and values"
    return str(hint)
