"""The training loop: schedule, passes and groups, checkpoints that survive a kill at any point."""

import os
import re
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from rationalize.errors import NotFinite
from rationalize.models.forward import Row, micro_batches
from rationalize.models.logits import token_logprobs
from rationalize.runs import Run, Stage
from rationalize.termination import Terminated
from rationalize.training.checkpoints import Position, restore_checkpoint, save_checkpoint
from rationalize.training.learner import learner_of
from rationalize.training.loop import (
    ControlFitConfig,
    FitConfig,
    Grouped,
    LossOutput,
    fit,
    rate_at,
)
from rationalize.training.objectives import nll
from tests.tiny import tiny_policy

CONFIG = FitConfig(learning_rate=1e-3)
STEPS = 5


@pytest.mark.parametrize(
    ("schedule", "warmup", "rates"),
    [
        ("linear", 0.0, [1.0, 0.8, 0.6, 0.4, 0.2]),
        ("linear", 0.4, [0.5, 1.0, 1.0, 2 / 3, 1 / 3]),
        ("constant", 0.2, [1.0, 1.0, 1.0, 1.0, 1.0]),
        ("constant", 0.6, [1 / 3, 2 / 3, 1.0, 1.0, 1.0]),
        ("linear", 1.0, [0.2, 0.4, 0.6, 0.8, 1.0]),
        ("linear", 2, [0.5, 1.0, 1.0, 2 / 3, 1 / 3]),
        ("cosine", 0.2, [1.0, 1.0, 0.5 + 0.5 * 2**-0.5, 0.5, 0.5 - 0.5 * 2**-0.5]),
    ],
)
def test_learning_rates(schedule, warmup, rates):
    config = FitConfig(schedule=schedule, warmup=warmup)
    assert [rate_at(s, 5, config) for s in range(5)] == pytest.approx(rates)


def test_a_warm_up_takes_a_step_at_least():
    assert rate_at(0, 3, FitConfig(warmup=0.05)) == 1.0
    assert rate_at(0, 100, FitConfig(warmup=0.05)) == pytest.approx(0.2)


def test_adamw_has_the_decays_of_marios_code(tmp_path):
    stage = Stage(Run.open(tmp_path, {}), "s")
    with learner_of(tiny_policy(), nll, CONFIG, stage.run.parallel) as learner:
        assert [group["betas"] for group in learner.optimizer.param_groups] == [(0.9, 0.99)]
        assert [group["eps"] for group in learner.optimizer.param_groups] == [1e-8]


@pytest.mark.parametrize("size", [1.0, 3.0])
def test_control_tokens_learn_faster_by_their_factor_and_by_the_size_of_their_rows(size, tmp_path):
    """AdamW's first step moves every weight by its rate; rows of .1 root mean square are the
    unit of the factor.
    """
    policy = tiny_policy()
    policy.add_controls({"diversity": 2})
    embeddings = policy.model.get_input_embeddings().weight
    with torch.no_grad():
        embeddings *= size
    before, other = policy.control_rows(), embeddings[3].detach().clone()
    asked = [Row((3, 4), (5,), control_ids=tuple(policy.controls.ids()))]
    config = ControlFitConfig(
        learning_rate=1e-4, schedule="constant", warmup=0.0, control_factor=4.0
    )
    fit(policy, nll, lambda _: asked, config, Stage(Run.open(tmp_path, {}), "s"), steps=1)
    relative = before.square().mean().sqrt().item() / 0.1
    moved = (policy.control_rows() - before).abs().max().item()
    assert moved == pytest.approx(1e-4 * 4 * relative, rel=0.05)
    assert (embeddings[3] - other).abs().max().item() == pytest.approx(1e-4, rel=0.05)


def row(length, tag=None):
    return Row((1,) * (length - 1), (2,), tag=tag)


def test_passes_by_hand():
    lengths = [[r.length for r in p] for p in micro_batches([row(n) for n in (3, 9, 4, 5)], 10)]
    assert lengths == [[9], [5, 4], [3]]
    grouped = micro_batches([row(5, "a"), row(2, "b"), row(3, "b"), row(3, "a")], 10, tag_of)
    assert [[r.tag for r in p] for p in grouped] == [["a", "a"], ["b", "b"]]
    assert len(micro_batches([row(5, "a"), row(5, "a")], 1, tag_of)) == 1  # larger, but whole


def tag_of(one):
    return one.tag


@given(st.lists(st.tuples(st.integers(2, 40), st.integers(0, 5)), max_size=30), st.integers(1, 200))
def test_passes_hold_every_row_once_and_no_group_is_cut(shapes, limit):
    rows = [row(*shape) for shape in shapes]
    for group_of in (None, tag_of):
        passes = micro_batches(rows, limit, group_of)
        assert Counter(r for p in passes for r in p) == Counter(rows)
        for one in passes:
            alone = len(one) == 1 if group_of is None else len({r.tag for r in one}) == 1
            assert alone or max(r.length for r in one) * len(one) <= limit
        if group_of:
            assert sum(len({r.tag for r in p}) for p in passes) == len({r.tag for r in rows})


def choice(policy, rows):
    """-log softmax of the group's first row among its rows: wrong where a group is cut."""
    found = {}
    for one, logprobs in zip(rows, token_logprobs(policy, rows), strict=True):
        found.setdefault(one.tag[0], []).append((one.tag[1], logprobs.sum()))
    totals = []
    for group in found.values():
        scores = torch.stack([score for _, score in sorted(group, key=lambda pair: pair[0])])
        totals.append(scores.logsumexp(0) - scores[0])
    return LossOutput(torch.stack(totals).sum(), len(totals), {})


def test_a_step_over_groups_is_the_same_in_one_pass_or_many(tmp_path):
    policy = tiny_policy()
    rows = [
        Row(tuple(policy.encode_prompt(text)), (5 + i,), tag=(g, i))
        for i in range(3)  # rows of a group are not neighbours
        for g, text in enumerate(("Ice?", "Is the stone heavier?", "Sand or ice, which is it?"))
    ]
    logged = []
    for micro_tokens in (1, 1 << 20):
        stage = Stage(Run.open(tmp_path / str(micro_tokens), {}), "s")
        config = FitConfig(micro_tokens=micro_tokens)
        fit(
            tiny_policy(), Grouped(choice, lambda one: one.tag[0]), lambda _: rows, config, stage,
            steps=1,
        )  # fmt: skip
        logged += stage.metrics()
    assert logged[0]["weight"] == logged[1]["weight"] == 3
    assert logged[0]["loss"] == pytest.approx(logged[1]["loss"], rel=1e-5)
    assert logged[0]["grad_norm"] == pytest.approx(logged[1]["grad_norm"], rel=1e-4)
    assert logged[0]["loss"] > 0.1


def batch_at(step):
    return [Row((3, 4, 5 + step), (6 + step, 7, 8)), Row((9,), (10 + step,))]


def taught(path, config=CONFIG):
    """A policy's weights after training, and what was logged."""
    policy = tiny_policy()
    stage = stage_in(path)
    fit(policy, nll, batch_at, config, stage, steps=STEPS)
    return [p.detach().clone() for p in policy.model.parameters()], stage.metrics()


def stage_in(path):
    """A stage that stores a checkpoint after every step."""
    return Stage(Run.open(path, {"checkpoint_every": 0.0}), "s")


class Killed(Exception):
    pass


def killed_when(monkeypatch, happens, time):
    """Die in a checkpoint's writing: while the file is written, or before one of its renames."""
    seen = {"n": 0}

    def dies(real, here):
        def call(*args, **options):
            if here(*args):
                seen["n"] += 1
                if seen["n"] == time:
                    raise Killed
            return real(*args, **options)

        return call

    moves = {
        "before the old one goes": lambda source, _: str(source).endswith("checkpoints/s"),
        "before the new one comes": lambda source, _: str(source).endswith("checkpoints/s.new"),
    }
    if happens in moves:
        monkeypatch.setattr(os, "replace", dies(os.replace, moves[happens]))
    else:
        second = dies(Path.write_text, lambda path, *_: path.name == "step.json")
        monkeypatch.setattr(Path, "write_text", second)  # of its two files the first is there


@pytest.mark.parametrize(
    ("happens", "time", "left"),
    [
        ("while it is written", 1, 0),
        ("while it is written", 3, 2),
        ("before the old one goes", 1, 1),
        ("before the new one comes", 1, 0),
        ("before the new one comes", 3, 2),  # between the two renames: only the old one is there
    ],
)
def test_a_kill_in_a_checkpoint_leaves_a_whole_one(
    happens, time, left, tmp_path, monkeypatch, capsys
):
    weights, lines = taught(tmp_path / "whole")
    assert [line["step"] for line in lines] == list(range(STEPS))
    with monkeypatch.context() as patch:
        killed_when(patch, happens, time)
        with pytest.raises(Killed):
            taught(tmp_path / "killed")
    again, logged = taught(tmp_path / "killed")
    assert resumed_at(capsys) == left
    assert logged == lines
    assert all(torch.equal(a, b) for a, b in zip(again, weights, strict=True))


def resumed_at(capsys):
    """The step that a stage said it resumes at; 0: it said nothing."""
    said = re.findall(rf"^s: resuming at step (\d+) of {STEPS}$", capsys.readouterr().err, re.M)
    return int(said[-1]) if said else 0


WHERE = "a checkpoint of s after step 3 is stored"


def cut(folder):
    """The state of a checkpoint as a power cut can leave it."""
    file = folder / "state.safetensors"
    file.write_bytes(file.read_bytes()[:4000])


@pytest.mark.parametrize(
    ("cuts", "left", "said"),
    [
        (("s",), 3, "going on from an older checkpoint"),
        (("s", "s.old"), 0, "going on from the start of the stage"),
    ],
)
def test_a_cut_checkpoint_falls_back_with_a_word(cuts, left, said, tmp_path, caplog, capsys):
    weights, lines = taught(tmp_path / "whole")
    taught(tmp_path / "cut")  # checkpoints after steps 3 and 4
    for name in cuts:
        cut(tmp_path / "cut" / "checkpoints" / name)
    capsys.readouterr()
    again, logged = taught(tmp_path / "cut")
    assert resumed_at(capsys) == left
    assert "4000 bytes, another length than was written" in caplog.text
    assert said in caplog.text
    assert logged == lines
    assert all(torch.equal(a, b) for a, b in zip(again, weights, strict=True))


def test_a_checkpoint_that_is_not_finite_is_not_whole(tmp_path, caplog):
    taught(tmp_path)
    file = tmp_path / "checkpoints" / "s" / "state.safetensors"
    tensors = load_file(file)
    next(iter(tensors.values())).fill_(float("nan"))
    save_file(tensors, file)
    taught(tmp_path)
    assert "not finite" in caplog.text


def test_moments_are_restored_beside_the_parameters(tmp_path):
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], fused=True)
    weight.grad = torch.ones(3)
    optimizer.step()
    save_checkpoint(tmp_path / "s", Position(1), {"w": weight}, optimizer)
    elsewhere = torch.nn.Parameter(torch.empty(3, device="meta"))
    optimizer = torch.optim.AdamW([elsewhere], fused=True)
    assert restore_checkpoint(tmp_path / "s", {"w": elsewhere}, optimizer) == Position(1)
    devices = {key: value.device.type for key, value in optimizer.state[elsewhere].items()}
    assert devices == {"exp_avg": "meta", "exp_avg_sq": "meta", "step": "meta"}


def test_a_stop_between_a_step_and_what_follows_it_repeats_neither(tmp_path):
    def run(path, stops_at=None):
        policy, called = tiny_policy(), []

        def before_step(step):
            called.append(f"before {step}")
            if f"before {step}" == stops_at:
                raise Terminated

        def after_step(step):
            called.append(f"after {step}")
            if f"after {step}" == stops_at:
                raise Terminated

        stage = Stage(Run.open(path, {}), "s")
        hooks = {"before_step": before_step, "after_step": after_step}
        with pytest.raises(Terminated) if stops_at else nullcontext() as stop:
            fit(policy, nll, batch_at, CONFIG, stage, steps=STEPS, **hooks)
        assert stop is None or stop.value.places == ["s at 3 of 5 steps", WHERE]
        return [p.detach().clone() for p in policy.model.parameters()], stage.metrics(), called

    weights, lines, _ = run(tmp_path / "whole")
    for stop, goes_on in (("after 2", "before 2"), ("before 3", "before 3")):
        run(tmp_path / stop, stop)
        again, logged, called = run(tmp_path / stop)
        assert called[0] == goes_on
        assert called[-1] == "after 4"
        assert logged == lines
        assert all(torch.equal(a, b) for a, b in zip(again, weights, strict=True))


def test_the_checkpoint_is_gone_when_the_stage_ends(tmp_path):
    taught(tmp_path)
    assert (tmp_path / "checkpoints" / "s").exists()
    stage_in(tmp_path).once(dict)
    assert not (tmp_path / "checkpoints" / "s").exists()


def test_checkpoints_are_as_far_apart_as_the_run_says(tmp_path):
    fit(tiny_policy(), nll, batch_at, CONFIG, Stage(Run.open(tmp_path, {}), "s"), steps=STEPS)
    assert not (tmp_path / "checkpoints").exists()


class Spoiled(torch.autograd.Function):
    """The value as it is, and an infinite gradient."""

    @staticmethod
    def forward(_, value):
        return value.clone()

    @staticmethod
    def backward(_, gradient):
        return gradient * float("inf")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda total: total * float("nan"), "the loss became nan; lower the learning rate or use"),
        (Spoiled.apply, "the gradient became nan; lower the learning rate or use"),
    ],
)
def test_a_step_that_is_not_finite_is_refused_with_its_rows(spoil, message, tmp_path):
    bad = Row((20,), (21, 22))

    def broken(policy, rows):
        out = nll(policy, rows)
        return LossOutput(spoil(out.total) if bad in rows else out.total, out.weight, {})

    def third_is_bad(step):
        return [*batch_at(step), *([bad] * (step == 2))]

    policy, stage = tiny_policy(), stage_in(tmp_path)
    with pytest.raises(NotFinite, match=message) as caught:
        fit(policy, broken, third_is_bad, CONFIG, stage, steps=STEPS)
    said = str(caught.value)
    assert said.startswith("s, step 2: ")
    assert "row 3 of 3: prompt ends in '" in said
    assert "row 2" not in said
    assert all(p.isfinite().all() and p.grad is None for p in policy.model.parameters())
    file = tmp_path / "checkpoints" / "s" / "state.safetensors"  # the last good one is still there
    stored = load_file(file)
    for name, parameter in policy.model.named_parameters():
        assert torch.equal(stored[f"weight/{name}"], parameter)
    # with that row left out it goes on from there
    fit(tiny_policy(), broken, batch_at, CONFIG, stage, steps=STEPS)
    assert [line["step"] for line in stage.metrics()] == list(range(STEPS))
