"""What stands beside an exported model: its card, and tasks of lm-evaluation-harness."""

import json
import re

import pytest
import yaml
from markdown_it import MarkdownIt
from tiny import tiny_folder
from toys import attempt, question

from rationalize import train
from rationalize.answers import is_correct, parse_reply, read_answer
from rationalize.commands.evaluate import EvaluateConfig
from rationalize.commands.resolve import REPLY_TOKENS, sampling_of, settings_of
from rationalize.commands.sample import AskConfig
from rationalize.evaluation.baselines import majority_attempts
from rationalize.evaluation.harness import Asked, harness_rows, harness_task
from rationalize.evaluation.results import summarise
from rationalize.methods.sft import StartConfig
from rationalize.models.cards import base_facts, read_card
from rationalize.models.policy import load_policy
from rationalize.report.card import CardFacts, model_card
from rationalize.runs import Run
from rationalize.sampling.local import SamplingConfig
from rationalize.training.loop import ControlFitConfig, FitConfig

DOCUMENTED = {
    "task", "task_alias", "tag", "dataset_path", "dataset_name", "dataset_kwargs", "training_split",
    "validation_split", "test_split", "fewshot_split", "process_docs", "use_prompt", "description",
    "doc_to_text", "doc_to_target", "doc_to_choice", "fewshot_delimiter", "target_delimiter",
    "num_fewshot", "batch_size", "metric_list", "output_type", "generation_kwargs", "repeats",
    "filter_list", "should_decontaminate", "doc_to_decontamination_query", "metadata",
}  # fmt: skip
"""The fields of a task in the harness's docs/task_guide.md."""
FIT = FitConfig(learning_rate=3e-3, batch_size=8)
SMALL = {
    "questions": "builtin:train=12,dev=4,test=6,unseen=4",
    "evaluation_tokens": 12,
    "precision": "float32",
}
ONCE = {**SMALL, "epochs": 1, "evaluations": 1, "fit": FIT}
RATIONALE = Asked("rationale_answer", templated=False, line_break=True, stop="</s>")
HOSTILE = (
    "</td><script>alert(1)</script> <img src=x onerror=alert(1)> | a | [b](javascript:x) `c` "
    "\n```\n<b>out</b>\n````\n# head\n---\nlicense: mit\n\x1b[31m \u202e {{ 7*7 }}"
)


@pytest.fixture(scope="module", params=["plain", "chat", "t5"])
def taught(request, tmp_path_factory):
    """A run of SFT with a tiny model."""
    folder = tmp_path_factory.mktemp(request.param)
    kind = "t5" if request.param == "t5" else "decoder"
    model = tiny_folder(kind, folder / "base", chat=request.param == "chat")
    (model / "README.md").write_text("---\nlicense: mit\nbase_model: some/one\n---\n# A base\n")
    train("sft", folder / "run", model=str(model), seed=3, **ONCE)
    return folder / "run"


def test_a_run_is_evaluated_again_with_replies_as_long(taught):
    def longest(model, **settings):
        config = EvaluateConfig(model=str(model), questions="builtin", **settings)
        assert settings_of(config)["max_new_tokens"] == sampling_of(config).max_new_tokens
        return sampling_of(config).max_new_tokens

    assert longest(taught) == longest(taught / "model") == 12  # its `evaluation_tokens`
    assert longest(taught, max_new_tokens=5) == 5
    assert longest(taught.parent / "base") == longest("default") == REPLY_TOKENS
    assert longest(taught, server="http://127.0.0.1:1/v1", form="plain") == REPLY_TOKENS
    assert sampling_of(AskConfig("Why?", model=str(taught))).max_new_tokens == 12


def test_a_model_that_answers_alone_says_no_length_for_rationales(tmp_path):
    model = tiny_folder("decoder", tmp_path / "base")
    train("direct", tmp_path / "run", model=str(model), **ONCE)
    config = EvaluateConfig(model=str(tmp_path / "run"), questions="builtin")
    assert sampling_of(config).max_new_tokens == REPLY_TOKENS


def test_the_cards_numbers_are_those_of_the_results(taught):
    text = (taught / "model" / "README.md").read_text()
    results = json.loads((taught / "results.json").read_text())
    assert read_card(taught / "model") == {
        "library_name": "transformers", "license": "mit", "base_model": "some/one",
        "tags": ["rationalize", "rationales", "sft"],
        "pipeline_tag": f"text{'2text' if taught.parent.name.startswith('t5') else ''}-generation",
    }  # fmt: skip
    compared = [c["b"] for c in results["comparisons"] if c["metric"] == "accuracy"]
    assert compared == ["base, zero-shot"] * 2 + ["majority answer"] * 2  # did it help?
    for split, n in (("test", 6), ("unseen", 4)):
        section = text.partition(f"### {split}\n")[2].partition("\n#")[0]
        own = results["methods"]["SFT"]["splits"][split]["metrics"]
        floor = results["methods"]["majority answer"]["splits"][split]["metrics"]["accuracy"]
        shown = {
            cells[0]: cells[1:]
            for line in section.splitlines()
            if (cells := [c.strip() for c in line.strip("|").split("|")]) and line[:1] == "|"
        }
        values = [f"{100 * own['accuracy'][k]:.1f}" for k in ("mean", "low", "high")]
        floor_values = [f"{100 * floor[k]:.1f}" for k in ("mean", "low", "high")]
        assert shown["accuracy %"] == [
            "{} [{}, {}]".format(*values), str(n), "{} [{}, {}]".format(*floor_values)
        ]  # fmt: skip
        assert shown["diversity"][0].startswith(f"{own['diversity']['mean']:.3f} [")
        assert len(shown) == len(own) + 2  # a row per metric, the head and the rule
    for part in (
        "- Seed: 3\n", f"- Hardware: {results['meta']['hardware'].replace('_', chr(92) + '_')}\n",
        results["meta"]["command"], "Licence of the base model: mit", "12 training questions",
        "One seed", "6 questions only",
    ):  # fmt: skip
        assert part in text, part
    assert str(taught.parent) not in text.replace(results["meta"]["command"], "")


def test_a_second_start_writes_the_same_card(taught):
    before = (taught / "model" / "README.md").read_bytes()
    train("sft", taught, model=Run.read(taught).config["model"], seed=3, **ONCE)
    assert (taught / "model" / "README.md").read_bytes() == before


def test_the_harness_is_given_documented_fields_and_our_prompts(taught):
    policy = load_policy(taught)
    tasks = sorted((taught / "lm_eval").glob("*.yaml"))
    assert [t.name for t in tasks] == ["rationalize_test.yaml", "rationalize_unseen.yaml"]
    task = yaml.safe_load(tasks[0].read_text())
    assert set(task) <= DOCUMENTED
    assert task["output_type"] == "generate_until"
    assert task["generation_kwargs"] == {
        "until": [policy.tokenizer.eos_token], "max_gen_toks": 12, "do_sample": False,
    }  # fmt: skip
    assert [m["metric"] for m in task["metric_list"]] == ["exact_match"]
    assert [f["function"] for f in task["filter_list"][0]["filter"]] == ["regex", "take_first"]
    rows = [
        json.loads(line)
        for line in (taught / task["dataset_kwargs"]["data_files"]["test"]).read_text().splitlines()
    ]
    attempts = {a.question_id: a for a in Run.read(taught).attempts(writer="SFT", split="test")}
    assert {r["id"] for r in rows} == set(attempts)
    for row in rows:
        prompt = render(task["doc_to_text"], row)
        if policy.chat:
            message = [{"role": "user", "content": prompt}]
            theirs = policy_of_anybody(taught).apply_chat_template(
                message, add_generation_prompt=True, tokenize=False
            )
            ids = policy_of_anybody(taught)(theirs, add_special_tokens=False)["input_ids"]
        else:
            ids = policy_of_anybody(taught)(prompt)["input_ids"]
        assert ids == policy.encode_prompt(attempts[row["id"]].prompt)
    assert ("--apply_chat_template" in tasks[0].read_text().splitlines()[0]) == policy.chat


def policy_of_anybody(run):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(run / "model")


def render(template, row):
    """As the harness renders its fields."""
    from jinja2 import BaseLoader, Environment, StrictUndefined

    environment = Environment(
        loader=BaseLoader(), undefined=StrictUndefined, keep_trailing_newline=True
    )
    return environment.from_string(template).render(**row)


def harness_verdict(task, row, reply):
    """The harness's regex filter, `take_first` and `exact_match`, as its sources have them."""
    (regex, _) = task["filter_list"][0]["filter"]
    found = re.findall(regex["regex_pattern"], reply)
    answer = "[invalid]"
    if found:
        last = found[regex["group_select"]]
        answer = (next(m for m in last if m) if isinstance(last, tuple) else last).strip()
    (metric,) = task["metric_list"]
    sides = [answer, render(task["doc_to_target"], row)]
    for pattern in metric["regexes_to_ignore"]:
        sides = [re.sub(pattern, "", side) for side in sides]
    return sides[0].lower() == sides[1].lower()


LETTERS = [
    ("It is. So the answer is (A).", True),
    ("It is. So the answer is (B).", False),
    ("It is. so the answer is: (a)", True),
    ("So the answer is A.", True),
    ("So the answer is (B). No: So the answer is (A).", True),
    ("So the answer is (A). No. So the answer is", False),
    ("It is so.\n\nSo the answer is (A) yes.", True),
    ("The answer is (A).", False),
    ("Alas the answer is (A).", False),
    ("So the answer is A big one.", False),
    ("", False),
]
NUMBERS = [
    ("Two and one. So the answer is 1,003.", True),
    ("So the answer is $1003\nand so on", True),
    ("So the answer is 10.03.", False),
    ("So the answer is 1004.", False),
    ("None.", False),
]


@pytest.mark.parametrize(
    ("q", "replies"),
    [(question(0), LETTERS), (question(0, answer="1003", choices=None), NUMBERS)],
)
def test_the_harness_reads_replies_as_we_do(q, replies):
    task = harness_task([q], "test", RATIONALE, SamplingConfig(temperature=0.0))
    (row,) = harness_rows([q], RATIONALE)
    for reply, right in replies:
        prediction = parse_reply(reply, q.choices).prediction
        assert is_correct(prediction, q.answer, q.choices) == right, reply
        assert harness_verdict(task, row, reply) == right, reply


def test_the_harness_reads_answers_alone():
    q, asked = question(0), Asked("answer", templated=False, line_break=True, stop="</s>")
    task = harness_task([q], "test", asked, SamplingConfig(temperature=0.7))
    (row,) = harness_rows([q], asked)
    assert row["prompt"].endswith("\nAnswer.\n")
    assert task["generation_kwargs"]["temperature"] == 0.7
    for reply, right in ((" (A)", True), ("(B)", False), ("A.", True), ("maybe", False)):
        assert is_correct(read_answer(reply, q.choices), q.answer, q.choices) == right
        assert harness_verdict(task, row, reply) == right, reply


def test_baked_control_tokens_are_said_and_asked_for(tmp_path, monkeypatch):
    model = tiny_folder("decoder", tmp_path / "base")
    (tmp_path / "my_words.py").write_text(
        "def plain(completions, **columns):\n"
        "    said = [{*c.lower().split()} for c in completions]\n"
        "    return [len({'is', 'so', 'the', 'we'} & words) / 4 for words in said]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    train(
        "mario", tmp_path / "run", model=str(model), rewards=("correctness", "my_words:plain"),
        bins=2, steps=40, sample_interval=20, token_questions=0, select_by="my_words:plain",
        sft=StartConfig(epochs=0), fit=ControlFitConfig(learning_rate=1e-2, batch_size=8), **SMALL,
    )  # fmt: skip
    text = (tmp_path / "run" / "model" / "README.md").read_text()
    assert "under control tokens for correctness=0, plain=0 (0 is best)" in text
    assert "--apply_chat_template" in text
    assert "unknown: no card beside its weights" in text
    assert "license" not in read_card(tmp_path / "run" / "model")


def test_a_direct_models_task_asks_for_answers(tmp_path):
    model = tiny_folder("decoder", tmp_path / "base")
    train("direct", tmp_path / "run", model=str(model), **ONCE)
    task = yaml.safe_load((tmp_path / "run/lm_eval/rationalize_test.yaml").read_text())
    assert task["generation_kwargs"]["max_gen_toks"] == 8
    assert (
        "taught by `rationalize direct` to answer."
        in (tmp_path / "run/model/README.md").read_text()
    )


def facts(**changes):
    given = {
        "method": "SFT", "seed": 1, "verb": "sft", "base": "tiny", "base_id": None,
        "licence": None, "base_hash": "0" * 64, "source": "quarel", "train": 2,
        "with_rationale": 1, "asked": RATIONALE, "baked": {}, "decoder_only": True,
        "guidance": 0.0, "sampling": SamplingConfig(temperature=0.0),
        "packages": {"torch": "2"},
    }  # fmt: skip
    return CardFacts(**{**given, **changes})


def evaluated(method="SFT", seeds=(0, 1), text="because"):
    """Results of two seeds, of which the second is right once more."""
    questions = [question(i, question=f"Is {i} it? {text}") for i in range(4)]
    own = {
        seed: [
            attempt(q, text, "yes" if i <= 1 + seed else "no", split="test", seed=seed,
                    writer=method)
            for i, q in enumerate(questions)
        ]
        for seed in seeds
    }  # fmt: skip
    floor = majority_attempts(questions, questions, split="test")
    by_id = {q.id: q for q in questions}
    methods = {"majority answer": {"test": {0: floor}}, method: {"test": own}}
    meta = {"command": text, "hardware": text}
    return summarise(methods, by_id, meta=meta), own[seeds[-1]], by_id


def test_a_mean_of_seeds_is_not_passed_off_as_this_models():
    results, own, questions = evaluated()
    text = model_card(results, facts(), own, questions)
    assert "| metric | mean of seeds 0, 1 | seed 1, this model | questions |" in text
    row = next(line for line in text.splitlines() if line.startswith("| accuracy"))
    assert [cell.strip() for cell in row.split("|")][2].startswith("62.5 [")
    assert [cell.strip() for cell in row.split("|")][3:5] == ["75.0", "4"]
    assert "SFT − majority answer: −37.5 [" in text
    assert "One seed" not in text
    assert "Written greedily, at most 64 tokens." in text
    drawn = facts(sampling=SamplingConfig(temperature=0.7), guidance=1.5)
    told = "at temperature 0.7, at most 64 tokens, with guidance 1.5, which `generate`"
    assert told in model_card(results, drawn, own, questions)


def test_no_text_breaks_out_of_the_card():
    results, own, questions = evaluated(method=HOSTILE, seeds=(1,), text=HOSTILE)
    card = model_card(
        results, facts(method=HOSTILE, base=HOSTILE, licence=HOSTILE, source=HOSTILE,
                       base_id=HOSTILE), own, questions,
    )  # fmt: skip
    head = card.removeprefix("---\n").partition("\n---\n")
    assert yaml.safe_load(head[0])["license"] == HOSTILE
    page = MarkdownIt("gfm-like", {"linkify": False, "html": True}).render(head[2])
    tags = {tag.lower() for tag in re.findall(r"<\s*/?\s*([a-zA-Z0-9]+)", page)}
    assert tags <= {"h1", "h2", "h3", "p", "ul", "li", "code", "pre", "table", "thead", "tbody",
                    "tr", "th", "td"}  # fmt: skip
    assert page.count("<h1>") == 1
    assert page.count("<pre>") == 2 + 3  # the command, the usage, three samples
    assert "\x1b" not in card
    assert "\u202e" not in card


def test_what_is_known_of_a_base_model(tmp_path):
    assert base_facts("default") == ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")
    assert base_facts("nobody/no-such-model") == ("nobody/no-such-model", None)
    assert base_facts(str(tmp_path)) == (None, None)
    for text in ("# no front matter", "---\n: : [\n---\n", "---\n- a\n---\n", "---\nlicense: mit"):
        (tmp_path / "README.md").write_text(text)
        assert base_facts(str(tmp_path)) == (None, None)
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    assert base_facts(str(tmp_path)) == (None, "mit")
