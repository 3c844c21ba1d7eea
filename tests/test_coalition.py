"""COALITION on tiny models: every stage, one folder that loads, what it says, its ablations."""

import dataclasses
import json
import math
from typing import get_args

import pytest
from tiny import tiny_folder
from toys import attempt, experiment

from rationalize import Coalition, train
from rationalize.answers import read_answer
from rationalize.cli import main
from rationalize.commands.chain import Routing as RoutingOfCommands
from rationalize.errors import UsageError, UserError
from rationalize.evaluation.compare import final_attempts, read_run
from rationalize.methods.coalition.ablations import GridConfig, ablations, plan_ablations
from rationalize.methods.coalition.answering import Answer
from rationalize.methods.coalition.candidates import utilities_of, utility_reward
from rationalize.methods.coalition.config import (
    CandidateConfig,
    CoalitionConfig,
    ControllerConfig,
    InstructionConfig,
    Routing,
)
from rationalize.methods.coalition.diagnostics import log_reading
from rationalize.methods.coalition.evaluate import drawn_from_base
from rationalize.methods.coalition.tuning import mode_rows, tuned_variants
from rationalize.methods.launch import demo
from rationalize.methods.own_attempts import RejectConfig
from rationalize.methods.settings import EvaluationConfig, RunConfig
from rationalize.methods.sft import SftConfig, StartConfig
from rationalize.models.answer_texts import answer_prompt
from rationalize.models.choices import ChoiceScorer
from rationalize.models.policy import load_policy
from rationalize.models.scorers import AnswerScorer
from rationalize.questions import load_splits
from rationalize.records import Attempt, Question
from rationalize.rewards import RewardSuite
from rationalize.runs import Run
from rationalize.sampling.local import Sampler, SamplingConfig
from rationalize.training.loop import FitConfig

FIT = FitConfig(learning_rate=1e-3, batch_size=8)
SHORT = SamplingConfig(max_new_tokens=6)
INSTRUCTION = InstructionConfig(epochs=1.0, imperfect=SHORT, fit=FIT)
TWICE = dataclasses.replace(SHORT, n=2)
ANY = RejectConfig(min_words=0)
CONFIG = CoalitionConfig(
    judge="ift", candidates=CandidateConfig(sampling=TWICE, filtered=False, reject=ANY), rounds=1,
    epochs=1.0, fit=FIT, instruction=INSTRUCTION, variant_fit=FIT, partition="all", draws=1,
    controller=ControllerConfig(epochs=1.0, fit=FIT),
)  # fmt: skip
EVALUATION = EvaluationConfig(evaluation_tokens=6)


def run_config(model, questions):
    return RunConfig(model=str(model), questions=str(questions), precision="float32")


def settings(model, questions, **changes):
    """All settings of a small run, by name."""
    parts = (run_config(model, questions), EVALUATION, CONFIG)
    return {f.name: getattr(p, f.name) for p in parts for f in dataclasses.fields(p)} | changes


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_folder("decoder", tmp_path_factory.mktemp("tiny"), chat=True)


def write_questions(folder, sizes, question=lambda split, i: {}):
    """Short questions: most of a run's time is the length of what a model reads."""
    folder.mkdir()
    for split, n in sizes.items():
        rows = [
            {"id": f"{split}{i}", "question": f"Is it {split} {i}?", "answer": "yes" if i % 3
             else "no", "choices": ["yes", "no"], "kind": "ab"[i % 2], **question(split, i)}
            for i in range(n)
        ]  # fmt: skip
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(folder)


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    return write_questions(
        tmp_path_factory.mktemp("questions") / "short", {"train": 24, "dev": 4, "test": 6},
        lambda split, i: {"rationales": [f"It is so {i}."]},
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(model, questions, tmp_path_factory):
    out = tmp_path_factory.mktemp("coalition") / "run"
    train("coalition", out, **settings(model, questions, precision="float32"))
    return out


def test_every_stage_leaves_what_it_made(finished):
    stages = json.loads((finished / "stages.json").read_text())
    assert {"ift", "variant-1-tuned", "variant-2-tuned", "variant-1-round0"} <= set(stages)
    assert set(stages["variant-1-round0"]["pairs"]) <= {"generation", "refinement"}
    assert stages["controller"]["write"]["n"] >= 1
    results = json.loads((finished / "results.json").read_text())
    rows = {
        "COALITION",
        "random controller",
        "fixed controller",
        "self-refinement",
        "cross-refinement",
        "no refinement",
        "M_IFT alone",
        "Self-Refine",
        "last variant answers",
        "self-consistency",
        "surest variant",
        "surest draw of M_IFT",
    }
    assert rows <= set(results["methods"])
    run = Run.read(finished)
    [before], [after] = (run.read_json(f"clones-{when}.json") for when in ("tuned", "round0"))
    assert before["n"] == after["n"] == 4
    assert before["split"] == after["split"] == "dev"
    assert before["kl"] != after["kl"]
    shards = [
        run.read_shard(f"clones-{w}-variant-{i}") for w in ("tuned", "round0") for i in (1, 2)
    ]
    assert all([a.question_id for a in own] == [a.question_id for a in shards[0]] for own in shards)
    assert {a.split for own in shards for a in own} == {"dev"}
    leak = json.loads((finished / "leak-round0.json").read_text())
    shard = run.read_shard("round0-utilities")
    read = json.loads((finished / "reading.json").read_text())
    assert leak["control"] == read[-1]["control"]
    assert {"without", "same"} <= set(leak["pairs"])
    assert leak["written"]["n"] + leak["refined"]["n"] == len(shard)
    pairs = [stages[f"variant-{i}-round0"]["pairs"] for i in (1, 2)]
    assert leak["pairs"]["n"] == sum(sum(own.values()) for own in pairs)
    held_out = [stages[f"variant-{i}-round0"]["held_out"] for i in (1, 2)]
    assert all(own["held_out_pairs"] > 0 for own in held_out)
    assert [own["pairs"] + own["held_out_pairs"] for own in held_out] == [
        sum(own.values()) for own in pairs
    ]  # no pair is learned from and held out
    rounds = json.loads((finished / "rounds.json").read_text())
    assert set(rounds["dev_accuracy"]) == {"tuned", "round0"}
    assert results["trained"] == [
        {"method": "COALITION", "stages": ["coalition"], "rewards": ["utility"]}
    ]
    logged = [r for r in results["rounds"] if r["method"] == "coalition"]
    accuracy = [r["mean"] for r in logged if r["reward"] == "accuracy"]
    assert accuracy == list(rounds["dev_accuracy"].values())
    assert [r["round"] for r in logged if r["reward"] == "utility"] == [0, 1]
    page = (finished / "report.html").read_text()
    assert "COALITION (coalition)" in page
    assert [row["when"] for row in results["variants"]] == ["tuned", "round0"]
    assert {"write", "refine"} >= {row["choice"] for row in results["controller"]} >= {"write"}
    assert "Are the variants clones?" in page
    assert "Does the controller know whom to pick?" in page
    cells = json.loads((finished / "chains" / "table-test.json").read_text())
    assert len(cells) == 6 * (2 * 3 + 2)  # each variant as it is and by both; M_IFT, and by itself
    chains = [c for c in cells if c["picked"]]
    assert len(chains) == 6
    assert {c["writer"] for c in chains} <= {"variant-1", "variant-2"}
    spread = json.loads((finished / "variance-tuned.json").read_text())
    assert spread["n"] == 4
    assert [row["when"] for row in results["variance"]] == ["tuned", "round0"]
    assert {row["variant"] for row in results["preference_pairs"]} == {"variant-1", "variant-2"}
    assert [row["when"] for row in results["preference_rounds"]] == ["tuned", "round0"]
    assert "Do variants differ more than draws do?" in page
    assert "What preferences say" in page


def test_the_demo_judges_every_row_by_the_same_utility(model, questions, tmp_path):
    demo(
        "coalition", tmp_path / "run", **settings(model, questions), shots=1,
        sft=SftConfig(epochs=0.5, evaluations=1, fit=FIT), direct=StartConfig(epochs=0.5, fit=FIT),
    )  # fmt: skip
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["meta"]["seconds"] > 0
    found = read_run(tmp_path / "run").attempts
    for name in ("base, few-shot", "SFT", "COALITION", "self-consistency"):
        assert "utility" in results["methods"][name]["splits"]["test"]["metrics"], name
        assert all("utility" in a.rewards for a in found[name]["test"][0]), name
        assert len(found[name]["test"][0]) == 6


def test_a_judge_that_cannot_read_is_named(tmp_path, capsys):
    class Reads(AnswerScorer):
        def __init__(self, share):
            self.share = share

        def probabilities(self, questions, rationales):  # right with so many rationales, else wrong
            knows = [r is not None and i < self.share * 20 for i, r in enumerate(rationales)]
            return [
                [float((c == q.answer) == k) for c in q.choices]
                for q, k in zip(questions, knows, strict=True)
            ]

    questions = load_splits("builtin:train=24,dev=20,test=6,unseen=0")["dev"]
    for share, said in ((0.0, True), (0.9, False)):
        exp = experiment(tmp_path / str(share), [])
        log_reading(exp, object(), questions, CONFIG)  # no reader: nothing to say
        assert exp.run.read_json("reading.json") is None
        log_reading(exp, Reads(share), questions, CONFIG)
        *_, facts = exp.run.read_json("reading.json")
        assert (facts["alone"], facts["with_rationale"], facts["n"]) == (0.0, share, 20)
        assert ("utilities may be noise" in capsys.readouterr().err) == said


@pytest.mark.parametrize(("unmasked", "chosen"), [(False, "mask"), (True, "penalty")])
def test_answers_are_masked_where_the_judge_reads_what_is_left(unmasked, chosen, tmp_path, capsys):
    class Reads(AnswerScorer):  # any rationale, or one whose answer stands in it
        def __init__(self):
            pass

        def probabilities(self, questions, rationales):
            knows = [r is not None and not (unmasked and "___" in r) for r in rationales]
            return [
                [float((c == q.answer) == k) for c in q.choices]
                for q, k in zip(questions, knows, strict=True)
            ]

    questions = load_splits("builtin:train=24,dev=20,test=6,unseen=0")["dev"]
    exp = experiment(tmp_path / "auto", [])
    assert log_reading(exp, Reads(), questions, CONFIG) == chosen
    rows = exp.run.read_json("reading.json")
    assert [row["control"] for row in rows] == (["mask", "penalty"] if unmasked else ["mask"])
    assert ("answers are not masked" in capsys.readouterr().err) == unmasked
    assert log_reading(exp, object(), questions, CONFIG) == "mask"  # nothing to measure
    exp.run.write_json("reading.json", {"alone": 0.5, "n": 20})  # as an earlier version stored it
    assert log_reading(exp, Reads(), questions, CONFIG) == "mask"
    strict = dataclasses.replace(
        CONFIG, candidates=dataclasses.replace(CONFIG.candidates, leak="mask")
    )
    assert log_reading(experiment(tmp_path / "mask", []), Reads(), questions, strict) == "mask"


def test_a_judge_of_free_form_answers_is_read_by_their_likelihood(tmp_path, capsys):
    class Likes(AnswerScorer):  # whatever is written, as the leak control leaves it
        def __init__(self, gain):
            self.gain = gain

        def utilities(self, questions, rationales):
            assert all(r is None or "9" not in r for r in rationales)
            return [0.2 if r is None else 0.2 + self.gain for r in rationales]

    sums = [Question(f"s{i}", f"What is 8 + 1 in case {i}?", "9", rationales=("8 + 1 = 9.",))
            for i in range(12)]  # fmt: skip
    masking = dataclasses.replace(
        CONFIG, candidates=dataclasses.replace(CONFIG.candidates, leak="mask")
    )
    for gain, noise in ((0.3, False), (-0.1, True)):
        exp = experiment(tmp_path / str(gain), [])
        log_reading(exp, Likes(gain), sums, masking)
        (facts,) = exp.run.read_json("reading.json")
        assert (facts["measure"], facts["n"]) == ("utility", 12)
        assert facts["with_rationale"] == pytest.approx(0.2 + gain)
        said = capsys.readouterr().err
        assert "a likelihood of 20% on 12 held-out questions" in said
        assert ("utilities may be noise" in said) == noise


def test_the_reward_is_the_utility_of_the_pairs():
    class Judge:  # a rationale is worth its words
        def utilities(self, questions, rationales):
            return [-1.0 if r is None else float(len(r.split())) for r in rationales]

    q = Question("q", "Which sinks?", "stone", choices=("cork", "stone"))
    said = ["A stone is heavy.", "The answer is stone.", "  ", "x" * 20_000]
    attempts = [attempt(q, r, None, i) for i, r in enumerate(said)]
    suite = RewardSuite([utility_reward(Judge(), "penalty")])
    scored = [a.rewards["utility"] for a in suite.score(attempts, {"q": q})]
    assert scored == [4.0, -1.0, -1.0, None]
    same = utilities_of(attempts[:3], [q], Judge(), "penalty", {q.id: -1.0})
    assert [a.rewards["utility"] for a in same] == scored[:3]


def test_one_folder_loads_and_answers_as_before(finished, questions):
    cells = json.loads((finished / "chains" / "table-test.json").read_text())
    picked = {c["question_id"]: c for c in cells if c["picked"]}
    asked = load_splits(questions)["test"]
    chains = [picked[q.id] for q in asked]
    loaded = Coalition.load(finished / "coalition")
    again = loaded.chains(asked, SamplingConfig(temperature=0.0, max_new_tokens=6))
    assert [c.as_row()["refined"] for c in again] == [c["refined"] for c in chains]
    assert [c.prediction for c in again] == [c["prediction"] for c in chains]
    [chain] = loaded.chains(asked[:1])  # as the documentation says
    assert chain.question == asked[0]
    with pytest.raises(UserError, match="train coalition"):
        Coalition.load(finished)


def test_evaluate_works_on_a_coalitions_run(finished, questions, tmp_path, capsys):
    out = tmp_path / "out"
    flags = ["--model", str(finished), "--questions", questions, "--out", str(out)]
    evaluate = ["evaluate", *flags, "--name", "again"]  # replies as long as in the run
    assert main(evaluate) == 0
    results = json.loads((out / "results.json").read_text())
    before = json.loads((finished / "results.json").read_text())
    own, then = (
        found["methods"][name]["splits"]["test"]["metrics"]
        for found, name in ((results, "again"), (before, "COALITION"))
    )
    for name in ("accuracy", "diversity", "length", "repetition"):
        assert own[name]["mean"] == then[name]["mean"], name
    assert len(results["chains"]) == 6
    assert {c["writer"] for c in results["chains"]} <= {"variant-1", "variant-2"}
    trained = {"method": "again", "stages": ["coalition"], "rewards": ["utility"]}
    assert results["trained"] == [trained]
    assert main(evaluate) == 0  # a second start
    assert json.loads((out / "results.json").read_text())["chains"] == results["chains"]
    for wrong, message in (
        (["--n", "2"], "answers a question once"),
        (["--mode", "answer"], "always writes a rationale first"),
        (["--control", "diversity=best"], "no control tokens"),
    ):
        assert main(["evaluate", *flags, *wrong]) == 2
        assert message in capsys.readouterr().err


def test_a_finished_coalition_may_answer_by_the_surest(finished, questions, tmp_path, capsys):
    surest = Run.read(finished).read_shard("final-surest-variant-test-0")
    asked = ["--model", str(finished), "--routing", "surest"]
    assert main(["evaluate", *asked, "--questions", questions, "--out", str(tmp_path / "e")]) == 0
    chains = Run.read(tmp_path / "e").read_json("chains.json")
    assert [c["refined"] for c in chains] == [a.rationale for a in surest]
    first = load_splits(questions)["test"][0]
    capsys.readouterr()
    assert main(["ask", *asked, first.question, "--choices", *first.choices]) == 0
    assert "kept as it is" in capsys.readouterr().out
    other = ["--model", "default", "--routing", "surest"]
    for command in (["ask", *other, "Why?"], ["evaluate", *other, "--questions", questions]):
        assert main(command) == 2
        assert "default is none" in capsys.readouterr().err
    assert get_args(RoutingOfCommands) == get_args(Routing)


@pytest.mark.parametrize("place", [".", "coalition"])
def test_sample_refuses_a_coalition(finished, tmp_path, capsys, place):
    model, out = str(finished / place), str(tmp_path / "a.jsonl")
    assert main(["sample", "--model", model, "--questions", "builtin", "--out", out]) == 2
    assert "`rationalize ask` and `rationalize evaluate` work with it" in capsys.readouterr().err


def test_a_free_form_answer_has_64_tokens(finished):
    coalition = Coalition.load(finished / "coalition")
    questions = [Question(f"free{i}", f"What is {i}?", "cold") for i in range(8)]
    chains = coalition.chains(questions, SamplingConfig(max_new_tokens=4))
    assert max(c.refined.n_tokens for c in chains) <= 4
    greedy = SamplingConfig(temperature=0.0, max_new_tokens=64)
    with coalition.variants.base_policy() as policy:
        prompts = [answer_prompt(coalition.texts, c.question, c.rationale) for c in chains]
        replies = [r for [r] in Sampler(policy).sample(prompts, greedy, seeds=[0] * len(prompts))]
        reader = ChoiceScorer(policy)
        scores = [s for p, r in zip(prompts, replies) for [s] in reader.score([p], [[r.text]])]
    assert [c.prediction for c in chains] == [read_answer(r.text, None) for r in replies]
    assert max(r.n_tokens for r in replies) > 12
    sure = [c.answer.sure for c in chains]
    assert sure == pytest.approx([math.exp(s.mean) for s in scores], rel=1e-2)
    assert all(0 < s < 1 for s in sure)


def test_everybody_writes_and_the_surest_is_kept(finished, questions):
    asked, greedy = (
        load_splits(questions)["test"],
        SamplingConfig(temperature=0.0, max_new_tokens=6),
    )
    coalition = Coalition.load(finished / "coalition")
    chains = coalition.chains(asked, greedy, routing="surest")
    cells = json.loads((finished / "chains" / "table-test.json").read_text())
    results = json.loads((finished / "results.json").read_text())
    stored = Run.read(finished).read_shard("final-surest-variant-test-0")
    assert [c.as_row()["refined"] for c in chains] == [a.rationale for a in stored]
    for chain, kept in zip(chains, stored, strict=True):
        of = [c for c in cells if c["question_id"] == chain.question.id and c["asked"] == "keep"]
        both = [c for c in of if c["writer"] in coalition.names]
        assert len(both) == 2
        best = max(both, key=lambda c: c["sure"])
        assert (chain.writer, chain.rationale) == (best["writer"], best["refined"])
        assert chain.answer.sure == pytest.approx(max(chain.answer.after)) == best["sure"]
        assert chain.as_row()["tokens"] == kept.n_tokens == sum(c["tokens"] for c in both)
    pairs = {(c["a"], c["b"]) for c in results["comparisons"]}
    assert {("surest variant", "M_IFT alone"), ("surest variant", "surest draw of M_IFT")} <= pairs


def test_a_coalition_may_answer_by_the_surest(model, questions, tmp_path):
    train("coalition", tmp_path / "run", **settings(model, questions, routing="surest"))
    run, coalition = Run.read(tmp_path / "run"), Coalition.load(tmp_path / "run" / "coalition")
    own, surest = (run.read_shard(f"final-{n}-test-0") for n in ("COALITION", "surest-variant"))
    assert [a.rationale for a in own] == [a.rationale for a in surest]
    assert coalition.routing == "surest"
    asked = load_splits(questions)["test"]
    chains = coalition.chains(asked, SamplingConfig(temperature=0.0, max_new_tokens=6))
    assert {c.refiner for c in chains} == {"keep"}


CROSS = CandidateConfig(sampling=TWICE, filtered=False, reject=ANY, refiners="cross", panel=1)
UNREFINED = CandidateConfig(sampling=TWICE, filtered=False, reject=ANY, refiners="none")
SEVERAL = CandidateConfig(
    sampling=dataclasses.replace(SHORT, n=4), filtered=False, reject=ANY
)  # fmt: skip


@pytest.mark.parametrize("changes", [
    {"variants": 3, "candidates": CROSS, "draws": 2},
    {"variants": 1, "preference_share": 0.5, "candidates": SEVERAL},
    {"copies": True, "judge": "variants", "candidates": UNREFINED},
    {"copies": True, "variants_from": "base", "parts": "kinds", "candidates": SEVERAL},
])  # fmt: skip
def test_other_shapes(model, questions, tmp_path, changes):
    train("coalition", tmp_path / "run", **settings(model, questions, **changes))
    assert (tmp_path / "run" / "coalition" / "coalition.json").exists()


def test_self_consistency_spends_no_fewer_tokens(finished, questions, tmp_path):
    results = json.loads((finished / "results.json").read_text())
    spent = results["meta"]["tokens_a_question"]["test"]
    assert spent["self-consistency"] > 0
    stored = Run.read(finished).read_shard("final-self-consistency-test-0")
    assert len({a.question_id for a in stored}) == len(stored) == 6
    assert spent["self-consistency"] == pytest.approx(sum(a.n_tokens for a in stored) / 6)
    assert spent["self-consistency"] >= spent["COALITION"]
    votes = {"n": 0}

    class Cheap:  # each chain costs a token
        def chains(self, questions, sampling, *, seed, **options):
            votes["n"] += 1
            votes["sampling"] = sampling
            return [Spends(q, stored[0], votes["n"]) for q in questions]

    @dataclasses.dataclass
    class Spends:
        question: Question
        of: Attempt
        vote: int
        spent: int = 0
        rationale: str = "so"

        @property
        def prediction(self):
            return self.answer.text

        @property
        def answer(self):
            return Answer(self.question.choices[self.vote % 2], sure=0.5 + 0.1 * (self.vote == 2))

        def as_attempt(self, row, seed=0):
            return dataclasses.replace(
                self.of, question_id=self.question.id, prediction=self.answer.text, writer=row,
                n_tokens=1 + self.spent, seed=seed,
            )  # fmt: skip

    asked = load_splits(questions)["test"]
    exp = experiment(tmp_path / "votes", [])
    exp = dataclasses.replace(exp, splits={"test": asked})
    rows = drawn_from_base(exp, Cheap(), SHORT, "test", tokens=4.5)
    own, surest = rows["self-consistency"], rows["surest draw of M_IFT"]
    assert votes["n"] == 5
    assert [a.n_tokens for a in own] == [5] * 6
    assert [a.prediction for a in own] == [q.choices[1] for q in asked]  # 1, 0, 1, 0, 1
    assert {(a.writer, a.seed) for a in own} == {("self-consistency", 0)}
    assert [a.prediction for a in surest] == [q.choices[0] for q in asked]  # of the second chain
    assert [a.n_tokens for a in surest] == [5] * 6
    assert {(a.writer, a.seed) for a in surest} == {("surest draw of M_IFT", 0)}
    assert votes["sampling"] == SHORT
    # votes of a search, or greedy ones, would be one text
    for number, alike in enumerate(({"beams": 3}, {"temperature": 0.0})):
        exp = experiment(tmp_path / f"alike{number}", [])
        exp = dataclasses.replace(exp, splits={"test": asked})
        searched = dataclasses.replace(SHORT, **alike)
        drawn_from_base(exp, Cheap(), searched, "test", tokens=4.5)
        assert votes["sampling"] == dataclasses.replace(SHORT, temperature=1.0, beams=1)


def test_a_variants_source_is_not_paired_with_drafts_at_equal_ids(model, tmp_path, monkeypatch):
    other = tmp_path / "other.jsonl"  # numbered from 0, as the train questions are
    rows = [
        {"id": str(i), "question": f"Other {i}?", "answer": "yes", "choices": ["yes", "no"],
         "rationales": [f"source rationale {i}."]}
        for i in range(8)
    ]  # fmt: skip
    other.write_text("".join(json.dumps(row) + "\n" for row in rows))
    train = [
        Question(str(i), f"Own {i}?", "yes", ("yes", "no"), rationales=(f"It is so {i}.",))
        for i in range(8)
    ]
    refined = {}

    def rows_of(policy, part, drafts, texts):
        made = mode_rows(policy, part, drafts, texts)
        refined[part[0].question.split()[0], len(part)] = len(made["refine"])
        return made

    monkeypatch.setattr("rationalize.methods.coalition.tuning.mode_rows", rows_of)
    config = CoalitionConfig(
        judge="ift", variant_sources=(str(other), ""), variant_epochs=0.5,
        instruction=INSTRUCTION, variant_fit=FIT,
    )  # fmt: skip
    policy = load_policy(model)
    exp = experiment(
        tmp_path / "run", train, train[:1], policy=policy,
        config=RunConfig(model=str(model), precision="float32"),
    )  # fmt: skip
    tuned_variants(exp, exp.load_policy(), train, config)
    assert refined["Other", 8] == 0
    assert refined["Own", 4] > 0


def test_rows_of_the_table_are_found_again(finished):
    results = json.loads((finished / "results.json").read_text())
    found = final_attempts(Run.read(finished), results)
    for name in ("COALITION", "M_IFT alone", "self-consistency"):
        assert len(found[name]["test"][0]) == 6


def test_m_ift_learns_from_a_source_of_its_own(model, questions, tmp_path):
    file = tmp_path / "cot.jsonl"
    rows = [
        {
            "question": f"Repeat {i}.",
            "answer": f"it is {i}",
            "rationale": f"{i}, said.",
            "task": i % 2,
        }
        for i in range(12)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tuning = dataclasses.replace(
        INSTRUCTION, source=str(file), source_columns={"kind": "task"}, source_sample=8
    )
    train("coalition", tmp_path / "run", **settings(model, questions, instruction=tuning))
    run = Run.read(tmp_path / "run")
    assert len(run.read_shard("ift-imperfect")) == 8
    assert run.done("ift")["rows"]["rationale"] == 8
    assert run.done("variant-1-tuned")["questions"] == 4


def test_without_teacher_rationales_m_ift_judges(model, tmp_path, capsys):
    """The train questions are questions and answers; what M_IFT learns from is the source."""
    folder = write_questions(tmp_path / "bare", {"train": 16, "dev": 4, "test": 4})
    source = tmp_path / "cot.jsonl"
    rows = [{"question": f"Repeat {i}.", "answer": f"it is {i}", "rationale": f"{i}, said."}
            for i in range(8)]  # fmt: skip
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tuning = dataclasses.replace(INSTRUCTION, source=str(source))
    judge = CoalitionConfig().judge
    changes = {"judge": judge, "instruction": tuning, "controller_share": 0.0}
    train("coalition", tmp_path / "run", **settings(model, folder, **changes))
    said = "none of the 16 train questions has a teacher rationale that led to its answer"
    assert said in capsys.readouterr().err
    assert (tmp_path / "run" / "coalition" / "coalition.json").exists()
    assert not (tmp_path / "run" / "scorers").exists()
    assert Run.read(tmp_path / "run").config["judge"] == "cross-fit"  # a second start asks the same
    assert CoalitionConfig(answer_scorer="one").judged_by([]) == "cross-fit"


def test_the_demo_goes_on_without_teacher_rationales(model, tmp_path, capsys):
    """SFT has nothing to imitate then; demonstrations are the built-in ones."""
    folder = write_questions(
        tmp_path / "sums", {"train": 12, "dev": 3, "test": 4},
        lambda split, i: {"question": f"{split}: 2 + {i}?", "answer": str(2 + i), "choices": None},
    )  # fmt: skip
    tuning = dataclasses.replace(INSTRUCTION, source="builtin:train=8")
    demo(
        "coalition", tmp_path / "run", shots=1, direct=StartConfig(epochs=0.5, fit=FIT),
        **settings(model, folder, instruction=tuning, controller_share=0.0),
    )  # fmt: skip
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert "SFT" not in results["methods"]
    assert {"base, few-shot", "COALITION"} <= set(results["methods"])
    assert "SFT is left out" in capsys.readouterr().err
    [asked] = {a.prompt.count("So the answer is") for a in Run.read(tmp_path / "run").read_shard(
        "final-base--few-shot-test-0")}  # fmt: skip
    assert asked == 1


def test_a_source_gives_no_held_out_question_away(model, tmp_path, capsys):
    questions = write_questions(
        tmp_path / "long", {"train": 24, "dev": 4, "test": 6},
        lambda split, i: {"question": f"Does the {split} stone {i} sink?",
                          "rationales": ["It is so."]},
    )  # fmt: skip
    tuning = dataclasses.replace(INSTRUCTION, source=f"{questions}/train.jsonl")
    train("coalition", tmp_path / "run", **settings(model, questions, instruction=tuning))
    assert "24 questions, 6 left out" in capsys.readouterr().err  # the controller's
    assert len(Run.read(tmp_path / "run").read_shard("ift-imperfect")) == 18
    file = tmp_path / "test.jsonl"
    rows = [
        {"question": f"Answer this: {q.question} Think.", "answer": q.answer, "rationale": "r"}
        for q in load_splits(questions)["test"]
    ]  # fmt: skip
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    leaking = dataclasses.replace(tuning, source=str(file))
    with pytest.raises(UserError, match="all of its 6 questions repeat held-out ones"):
        train("coalition", tmp_path / "leak", **settings(model, questions, instruction=leaking))


def test_t5(questions, tmp_path):
    train("coalition", tmp_path / "run", **settings(tiny_folder("t5", tmp_path / "t5"), questions))


def test_no_pair_left_is_said_with_counts(model, questions, tmp_path):
    high = CandidateConfig(sampling=SamplingConfig(temperature=0.0, max_new_tokens=1))
    with pytest.raises(UserError, match=r"no pair left to learn from \("):
        train("coalition", tmp_path / "run",
              **settings(model, questions, candidates=high, variant_epochs=0.0))  # fmt: skip


def test_a_judge_that_is_not_there_is_told_before_anything_is_trained(model, questions, tmp_path):
    with pytest.raises(UsageError, match="--reward-model DIR"):
        CoalitionConfig(judge="reward-model")
    nowhere = str(tmp_path / "nowhere")
    lost = settings(model, questions, judge="reward-model", reward_model=nowhere)
    with pytest.raises(UserError, match=r"nowhere: no reward_model.json there; expected"):
        train("coalition", tmp_path / "run", **lost)
    assert not (tmp_path / "run").exists()


def test_the_grid_shares_what_its_arms_have_in_common(model, questions, tmp_path):
    grid = GridConfig(arms=("random-labels", "one-variant", "no-sro"))
    out = tmp_path / "grid"
    ablations(run_config(model, questions), grid, CONFIG, EVALUATION, out)
    results = json.loads((out / "results.json").read_text())
    rows = {"COALITION", "A5: random pair labels", "A1: one variant", "A8: no preference learning"}
    assert rows <= set(results["methods"])
    assert {c["a"] for c in results["comparisons"]} == {"COALITION", "random controller"}
    chance = "random controller", "A8: no preference learning, random controller"
    [sro] = [c for c in results["comparisons"]
             if c["metric"] == "accuracy" and (c["a"], c["b"]) == chance]  # fmt: skip
    assert sro["n"] == 6
    arms = {name: out / "stages" / f"arm-{name}" for name in ("full", "random-labels", "no-sro")}
    shards = [(p / "attempts" / "round0-utilities.parquet").read_bytes()
              for n, p in arms.items() if n != "no-sro"]  # fmt: skip
    assert shards[0] == shards[1]
    file = "variants/variant-1-tuned/variant-1/adapter_model.safetensors"
    assert len({(p / file).read_bytes() for p in arms.values()}) == 1
    logged = json.loads((arms["random-labels"] / "stages.json").read_text())
    assert "variant-1-round0" in logged
    assert not (arms["random-labels"] / "metrics.jsonl").read_text().count('"ift"')
    told = {
        n for n, row in results["methods"].items() if "utility" in row["splits"]["test"]["metrics"]
    }
    assert rows <= told
    for file in ("reading.json", "clones-tuned.json"):
        files = [(p / file).read_bytes() for p in arms.values()]
        assert files[0] == files[1] == files[2]


def test_the_grid_takes_the_full_method_from_a_finished_run(finished, model, tmp_path):
    def run_grid(full, out, **changes):
        config = CoalitionConfig(**changes)
        grid = GridConfig(full=str(full), arms=("random-labels",))
        ablations(RunConfig(), grid, config, EvaluationConfig(), out)

    full = GridConfig(full=str(finished), arms=("random-labels",))
    lines = plan_ablations(RunConfig(), full, CoalitionConfig(), EvaluationConfig())
    assert lines[0].startswith(f"model: {model} ")  # the run's settings, not the defaults
    assert lines[-2:] == [
        f"full method: {finished}, with its settings", "arms: A5: random pair labels"
    ]  # fmt: skip

    run_grid(finished, tmp_path / "grid")
    results = json.loads((tmp_path / "grid" / "results.json").read_text())
    before = json.loads((finished / "results.json").read_text())
    for name in ("COALITION", "random controller", "self-refinement"):
        assert results["methods"][name] == before["methods"][name]
    arm = tmp_path / "grid" / "stages" / "arm-random-labels"
    for shard in ("round0-utilities", "round0-variant-1-writes"):
        taken, own = (p / "attempts" / f"{shard}.parquet" for p in (finished, arm))
        assert taken.read_bytes() == own.read_bytes()
    with pytest.raises(UserError, match=r"other settings .*\n.*model: "):
        run_grid(finished, tmp_path / "other", beta=0.5)
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "config.yaml").write_bytes((finished / "config.yaml").read_bytes())
    with pytest.raises(UserError, match="half is not finished: final-COALITION-test-0 is missing"):
        run_grid(tmp_path / "half", tmp_path / "third")
