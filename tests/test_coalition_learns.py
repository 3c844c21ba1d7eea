"""COALITION on a toy task: a held-out utility that rises; killed anywhere, a run ends the same."""

import json
from collections import Counter
from dataclasses import dataclass, field, replace

import pytest
import torch
from tiny import tiny_folder, tiny_policy
from toys import experiment

from rationalize.methods.coalition.ablations import equal_settings
from rationalize.methods.coalition.algorithm import coalition
from rationalize.methods.coalition.config import (
    CandidateConfig,
    CoalitionConfig,
    ControllerConfig,
    InstructionConfig,
)
from rationalize.methods.coalition.evaluate import conclude
from rationalize.methods.coalition.tuning import tuned_variants
from rationalize.methods.own_attempts import RejectConfig
from rationalize.methods.settings import RunConfig
from rationalize.models.policy import load_policy
from rationalize.models.precision import Numbers
from rationalize.models.variants import Variants
from rationalize.records import Question
from rationalize.runs import Run
from rationalize.sampling.local import SamplingConfig
from rationalize.training.loop import FitConfig

FIT = FitConfig(learning_rate=1e-3, batch_size=8)
FAST = FitConfig(learning_rate=3e-3, batch_size=8)
SEVERAL = SamplingConfig(max_new_tokens=24, n=4)
WORDS = ("ice", "sand", "wood", "stone", "grass", "glass", "clay", "mud", "wool", "silk")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_folder("decoder", tmp_path_factory.mktemp("tiny"), chat=True)


def run_config(model):
    return RunConfig(model=str(model), precision="float32")


class Liking:
    """A judge that likes one kind of rationale."""

    def utilities(self, questions, rationales):
        return [0.5 if r is None else 0.9 if "a b c" in r else 0.1 for r in rationales]


def asked(split, words):
    return [
        Question(
            f"{split}-{w}", f"{w}, {split}?", "yes", ("yes", "no"),
            rationales=("a b c d e f.", "so so so so so so."),
        )
        for w in words
    ]  # fmt: skip


def test_held_out_utility_rises(model, tmp_path):
    """Two kinds of rationale are imitated; preference by utility leaves the useful one. Copies take
    the instruction tuning over from adapters.
    """
    learns = CoalitionConfig(
        judge="ift", candidates=CandidateConfig(sampling=SEVERAL), rounds=1, epochs=6.0,
        nll_weight=0.2, partition="all", select=False, fit=FIT, variant_fit=FAST,
        instruction=InstructionConfig(epochs=45.0, imperfect=SEVERAL, fit=FAST),
        controller=ControllerConfig(epochs=1.0, fit=FIT),
    )  # fmt: skip
    questions = [Question(f"q{i}", "silk, test?", "yes", ("yes", "no")) for i in range(40)]

    def mean_utility(name, config, source=None, of=None):
        exp = experiment(
            tmp_path / name, asked("train", WORDS[:8]), asked("dev", WORDS[8:]),
            config=run_config(model),
        )  # fmt: skip
        stage = exp.stage("coalition")
        if source:
            exp = replace(exp, source=source, shared=equal_settings(of, config))
        made = coalition(exp, exp.load_policy(), config, stage, judge=Liking()).policy
        chains = made.chains(questions, SamplingConfig(max_new_tokens=24), routing="random")
        return exp.run, sum(Liking().utilities([], [c.rationale for c in chains])) / len(chains)

    source, of = None, None
    for copies in (False, True):
        tuned = replace(learns, copies=copies, rounds=0)
        source, before = mean_utility(f"tuned{copies}", tuned, source, of)
        of = tuned
        run, after = mean_utility(f"learns{copies}", replace(learns, copies=copies), source, tuned)
        assert before < 0.8
        assert after > before + 0.05
        trained = {line["stage"] for line in run.metrics()}
        assert not {"ift", "ift-warm", "variant-1-tuned"} & trained  # taken over, not learned again
        assert {"variant-1-round0", "variant-2-round0"} <= trained


def test_variants_of_the_base_model_have_not_seen_what_m_ift_learned(model, tmp_path):
    """Tuned at a rate of almost 0, each is still the base model, and M_IFT is not."""
    still = replace(FIT, learning_rate=1e-12)
    config = CoalitionConfig(
        copies=True, variants_from="base", variant_fit=still,
        instruction=InstructionConfig(epochs=2.0, imperfect=SEVERAL, fit=FAST),
    )  # fmt: skip
    exp = experiment(
        tmp_path / "run", asked("train", WORDS[:8]), asked("dev", WORDS[8:]),
        config=run_config(model),
    )  # fmt: skip
    variants = tuned_variants(exp, exp.load_policy(), exp.train, config)
    base = exp.load_policy().model.state_dict()

    def close(policy):
        found = policy.model.state_dict()
        return all(torch.allclose(found[name], base[name], atol=1e-6) for name in base)

    for name in config.names:
        with variants.active(name) as policy:
            assert close(policy)
    with variants.base_policy() as m_ift:
        assert not close(m_ift)
    first, second = (variants.copies[name].model for name in config.names)
    assert first is not second


def test_a_full_copy_that_is_loaded_learns_in_the_same_precision(model, tmp_path):
    variants = Variants.of(tiny_policy(chat=True), model, ["variant-1"], copies=True)
    variants.save("variant-1", tmp_path)
    variants.load("variant-1", tmp_path)
    assert variants.copies["variant-1"].precision == "float32"
    numbers = Numbers("float32", gradient_checkpointing=True)
    base = load_policy(model, device="cpu", numbers=numbers)
    loaded = Variants.of(base, model, ["variant-1"], copies=True)
    loaded.load("variant-1", tmp_path)
    assert loaded.copies["variant-1"].gradient_checkpointing


class Killed(Exception):
    """What stands for a kill."""


@dataclass(frozen=True)
class KilledRun(Run):
    """A run that is killed within training, and before or after shards are stored and stages marked
    as finished: each at its first time alone, so that the next start comes further.
    """

    seen: dict = field(default_factory=dict)
    """What was stored for the first time -> how many things of its kind came before it."""
    kills: list = field(default_factory=list)

    def log(self, stage, step, **metrics):
        if not stage.count("/"):  # a step of training; the one before has a checkpoint
            self._kill("step", (stage, step), 7, {0: "before"})
        super().log(stage, step, **metrics)

    def append(self, attempts, shard):
        self._kill("shard", shard, 8, {3: "before"})
        super().append(attempts, shard)
        self._kill("stored shard", shard, 8, {7: "after"})

    def finish(self, stage, **facts):
        self._kill("stage", stage, 4, {1: "before"})
        super().finish(stage, **facts)
        self._kill("finished stage", stage, 4, {0: "after"})

    def _kill(self, kind, what, every, turns):
        if (kind, what) in self.seen:
            return
        count = sum(k == kind for k, _ in self.seen) + 1
        self.seen[kind, what] = count
        if count % every in turns:
            self.kills.append((kind, turns[count % every]))
            raise Killed


def test_killed_anywhere_a_run_ends_the_same(model, tmp_path):
    """Killed between and within stages, in two rounds: the coalition has the same bits."""
    splits = {
        split: [
            replace(q, id=f"{q.id}{i}", kind="ab"[i % 2], question=f"{q.question} {i}")
            for i, q in enumerate(asked(split, WORDS[:8]) * 2)
        ][:n]
        for split, n in (("train", 16), ("dev", 2), ("test", 4))
    }
    short = SamplingConfig(max_new_tokens=6)
    config = CoalitionConfig(
        judge="ift", rounds=2,
        candidates=CandidateConfig(
            sampling=short, filtered=False, reject=RejectConfig(min_words=0)
        ),
        epochs=1.0, partition="all", fit=FIT, variant_fit=FIT,
        instruction=InstructionConfig(epochs=1.0, imperfect=short, fit=FIT),
        controller=ControllerConfig(epochs=1.0, fit=FIT),
    )  # fmt: skip
    base = tiny_policy(chat=True)

    def start(path, run=None):
        exp = experiment(
            path, [], policy=base, config=run_config(model), checkpoint_every=0.0,
            evaluation=replace(short, temperature=0.0),
        )  # fmt: skip
        exp = replace(exp, splits=splits, run=run or exp.run)
        learned = coalition(exp, exp.load_policy(), config, exp.stage("coalition"))
        conclude(exp, learned)
        return exp.run

    whole = start(tmp_path / "whole")
    killed = KilledRun(tmp_path / "killed", whole.config)
    for _ in range(60):
        try:
            start(tmp_path / "killed", killed)
            break
        except Killed:
            assert (tmp_path / "killed" / "config.yaml").exists()
    assert set(killed.kills) == {
        ("step", "before"), ("shard", "before"), ("stored shard", "after"), ("stage", "before"),
        ("finished stage", "after"),
    }  # fmt: skip
    assert min(Counter(killed.kills).values()) >= 2
    for name in ("variant-1", "variant-2", "controller"):
        file = f"coalition/{name}/{name}/adapter_model.safetensors"
        assert (killed.path / file).read_bytes() == (whole.path / file).read_bytes()
    once, often = (json.loads((r.path / "results.json").read_text()) for r in (whole, killed))
    assert often["rounds"] == once["rounds"]
    assert often["methods"] == once["methods"]
    for file in ("rounds.json", "stages.json", "leak-round1.json", "clones-round1.json"):
        assert (killed.path / file).read_text() == (whole.path / file).read_text()
