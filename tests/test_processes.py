"""Several processes that learn together: the same weights in all, what one process would learn up
to rounding, and the same bits again after a kill.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial

import pytest
import torch
from kills import contents
from launches import launch
from tiny import tiny_policy

from rationalize.cli import run
from rationalize.errors import NotFinite, UserError
from rationalize.models.forward import Row
from rationalize.models.heads import attached, new_head
from rationalize.processes import alone, by_first, gather, world
from rationalize.runs import Run, Stage, size_may_change
from rationalize.training.loop import ControlFitConfig, FitConfig, HeadFitConfig, fit
from rationalize.training.objectives import (
    GroupTag,
    PairTag,
    RankTag,
    RolloutTag,
    dpo,
    grpo,
    nll,
    ppo,
    quark,
    rank,
)

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")

STEPS, BATCH, LENGTH = 3, 8, 24
ROWS = range(STEPS * BATCH)
KILLS = int(os.environ.get("KILLS", "0")) * 2 or 2


def together(work, said, **options):
    """Do the work in two processes that both end well."""
    statuses = launch(work, said, **options)
    told = [file.read_text() for file in sorted(said.glob("output*"))]
    assert statuses == [0] * len(statuses), "\n".join(told)
    return told


def rows_of(policy, tag=lambda i: None, controls=(), *, even=True):
    """Rows, the tag of each made from its index. Where they are `even`, each of two processes has
    one pass of a step; else one has two.
    """
    draw, ids = random.Random(0), range(5, policy.n_vocab)
    shapes = [(LENGTH - 4 - i % 3 if even else draw.randrange(3, 20), 4 + i % 3) for i in ROWS]
    return [
        Row(tuple(draw.choices(ids, k=p)), tuple(draw.choices(ids, k=r)), tuple(controls), tag(i))
        for i, (p, r) in zip(ROWS, shapes, strict=True)
    ]


def columns(i):
    """Numbers of a reply's tokens, of shape (T,)."""
    return torch.linspace(-1.0, 1.0, 4 + i % 3) * (1 + i % 4)


def learn_texts(policy, learn):
    learn(nll, rows_of(policy, even=False), FitConfig(learning_rate=1e-3))


def learn_mario(policy, learn):
    reference = policy.become_reference()
    policy.add_controls({"x": 2})
    rows = rows_of(policy, controls=policy.controls.prefix({"x": 1}))
    loss = quark(reference, beta=0.1, alpha=0.1, direction="reverse")
    learn(loss, rows, ControlFitConfig(learning_rate=1e-3, control_factor=3.0))


def learn_pairs(policy, learn):
    rows = rows_of(policy, lambda i: PairTag(i // 2, not i % 2, -20.0 - i))
    learn(dpo(beta=0.1, nll_weight=0.5), rows, FitConfig(learning_rate=1e-3))


def learn_rank(policy, learn):
    rows = rows_of(policy, lambda i: RankTag(i // 4, i % 4, (3,) if i % 4 < 3 else (), i % 4 < 3))
    head = new_head(policy)
    with attached(policy, head):
        learn(rank(head), rows, HeadFitConfig(learning_rate=1e-3, head_rate=1e-2))


def learn_ppo(policy, learn):
    rows = rows_of(policy, lambda i: RolloutTag(columns(i) - 5, columns(i), columns(i), columns(i)))
    head = new_head(policy, zero=True)
    loss = ppo(head, clip=0.2, value_clip=0.2, value_weight=0.5, detach_value=True)
    with attached(policy, head):
        learn(loss, rows, HeadFitConfig(learning_rate=1e-3, head_rate=1e-2))


def learn_grpo(policy, learn):
    rows = rows_of(policy, lambda i: GroupTag(columns(i) - 5, columns(i) - 5, 1.0 - i % 3))
    learn(grpo(clip=0.2, beta=0.1), rows, FitConfig(learning_rate=1e-3))


WORK = {
    f"{objective.__name__}-{kind}-{tuning}": (objective, kind, tuning)
    for objective, kind, tuning in (
        (learn_texts, "decoder", "full"), (learn_texts, "t5", "lora"),
        (learn_mario, "decoder", "full"), (learn_mario, "decoder", "lora"),
        (learn_mario, "t5", "full"), (learn_pairs, "decoder", "lora"),
        (learn_pairs, "t5", "full"), (learn_rank, "decoder", "full"),
        (learn_ppo, "decoder", "lora"), (learn_ppo, "t5", "full"), (learn_grpo, "decoder", "full"),
    )
}  # fmt: skip
"""A few steps of every objective, with both kinds of models and of tuning."""


def _learn(policy, stage, file, loss, rows, config):
    at = [rows[step * BATCH : (step + 1) * BATCH] for step in range(STEPS)]
    fit(policy, loss, at.__getitem__, config, stage, steps=STEPS)
    named = policy.model.named_parameters()
    torch.save(({n: p.detach() for n, p in named if p.requires_grad}, stage.metrics()), file)


def learn_all(folder, parallel="ddp"):
    """Learn every objective in one run; each process keeps its weights, and what it read there."""
    here, run = world(), Run.open(folder, {"parallel": parallel})
    for name, (objective, kind, tuning) in WORK.items():
        policy, stage = tiny_policy(kind, tuning=tuning, lora_rank=4), Stage(run, name)

        file = folder.with_name(f"{name}-{here.rank}.pt")
        objective(policy, partial(_learn, policy, stage, file))
    run.close()


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """Work -> weights and metrics of one process, and of each of two."""
    one, two, shared = (tmp_path_factory.mktemp(n) for n in ("one", "two", "shared"))
    learn_all(one / "run")

    def work(_):
        learn_all(two / "run")
        learn_all(shared / "run", "fsdp")

    together(work, two / "said")
    files = [one / "{}-0.pt", *(f / f"{{}}-{r}.pt" for f in (two, shared) for r in (0, 1))]
    return {n: [torch.load(str(file).format(n)) for file in files] for n in WORK}


@pytest.mark.parametrize("name", WORK)
def test_two_processes_learn_what_one_learns_up_to_rounding(learned, name):
    (one, logged), (first, log_of_first), (second, log_of_second), *_ = learned[name]
    assert all(torch.equal(first[n], second[n]) for n in one)
    assert log_of_first == log_of_second
    assert len(logged) == STEPS
    for n, weight in one.items():
        # Adam's first steps have a size of their own, so that a gradient near 0 may move a weight
        # either way: 3 steps of 1e-3 (a head's 1e-2, control rows' 3e-3)
        torch.testing.assert_close(first[n], weight, rtol=0, atol=2e-5)
    for line, other in zip(logged, log_of_first, strict=True):
        numbers, others = ({k: v for k, v in x.items() if k != "stage"} for x in (line, other))
        assert others == pytest.approx(numbers, rel=2e-3, abs=1e-5)


def is_exact(name):
    """Whether nothing is added in another order where full weights are shared out: the gradients of
    two passes of a process, and what each layer of a decoder sends back to an encoder.
    """
    return "t5" not in name and ("texts" not in name or "lora" in name)


@pytest.mark.parametrize("name", WORK)
def test_weights_that_are_shared_out_learn_the_same(learned, name):
    _, (whole, logged), _, (first, log_of_first), (second, log_of_second) = learned[name]
    assert all(torch.equal(first[n], second[n]) for n in whole)
    assert log_of_first == log_of_second
    if is_exact(name):
        assert all(torch.equal(first[n], whole[n]) for n in whole)
        assert log_of_first == logged
    for n, weight in whole.items():
        torch.testing.assert_close(first[n], weight, rtol=0, atol=2e-6)


def agree(folder, rank):
    """What two processes tell each other; raises in both what the first one raises."""
    told = [gather(rank), by_first(lambda: f"told by {rank}"), world().size]
    with alone():
        told += [by_first(lambda: f"by itself {rank}"), world().size]
    (folder / f"told{rank}").write_text(repr(told))
    try:
        by_first(lambda: 1 / 0)
    except ZeroDivisionError:
        raise UserError(f"both raise, {rank}") from None


def test_what_processes_tell_each_other(tmp_path):
    assert launch(lambda rank: agree(tmp_path, rank), tmp_path / "said") == [1, 1]
    for here in range(2):
        told = [[0, 1], "told by 0", 2, f"by itself {here}", 1]
        assert (tmp_path / f"told{here}").read_text() == repr(told)
        assert f"both raise, {here}" in (tmp_path / f"said/output{here}").read_text()


def not_finite(folder):
    """A row of the second process alone makes the loss infinite."""
    policy, stage = tiny_policy(), Stage(Run.open(folder, {}), "s")
    rows = [Row((5,) * n, (6, 7)) for n in (3, 4)]

    def loss(policy, passed):
        output = nll(policy, passed)
        if len(passed[0].prompt_ids) == 3:  # the shorter row comes last
            output.total = output.total * float("inf")
        return output

    before = [p.detach().clone() for p in policy.model.parameters()]
    with pytest.raises(NotFinite, match=r"loss became inf[^~]*row 1 of 2"):
        fit(policy, loss, lambda _: rows, FitConfig(micro_tokens=1), stage, steps=2)
    assert all(map(torch.equal, before, policy.model.parameters()))


def test_a_step_that_is_not_finite_in_one_process_is_taken_by_none(tmp_path):
    together(lambda _: not_finite(tmp_path / "run"), tmp_path / "said")


class Stopped(Exception):
    """Stands for a kill between two steps."""


def learn_some(folder, *, stop=None):
    """Learn texts under `fsdp` up to a step, or to the end; the weights, and the steps taken."""
    policy, steps = tiny_policy(), []
    rows = rows_of(policy)

    def batch_at(step):
        steps.append(step)
        return rows[step * BATCH : (step + 1) * BATCH]

    def after_step(step):
        if step == stop:
            raise Stopped

    run = Run.open(folder, {"checkpoint_every": 0.0, "parallel": "fsdp"})
    with suppress(Stopped):
        fit(
            policy, nll, batch_at, FitConfig(learning_rate=1e-3), Stage(run, "s"), steps=STEPS,
            after_step=after_step,
        )  # fmt: skip
    run.close()
    return {n: p.detach() for n, p in policy.model.named_parameters()}, steps


def test_a_checkpoint_serves_another_number_of_processes(tmp_path):
    of_two, of_one = tmp_path / "two", tmp_path / "one"
    together(lambda _: learn_some(of_two, stop=2), tmp_path / "said0")
    learn_some(of_one, stop=2)
    assert not (of_two / "checkpoints/s/state.safetensors").exists()
    assert (of_one / "checkpoints/s/state.safetensors").exists()

    def go_on(rank):
        with size_may_change():
            torch.save(learn_some(of_one), tmp_path / f"{rank}.pt")

    together(go_on, tmp_path / "said1")
    whole, _ = learn_some(tmp_path / "unstopped")
    with size_may_change():
        found = [learn_some(of_two), torch.load(tmp_path / "0.pt")]
    for weights, steps in found:
        assert steps == [2]
        for n, weight in whole.items():
            torch.testing.assert_close(weights[n], weight, rtol=0, atol=2e-5)


MARIO = (
    "--rewards correctness diversity --bins 2 --steps 4 --sample-interval 2 --prompts 6 "
    "--fit.control-factor 3 --fit.learning-rate 1e-3 --fit.batch-size 8 "
    "--sft.epochs 1 --sft.fit.learning-rate 1e-3 --sampling.max-new-tokens 24 "
    "--precision float32 --checkpoint-every 0 --limits train=12 dev=3 test=3"
)


HOW = {"ddp": "--tuning lora", "fsdp": "--tuning full"}


@pytest.fixture(scope="module", params=HOW)
def trained(request, tiny_model, mostly_yes, tmp_path_factory):
    """A run of two processes: its command for a folder, its files, and how long it took."""
    how = ["--parallel", request.param, *HOW[request.param].split()]
    place = tmp_path_factory.mktemp("trained")

    def argv(folder):
        named = ["--model", tiny_model, "--questions", mostly_yes, "--out", str(folder)]
        return ["train", "mario", *named, *MARIO.split(), *how]

    folder, started = place / "run", time.monotonic()
    together(lambda _: run(argv(folder)), place / "said")
    return argv, folder, contents(folder), time.monotonic() - started


def test_processes_that_are_killed_end_in_the_same_files(trained, tmp_path):
    argv_in, _, whole, seconds = trained
    folder, draw = tmp_path / "run", random.Random(7)
    argv = argv_in(folder)
    hits = 0
    for i in range(KILLS):
        kill = (i % 2, seconds * draw.uniform(0.1, 0.7))
        by = signal.SIGTERM if i % 4 > 1 else signal.SIGKILL
        ended = launch(lambda _: run(argv), tmp_path / f"said{i}", kill=kill, by=by)
        if ended == [0, 0]:  # it was done before
            assert contents(folder) == whole
            shutil.rmtree(folder)
        else:
            assert not {1} & set(ended), [*(tmp_path / f"said{i}").glob("*")]
            hits += 1
    assert hits
    together(lambda _: run(argv), tmp_path / "said")
    found = contents(folder)
    assert sorted(found) == sorted(whole)
    assert [file for file in whole if found[file] != whole[file]] == []


def test_another_number_of_processes_is_refused_unless_it_may_change(trained, tmp_path):
    argv_in, folder, *_ = trained
    shutil.copytree(folder, tmp_path / "run")
    argv = argv_in(tmp_path / "run")
    with pytest.raises(UserError, match="begun by 2 processes, and 1 would go on with it"):
        run(argv)
    run([*argv, "--world-size-may-change"])  # nothing is left to do
    assert "processes" not in (tmp_path / "run/config.yaml").read_text()


def test_torchrun_starts_what_tells_an_error_once(tmp_path):
    """Its own report of the failed processes stands beside it."""
    command = "-m torch.distributed.run --standalone --nproc-per-node 2 -m -- rationalize sample"
    # torchrun would take `--n` for one of its own without the `--`
    asked = [
        "--model",
        "default",
        "--n",
        "2",
        "--questions",
        "./nowhere",
        "--out",
        tmp_path / "run",
    ]
    done = subprocess.run(
        [sys.executable, *command.split(), *asked], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 1
    assert done.stderr.count("nowhere") == 1
    assert not (tmp_path / "run").exists()
