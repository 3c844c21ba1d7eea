"""The table of methods: where each is, its configuration, its name in tables, what it learns from.

The command line, the experiments and the reports read it. Places are import paths, so that reading
the table imports no torch. A method of your own is named as `my_file:my_method`, or is in the
entry-point group `rationalize.methods` of an installed package.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from rationalize.config import nearest
from rationalize.config.user_code import import_user_object
from rationalize.errors import UsageError

HERE = "rationalize.methods"
ENTRY_POINTS = "rationalize.methods"
"""Entry-point group of methods in other packages."""

CORRECTNESS = ("correctness",)


@dataclass(frozen=True)
class Method:
    """A method that teaches a policy."""

    learn: str | Callable[..., Any]
    """`learn(exp, policy, config, stage)` teaches `policy` in place; returns it, or a `Learned`."""
    config: str | type
    """Dataclass of the method's own settings."""
    label: str
    """Its row in tables."""
    about: str
    """What it does, in a line."""
    start: Literal["model", "sft"] = "model"
    """What it starts from: the base model, or SFT on the teacher's rationales."""
    scorers: bool = False
    """Whether its rewards may read an answer scorer, a verifier or a reward model."""
    learned_from: Callable[[Any], Sequence[str]] = lambda config: CORRECTNESS
    """Configuration -> the rewards that it learns from, for the report's verdict on hacking."""
    asked: str | Callable[..., Any] | None = None
    """`asked(exp, config, stage) -> Asked`: how what it taught is asked; None: for a rationale."""
    conclude: str | Callable[..., Any] = f"{HERE}.outcome:conclude"
    """Evaluates what was learned, and writes results, report and model."""
    work: str | Callable[..., Any] | None = None
    """`work(scene, config, stage)` yields what it will do (`methods/work`), for `plan`."""
    conclude_work: str | Callable[..., Any] | None = None
    """The same of `conclude(scene, config)`; None: an evaluation of one policy, and its export."""


METHODS: Mapping[str, Method] = {
    "sft": Method(
        f"{HERE}.sft:sft", f"{HERE}.sft:SftConfig", "SFT",
        "imitate the teacher's rationales", learned_from=lambda config: (),
        work=f"{HERE}.work.learners:sft_work",
    ),
    "direct": Method(
        f"{HERE}.sft:direct", f"{HERE}.sft:SftConfig", "direct fine-tune",
        "question to answer, no rationale", learned_from=lambda config: (),
        asked=f"{HERE}.sft:asked_directly",
        work=f"{HERE}.work.learners:direct_work",
    ),
    "filt-acc": Method(
        f"{HERE}.filt_acc:filt_acc", f"{HERE}.filt_acc:FiltAccConfig", "FILT-ACC",
        "imitate one's own rationales that led to the right answer", start="sft", scorers=True,
        learned_from=lambda config: tuple(config.filters),
        work=f"{HERE}.work.learners:filt_acc_work",
    ),
    "star": Method(
        f"{HERE}.self_training:self_training", f"{HERE}.self_training:StarConfig", "STaR",
        "the same in rounds that restart from the base model, with hints",
        work=f"{HERE}.work.own:self_training_work",
    ),
    "rft": Method(
        f"{HERE}.self_training:self_training", f"{HERE}.self_training:RftConfig", "RFT",
        "imitate many sampled attempts that were right, equal ones once",
        work=f"{HERE}.work.own:self_training_work",
    ),
    "dpo": Method(
        f"{HERE}.iterative_dpo:iterative_dpo", f"{HERE}.iterative_dpo:IterativeDpoConfig",
        "iterative DPO", "right over wrong attempts by DPO and NLL, in rounds", start="sft",
        work=f"{HERE}.work.own:iterative_dpo_work",
    ),
    "self-motivated": Method(
        f"{HERE}.self_motivated:self_motivated", f"{HERE}.self_motivated:SelfMotivatedConfig",
        "Self-motivated Learning",
        "correctness ranks own attempts, the rank trains a reward model, PPO learns from it",
        conclude=f"{HERE}.self_motivated:conclude",
        work=f"{HERE}.work.own:self_motivated_work",
    ),
    "mario": Method(
        f"{HERE}.mario:mario", f"{HERE}.mario_config:MarioConfig", "MaRio",
        "several rewards at once, one control token each", start="sft", scorers=True,
        learned_from=lambda config: tuple(dict.fromkeys((*config.rewards, *config.filters))),
        asked=f"{HERE}.mario:under_best_tokens",
        work=f"{HERE}.work.learners:mario_work",
    ),
    "grpo": Method(
        f"{HERE}.grpo:grpo", f"{HERE}.grpo:GrpoConfig", "GRPO",
        "several rewards, summed; attempts at a question against each other", start="sft",
        scorers=True, learned_from=lambda config: config.rewards,
        work=f"{HERE}.work.learners:grpo_work",
    ),
    "gdpo": Method(
        f"{HERE}.grpo:grpo", f"{HERE}.grpo:GdpoConfig", "GDPO",
        "several rewards, each normalised among a question's attempts, then summed", start="sft",
        scorers=True, learned_from=lambda config: config.rewards,
        work=f"{HERE}.work.learners:grpo_work",
    ),
    "coalition": Method(
        f"{HERE}.coalition.algorithm:coalition", f"{HERE}.coalition.config:CoalitionConfig",
        "COALITION", "variants write, refine each other and learn by preference",
        learned_from=lambda config: ("utility",), conclude=f"{HERE}.coalition.evaluate:conclude",
        work=f"{HERE}.work.coalition:coalition_work",
        conclude_work=f"{HERE}.work.coalition:conclude_work",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Demo:
    """An experiment that shows a system beside what it must beat."""

    run: str
    """`run(exp, config, started)` fills the run's folder."""
    config: str
    method: str
    """What `config.yaml` calls it."""
    about: str
    work: str
    """`work(scene, config)` yields what it will do."""
    scorers: bool = False


DEMOS: Mapping[str, Demo] = {
    "mario": Demo(
        f"{HERE}.demos.mario:mario_demo", f"{HERE}.demos.mario:MarioDemoConfig", "demo",
        "baselines, SFT, and MaRio from it, with a table and a report",
        f"{HERE}.work.demos:mario_demo_work", scorers=True,
    ),
    "coalition": Demo(
        f"{HERE}.demos.coalition:coalition_demo", f"{HERE}.demos.coalition:CoalitionDemoConfig",
        "coalition-demo", "baselines, SFT, and COALITION, with a table and a report",
        f"{HERE}.work.demos:coalition_demo_work",
    ),
    "self-motivated": Demo(
        f"{HERE}.demos.self_motivated:self_motivated_demo",
        f"{HERE}.demos.self_motivated:SelfMotivatedDemoConfig", "self-motivated-demo",
        "baselines, and a model that learns from its own attempts, with a table and a report",
        f"{HERE}.work.demos:self_motivated_demo_work",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Trainer:
    """What teaches something else than a policy, or several."""

    train: str
    """`train(run_config, *configs, out, overwrite=..)` makes the folder `out`."""
    configs: tuple[str, ...]
    """Dataclasses of its own settings."""
    about: str
    """What it makes, in a line."""
    plan: str = ""
    """`plan(run_config, *configs)` says it in lines, for a dry run; none: model and questions."""


TRAINERS: Mapping[str, Trainer] = {
    "coalition-grid": Trainer(
        f"{HERE}.coalition.ablations:ablations",
        (f"{HERE}.coalition.ablations:GridConfig", f"{HERE}.coalition.config:CoalitionConfig",
         f"{HERE}.settings:EvaluationConfig"),
        "the coalition and its ablations, from shared candidates",
        f"{HERE}.coalition.ablations:plan_ablations",
    ),
    "answer-scorer": Trainer(
        f"{HERE}.train_scorers.answer_scorer:train_answer_scorer",
        (f"{HERE}.train_scorers.answer_scorer:AnswerScorerConfig",),
        "how likely an answer is, given a rationale or none",
    ),
    "reward-model": Trainer(
        f"{HERE}.train_scorers.reward_model:train_reward_model",
        (f"{HERE}.train_scorers.reward_model:RewardModelConfig",
         f"{HERE}.train_scorers.reward_model:AttemptsConfig"),
        "how good a reply is, from the rank that correctness gives attempts",
    ),
    "verifier": Trainer(
        f"{HERE}.train_scorers.verifier:train_verifier",
        (f"{HERE}.train_scorers.verifier:VerifierConfig",),
        "how plausible a statement is",
    ),
}  # fmt: skip
"""What else `train` makes, by name."""


def method_named(name: str) -> Method:
    """The method of a name: of the table, of another package, or yours as `module:function`.

    Raises `UsageError` where there is none, or where yours does not say its configuration.
    """
    if name in METHODS:
        return METHODS[name]
    if ":" in name:
        return _as_method(import_user_object(name, "method"), name)
    if point := installed(name):
        return _as_method(point.load(), name)
    raise UsageError(f"unknown METHOD {name!r}{nearest(name, METHODS)}")


def installed(name: str) -> EntryPoint | None:
    """The method of a name that another package offers."""
    return next(iter(entry_points(group=ENTRY_POINTS, name=name)), None)


def load(place: Any) -> Any:
    """The object at an import path `module:name`; anything else as it is."""
    if not isinstance(place, str):
        return place
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def _as_method(found: Any, name: str) -> Method:
    """A `Method`, or a function whose parameter `config` says which dataclass configures it."""
    if isinstance(found, Method):
        return found
    if not callable(found):
        raise UsageError(f"{name}: found {type(found).__name__}, expected a Method or a function")
    parameters = list(inspect.signature(found).parameters)
    try:
        config = typing.get_type_hints(found).get("config")
    except NameError as error:
        raise UsageError(
            f"{name}: {error} in its annotations; import {error.name} at the top, not "
            "under TYPE_CHECKING"
        ) from error
    expected = ["exp", "policy", "config", "stage"]
    if parameters[:4] != expected or not dataclasses.is_dataclass(config):
        raise UsageError(
            f"{name}: found the parameters ({', '.join(parameters)}), expected (exp, policy, "
            "config, stage) with a dataclass as the annotation of config"
        )
    about = (inspect.getdoc(found) or "a method of your own").splitlines()[0].rstrip(".")
    label = getattr(found, "__name__", name).replace("_", " ")
    return Method(
        found, typing.cast(type, config), label, about,
        learned_from=lambda config: getattr(config, "rewards", CORRECTNESS),
    )  # fmt: skip
