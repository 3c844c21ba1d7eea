"""What users name as `module:object`: rewards and methods of their own."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from rationalize.errors import UsageError


def import_user_object(place: str, what: str) -> Any:
    """The object at `module:name`; modules of the working folder are found.

    Raises `UsageError`, with `what` it was looked up as, where there is no such module or name.
    """
    module_name, _, name = place.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name.split(".")[0] and error.name != module_name:
            raise  # the module is there, and something that it imports is not
        raise UsageError(
            f"no module {module_name!r} for the {what} {place!r}; expected module:function of an "
            f"installed module or of a file in {here}"
        ) from None
    if not hasattr(module, name):
        raise UsageError(f"module {module_name!r} has no {name!r} for the {what} {place!r}")
    return getattr(module, name)
