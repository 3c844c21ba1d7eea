"""A stage is stored at its end, resumes after a kill, and takes over results of another run."""

import pytest
from toys import attempt, experiment, question

from rationalize.runs import Run, Stage

FIRST, SECOND = (attempt(question(i), "so it is", "yes") for i in range(2))


class Number:
    """Weights of one number."""

    def __init__(self, value=0):
        self.value = value

    def save(self, folder):
        (folder / "value").write_text(str(self.value))

    def load_weights(self, folder):
        self.value = int((folder / "value").read_text())


class Killed(Exception):
    pass


def kill():
    raise Killed


def never():
    raise AssertionError("it is done already")


@pytest.fixture
def run(tmp_path):
    return Run.open(tmp_path / "run", {})


def learning(policy, value, **facts):
    def learn():
        policy.value = value
        return facts

    return learn


@pytest.mark.parametrize("kind", ["policies", "variants"])
def test_a_policy_is_learned_once_and_then_loaded(run, kind):
    stage, policy = Stage(run, "mario", kind), Number()
    assert stage.done is None
    assert stage.policy(policy, learning(policy, 7, step=3)) == {"step": 3}
    assert (run.path / kind / "mario" / "value").exists()
    again = Number()
    assert Stage(run, "mario", kind).policy(again, never) == {"step": 3} == stage.done
    assert again.value == 7


def test_learning_may_return_nothing(run):
    policy = Number()
    assert Stage(run, "sft").policy(policy, lambda: None) == {}
    assert Stage(run, "sft").done == {}


def test_a_kill_while_it_learns_leaves_the_stage_undone(run):
    stage, policy = Stage(run, "sft"), Number()
    with pytest.raises(Killed):
        stage.policy(policy, kill)
    assert stage.done is None
    assert stage.policy(policy, learning(policy, 7)) == {}
    assert policy.value == 7


def test_a_kill_while_it_is_saved_leaves_the_stage_undone(run):
    class Dying(Number):
        def save(self, folder):
            (folder / "value").write_text("half")
            raise Killed

    stage, dying, policy = Stage(run, "sft"), Dying(), Number()
    with pytest.raises(Killed):
        stage.policy(dying, learning(dying, 7))
    assert stage.done is None
    stage.policy(policy, learning(policy, 8))
    again = Number()
    stage.policy(again, never)
    assert again.value == 8


def test_checkpoints_go_when_the_stage_ends(run):
    def left():
        return sorted(path.name for path in run.folder("checkpoints").iterdir())

    for name in ("sft", "sft-round0"):
        run.folder("checkpoints", name)
        for end in ("json", "safetensors"):
            (run.path / "checkpoints" / f"{name}-best.{end}").touch()
    with pytest.raises(Killed):
        Stage(run, "sft").once(kill)
    assert len(left()) == 6
    Stage(run, "sft").once(dict)
    assert left() == ["sft-round0", "sft-round0-best.json", "sft-round0-best.safetensors"]


def test_what_is_made_once_keeps_its_facts(run):
    assert Stage(run, "export").once(lambda: {"seed": 1}) == {"seed": 1}
    assert Stage(run, "export").once(never) == {"seed": 1}
    assert Stage(run, "empty").once(dict) == {}
    assert Stage(run, "empty").once(never) == {}


def test_attempts_are_written_once(run):
    stage = Stage(run, "mario")
    assert stage.stored("round0") is None
    with pytest.raises(Killed):
        stage.attempts("round0", kill)
    assert stage.attempts("round0", lambda: [FIRST, SECOND]) == [FIRST, SECOND]
    assert stage.attempts("round0", never) == stage.stored("round0") == [FIRST, SECOND]
    assert run.read_shard("mario-round0") == [FIRST, SECOND]
    assert stage.attempts("round1", list) == stage.attempts("round1", never) == []


def test_facts_are_measured_once_and_come_back_as_json(run):
    stage = Stage(run, "mario")
    with pytest.raises(Killed):
        stage.facts("obedience/mario-12", kill)
    assert stage.facts("obedience/mario-12", lambda: [{"pair": (1, 2)}]) == [{"pair": [1, 2]}]
    assert stage.facts("obedience/mario-12", never) == run.read_json("obedience/mario-12.json")
    assert stage.facts("votes", list) == stage.facts("votes", never) == []


def test_log_takes_the_place_of_what_a_killed_start_logged(run):
    stage = Stage(run, "mario")
    run.log("mario", 2, loss=1.0)
    for step in (0, 2, 4):
        stage.log("rounds", step, [{"reward": "accuracy", "mean": step}])
    stage.log("pool", 2, [{"written": 9}])
    rows = [{"reward": "accuracy", "mean": 7}, {"reward": "nrg", "mean": 8}]
    stage.log("rounds", 2, rows)
    assert [(row["step"], row["mean"]) for row in stage.metrics("rounds")] == [
        (0, 0),
        (2, 7),
        (2, 8),
    ]
    assert stage.metrics("pool") == [{"stage": "mario/pool", "step": 2, "written": 9}]
    assert stage.metrics() == [{"stage": "mario", "step": 2, "loss": 1.0}]
    stage.log("rounds", 2, [{"step": 3, "mean": 9}])  # a row may say its own step
    assert [row["step"] for row in stage.metrics("rounds")] == [0, 3]


def test_a_stage_inside_has_both_names(run, tmp_path):
    other = Run.open(tmp_path / "other", {})
    stage = Stage(run, "rft", "variants", source=Stage(other, "rft", "variants"))
    inside = stage.sub("round0").sub("seed")
    assert (inside.name, inside.kind, inside.run) == ("rft-round0-seed", "variants", run)
    assert inside.folder == run.path / "variants" / "rft-round0-seed"
    assert (inside.source.name, inside.source.run) == ("rft-round0-seed", other)
    assert Stage(run, "rft").sub("round0").source is None


def test_a_source_gives_policies_attempts_and_facts(run, tmp_path):
    source, taught = Stage(Run.open(tmp_path / "other", {}), "sft"), Number()
    source.policy(taught, learning(taught, 7, step=3))
    source.attempts("round0", lambda: [FIRST])
    source.facts("gate", lambda: {"open": True})
    stage, policy = Stage(run, "sft", source=source), Number()
    run.folder("policies", "sft", "left-by-a-killed-start")
    assert stage.policy(policy, never) == {"step": 3}
    assert policy.value == 7
    assert [path.name for path in stage.folder.iterdir()] == ["value"]
    assert stage.attempts("round0", never) == [FIRST]
    assert stage.facts("gate", never) == {"open": True}
    alone, again = Stage(run, "sft"), Number()  # all of it is in this run now
    assert alone.policy(again, never) == {"step": 3}
    assert alone.attempts("round0", never) == [FIRST]
    assert alone.facts("gate", never) == {"open": True}


def test_what_a_source_lacks_is_made_here(run, tmp_path):
    source = Stage(Run.open(tmp_path / "other", {}), "sft")
    with pytest.raises(Killed):
        source.policy(Number(), kill)
    stage, policy = Stage(run, "sft", source=source), Number()
    assert stage.policy(policy, learning(policy, 8, step=1)) == {"step": 1}
    assert stage.attempts("round0", lambda: [SECOND]) == [SECOND]
    assert stage.facts("gate", lambda: {"open": False}) == {"open": False}
    assert source.done is None
    assert source.stored("round0") is None
    assert not (tmp_path / "other" / "gate.json").exists()


def test_an_experiment_takes_over_what_depends_on_the_same_settings(tmp_path):
    other = Run.open(tmp_path / "other", {})
    exp = experiment(tmp_path / "run", [], source=other, shared=frozenset({"sft", "seed"}))
    assert exp.stage("sft", needs=("sft", "seed")).source == Stage(other, "sft")
    assert exp.stage("fold", kind="variants", needs=()).source == Stage(other, "fold", "variants")
    assert exp.stage("mario", needs=("sft", "mario")).source is None
    assert exp.stage("mario").source is None
    alone = experiment(tmp_path / "alone", [])
    assert alone.stage("sft", needs=("sft",)).source is None
