"""The kinds of everyday reasoning behind the built-in questions: each draws a `Puzzle`.

A puzzle crosses two things drawn apart (an XOR: which entity is which, and which of them is asked for) or
binds entities at random (which lever starts what). Polarity, order of mention and entities are drawn apart too, so
that no single word, position or choice tells the answer, yet a few steps that restate the facts do.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from rationalize.questions.builtin_physics import NAMES, physics
from rationalize.questions.builtin_teacher import Puzzle, sentence

# Ordering

_SCALES = (
    ("taller", "shorter", "tallest", "shortest"),
    ("older", "younger", "oldest", "youngest"),
    ("faster", "slower", "fastest", "slowest"),
    ("stronger", "weaker", "strongest", "weakest"),
    ("richer", "poorer", "richest", "poorest"),
    ("louder", "quieter", "loudest", "quietest"),
)
_ORDER_ASIDES = (
    "They are good friends.",
    "They meet every week.",
    "People are all different.",
    "It is a nice group.",
)


def ordering(rng: Random) -> Puzzle:
    """Three people in a row by two comparisons; both ends are offered."""
    scale = rng.choice(_SCALES)
    people = rng.sample(NAMES, 3)
    up, ask_up = rng.random() < 0.5, rng.random() < 0.5
    word = scale[0] if up else scale[1]
    ends = scale[2:] if up else scale[:1:-1]
    asked = scale[2] if ask_up else scale[3]
    a, b, c = people
    forms = (
        f"{a} is {word} than {b}. {b} is {word} than {c}.",
        f"{a} is {word} than {b}, who is {word} than {c}.",
        f"{b} is {word} than {c}. {a} is {word} than {b}.",
    )
    question = (
        f"{rng.choice(forms)} {rng.choice((f'Who is the {asked}?', f'Which of them is {asked}?'))}"
    )
    answer, other = (a, c) if up == ask_up else (c, a)
    reasons, claims = {}, {}
    for choice in (answer, other):
        x, y = ends if choice == answer else ends[::-1]
        reasons[choice] = (
            f"The order is {a}, {b}, {c}, so {x} is {a} and {y} is {c}. We want {choice}.",
            f"In a row: {a}, {b}, {c}. That makes {x} {a} and {y} {c}. So {asked}: {choice}.",
        )
        claims[choice] = f"the {asked} one is {choice}"
    key = f"{scale[0]}|{'|'.join(sorted(people))}"
    return Puzzle(key, question, answer, (other,), reasons, claims, _ORDER_ASIDES)


# Counting and dates

# fmt: off
_GOODS = (
    "pens", "books", "coins", "shells", "cards", "stamps", "apples", "keys", "toys", "hats",
    "plums", "eggs",
)
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_EVENTS = (
    "party", "test", "trip", "game", "lesson", "concert", "meeting", "fair", "race", "show",
    "sale", "visit",
)
# fmt: on


def _giving(rng: Random) -> Puzzle:
    """One gives the other some: how many does one of them have now?"""
    (a, b), goods = rng.sample(NAMES, 2), rng.choice(_GOODS)
    moved = rng.randint(1, 3)
    had = {name: rng.randint(moved + 1, 6) for name in (a, b)}
    giver, taker = rng.sample((a, b), 2)
    asked = rng.choice((a, b))
    move = rng.choice((f"{giver} gives {taker} {moved}.", f"{giver} hands {moved} to {taker}."))
    question = f"{a} has {had[a]} {goods}, {b} has {had[b]}. {move} How many does {asked} have now?"
    less, more = had[asked] - moved, had[asked] + moved
    reasons, claims = {}, {}
    for count, sign in ((less, "-"), (more, "+")):
        loser, winner = (giver, taker) if (asked == giver) == (sign == "-") else (taker, giver)
        total = f"{had[asked]} {sign} {moved} = {count}"
        reasons[str(count)] = (
            f"{loser} loses {moved} and {winner} gains {moved}. So {asked} has {total}.",
            f"{loser} has {moved} fewer, {winner} {moved} more. For {asked}: {total}.",
        )
        claims[str(count)] = f"the number is {count}"
    answer, other = (str(less), str(more)) if asked == giver else (str(more), str(less))
    key = f"giving|{goods}|{'|'.join(sorted((a, b)))}"
    asides = (f"Many people like {goods}.", "Sharing is kind.", f"{a} and {b} are friends.")
    return Puzzle(key, question, answer, (other,), reasons, claims, asides)


def _days(rng: Random) -> Puzzle:
    """A day or two before or after a weekday."""
    today, steps, sign = rng.randrange(7), rng.randint(1, 2), rng.choice((1, -1))
    name, event = rng.choice(NAMES), rng.choice(_EVENTS)
    after = "after" if sign > 0 else "before"
    span = "one day" if steps == 1 else "two days"
    question = rng.choice(
        (
            f"{name}'s {event} is {span} {after} {_DAYS[today]}. Which day is it?",
            f"The {event} comes {span} {after} {_DAYS[today]}. When does {name} go?",
            f"{name} goes to the {event} {span} {after} {_DAYS[today]}. What day is that?",
        )
    )

    def walk(direction: int, count: int) -> list[str]:
        return [_DAYS[(today + direction * n) % 7] for n in range(1, count + 1)]

    paths = {
        p[-1]: p
        for p in (walk(sign, steps), walk(-sign, steps), walk(rng.choice((1, -1)), 3 - steps))
    }
    answer, *others = paths
    reasons, claims = {}, {}
    for choice, path in paths.items():
        row = ", ".join(path)
        reasons[choice] = (
            sentence(f"{span} {after} {_DAYS[today]}: {row}. So it is {choice}"),
            f"Count {span} {after} {_DAYS[today]}: {row}. We get {choice}.",
        )
        claims[choice] = f"the day is {choice}"
    key = f"days|{event}|{name}|{_DAYS[today]}"
    asides = ("A week has seven days.", f"Everybody likes a {event}.", f"{name} is often late.")
    return Puzzle(key, question, answer, tuple(others), reasons, claims, asides)


def counting(rng: Random) -> Puzzle:
    """Small sums and days of the week."""
    return rng.choice((_giving, _days))(rng)


# Causal links

_COLOURS = ("red", "blue", "green", "white", "black", "yellow", "brown", "pink")
_CONTROLS = ("button", "switch", "key", "lever", "handle")
_DEVICES = ("fan", "radio", "lamp", "bell", "heater", "pump", "clock", "oven", "alarm", "mixer")
_LEVELS = (
    ("water", "grass", "greener", "drier"),
    ("salt", "soup", "better", "worse"),
    ("oil", "engine", "louder", "quieter"),
    ("sugar", "dough", "softer", "harder"),
    ("light", "fish", "faster", "slower"),
    ("noise", "baby", "calmer", "angrier"),
    ("sand", "wheel", "faster", "slower"),
    ("food", "bird", "louder", "quieter"),
)
_CAUSE_ASIDES = (
    "Machines can break.",
    "It is a quiet day.",
    "Somebody wrote a note.",
    "The house is old.",
)


def _controls(rng: Random) -> Puzzle:
    """Three controls start three things: which control was used, or what starts?"""
    control, name = rng.choice(_CONTROLS), rng.choice(NAMES)
    colours, devices = rng.sample(_COLOURS, 3), rng.sample(_DEVICES, 3)
    backward, at = rng.random() < 0.5, rng.randrange(3)
    (a, b, c), (x, y, z) = colours, devices
    if backward:
        told, asked, link = devices, colours, "needs"
        rule = f"The {x} needs {a}, the {y} needs {b}"
        rule += rng.choice((f", the {z} needs {c}.", f" and the {z} needs {c}."))
        question = f"{rule} {name} starts the {told[at]}. Which {control} is it?"
    else:
        told, asked, link = colours, devices, "starts the"
        rule = f"The {a} {control} starts the {x}, {b} starts the {y}"
        rule += rng.choice((f", {c} starts the {z}.", f" and {c} starts the {z}."))
        question = f"{rule} {name} uses {told[at]}. What starts?"
    reasons, claims = {}, {}
    for choice in asked:
        used = f"the {told[at]}" if backward else told[at]
        reasons[choice] = (
            sentence(f"{used} {link} {choice}, so we want {choice}"),
            f"{name} {'starts' if backward else 'uses'} {used}, and {used} {link} {choice}.",
        )
        claims[choice] = f"it must be {choice}"
    key = f"controls|{control}|{'|'.join(sorted(colours))}|{'|'.join(sorted(devices))}"
    others = tuple(asked[n] for n in range(3) if n != at)
    return Puzzle(key, question, asked[at], others, reasons, claims, _CAUSE_ASIDES)


def _levels(rng: Random) -> Puzzle:
    """A rule says which way an effect goes when there is more, and when there is less, of its cause."""
    cause, thing, up, down = rng.choice(_LEVELS)
    name = rng.choice(NAMES)
    more_first, up_first, use_first = (rng.random() < 0.5 for _ in range(3))
    amounts = ("more", "less") if more_first else ("less", "more")
    effects = (up, down) if up_first else (down, up)
    (a, b), (x, y) = amounts, effects
    rule = rng.choice(
        (
            f"{a.title()} {cause} makes the {thing} {x}, {b} {cause} makes it {y}.",
            f"With {a} {cause} the {thing} gets {x}, with {b} {cause} it gets {y}.",
        )
    )
    at = 0 if use_first else 1
    now = amounts[at]
    question = f"{rule} {name} uses {now} {cause}. How is the {thing}?"
    reasons, claims = {}, {}
    for choice in effects:
        reasons[choice] = (
            f"{now.title()} {cause} makes it {choice}, so we want {choice}.",
            f"{name} uses {now} {cause}, and {now} {cause} makes it {choice}.",
        )
        claims[choice] = f"it must be {choice}"
    key = f"levels|{cause}|{name}"
    return Puzzle(key, question, effects[at], (effects[1 - at],), reasons, claims, _CAUSE_ASIDES)


def causal(rng: Random) -> Puzzle:
    """What follows from a stated cause, or which cause explains an effect."""
    return rng.choice((_controls, _levels))(rng)


# Places: only among the unseen

_OBJECTS = ("key", "coin", "ring", "note", "ball", "card", "watch", "stamp")
_HOLDERS = ("drawer", "box", "jar", "bag", "cup", "pocket", "basket", "chest")


def places(rng: Random) -> Puzzle:
    """Two things are put away and perhaps swapped: where is one of them?"""
    name, objects, holders = rng.choice(NAMES), rng.sample(_OBJECTS, 2), rng.sample(_HOLDERS, 2)
    swapped, at = rng.random() < 0.5, rng.randrange(2)
    (a, b), (x, y) = objects, holders
    put = rng.choice(
        (
            f"{name} puts the {a} in the {x} and the {b} in the {y}.",
            f"The {x} holds the {a}, the {y} the {b}.",
        )
    )
    moves = (
        ("Then they are swapped.", "Then they change places.")
        if swapped
        else ("They stay.", "Nothing is moved.")
    )
    question = f"{put} {rng.choice(moves)} Where is the {objects[at]} now?"
    answer, other = (holders[1 - at], holders[at]) if swapped else (holders[at], holders[1 - at])
    reasons, claims = {}, {}
    for choice in holders:
        turn = "they change places" if choice != holders[at] else "nothing moves"
        reasons[choice] = (
            f"The {objects[at]} was first in the {holders[at]}. Then {turn}, so it is in the {choice}.",
            f"At first it was in the {holders[at]} and {turn}. So we look in the {choice}.",
        )
        claims[choice] = f"it is in the {choice}"
    key = f"{'|'.join(sorted(objects))}|{'|'.join(sorted(holders))}"
    asides = ("It is easy to lose things.", f"{name} is tidy.")
    return Puzzle(key, question, answer, (other,), reasons, claims, asides)


KINDS: dict[str, Callable[[Random], Puzzle]] = {
    "physics": physics,
    "ordering": ordering,
    "counting": counting,
    "causal": causal,
}
"""Kinds in train, dev and test."""

UNSEEN_KINDS: dict[str, Callable[[Random], Puzzle]] = {"places": places}
"""Kinds in `unseen` alone."""
