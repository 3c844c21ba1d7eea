"""A run survives a kill at any moment, resumes only as itself, and gives back what was stored."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rationalize.attempt_files import load_attempts, save_attempts, write_sft_jsonl
from rationalize.environment import environment
from rationalize.errors import UserError
from rationalize.records import Attempt
from rationalize.runs import Run, check_resumable, read_config
from rationalize.runs.lock import is_held

CONFIG = {"method": "sft", "fit": {"learning_rate": 1e-5, "steps": 8}, "rewards": ("a", "b")}
in_tmp = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def attempt(number: int = 0, **changes) -> Attempt:
    fields = {
        "id": f"a{number}",
        "question_id": f"q{number}",
        "mode": "rationale_answer",
        "prompt": "Which?",
        "completion": "Because. So the answer is (A).",
        "rationale": "Because.",
        "prediction": "ice",
        "gold": "ice",
        "parsed": True,
        "finish": "stop",
        "writer": "policy",
        "model": "tiny",
        "round": 0,
        "step": number,
        "split": "train",
        "seed": 7,
        "n_tokens": 9,
    }
    return Attempt(**{**fields, **changes})


json_values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text()
)
int64 = st.integers(-(2**63), 2**63 - 1)
attempts = st.builds(
    Attempt,
    id=st.text(),
    question_id=st.text(),
    mode=st.text(),
    prompt=st.text(),
    completion=st.text(),
    rationale=st.text(),
    prediction=st.none() | st.text(),
    gold=st.text(),
    parsed=st.booleans(),
    finish=st.sampled_from(["stop", "length"]),
    writer=st.text(),
    model=st.text(),
    round=int64,
    step=int64,
    split=st.text(),
    seed=int64,
    n_tokens=int64,
    rewards=st.dictionaries(st.text(), st.none() | st.floats(allow_nan=False) | st.integers()),
    control=st.none() | st.dictionaries(st.text(), st.integers()),
    refines=st.none() | st.text(),
    hinted=st.booleans(),
    sampling=st.dictionaries(st.text(), json_values),
)


def test_the_configuration_is_stored_as_a_valid_input(tmp_path):
    run = Run.open(tmp_path / "run", CONFIG, base_hash="abc")
    assert read_config(run.path / "config.yaml") == {**CONFIG, "rewards": ["a", "b"]}
    assert yaml.safe_load((run.path / "config.yaml").read_text())["base_hash"] == "abc"
    Run.open(tmp_path / "other", read_config(run.path / "config.yaml"), base_hash="abc")
    Run.open(tmp_path / "run", read_config(run.path / "config.yaml"), base_hash="abc")


def test_a_number_without_point_is_a_number_in_yaml(tmp_path):
    (tmp_path / "c.yaml").write_text("learning_rate: 1e-5\nname: '1e-5'\n")
    config = read_config(tmp_path / "c.yaml")
    assert config == {"learning_rate": 1e-5, "name": "1e-5"}
    run = Run.open(tmp_path / "run", config)
    assert read_config(run.path / "config.yaml") == config


@in_tmp
@given(
    config=st.dictionaries(
        st.text().filter(lambda name: name != "track"),  # names a package
        json_values | st.lists(json_values),
    )
)
def test_any_configuration_resumes_itself(tmp_path, config):
    folder = tmp_path / str(time.monotonic_ns())
    Run.open(folder, config).close()
    Run.open(folder, config).close()


def test_dataclasses_paths_and_numpy_are_stored_plainly(tmp_path):
    @dataclass(frozen=True)
    class Fit:
        out: Path = Path("x/y")
        rate: float = 0.5

    run = Run.open(tmp_path / "run", {"fit": Fit()})
    assert read_config(run.path / "config.yaml") == {
        "fit": {"out": os.path.join("x", "y"), "rate": 0.5}
    }
    run.log("s", 0, loss=np.float32(0.5), n=np.int64(3), bad=float("nan"), all=np.array([1, 2]))
    assert run.metrics() == [
        {"stage": "s", "step": 0, "loss": 0.5, "n": 3, "bad": None, "all": [1, 2]}
    ]


@pytest.mark.parametrize(
    ("config", "base_hash", "named"),
    [
        (
            {**CONFIG, "fit": {"learning_rate": 2e-5, "steps": 8}},
            "abc",
            "fit.learning_rate: 1e-05 in the run, 2e-05",
        ),
        ({**CONFIG, "new": 1}, "abc", "new: nothing in the run, 1 asked for"),
        (
            {"method": "sft", "rewards": ("a", "b")},
            "abc",
            "fit.steps: 8 in the run, nothing asked for",
        ),
        (CONFIG, "abd", "base_hash: 'abc' in the run, 'abd' asked for"),
    ],
)
def test_another_configuration_or_base_is_refused_by_name(tmp_path, config, base_hash, named):
    run = Run.open(tmp_path / "run", CONFIG, base_hash="abc")
    before = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}
    for refuse in (Run.open, check_resumable):
        with pytest.raises(UserError, match="another configuration") as error:
            refuse(tmp_path / "run", config, base_hash=base_hash)
        assert named in str(error.value)
        assert "choose another folder" in str(error.value)
    assert before == {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}


@pytest.mark.parametrize(("later", "refused"), [
    ({"routing": None, "fit": {**CONFIG["fit"], "fused": False}}, False),
    ({"routing": "surest"}, True), ({"weights": {"a": 0}}, True), ({"rounds": 0}, True),
    ({"fit": {**CONFIG["fit"], "fused": True}}, True),
])  # fmt: skip
def test_a_run_goes_on_under_a_version_that_has_more_settings_which_are_off(
    tmp_path, later, refused
):
    Run.open(tmp_path / "run", CONFIG).log("s", 0, loss=1.0)
    check = partial(check_resumable, tmp_path / "run", {**CONFIG, **later})
    if not refused:
        check()
        return
    with pytest.raises(UserError, match="nothing in the run"):
        check()


def test_checking_leaves_no_trace(tmp_path):
    check_resumable(tmp_path / "run", CONFIG)
    assert not (tmp_path / "run").exists()


def test_what_is_no_run_is_not_written_to(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        Run.open(tmp_path / "file", CONFIG)
    (tmp_path / "lost").mkdir()
    (tmp_path / "lost" / "results.json").write_text("{}")
    with pytest.raises(UserError, match=r"no config\.yaml"):
        Run.open(tmp_path / "lost", CONFIG)
    with pytest.raises(UserError, match=r"no config\.yaml"):
        Run.read(tmp_path / "lost")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "config.yaml").write_text("a: [")
    with pytest.raises(UserError, match=r"config\.yaml:\d: not YAML"):
        Run.open(tmp_path / "bad", CONFIG)


def test_the_environment_names_no_host_user_or_path(tmp_path):
    run = Run.open(tmp_path / "run", CONFIG)
    text = (run.path / "env.json").read_text()
    for private in (os.uname().nodename, str(Path.home()), str(tmp_path), os.environ.get("USER")):
        assert not private or private not in text
    assert json.loads(text)["packages"]["numpy"] == np.__version__


def test_another_environment_is_recorded_and_said(tmp_path, caplog):
    run = Run.open(tmp_path / "run", CONFIG)
    run.write_json("env.json", {**environment(), "python": "3.9.0"})
    Run.open(tmp_path / "run", CONFIG)
    assert "python: '3.9.0' then" in caplog.text
    env = run.read_json("env.json")
    assert env["python"] == "3.9.0"
    assert [e["python"] for e in env["resumed"]] == [environment()["python"]]


def test_metrics_rewind_by_stage(tmp_path):
    run = Run.open(tmp_path / "run", CONFIG)
    for step in range(3):
        run.log("a", step, loss=step / 3)
        run.log("b", step, loss=1.0)
    run.rewind("a", 1)
    assert [line["step"] for line in run.metrics("a")] == [0]
    assert [line["step"] for line in run.metrics("b")] == [0, 1, 2]
    run.log("a", 1, loss=0.1)
    assert run.metrics("a")[-1] == {"stage": "a", "step": 1, "loss": 0.1}


def test_a_log_is_put_in_order_when_the_work_is_done(tmp_path):
    """In a resumed run lines of other stages come before those that are logged again."""
    straight = [("b", 0), ("a", 0), ("a/rounds", 0), ("b", 1), ("a", 1)]
    resumed = [("b", 0), ("a/rounds", 0), ("a", 0), ("a", 1), ("b", 1)]
    for name, lines in (("straight", straight), ("resumed", resumed)):
        with Run.open(tmp_path / name, CONFIG) as run:
            for stage, step in lines:
                run.log(stage, step, loss=0.5)
    ends = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("straight", "resumed")]
    assert ends[0] == ends[1]


def test_what_a_kill_has_left_half_written_goes_at_the_next_start(tmp_path):
    run = Run.open(tmp_path, CONFIG)
    left = ["model/.README.md.77.tmp", "lm_eval/.a.yaml.77.tmp", "attempts/.s.parquet.77.tmp"]
    left += ["scores/.scores.abc.tmp/scores.sqlite", "checkpoints/sft.new/state.safetensors"]
    for name in left:
        run.folder(*name.split("/")[:-1])
        (tmp_path / name).write_text("half")
    Run.open(tmp_path, CONFIG)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file() and b"half" in p.read_bytes()] == []


def test_metrics_cut_at_any_byte_are_mended(tmp_path):
    run = Run.open(tmp_path / "run", CONFIG)
    for step in range(2):
        run.log("a", step, loss=0.5)
    whole = (run.path / "metrics.jsonl").read_bytes()
    first = len(whole) // 2
    for end in range(len(whole) + 1):
        (run.path / "metrics.jsonl").write_bytes(whole[:end])
        assert len(Run.read(run.path).metrics()) == end // first  # while it is being written
        again = Run.open(run.path, CONFIG)
        again.log("a", 9, loss=1.0)
        assert [line["step"] for line in again.metrics()] == [*range(end // first), 9]


def test_a_power_cut_leaves_zeros_which_are_dropped(tmp_path):
    run = Run.open(tmp_path / "run", CONFIG)
    run.log("a", 0, loss=0.5)
    with open(run.path / "metrics.jsonl", "ab") as file:
        file.write(b"\0" * 9 + b"\n" + b"\0" * 5)
    assert len(Run.open(run.path, CONFIG).metrics()) == 1


def test_a_bad_line_in_the_middle_is_said(tmp_path):
    run = Run.open(tmp_path / "run", CONFIG)
    (run.path / "metrics.jsonl").write_text('{"stage": "a"\n{"stage": "a", "step": 0}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl"):
        run.metrics()


def test_stages_and_facts(tmp_path):
    run = Run.open(tmp_path / "run", CONFIG)
    assert run.done("sft") is None
    run.finish("sft", best=3, score=0.1)
    run.finish("mario")
    assert Run.read(run.path).done("sft") == {"best": 3, "score": 0.1}
    assert run.done("mario") == {}


def test_a_shard_is_immutable(tmp_path):
    run = Run.open(tmp_path / "run", CONFIG)
    run.append([attempt(0), attempt(1, writer="teacher")], "round-0")
    run.append([attempt(2)], "round-0")
    run.append([attempt(3, prediction=None, parsed=False)], "round-1")
    run.append([], "round-2")
    assert [a.id for a in run.attempts()] == ["a0", "a1", "a3"]
    assert [a.id for a in run.attempts(writer="teacher")] == ["a1"]
    assert [a.id for a in run.attempts(prediction=None)] == ["a3"]
    assert [a.id for a in run.attempts(split="train", step=3, parsed=False)] == ["a3"]
    assert run.has_shard("round-2")
    assert run.read_shard("round-1") == run.attempts(step=3)
    with pytest.raises(ValueError, match="expected one of"):
        run.attempts(rewards={})
    with pytest.raises(ValueError, match="file name"):
        run.append([], "../round")


def test_a_shard_that_the_manifest_lacks_is_written_again(tmp_path):
    run = Run.open(tmp_path / "run", CONFIG)
    (run.path / "attempts" / "round-0.parquet").write_bytes(b"PAR1 cut")
    (run.path / "attempts" / ".round-0.parquet.1.tmp").write_bytes(b"cut")
    assert run.attempts() == []
    run = Run.open(tmp_path / "run", CONFIG)
    assert not list(run.path.glob("attempts/.*"))
    run.append([attempt()], "round-0")
    assert run.attempts() == [attempt()]


def test_a_damaged_shard_is_said(tmp_path):
    run = Run.open(tmp_path / "run", CONFIG)
    run.append([attempt()], "round-0")
    file = run.path / "attempts" / "round-0.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"round-0\.parquet"):
        run.attempts()


def test_shards_may_have_different_rewards_and_numbers_come_back_exactly(tmp_path):
    run = Run.open(tmp_path / "run", CONFIG)
    first = attempt(0, rewards={"diversity": 0.1 + 0.2, "plausibility": None}, sampling={"n": 2})
    second = attempt(1, rewards={"correctness": 1}, control={"diversity": 4}, sampling={})
    run.append([first], "one")
    run.append([second], "two")
    read = run.attempts()
    assert read == [first, second]
    assert isinstance(read[1].rewards["correctness"], int)
    scores = np.array([0.1], dtype=np.float32)
    run.append([attempt(2, rewards={"fluency": scores[0]})], "three")
    assert run.attempts()[-1].rewards["fluency"] == float(scores[0])


@in_tmp
@given(
    rows=st.lists(attempts, max_size=4), suffix=st.sampled_from(["parquet", "jsonl", "jsonl.gz"])
)
def test_attempts_come_back_as_they_were(tmp_path, rows, suffix):
    path = tmp_path / f"attempts.{suffix}"
    save_attempts(rows, path)
    assert load_attempts(path) == rows


def test_half_characters_do_not_stop_a_run(tmp_path):
    save_attempts([attempt(completion="a\ud800b😀")], tmp_path / "a.parquet")
    assert load_attempts(tmp_path / "a.parquet")[0].completion == "a\ufffdb😀"


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"id": 1}', '{"question_id": "q", "completion": "c"}']
)
def test_files_that_hold_no_attempts_are_said(tmp_path, text):
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(UserError, match=r"a\.jsonl, line 1"):
        load_attempts(tmp_path / "a.jsonl")


def test_sft_rows_have_the_columns_of_trl(tmp_path):
    write_sft_jsonl([attempt()], tmp_path / "text.jsonl")
    row = json.loads((tmp_path / "text.jsonl").read_text())
    assert row == {"prompt": "Which?\n", "completion": "Because. So the answer is (A)."}
    write_sft_jsonl([attempt()], tmp_path / "chat.jsonl", messages=True)
    row = json.loads((tmp_path / "chat.jsonl").read_text())
    assert row["prompt"] == [{"role": "user", "content": "Which?"}]
    assert row["completion"][0]["role"] == "assistant"


def test_reading_takes_no_lock_and_writes_nothing(tmp_path):
    Run.open(tmp_path / "run", CONFIG).log("a", 0, loss=1.0)
    run = Run.read(tmp_path / "run")
    assert run.metrics("a")
    for write in (
        lambda: run.log("a", 1),
        lambda: run.finish("a"),
        lambda: run.append([attempt()], "x"),
        lambda: run.write_json("x.json", 1),
        lambda: run.rewind("a", 0),
    ):
        with pytest.raises(ValueError, match="opened for reading"):
            write()


def test_a_reader_that_closes_leaves_the_writers_lock(tmp_path):
    with Run.open(tmp_path, {}):
        with Run.read(tmp_path):
            pass
        assert is_held(tmp_path)
    assert not is_held(tmp_path)


def test_a_run_inside_a_run_has_its_own_records(tmp_path):
    run = Run.open(tmp_path / "run", CONFIG)
    inner = run.nested("scorer")
    inner.log("fit", 0, loss=1.0)
    with open(inner.path / "metrics.jsonl", "a") as file:
        file.write('{"stage"')
    assert len(run.nested("scorer").metrics()) == 1
    assert run.metrics() == []
    assert inner.path == run.path / "stages" / "scorer"
    assert inner.config == run.config


OPEN_AND_WAIT = """
import sys
from rationalize.runs import Run
run = Run.open(sys.argv[1], {})
step = 0
while True:
    run.log("a", step, text="x" * 2000)
    run.write_json("state.json", {"step": step, "text": "y" * 2000})
    step += 1
    if step == 5:
        print("open", flush=True)
"""


def test_two_processes_cannot_write_one_run_and_a_killed_one_lets_go(tmp_path):
    command = [sys.executable, "-c", OPEN_AND_WAIT, str(tmp_path / "run")]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "open\n"
        with pytest.raises(UserError, match=rf"another process \(pid {writer.pid}\)"):
            Run.open(tmp_path / "run", {})
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    run = Run.open(tmp_path / "run", {})
    steps = [line["step"] for line in run.metrics()]
    assert steps == list(range(len(steps)))
    assert run.read_json("state.json")["step"] >= len(steps) - 2
