"""What becomes of candidates with utilities: pairs of their own question, against their own
reference.
"""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
from tiny import tiny_policy
from toys import attempt, experiment, question

from rationalize.errors import UserError
from rationalize.methods.coalition.candidates import (
    asked_for_pairs,
    asked_of_all,
    by_source,
    refiners_of,
    utilities_of,
    write_candidates,
)
from rationalize.methods.coalition.config import CandidateConfig, CoalitionConfig
from rationalize.methods.coalition.diagnostics import log_leak
from rationalize.methods.coalition.select import (
    check_pairs,
    generation_pairs,
    pair_facts,
    pairs_of,
    refinement_pairs,
)
from rationalize.methods.own_attempts import RejectConfig
from rationalize.sampling.config import SamplingConfig

ONE, TWO = question(1), question(2)
NAMES = ("variant-1", "variant-2")
STRICT = CandidateConfig()
REFERENCE = {"q1": 0.50, "q2": 0.50}


def made(q, writer, utility, refines=None):
    """One candidate; its text, and its prompt, say where it comes from."""
    kind = "refine" if refines else "rationale"
    given = refines.rationale if refines else ""
    return attempt(
        q, f"{q.id}: {writer} says {utility}, as ever", None, writer=writer, mode=kind,
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
    told = {  # without the control `The answer is yes.` wins; with it another text, or none
        "penalty": (1, "1 of 4 written, 0 of 1 refined candidates only named answers", 1),
        "mask": (2, "2 of 4 written, 1 of 1 refined candidates had an answer masked", 0),
    }
    written = [attempt(ONE, text, None, i, writer=NAMES[i % 2]) for i, text in enumerate(said)]
    refined = attempt(ONE, "Cold, so yes.", None, refines=written[0].id, writer="variant-1")
    exp = experiment(tmp_path, [ONE])
    for leak, (touched, words, pairs) in told.items():
        config = CoalitionConfig(
            candidates=CandidateConfig(leak=leak, reject=RejectConfig(min_words=3))
        )
        scored = utilities_of([*written, refined], [ONE], Judge(), leak, {"q1": 0.5})
        candidates = by_source({"q1": 0.5}, scored)

        def select(candidates, config=config):
            return {"variant-1": pairs_of("variant-1", candidates, [ONE], [], config.candidates, 0)}

        log_leak(exp, candidates, [ONE], config, leak, Judge(), select)
        facts = exp.run.read_json(f"leak-{leak}.json")
        assert facts["written"] == {"n": 4, "touched": touched}
        counts = {"n": pairs, "chosen": 0, "rejected": 0, "without": 1, "same": 0}
        assert facts["pairs"] == counts
        assert words in capsys.readouterr().err
    none = replace(config, candidates=CandidateConfig(leak="none"))
    log_leak(exp, candidates, [ONE], none, "none", Judge())
    assert exp.run.read_json("leak-none.json") is None


def test_a_cut_text_wins_no_pair_whatever_it_is_worth():
    cut = made(ONE, "variant-1", 0.9)
    candidates = [replace(cut, finish="length"), made(ONE, "variant-2", 0.7)]
    short = replace(made(ONE, "variant-2", 0.8), rationale="Too short.")
    for loose in (True, False):
        config, dropped = CandidateConfig(filtered=not loose), Counter()
        found = by_source({"q1": 0.5}, [*candidates, made(ONE, "variant-2", 0.6)])
        [pair] = generation_pairs(found, [ONE], config, 0, dropped)
        assert utilities([pair]) == [(0.7, 0.6)]
        assert dropped == {"generation candidate: cut at the length limit": 1}
        dropped = Counter()
        found = by_source({"q1": 0.5}, [*candidates, short])
        assert generation_pairs(found, [ONE], config, 0, dropped) == []
        assert dropped["generation candidate: too short"] == 1
        assert dropped["generation: fewer than two candidates"] == 1


@pytest.mark.parametrize(("why", "advice"), [
    ("cut at the length limit", "--candidates.sampling.max-new-tokens"),
    ("too short", "--candidates.reject.min-words"),
])  # fmt: skip
def test_without_any_pair_the_advice_is_by_the_reason(why, advice):
    dropped = Counter({f"generation candidate: {why}": 6, "generation: fewer than two": 3})
    with pytest.raises(UserError, match=f"6 x generation candidate: {why}.*{advice}"):
        check_pairs({"variant-1": ([], dropped)}, 0)
    with pytest.raises(UserError, match="switch the filter off"):
        check_pairs({"variant-1": ([], Counter({"generation: no gain": 5, "x": 1}))}, 0)


def test_a_margin_asks_for_more_than_any_difference():
    for margin, kept in ((0.0, 1), (0.02, 1), (0.04, 0)):  # 0.72 against 0.69 and 0.50
        config = CandidateConfig(margin=margin)
        assert len(generation_pairs(CANDIDATES, [ONE], config, 0, Counter())) == kept


def test_chosen_and_rejected_lengths_are_counted():
    pairs, _ = pairs_of("variant-2", CANDIDATES, [ONE], [ONE], STRICT, 0)
    facts = pair_facts(pairs, "variant-2")
    assert facts["pairs"] == {"generation": 1, "refinement": 1}
    assert facts["chosen_from_others"] == 1
    assert facts["chosen_words"] == facts["rejected_words"] == 6.0
    assert pair_facts([], "variant-2")["chosen_words"] is None


def test_nobody_writes_what_no_pair_needs():
    questions = [question(i) for i in range(8)]
    parts = {"v1": (questions[:2], questions[2:4]), "v2": (questions[4:6], questions[6:])}
    asked = asked_for_pairs(parts)
    assert sorted(asked.writes["v1"]) == ["q0", "q1", "q2", "q3", "q4", "q5"]  # not v2's to refine
    assert sorted(asked.writes["v2"]) == ["q0", "q1", "q4", "q5", "q6", "q7"]
    assert sorted(asked.refined["v1"]) == ["q2", "q3"]


def test_variants_with_the_same_weights_write_different_texts(tmp_path):
    policy, questions = tiny_policy(), [ONE, TWO]
    same = SimpleNamespace(active=lambda name: nullcontext(policy))
    exp = experiment(tmp_path, questions, policy=policy)
    config = CoalitionConfig(candidates=CandidateConfig(sampling=SamplingConfig(max_new_tokens=8)))
    asked = asked_of_all(NAMES, questions)
    texts = {}
    for a in write_candidates(exp, same, config, questions, "round0", 0, asked):
        texts.setdefault((a.question_id, a.refines), {}).setdefault(a.writer, []).append(
            a.completion
        )
    assert any(refines for _, refines in texts)
    assert all(set(own) == set(NAMES) for own in texts.values())
    assert all(own[NAMES[0]] != own[NAMES[1]] for own in texts.values())


@pytest.mark.parametrize(("panel", "each"), [(0, 4), (2, 2), (9, 4)])
def test_a_panel_draws_refiners(panel, each):
    config = CoalitionConfig(variants=4, candidates=CandidateConfig(panel=panel))
    panels = [refiners_of(config, f"a{i}", "variant-1", 0) for i in range(40)]
    assert {len(own) for own in panels} == {each}
    assert {name for own in panels for name in own} == set(config.names)
