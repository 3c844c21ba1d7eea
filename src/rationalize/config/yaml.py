"""The one dialect of YAML: `1e-4` is a number, `no` is a word, a duplicate key is an error."""

from __future__ import annotations

import collections.abc
import math
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from rationalize.config.schema import shown
from rationalize.errors import UsageError


class _Loader(yaml.SafeLoader):
    """Reads what people write."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, collections.abc.Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"duplicate key {key!r}", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """The inverse of `_Loader`: quotes exactly the words that it would read as something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _one_line(dumper: Any, text: str) -> Any:
    breaks = any(c in text for c in "\n\x85\u2028\u2029")
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if breaks else None)


_Dumper.add_representer(str, _one_line)

_FLOAT = re.compile(
    r"^[-+]?(?:\d[\d_]*\.[\d_]*(?:[eE][-+]?\d+)?|\.\d[\d_]*(?:[eE][-+]?\d+)?"
    r"|\d[\d_]*[eE][-+]?\d+|\.(?:inf|Inf|INF))$|^\.(?:nan|NaN|NAN)$"
)
_BOOL = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")

for _yaml in (_Loader, _Dumper):
    _yaml.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in rules if not tag.endswith((":bool", ":float"))]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    _yaml.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
    _yaml.add_implicit_resolver("tag:yaml.org,2002:bool", _BOOL, list("tTfF"))


def load_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file; anything else is a `UsageError` that names file and line."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"{path}: there is no such file; name a YAML file") from None
    except IsADirectoryError:
        raise UsageError(
            f"{path}: is a folder; name a YAML file (a run's is config.yaml)"
        ) from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    try:
        # _Loader is a SafeLoader.
        found = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise UsageError(f"{path}{line}: not YAML: {getattr(error, 'problem', error)}") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise UsageError(f"{path}: found {shown(found)}, expected keys and values")
    return found


def read_scalar(text: str) -> Any:
    """One value as a file would give it; text that is no YAML as it is."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError:
        return text


def dump_yaml(mapping: Mapping[str, Any], comments: Mapping[str, str] | None = None) -> str:
    """YAML that `load_yaml` reads back as it was; `comments` by dotted key, put above it."""
    return "".join(f"{line}\n" for line in _lines(mapping, "", comments or {}))


def _lines(mapping: Mapping[Any, Any], path: str, comments: Mapping[str, str]) -> Iterator[str]:
    indent = "  " * path.count(".")
    for key, value in mapping.items():
        for line in textwrap.wrap(comments.get(f"{path}{key}", ""), 98 - len(indent)):
            yield f"{indent}# {line}"
        if isinstance(value, Mapping) and value:
            yield f"{indent}{_scalar(key)}:"
            # A dot inside a key must not look like a level.
            yield from _lines(value, f"{path}{str(key).replace('.', '_')}.", comments)
        else:
            yield f"{indent}{_scalar(key)}: {_scalar(value)}"


def _scalar(value: Any) -> str:
    text = yaml.dump(
        value, Dumper=_Dumper, default_flow_style=True, allow_unicode=True, width=math.inf
    )
    return text.removesuffix("\n").removesuffix("\n...")
