"""What users name as `module:object`: rewards and methods of their own."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from rationalize.errors import UsageError, UserError
from rationalize.text import clip


def import_user_object(place: str, what: str) -> Any:
    """The object at `module:name`; modules of the working folder are found.

    Raises `UsageError`, with `what` it was looked up as, where there is no such module or name, and
    `UserError` from whatever the module raises when it is imported.
    """
    module_name, _, name = place.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if module_name and missing not in (module_name, module_name.split(".")[0]):
            # the module is there, and it, or something that it imports, is at fault
            raise UserError(
                f"module {module_name!r} for the {what} {place!r} cannot be imported: "
                f"{type(error).__name__}: {clip(str(error), 200)}; mend it or what it needs"
            ) from error
        raise UsageError(
            f"no module {module_name!r} for the {what} {place!r}; expected module:function of an "
            f"installed module or of a file in {here}"
        ) from None
    if not hasattr(module, name):
        raise UsageError(f"module {module_name!r} has no {name!r} for the {what} {place!r}")
    return getattr(module, name)
