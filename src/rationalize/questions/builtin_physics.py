"""Qualitative physics: from what is seen to which of two things has more of a property."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from rationalize.questions.builtin_teacher import Puzzle

# fmt: off
NAMES = (
    "Adam", "Alice", "Amy", "Anna", "Ben", "Carl", "Clara", "David", "Emma", "Eric", "Fred",
    "Grace", "Henry", "Ivan", "Jack", "Jane", "John", "Julia", "Karen", "Kate", "Laura", "Leo",
    "Linda", "Lucy", "Maria", "Mark", "Martin", "Mary", "Max", "Nancy", "Nick", "Oscar", "Paul",
    "Peter", "Rachel", "Robert", "Rosa", "Sam", "Sara", "Simon", "Susan", "Tim", "Tom", "Victor",
)
# fmt: on


@dataclass(frozen=True)
class Effect:
    """A property that two things differ in, and what can be seen of it. `{f}` and `{s}`: named first and second."""

    high: str
    low: str
    things: tuple[str, ...]
    actors: tuple[str, ...]
    """Fill `{o}`."""
    high_facts: tuple[str, ...]
    """`{f}` is the high one."""
    low_facts: tuple[str, ...]
    """`{f}` is the low one."""
    high_step: str
    low_step: str
    asides: tuple[str, ...]


_SURFACES = (
    "wood",
    "stone",
    "brick",
    "rubber",
    "steel",
    "cloth",
    "cork",
    "felt",
    "clay",
    "leather",
)
_ROOMS = ("kitchen", "hall", "attic", "garage", "office", "shed", "porch", "studio", "barn", "tent")
_PLACES = (
    "park",
    "bank",
    "school",
    "market",
    "bridge",
    "church",
    "station",
    "hotel",
    "farm",
    "harbour",
)
_BOXES = ("box", "bag", "basket", "case", "chest", "barrel", "bucket", "parcel", "crate", "sack")

EFFECTS = (
    Effect(
        "smoother", "rougher", _SURFACES, ("The ball", "The toy car", "The puck", "The coin", "The cart"),
        ("{o} rolls farther on {f} than on {s}.", "{o} slides more easily on {f} than on {s}."),
        ("{o} rolls less far on {f} than on {s}.", "{o} slides less easily on {f} than on {s}."),
        "It goes farther on {f}", "It goes less far on {f}",
        ("Toys like this are fun.", "Both are used for floors.", "It may need new wheels."),
    ),
    Effect(
        "warmer", "colder", _ROOMS, ("The ice", "The butter", "The snow", "The candy", "The wax"),
        ("{o} melts faster in the {f} than in the {s}.", "{o} melts more quickly in the {f} than in the {s}."),
        ("{o} melts slower in the {f} than in the {s}.", "{o} melts less quickly in the {f} than in the {s}."),
        "It melts faster in the {f}", "It melts slower in the {f}",
        ("Houses have many rooms.", "The door is painted white.", "Somebody should clean up."),
    ),
    Effect(
        "heavier", "lighter", _BOXES, NAMES[:14],
        ("{o} finds the {f} harder to lift than the {s}.", "{o} gets more tired from the {f} than from the {s}."),
        ("{o} finds the {f} easier to lift than the {s}.", "{o} gets less tired from the {f} than from the {s}."),
        "The {f} is harder to lift", "The {f} is easier to lift",
        ("Moving house takes all day.", "The stairs are narrow.", "A van would help."),
    ),
    Effect(
        "nearer", "farther", _PLACES, NAMES[14:28],
        ("{o} hears the {f} bell louder than the {s} bell.", "To {o}, the {f} sounds louder than the {s}."),
        ("{o} hears the {f} bell fainter than the {s} bell.", "To {o}, the {f} sounds fainter than the {s}."),
        "The {f} sounds louder", "The {f} sounds fainter",
        ("Bells are made of metal.", "The town is old.", "Many people like music."),
    ),
    Effect(
        "faster", "slower", NAMES, ("to school", "to the lake", "up the hill", "home", "to work"),
        ("{f} gets {o} sooner than {s}.", "{f} needs less time to go {o} than {s}."),
        ("{f} gets {o} later than {s}.", "{f} needs more time to go {o} than {s}."),
        "{f} needs less time", "{f} needs more time",
        ("Walking is healthy.", "The road has trees.", "Good shoes matter."),
    ),
    Effect(
        "brighter", "darker", _ROOMS, ("The plant", "The rose", "The bean", "The herb", "The fern"),
        ("{o} grows better in the {f} than in the {s}.", "{o} gets more light in the {f} than in the {s}."),
        ("{o} grows worse in the {f} than in the {s}.", "{o} gets less light in the {f} than in the {s}."),
        "There is more light in the {f}", "There is less light in the {f}",
        ("Pots are made of clay.", "Somebody waters it daily.", "Green is a nice colour."),
    ),
)  # fmt: skip


def physics(rng: Random) -> Puzzle:
    """Something is seen to go better or worse with one of two things: which has more (or less) of the property?"""
    effect = rng.choice(EFFECTS)
    first, second = rng.sample(effect.things, 2)
    actor = rng.choice(effect.actors)
    high_first, ask_high = rng.random() < 0.5, rng.random() < 0.5
    fact = rng.choice(effect.high_facts if high_first else effect.low_facts).format(
        o=actor, f=first, s=second
    )
    asked = effect.high if ask_high else effect.low
    who = "Who" if first in NAMES else "Which"
    ask = rng.choice(
        (f"{who} is {asked}?", f"{who} is the {asked} one?", f"Then {who.lower()} is {asked}?")
    )
    words = (effect.high, effect.low) if high_first else (effect.low, effect.high)
    step = (effect.high_step if high_first else effect.low_step).format(f=first)
    answer, other = (first, second) if high_first == ask_high else (second, first)
    reasons, claims = {}, {}
    for choice in (answer, other):
        a, b = words if choice == answer else words[::-1]
        reasons[choice] = (
            f"{step}, so {a} is {first} and {b} is {second}. We want {asked}: {choice}.",
            f"{step}. That makes {a} the {first} and {b} the {second}. So {asked}: {choice}.",
        )
        claims[choice] = f"the {asked} one is {choice}"
    key = f"{effect.high}|{actor}|{'|'.join(sorted((first, second)))}"
    return Puzzle(key, f"{fact} {ask}", answer, (other,), reasons, claims, effect.asides)
