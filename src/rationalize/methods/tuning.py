"""Which weights of a run learn, decided once and stored, and the learning rates that go with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from rationalize.config import from_dict
from rationalize.models.policy import Policy
from rationalize.models.tuning import decide_for
from rationalize.progress import say
from rationalize.runs import Run

FILE = "tuning.json"


def settle(run: Run, base: Policy, settings: Any, *others: Any) -> list[Any]:
    """The settings with `tuning` decided, where it is `auto`: by size and memory at the run's first
    start, and as `tuning.json` says later. Says what was decided, and why.

    Where that is LoRA, its learning rates (a configuration's `LORA`) take the place of those that
    are at their defaults, in the settings and in `others`.
    """
    parts = [settings, *others]
    if settings.tuning == "full":
        return parts
    changes = [lora_rates(part) for part in parts]
    rates = {name: pair for part in changes for name, pair in part.items()}
    if settings.tuning in ("lora", "qlora"):
        if rates:
            low = ", ".join(f"{name} {old:g}" for name, (old, _) in rates.items())
            say(f"LoRA learns here at the rates of full tuning ({low}), which are low for it: "
                "--preset lora or --tuning auto has higher ones")  # fmt: skip
        return parts
    stored = run.read_json(FILE)
    if stored is None:
        tuning, why = decide_for(base.model)
        stored = {"tuning": tuning, "why": why, "rates": rates if tuning == "lora" else {}}
        run.write_json(FILE, stored)
    say(f"tuning: {in_words(stored, settings.lora_rank)}")
    settings = replace(settings, tuning=stored["tuning"])
    if stored["tuning"] == "full":
        return [settings, *others]
    return [
        from_dict(type(part), _nested(of_part), "LoRA's rates", base=part)
        for part, of_part in zip([settings, *others], changes, strict=True)
    ]


def in_words(stored: Mapping[str, Any], rank: int) -> str:
    """What `tuning.json` holds, in a line."""
    if stored["tuning"] == "full":
        return f"full ({stored['why']})"
    rates = [f"{name} {new:g} for {old:g}" for name, (old, new) in stored["rates"].items()]
    learned = f", at its learning rates: {', '.join(rates)}" if rates else ""
    return f"LoRA of rank {rank} ({stored['why']}){learned}"


def lora_rates(config: Any) -> dict[str, tuple[float, float]]:
    """LoRA's values of settings at their defaults, by dotted name: the default, and LoRA's.

    They are the `LORA` of the configuration's class, or of the classes that it is composed of. What
    learns for no pass (`sft.epochs` 0) needs none.
    """
    classes = getattr(config, "PARTS", (type(config),))
    named = [pair for cls in classes for pair in _flat(getattr(cls, "LORA", {}))]
    default = type(config)() if named else config
    return {
        name: (_at(default, name), value)
        for name, value in named
        if _at(config, name) == _at(default, name) != value and _learns(config, name)
    }


def _learns(config: Any, name: str) -> bool:
    """Whether the part that a setting is of makes any passes."""
    above = name.split(".")[:-1]
    return all(
        getattr(_at(config, ".".join(above[:i])), "epochs", 1) for i in range(1, len(above) + 1)
    )


def _at(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config


def _flat(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _nested(rates: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, (_, value) in rates.items():
        *path, last = name.split(".")
        inner = values
        for key in path:
            inner = inner.setdefault(key, {})
        inner[last] = value
    return values
