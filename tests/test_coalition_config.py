"""COALITION before anything is trained: who gets which questions, which settings are refused."""

from dataclasses import replace

import pytest

from rationalize.cli import main
from rationalize.config.flags import merge
from rationalize.errors import UsageError, UserError
from rationalize.methods import METHODS
from rationalize.methods.coalition.algorithm import dpo_parts, keep_apart, pairs_kept_aside
from rationalize.methods.coalition.config import CandidateConfig, CoalitionConfig
from rationalize.methods.coalition.tuning import parts_of
from rationalize.methods.launch import settings_of
from rationalize.records import Question


def test_parts_are_disjoint_and_stratified():
    train = [Question(f"q{i}", f"{i}?", "a", ("a", "b"), kind="xy"[i % 2]) for i in range(40)]
    first, second = parts_of(train, CoalitionConfig(), 0)
    assert not {q.id for q in first} & {q.id for q in second}
    assert len(first) == len(second) == 20
    assert sum(q.kind == "x" for q in first) == 10
    learned, _, held = keep_apart(train, CoalitionConfig(controller_share=0.25), 0)
    assert len(held) == 10
    assert not {q.id for q in learned} & {q.id for q in held}
    quarters = dpo_parts(learned, CoalitionConfig())
    ids = [q.id for own in quarters for part in own for q in part]
    assert sorted(ids) == sorted(q.id for q in learned)
    assert CoalitionConfig(candidates=CandidateConfig()).names == ["variant-1", "variant-2"]


def test_there_is_a_question_for_each_variant():
    train = [Question(f"q{i}", f"{i // 2}?", "a", ("a", "b")) for i in range(4)]
    with pytest.raises(UserError, match="2 different questions are left to tune 3 variants on"):
        parts_of(train, CoalitionConfig(variants=3), 0)


def test_questions_that_ask_the_same_are_dealt_together():
    train = [
        Question(f"q{i}", f"Is it {i // 3}?", "a", ("a", "b"), kind="xy"[i % 2]) for i in range(60)
    ]
    learned, _, held = keep_apart(train, CoalitionConfig(controller_share=0.25), 0)
    assert (len(learned), len(held)) == (45, 15)
    quarters = dpo_parts(learned, CoalitionConfig())
    dealt = [[learned, held], [part for own in quarters for part in own]]
    dealt.append(parts_of(learned, CoalitionConfig(), 0))
    for parts in dealt:
        asked = [{q.question for q in part} for part in parts]
        assert all(asked)
        assert sum(map(len, asked)) == len(set().union(*asked))


def test_questions_without_repeats_are_dealt_as_ever():
    train = [Question(f"q{i}", f"{i}?", "a", ("a", "b"), kind="xy"[i % 2]) for i in range(12)]
    learned, compared, held = keep_apart(train, CoalitionConfig(controller_share=0.25), 0)
    assert compared == learned

    def dealt(part):
        return " ".join(q.id[1:] for q in part)

    assert dealt(held) == "6 7 5"
    assert dealt(learned) == "0 9 4 3 10 11 8 2 1"
    assert [dealt(p) for p in parts_of(learned, CoalitionConfig(), 0)] == ["4 3 11 8 2", "0 9 10 1"]
    quarters = [dealt(p) for own in dpo_parts(learned, CoalitionConfig()) for p in own]
    assert quarters == ["0 9", "4 3", "10 11", "8 2 1"]


def test_m_ift_judges_what_it_was_not_tuned_on():
    train = [Question(f"q{i}", f"Is it {i // 2}?", "a", ("a", "b")) for i in range(80)]
    config = CoalitionConfig(controller_share=0.25, preference_share=0.5)
    taught, compared, held = keep_apart(train, config, 0)
    assert (len(taught), len(compared), len(held)) == (20, 40, 20)
    asked = [{q.question for q in part} for part in (taught, compared, held)]
    assert len(set().union(*asked)) == sum(map(len, asked))  # what asks the same is in one part
    for part in (parts_of(taught, config, 0), dpo_parts(compared, config)):
        assert part


def test_variants_can_have_kinds_of_their_own():
    train = [Question(f"q{i}", f"{i}?", "a", ("a", "b"), kind="xxyz"[i % 4]) for i in range(40)]
    parts = parts_of(train, CoalitionConfig(parts="kinds"), 0)
    assert [sorted({q.kind for q in part}) for part in parts] == [["x"], ["y", "z"]]
    assert [len(part) for part in parts] == [20, 20]
    with pytest.raises(UserError, match=r"of 3 kinds \(x, y, z\); expected at least 4"):
        parts_of(train, CoalitionConfig(parts="kinds", variants=4), 0)


def test_pairs_kept_aside_are_the_same_in_every_round():
    train = [Question(f"q{i}", f"{i}?", "a", ("a", "b")) for i in range(40)]
    config = CoalitionConfig()
    aside = pairs_kept_aside((train[:20], train[20:]), config, 0)
    assert len(aside) == 4
    assert aside == pairs_kept_aside((train[:20], train[20:]), config, 0)
    none = replace(config, held_out_pairs=0.0)
    assert not pairs_kept_aside((train, train), none, 0)


def test_the_released_settings():
    config = merge(settings_of(METHODS["coalition"]), None, ["--preset", "released"])
    assert (config.candidates.sampling.beams, config.candidates.leak) == (3, "none")
    assert (config.judge, config.fit.learning_rate, config.beta) == ("variants", 1e-6, 0.1)


def test_bad_settings():
    with pytest.raises(UsageError, match="at least 1"):
        CoalitionConfig(variants=0)
    with pytest.raises(UsageError, match="leave M_IFT no question"):
        CoalitionConfig(controller_share=0.5, preference_share=0.5)
    with pytest.raises(UsageError, match="variant_sources names 1 sources for 2 variants"):
        CoalitionConfig(variant_sources=("esnli",))
    for wrong in ({}, {"copies": True, "variant_epochs": 0}):
        with pytest.raises(UsageError, match="expected copies=true and variant_epochs above 0"):
            CoalitionConfig(variants_from="base", **wrong)
    with pytest.raises(UsageError, match="at least 2 variants"):
        CoalitionConfig(variants=1, candidates=CandidateConfig(refiners="cross"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sft.epochs", "3"], "unknown flag --sft.epochs"),
        (["--verifier", "vera"], "unknown flag --verifier"),
        (["--instruction.seed", "3"], "unknown flag --instruction.seed"),
        (["--variants", "0"], "variants is 0; expected at least 1"),
        (["--variant-fit.batch-size", "3"], "variant_fit.batch_size is 3; expected at least 4"),
    ],
)  # fmt: skip
def test_settings_without_effect_or_sense_are_refused(flags, message, capsys):
    assert main(["train", "coalition", *flags, "--dry-run"]) == 2
    assert message in capsys.readouterr().err
