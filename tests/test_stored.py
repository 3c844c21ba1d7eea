"""What is written once, and what is in memory once."""

import errno
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from rationalize.models.policy import load_policy
from rationalize.models.read_only import read_only
from rationalize.models.stored import holds_model, link_equal, stored_alike, weight_files
from rationalize.runs import Run, Stage
from rationalize.training.checkpoints import WRITE_SECONDS, Schedule
from rationalize.training.selection import BestCheckpoint
from tests.tiny import tiny_policy, weights


def moved(policy, by=0.1):
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter += by
    return policy


@pytest.fixture
def no_links(monkeypatch):
    """A file system without hard links."""

    def refused(*_):
        raise OSError(errno.EOPNOTSUPP, "no links here")

    monkeypatch.setattr(os, "link", refused)


@pytest.mark.parametrize("tuning", ["full", "lora"])
@pytest.mark.parametrize("links", [True, False])
def test_an_export_shares_the_files_of_equal_weights(tmp_path, request, tuning, links):
    if not links:
        request.getfixturevalue("no_links")
    policy = moved(tiny_policy(chat=True, tuning=tuning))
    policy.add_controls({"correctness": 2})
    policy.save(tmp_path / "stage")
    policy.export(tmp_path / "model", bake={"correctness": 0}, stored=tmp_path / "stage")
    policy.export(tmp_path / "alone", bake={"correctness": 0})
    [one], [other] = (weight_files(tmp_path / name) for name in ("stage", "model"))
    assert os.path.samefile(one, other) == links
    files = sorted(f.name for f in (tmp_path / "alone").iterdir())
    assert files == sorted(f.name for f in (tmp_path / "model").iterdir())
    for name in files:
        assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "model" / name).read_bytes()


def test_an_export_of_other_weights_is_written(tmp_path):
    policy = tiny_policy()
    policy.save(tmp_path / "stage")
    assert holds_model(tmp_path / "stage", policy.model)
    before = (tmp_path / "stage" / "model.safetensors").read_bytes()
    moved(policy).export(tmp_path / "model", stored=tmp_path / "stage")
    assert not holds_model(tmp_path / "stage", policy.model)
    assert holds_model(tmp_path / "model", policy.model)
    assert (tmp_path / "stage" / "model.safetensors").read_bytes() == before
    assert not holds_model(tmp_path / "nothing", policy.model)


def test_a_stage_never_writes_into_a_linked_file(tmp_path):
    policy = tiny_policy()
    policy.save(tmp_path / "other")
    before = (tmp_path / "other" / "model.safetensors").read_bytes()
    stage = Stage(Run.open(tmp_path / "run", {}), "s")
    stage.folder.mkdir(parents=True)  # as a kill leaves it, before the stage is done
    os.link(tmp_path / "other" / "model.safetensors", stage.folder / "model.safetensors")
    stage.policy(policy, lambda: moved(policy) and {})
    assert (tmp_path / "other" / "model.safetensors").read_bytes() == before


def test_frozen_parts_of_two_models_are_one_file(tmp_path):
    policy = tiny_policy()
    lower = policy.model.model.layers[0]
    size = sum(p.numel() * p.element_size() for p in lower.parameters())
    size += policy.model.get_input_embeddings().weight.nbytes
    for i in range(2):
        with torch.no_grad():
            policy.model.model.norm.weight += 1
        policy.save(tmp_path / f"fold{i}", first_file=size)
    link_equal(tmp_path / "fold1", [tmp_path / "fold0", tmp_path / "fold1"])
    pairs = list(zip(*(weight_files(tmp_path / f"fold{i}") for i in range(2)), strict=True))
    assert [os.path.samefile(*pair) for pair in pairs] == [True, False]
    assert weights(load_policy(tmp_path / "fold1")) == weights(policy)


def test_models_that_are_only_read_share_what_is_equal(tmp_path):
    one = tiny_policy()
    one.save(tmp_path / "one")
    with torch.no_grad():
        one.model.model.layers[1].mlp.up_proj.weight += 1
    one.save(tmp_path / "two")

    def logits(policy):
        with torch.no_grad(), policy.autocast():
            return policy.model(torch.tensor([[5, 6, 7]])).logits

    names = ("one", "two")
    expected = [logits(load_policy(tmp_path / name)) for name in names]
    a, b = (read_only(load_policy(tmp_path / name)) for name in names)
    pointers = [{n: p.data_ptr() for n, p in x.model.named_parameters()} for x in (a, b)]
    differ = {n for n in pointers[0] if pointers[0][n] != pointers[1][n]}
    assert differ == {"model.layers.1.mlp.up_proj.weight"}
    assert not any(p.requires_grad for x in (a, b) for p in x.model.parameters())
    for x, as_autocast in zip((a, b), expected, strict=True):
        assert torch.equal(logits(x), as_autocast)


def test_a_policy_that_loads_weights_holds_one_model(tmp_path):
    policy = tiny_policy()
    policy.save(tmp_path / "weights")
    moved(policy).load_weights(tmp_path / "weights")
    assert holds_model(tmp_path / "weights", policy.model)


def test_the_best_checkpoint_leaves_out_what_is_stored_elsewhere(tmp_path):
    policy = tiny_policy()
    policy.save(tmp_path / "start")
    policy.add_controls({"correctness": 2})
    stage = Stage(Run.open(tmp_path / "run", {}), "s")
    file = tmp_path / "run" / "checkpoints" / "s-best.safetensors"

    def checkpoint():
        return BestCheckpoint(stage, last=3, start=tmp_path / "start")

    checkpoint().offer(0, 0.5, policy)
    assert list(load_file(file)) == ["model.embed_tokens.weight"]  # it has new rows
    start = weights(policy)
    checkpoint().offer(1, 0.4, moved(policy))
    assert weights(policy) != start
    assert checkpoint().load_into(policy)["step"] == 0
    assert weights(policy) == start
    # a better one is stored whole; the last one not at all
    checkpoint().offer(2, 0.6, moved(policy))
    second = weights(policy)
    assert len(load_file(file)) == len(list(policy.model.parameters()))
    written = file.stat().st_mtime_ns
    checkpoint().offer(3, 0.6, moved(policy))
    assert checkpoint().load_into(policy)["step"] == 2
    assert weights(policy) == second
    checkpoint()._run.write_json("checkpoints/s-best.json", {})
    checkpoint().offer(3, 0.7, moved(policy))
    last = weights(policy)
    assert checkpoint().load_into(policy) == {"step": 3, "scores": {"3": 0.7}}
    assert weights(policy) == last
    assert file.stat().st_mtime_ns == written


def test_what_differs_by_a_bit_or_a_type_is_not_alike(tmp_path):
    tensors = {"a": torch.zeros(3), "b": torch.ones(3)}
    (tmp_path / "w").mkdir()
    save_file(tensors, tmp_path / "w" / "model.safetensors")
    assert stored_alike(tmp_path / "w", tensors) == {"a", "b"}
    assert stored_alike(tmp_path / "w", {"a": torch.zeros(3).half(), "b": tensors["b"]}) == {"b"}
    (tmp_path / "w" / "model.safetensors").write_bytes(b"cut")
    assert stored_alike(tmp_path / "w", tensors) == set()


def test_checkpoints_are_as_far_apart_as_they_are_dear():
    small = {"w": torch.zeros(10)}
    assert not Schedule(60.0, small).due
    assert Schedule(0.0, small).due
    schedule = Schedule(60.0, small)
    assert schedule.wait == 60.0
    large = {"w": torch.zeros(1).expand(250_000_000)}  # 3 GB with its moments
    assert Schedule(60.0, large).wait == pytest.approx(60.0 * 6.0 / WRITE_SECONDS)
    schedule.write(lambda: None)
    assert schedule.wait == 60.0
