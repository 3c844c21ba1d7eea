"""Settings as earlier versions called them: read, renamed, and told once.

Earlier configurations held the run's settings in every part; their copies had no effect and are
dropped. A setting that no longer exists and was not at its default is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rationalize.errors import UsageError

RENAMED = {
    "kept": "rft",
    "statements": "train_verifier",
    "scorer": "train_answer_scorer",
    "rollouts": "prompts",
    "warm_up": "seed_rationales",
    "warm_up_epochs": "seed_epochs",
    "least_spread": "min_advantage_std",
    "direct_epochs": "direct.epochs",
    "sft_epochs": "sft.epochs",
    "sft_fit": "sft.fit",
}
"""Part of a setting's name, then and now."""

_RANKED: dict[str, str | None] = {
    "redraw.sampling": "redraw", "redraw.shots": None, "redraw.demos": None, "ppo.mode": None,
    "rm.attempts": None, "rm.select": None,
}  # fmt: skip
_MOVED: dict[str, dict[str, str | None]] = {
    "dpo": {
        "write.sampling": "sampling", "write.shots": None, "write.demos": None,
        "select.positives": None,
    },
    "reward-model": {"select.positives": None},
    "self-motivated": _RANKED,
    "self-motivated-demo": _RANKED | {
        "dpo.write.sampling": "dpo.sampling", "dpo.write.shots": None, "dpo.write.demos": None,
        "dpo.select.positives": None, "modes": None, "rounds": None, "sft.fit": "direct.fit",
        "sft.epochs": None, "sft.evaluations": None,
    },
}  # fmt: skip
"""Method -> the beginning of a setting's name, then and now; None: it had no effect there."""

_RUN = (
    "model", "questions", "columns", "train_limit", "dev_limit", "test_limit", "teacher_limit",
    "skip_bad_rows", "tuning", "init", "sft_epochs", "sft_fit", "answer_scorer", "verifier",
    "reward_model", "evaluation_sampling", "seed", "trust_remote_code",
)  # fmt: skip
"""The run's settings, of which every part had a copy."""

_LIMITS = {
    "train_limit": "train", "dev_limit": "dev", "test_limit": "test", "teacher_limit": "rationales",
}  # fmt: skip
"""The limits' settings of their own, then; their keys in `limits`, now."""

_EARLIER = (
    "sft", "direct", "filt-acc", "star", "rft", "dpo", "self-motivated", "mario", "coalition",
    "coalition-grid", "answer-scorer", "reward-model", "verifier", "demo", "coalition-demo",
    "self-motivated-demo",
)  # fmt: skip
"""What earlier versions could run: other methods' settings never had other names."""

_STARTS_FROM_SFT = ("mario", "filt-acc", "dpo")
_SCORES = ("mario", "filt-acc", "demo", "coalition", "coalition-grid", "coalition-demo")
_FIXED: dict[str, Any] = {"beta1": 0.9, "beta2": 0.99, "epsilon": 1e-8}
"""AdamW's, which are no settings any more."""

Path = tuple[str, ...]


def is_old(stored: Mapping[str, Any]) -> bool:
    """Whether a run's whole configuration was written by an earlier version."""
    return "evaluation_sampling" in stored


def upgrade(
    stored: Mapping[str, Any], method: str = "", *, reading: bool = False
) -> dict[str, Any]:
    """The settings under today's names. Raises `UsageError` for one that has no place any more;
    `reading`: leaves it out, since nothing will be done by it.
    """
    method = str(stored.get("method", method)).replace(" ", "-")
    if method and method not in _EARLIER:
        return dict(stored)
    found: dict[str, Any] = {}
    for path, value in _leaves(_without_copies(stored, method)):
        try:
            new = _moved(path, value, method)
        except UsageError:
            if not reading:
                raise
            continue
        if new is None:
            continue
        path, value = new
        place = found
        for key in path[:-1]:
            place = place.setdefault(key, {})
        known = place.setdefault(path[-1], value)
        if path == ("precision",) and known != value and not reading:
            raise UsageError(
                f"precision is {known} in one part and {value} in another; one precision holds for "
                "the whole run now: choose it, and leave the parts' out"
            )
    _merge_variant(found)
    _merge_draw(found)
    _merge_entries(found)
    return found


def new_name(dotted: str, method: str = "") -> str:
    """Today's name of a flag: `kept.warm_up` -> `rft.seed_rationales`."""
    if method and method not in _EARLIER:
        return dotted
    moved = _moved(tuple(dotted.split(".")), None, method)
    return ".".join(moved[0]) if moved else dotted


def _without_copies(stored: Mapping[str, Any], method: str) -> dict[str, Any]:
    """Less the parts' copies of the run's settings, and those that had no effect in a method."""
    if not is_old(stored):
        return dict(stored)
    unused = [] if method in _STARTS_FROM_SFT else ["init", "sft_epochs", "sft_fit"]
    if method in ("answer-scorer", "verifier", "reward-model"):
        unused.append("evaluation_sampling")
    if method not in _SCORES:
        unused += ["answer_scorer", "verifier", "reward_model"]
    elif method.startswith("coalition"):
        unused.append("verifier")
    kept = {k: _parts(v) for k, v in stored.items() if k not in unused}
    if method in ("demo", "coalition-demo"):  # their direct fine-tune learned as SFT did
        kept["direct"] = {"fit": kept["sft"]["fit"]}
    return kept


def _parts(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    copies = _RUN if is_old(value) else ()
    return {k: _parts(v) for k, v in value.items() if k not in copies}


def _leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, Mapping) and (value or not path):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, str(key)))
    else:
        yield path, value


def _moved(path: Path, value: Any, method: str) -> tuple[Path, Any] | None:
    """Where a setting is now, and its value there; None where it is gone and was at its default."""
    last, name = path[-1], ".".join(path)
    if last in _LIMITS and len(path) == 1:
        return (("limits", _LIMITS[last]), value) if value else None
    if path[0] == "evaluation_sampling":
        if last == "max_new_tokens":
            return ("evaluation_tokens",), value
        if value not in (None, {"temperature": 0, "n": 1, "beams": 1}.get(last, value)):
            raise UsageError(f"{name} is {value}: development and test replies are greedy now")
        return None
    if path == ("rollouts",) and type(value) is not int:  # the addresses, a setting of today
        return path, value
    if path == ("init",):
        return (("sft", "epochs"), 0.0) if value == "model" else None
    if "bins_of" in path:
        if value not in (None, {}):
            raise UsageError(f"{name} is {value}: `bins` holds for every continuous reward now")
        return None
    if last == "hints" and (path[0] == "redraw" or "dpo" in (method, path[0])):
        if value not in (None, "off"):
            raise UsageError(f"{name} is {value}: these attempts are written without hints now")
        return None
    for old, new in _MOVED.get(method, {}).items():
        if f"{name}.".startswith(f"{old}."):
            if new is None:
                return None
            path = (*new.split("."), *path[old.count(".") + 1 :])
    if len(path) > 1 and path[-2].endswith("fit"):
        if last in ("precision", "checkpoint_every"):
            return (last,), value
        if last in _FIXED:
            if value not in (None, _FIXED[last]):
                raise UsageError(f"{name} is {value}: AdamW's {last} is {_FIXED[last]}, fixed")
            return None
        if last == "control_factor" and path != ("mario", "fit", last):
            return (path, value) if path == ("fit", last) and method in ("mario", "") else None
        if last == "head_rate" and not ({"rm", "ppo"} & set(path) or method == "reward-model"):
            return None
    if "instruction" in path:  # its `warm_up` is another one
        return path, value
    renamed = [part for key in path for part in RENAMED.get(key, key).split(".")]
    return tuple(renamed), value


def _merge_entries(settings: dict[str, Any]) -> None:
    """MaRio's interval and groups became the step at which each reward enters."""
    for part in (settings, settings.get("mario")):
        if not isinstance(part, dict) or not {"interval", "groups"} & set(part):
            continue
        interval, groups = part.pop("interval", 0), list(part.pop("groups", None) or ())
        rewards = part.get("rewards", ("consistency", "correctness", "plausibility", "diversity"))
        if not interval and not groups:
            continue
        groups = groups or [1] * len(rewards)
        if part.get("variant") == "additive-left":  # taken from the end of the list, as released
            groups = groups[::-1]
        interval = interval or -(-part.get("steps", 600) // len(groups))
        part["entries"] = [i * interval for i, size in enumerate(groups) for _ in range(size)]


def _merge_draw(settings: dict[str, Any]) -> None:
    """MaRio's two ways of drawing are limits of one; its two measures of tokens share questions."""
    for part in (settings, settings.get("mario")):
        if not isinstance(part, dict):
            continue
        if "draw" in part:
            part["over_draw"] = {"uniform": 1.0, "balanced": 0.0}[part.pop("draw")]
        if {"obedience", "obedience_questions"} & set(part):
            asked = part.pop("obedience_questions", 0) or 1_000
            part["token_questions"] = 0 if part.pop("obedience", "ends") == "none" else asked


def _merge_variant(settings: dict[str, Any]) -> None:
    """MaRio's `side` and `product` became variants of their own."""
    for part in (settings, settings.get("mario")):
        if not isinstance(part, dict) or not {"side", "product"} & set(part):
            continue
        side, product = part.pop("side", "right"), part.pop("product", "normalised")
        variant = part.get("variant", "classic")
        if variant == "additive" and side == "left":
            part["variant"] = "additive-left"
        elif variant == "product" and product == "raw":
            part["variant"] = "product-raw"
