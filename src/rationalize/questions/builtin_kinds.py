"""The kinds of everyday reasoning behind the built-in questions: each draws a `Puzzle`.

The answer is an XOR of independent draws (which entity has which property, and which entity the
question is about). No single word, position or choice predicts it; one or two reasoning steps that
restate the facts do. The choices of a puzzle are a pair of opposites in a fixed order: a small
model learns to find the right word long before it learns the letter of a shuffled option, and only
the former is reasoning.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from rationalize.questions.builtin_teacher import Puzzle, sentence

# fmt: off
NAMES = (
    "Adam", "Alice", "Amy", "Anna", "Ben", "Carl", "Clara", "David", "Emma", "Eric", "Fred",
    "Grace", "Henry", "Ivan", "Jack", "Jane", "John", "Julia", "Karen", "Kate", "Laura", "Leo",
    "Linda", "Lucy", "Maria", "Mark", "Martin", "Mary", "Max", "Nancy", "Nick", "Oscar", "Paul",
    "Peter", "Rachel", "Robert", "Rosa", "Sam", "Sara", "Simon", "Susan", "Tim", "Tom", "Victor",
)
_SURFACES = (
    "ice", "sand", "wood", "stone", "grass", "gravel", "carpet", "tile", "clay", "rubber", "glass",
    "asphalt",
)
_ROOMS = (
    "hall", "shed", "tent", "cellar", "attic", "kitchen", "garage", "barn", "cabin", "studio",
    "tower", "office",
)
_EFFECTS = (
    # effect, its two outcomes, what each outcome says about the place, the possible places
    ("ball rolls", ("farther", "less far"), ("smoother", "rougher"), _SURFACES),
    ("sled slides", ("faster", "slower"), ("smoother", "rougher"), _SURFACES),
    ("box slides", ("more easily", "less easily"), ("smoother", "rougher"), _SURFACES),
    ("snow melts", ("sooner", "later"), ("warmer", "colder"), _ROOMS),
    ("butter gets soft", ("sooner", "later"), ("warmer", "colder"), _ROOMS),
    ("fern grows", ("better", "worse"), ("brighter", "darker"), _ROOMS),
    ("photo turns out", ("better", "worse"), ("brighter", "darker"), _ROOMS),
    ("towel dries", ("sooner", "later"), ("drier", "damper"), _ROOMS),
)
_SCALES = (
    ("taller", "shorter"), ("older", "younger"), ("faster", "slower"), ("stronger", "weaker"),
    ("richer", "poorer"), ("louder", "quieter"),
)
_GOODS = (
    "pens", "books", "coins", "shells", "cards", "stamps", "apples", "keys", "toys", "hats",
    "plums", "eggs",
)
_EVENTS = (
    "party", "test", "trip", "game", "lesson", "concert", "meeting", "fair", "race", "show", "sale",
    "visit",
)
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_DATES = (
    ("Friday", 1), ("Thursday", 2), ("Monday", 1), ("Tuesday", 2), ("Saturday", 1), ("Sunday", 1),
)
_CONTROLS = (
    ("lever", "up", "down"), ("switch", "left", "right"), ("dial", "high", "low"),
    ("valve", "open", "shut"), ("key", "in", "out"),
)
_DEVICES = (
    ("lamp", "red", "green"), ("fan", "fast", "slow"), ("room", "warm", "cold"),
    ("bell", "loud", "quiet"), ("screen", "bright", "dark"), ("belt", "fast", "slow"),
    ("radio", "loud", "quiet"), ("stove", "warm", "cold"), ("sign", "red", "green"),
    ("hall", "bright", "dark"),
)
_LEVELS = (
    ("oil", "engine", "louder", "quieter"), ("light", "fish", "faster", "slower"),
    ("sand", "wheel", "faster", "slower"), ("food", "bird", "louder", "quieter"),
    ("wind", "mill", "faster", "slower"), ("steam", "pump", "louder", "quieter"),
    ("wax", "floor", "smoother", "rougher"), ("paint", "wall", "brighter", "darker"),
)
_CUPS = (("red", "green"), ("warm", "cold"), ("bright", "dark"), ("loud", "quiet"))
_THINGS = ("cup", "box", "lamp", "toy", "radio", "stone", "clock", "bag")
# fmt: on


def physics(rng: Random) -> Puzzle:
    """An effect differs between two places: what does that say about one of them?"""
    # the facts and the question
    effect, ways, pair, places = rng.choice(_EFFECTS)
    x, y = rng.sample(places, 2)
    way = rng.randrange(2)
    asked = rng.choice((x, y))
    where = "on" if places is _SURFACES else "in the"
    fact = f"the {effect} {ways[way]} {where} {x}"
    question = (
        f"{sentence(f'{fact} than {where} {y}')[:-1]}. Is the {asked} {pair[0]} or {pair[1]}?"
    )
    of_x = pair[way]
    answer = of_x if asked == x else _other(pair, of_x)
    # a reasoning per choice; for the wrong choice the two places swap their words
    reasons, claims = {}, {}
    for word in pair:
        x_word = word if asked == x else _other(pair, word)
        y_word = _other(pair, x_word)
        reasons[word] = (
            f"We get {x}: {x_word}, {y}: {y_word}, so {asked}: {word}.",
            f"First {x}: {x_word}; then {y}: {y_word}; we want {asked}: {word}.",
        )
        claims[word] = f"the {asked} is {word}"
    key = f"{effect}|{'|'.join(sorted((x, y)))}"
    asides = (
        "It is a nice day.",
        "Somebody took notes.",
        f"The {effect.split()[0]} is new.",
        "Many people try this.",
    )
    return Puzzle(key, question, pair, answer, reasons, claims, asides)


def ordering(rng: Random) -> Puzzle:
    """Two people are compared, or three in a chain: how does one compare to another?"""
    pair = rng.choice(_SCALES)
    word = rng.choice(pair)
    a, b, c = rng.sample(NAMES, 3)
    chain = rng.random() < 0.3
    facts, last = (
        (f"{a} is {word} than {b}, who is {word} than {c}.", c)
        if chain
        else (f"{a} is {word} than {b}.", b)
    )
    asked, against = rng.sample((a, last), 2)
    forms = (
        f"Is {asked} {pair[0]} or {pair[1]} than {against}?",
        f"Of {asked} and {against}, is {asked} the {pair[0]} or the {pair[1]} one?",
    )
    answer = word if asked == a else _other(pair, word)
    reasons, claims = {}, {}
    for target in pair:
        of_a = target if asked == a else _other(pair, target)
        other = _other(pair, of_a)
        reasons[target] = (
            f"We get {a}: {of_a}, {last}: {other}, so {asked}: {target}.",
            f"First {a}: {of_a}; then {last}: {other}; we want {asked}: {target}.",
        )
        claims[target] = f"{asked} is {target}"
    key = f"{pair[0]}|{'|'.join(sorted((a, last)))}"
    asides = (
        "They are good friends.",
        "They meet every week.",
        "People are all different.",
        "It is a nice group.",
    )
    return Puzzle(key, f"{facts} {rng.choice(forms)}", pair, answer, reasons, claims, asides)


def _amounts(rng: Random) -> Puzzle:
    """A small sum, compared with another amount."""
    (name, other), goods, pair = rng.sample(NAMES, 2), rng.choice(_GOODS), ("more", "fewer")
    gets = rng.random() < 0.5
    had, change = rng.randint(3, 6), rng.randint(1, 2)
    now = had + change if gets else had - change
    against = now + rng.choice((-2, -1, 1, 2))
    move = rng.choice(("gets", "finds") if gets else ("loses", "sells"))
    question = (
        f"{name} has {had} {goods} and {move} {change}. {other} has {against}. "
        f"Has {name} now more or fewer than {other}?"
    )
    sign = f"{had} {'+' if gets else '-'} {change}"
    reasons, claims = {}, {}
    for word in pair:
        reasons[word] = (
            f"For {name} we get {sign} = {now}. Next to {against} that is {word}.",
            f"{name} has {now} now, since {sign} = {now}. With {against} for {other}, we say "
            f"{word}.",
        )
        claims[word] = f"{name} has {word}"
    key = f"amounts|{goods}|{'|'.join(sorted((name, other)))}"
    asides = (f"Many people like {goods}.", "Sharing is kind.", f"{name} and {other} are friends.")
    return Puzzle(
        key, question, pair, "more" if now > against else "fewer", reasons, claims, asides
    )


def _days(rng: Random) -> Puzzle:
    """A day or two from a weekday; neither the day nor the direction tells the answer."""
    (start, steps), name, event, pair = (
        rng.choice(_DATES),
        rng.choice(NAMES),
        rng.choice(_EVENTS),
        ("weekday", "weekend"),
    )
    after = rng.random() < 0.5
    day = _DAYS[(_DAYS.index(start) + (steps if after else -steps)) % 7]
    span = f"{'one day' if steps == 1 else 'two days'} {'after' if after else 'before'} {start}"
    forms = (
        f"{name}'s {event} is {span}. Is it on a weekday or at the weekend?",
        f"{name} goes to the {event} {span}. Is that a weekday or the weekend?",
    )
    answer = "weekend" if day in ("Saturday", "Sunday") else "weekday"
    # the wrong choice counts in the wrong direction
    false_day = _DAYS[(_DAYS.index(start) + (-steps if after else steps)) % 7]
    reasons, claims = {}, {}
    for word in pair:
        reached = day if word == answer else false_day
        reasons[word] = (
            f"{sentence(span)[:-1]} comes {reached}. That day counts as {word}.",
            f"Counting {span} gives {reached}, which is a {word}.",
        )
        claims[word] = f"it is a {word}"
    asides = ("A week has seven days.", f"Everybody likes a {event}.", f"{name} is often late.")
    return Puzzle(f"days|{event}|{name}", rng.choice(forms), pair, answer, reasons, claims, asides)


def counting(rng: Random) -> Puzzle:
    """Small sums and days of the week."""
    return rng.choice((_amounts, _days))(rng)


def _switches(rng: Random) -> Puzzle:
    """A rule ties the two states of a control to the two states of a device."""
    (control, *states), (device, *pair) = rng.choice(_CONTROLS), rng.choice(_DEVICES)
    name = rng.choice(NAMES)
    (up, down), (x, y) = rng.sample(states, 2), rng.sample(pair, 2)
    now = rng.choice((up, down))
    rule = f"{control.title()} {up}: {device} {x}. {control.title()} {down}: {device} {y}."
    forms = (
        f"{name} puts the {control} {now}. How is the {device}?",
        f"{name} sees the {control} {now}. How is the {device} then?",
    )
    answer = x if now == up else y
    reasons, claims = {}, {}
    for word in pair:
        reasons[word] = (
            f"We read {control} {now}: {device} {word}, so {word}.",
            f"{name} has {control} {now}: {device} {word}, which means {word}.",
        )
        claims[word] = f"the {device} is {word}"
    key = f"switches|{control}|{device}|{name}"
    asides = (
        "Machines can break.",
        "It is a quiet day.",
        "Somebody wrote a note.",
        "The house is old.",
    )
    return Puzzle(key, f"{rule} {rng.choice(forms)}", tuple(pair), answer, reasons, claims, asides)


def _levels(rng: Random) -> Puzzle:
    """A rule says which way an effect goes with more of its cause, and which way with less."""
    cause, thing, *pair = rng.choice(_LEVELS)
    name, (a, b), (x, y) = rng.choice(NAMES), rng.sample(("more", "less"), 2), rng.sample(pair, 2)
    now = rng.choice((a, b))
    forms = (
        f"{a.title()} {cause}: {thing} {x}. {b.title()} {cause}: {thing} {y}.",
        f"With {a} {cause}: {thing} {x}, with {b} {cause}: {thing} {y}.",
    )
    answer = x if now == a else y
    reasons, claims = {}, {}
    for word in pair:
        reasons[word] = (
            f"We read {now} {cause}: {thing} {word}, so {word}.",
            f"{name} has {now} {cause}: {thing} {word}, which means {word}.",
        )
        claims[word] = f"the {thing} gets {word}"
    question = f"{rng.choice(forms)} {name} uses {now} {cause}. How does the {thing} get?"
    asides = ("Rules have exceptions.", "It is a quiet day.", f"{name} asked a friend.")
    return Puzzle(f"levels|{cause}|{name}", question, tuple(pair), answer, reasons, claims, asides)


def causal(rng: Random) -> Puzzle:
    """What follows from a stated cause."""
    return rng.choice((_switches, _levels))(rng)


def trading(rng: Random) -> Puzzle:
    """Two people hold opposite things and may trade them: what does one of them hold?"""
    (a, b), thing, pair = rng.sample(NAMES, 2), rng.choice(_THINGS), rng.choice(_CUPS)
    x, y = rng.sample(pair, 2)
    traded, asked = rng.random() < 0.5, rng.choice((a, b))
    move = rng.choice(
        ("They trade.", "Then they swap.") if traded else ("Each keeps it.", "Nobody trades.")
    )
    question = (
        f"{a} has a {x} {thing}, {b} a {y} one. {move} "
        f"Is the one of {asked} now {pair[0]} or {pair[1]}?"
    )
    before = x if asked == a else y
    answer = _other(pair, before) if traded else before
    reasons, claims = {}, {}
    for word in pair:
        turn = "keeps it" if word == before else "trades"
        reasons[word] = (
            f"At first {asked}: {before}. Then {asked} {turn}, so now: {word}.",
            f"{asked} starts with {before} and {turn}, so it becomes {word}.",
        )
        claims[word] = f"it is {word}"
    asides = ("It is easy to lose things.", f"{a} and {b} are friends.", f"A {thing} costs little.")
    return Puzzle(
        f"{thing}|{'|'.join(sorted((a, b)))}", question, pair, answer, reasons, claims, asides
    )


def _other(pair, word: str) -> str:
    return pair[1] if word == pair[0] else pair[0]


KINDS: dict[str, Callable[[Random], Puzzle]] = {
    "physics": physics,
    "ordering": ordering,
    "counting": counting,
    "causal": causal,
}
"""Kinds in train, dev and test."""

UNSEEN_KINDS: dict[str, Callable[[Random], Puzzle]] = {"trading": trading}
"""Kinds in `unseen` alone."""
