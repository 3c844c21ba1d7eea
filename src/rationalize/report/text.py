"""Text written by models, made safe for the page: every character shows, none breaks the page or
runs.
"""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from rationalize.text import visible

# `</script>` would end the element, U+2028 and U+2029 end a line of older JavaScript
_SCRIPT_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}

HOME = Path(__file__).parent
"""Folder of templates, style and script."""


@cache
def template(name: str, home: Path = HOME) -> Template:
    """A page's template; every text put into it is made visible and escaped."""
    environment = Environment(
        loader=FileSystemLoader(home), autoescape=True, undefined=StrictUndefined,
        finalize=finalize, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template(name)


def script(*names: str) -> Markup:
    """Script files of this folder as one."""
    return Markup("\n".join((HOME / name).read_text(encoding="utf-8") for name in names))


def hash_of(code: str) -> str:
    """By which a page's policy allows a script or style: SHA-256 in base 64."""
    return base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()


def style() -> Markup:
    """The style sheet of every page."""
    return Markup((HOME / "page.css").read_text(encoding="utf-8"))


def finalize(value: Any) -> Any:
    """Jinja's hook: every text that enters the page is made visible, before it is escaped."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def json_for_script(value: Any) -> Markup:
    """JSON that is safe in a script element: without `<`, `>`, `&` and line separators."""
    text = json.dumps(
        _visible_all(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False
    )
    return Markup(text.translate(_SCRIPT_ESCAPES))


def _visible_all(value: Any) -> Any:
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        return {visible(k): _visible_all(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_visible_all(v) for v in value]
    return value
