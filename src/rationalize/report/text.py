"""Text written by models, made safe to show: nothing vanishes, nothing breaks the page, nothing
runs.
"""

from __future__ import annotations

import json
from typing import Any

from markupsafe import Markup

_CONTROLS = {c: chr(0x2400 + c) for c in range(0x20) if chr(c) not in "\n\t"}
_CONTROLS[0x7F] = "␡"
_CONTROLS |= dict.fromkeys([*range(0x80, 0xA0), *range(0xD800, 0xE000), 0xFFFE, 0xFFFF], "\ufffd")
_CONTROLS |= dict.fromkeys([0x202D, 0x202E], "\ufffd")
"""Control characters become their pictures. Lone surrogates, non-characters and overrides of the
reading direction (which show letters in an order that they don't have) become the replacement mark.
"""

_SCRIPT_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def visible(text: str) -> str:
    r"""Text whose every character shows: `visible("a\x07b") == "a␇b"`."""
    return text.replace("\r\n", "\n").translate(_CONTROLS)


def finalize(value: Any) -> Any:
    """Jinja's hook: every text that enters the page is made visible, then escaped."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def json_for_script(value: Any) -> Markup:
    """JSON that can stand in a script element: no `<`, `>`, `&` and no line separators."""
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
