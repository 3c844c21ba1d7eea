"""What becomes of candidates with utilities: pairs of their own question, against their own
reference.
"""

from __future__ import annotations

from collections import Counter

from toys import attempt, experiment, question

from rationalize.methods.coalition.candidates import (
    CandidatePair,
    by_source,
    generation_pairs,
    pairs_of,
    refinement_pairs,
    utilities_of,
)
from rationalize.methods.coalition.config import CandidateConfig
from rationalize.methods.coalition.diagnostics import log_leak

ONE, TWO = question(1), question(2)
NAMES = ("variant-1", "variant-2")
STRICT = CandidateConfig()
REFERENCE = {"q1": 0.50, "q2": 0.50}


def made(q, writer, utility, refines=None):
    """One candidate; its text, and its prompt, say where it comes from."""
    kind = "refine" if refines else "rationale"
    given = refines.rationale if refines else ""
    return attempt(
        q, f"{q.id} {writer} {utility}", None, writer=writer, mode=kind,
        prompt=f"{q.id} {kind} {given}", rewards={"utility": utility},
        refines=refines.id if refines else None,
    )  # fmt: skip


WRITTEN = {
    (q.id, name): made(q, name, utility)
    for q, name, utility in (
        (ONE, "variant-1", 0.72), (ONE, "variant-2", 0.69),
        (TWO, "variant-1", 0.31), (TWO, "variant-2", 0.45),
    )
}  # fmt: skip
REFINED = [
    made(q, refiner, utility, WRITTEN[q.id, writer])
    for q, writer, refiner, utility in (
        # below 0.72, which it refines, though above U0 and above the other written one
        (ONE, "variant-1", "variant-1", 0.71), (ONE, "variant-1", "variant-2", 0.70),
        (ONE, "variant-2", "variant-1", 0.68), (ONE, "variant-2", "variant-2", 0.74),
        # above 0.31, which it refines, though below U0 and below the other written one
        (TWO, "variant-1", "variant-1", 0.32), (TWO, "variant-1", "variant-2", 0.40),
        (TWO, "variant-2", "variant-1", 0.45), (TWO, "variant-2", "variant-2", 0.44),
    )
]  # fmt: skip
CANDIDATES = by_source(REFERENCE, [*WRITTEN.values(), *REFINED])


def utilities(pairs):
    return [(p.chosen.rewards["utility"], p.rejected.rewards["utility"]) for p in pairs]


def test_generation_compares_what_was_written_for_one_question():
    dropped = Counter()
    pairs = generation_pairs(CANDIDATES, [ONE, TWO], STRICT, 0, dropped)
    assert utilities(pairs) == [(0.72, 0.69)]
    assert dropped == {"generation: below the reference": 1}  # 0.45 of the second question
    loose = CandidateConfig(filtered=False)
    assert utilities(generation_pairs(CANDIDATES, [ONE, TWO], loose, 0, Counter())) == [
        (0.72, 0.69), (0.45, 0.31),
    ]  # fmt: skip


def test_a_refinement_is_held_against_the_rationale_that_was_refined():
    dropped = Counter()
    first = refinement_pairs("variant-1", CANDIDATES, [ONE, TWO], STRICT, 0, dropped)
    assert utilities(first) == [(0.40, 0.32)]  # U(R_g) is 0.31; U0 would have dropped it
    assert dropped == {"refinement: below the reference": 1}  # U(R_g) is 0.72; U0 would have kept
    assert first[0].prompt == f"q2 refine {WRITTEN['q2', 'variant-1'].rationale}"
    dropped = Counter()
    second = refinement_pairs("variant-2", CANDIDATES, [ONE, TWO], STRICT, 0, dropped)
    assert utilities(second) == [(0.74, 0.68)]
    assert dropped == {"refinement: below the reference": 1}  # 0.45 equals U(R_g): not above it


def test_pairs_never_cross_questions_or_kinds():
    loose = CandidateConfig(filtered=False)
    for name in NAMES:
        pairs, _ = pairs_of(name, CANDIDATES, [ONE, TWO], [ONE, TWO], loose, 0)
        assert Counter(p.kind for p in pairs) == {"generation": 2, "refinement": 2}
        for p in pairs:
            assert p.chosen.question_id == p.rejected.question_id
            assert p.chosen.refines == p.rejected.refines
            assert p.prompt == p.chosen.prompt == p.rejected.prompt
            assert (p.kind == "refinement") == (p.chosen.refines is not None)
            if p.chosen.refines:
                [source] = [a for a in WRITTEN.values() if a.id == p.chosen.refines]
                assert source.writer == name
    pairs, _ = pairs_of("variant-1", CANDIDATES, [ONE], [TWO], loose, 0)
    assert [(p.kind, p.chosen.question_id) for p in pairs] == [
        ("generation", "q1"), ("refinement", "q2"),
    ]  # fmt: skip


def test_equals_make_no_pair():
    level = by_source({"q1": 0.1}, [made(ONE, "variant-1", 0.6), made(ONE, "variant-2", 0.6)])
    dropped = Counter()
    assert generation_pairs(level, [ONE], STRICT, 0, dropped) == []
    alone = by_source({"q1": 0.1}, [made(ONE, "variant-1", 0.6)])
    assert generation_pairs(alone, [ONE], STRICT, 0, dropped) == []
    assert dropped == {"generation: tie": 1, "generation: fewer than two candidates": 1}


def test_what_the_leak_control_touched_is_counted(tmp_path, capsys):
    class Judge:  # whoever says `yes` is right
        def utilities(self, questions, rationales):
            return [0.5 if r is None else 0.2 + 0.7 * ("yes" in r) for r in rationales]

    said = ["The answer is yes.", "Ice is cold, so yes.", "Ice is cold.", ""]
    told = {
        "penalty": (1, "1 of 4 written, 0 of 1 refined candidates only named answers", 0, 1),
        "mask": (2, "2 of 4 written, 1 of 1 refined candidates had an answer masked", 1, 1),
    }
    written = [attempt(ONE, text, None, i, writer=NAMES[i % 2]) for i, text in enumerate(said)]
    refined = attempt(ONE, "Cold, so yes.", None, refines=written[0].id, writer="variant-1")
    exp = experiment(tmp_path, [ONE])
    for leak, (touched, words, chosen, rejected) in told.items():
        scored = utilities_of([*written, refined], [ONE], Judge(), leak, {"q1": 0.5})
        candidates = by_source({"q1": 0.5}, scored)
        pair = CandidatePair("p", scored[1], scored[0], "generation")
        log_leak(exp, candidates, [ONE], leak, leak, [pair])
        facts = exp.run.read_json(f"leak-{leak}.json")
        assert facts["written"] == {"n": 4, "touched": touched}
        assert facts["pairs"] == {"n": 1, "chosen": chosen, "rejected": rejected}
        assert words in capsys.readouterr().err
    log_leak(exp, candidates, [ONE], "none", "none")
    assert exp.run.read_json("leak-none.json") is None
