"""Teach small language models to write rationales.

Names load on first use: importing this imports no torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.2.0"

_HOMES = {
    "Attempt": "rationalize.records",
    "Completion": "rationalize.records",
    "Pair": "rationalize.records",
    "Question": "rationalize.records",
    "UsageError": "rationalize.errors",
    "UserError": "rationalize.errors",
    "is_correct": "rationalize.answers",
    "parse_reply": "rationalize.answers",
    "reply_text": "rationalize.answers",
    "prompt_text": "rationalize.templates",
    "target_text": "rationalize.templates",
    "builtin_questions": "rationalize.questions",
    "check_overlap": "rationalize.questions",
    "load_questions": "rationalize.questions",
    "Run": "rationalize.runs",
    "Policy": "rationalize.models.policy",
    "load_policy": "rationalize.models.policy",
    "Sampler": "rationalize.sampling.local",
    "ServerSampler": "rationalize.sampling.server",
    "HttpConfig": "rationalize.sampling.config",
    "SamplingConfig": "rationalize.sampling.config",
    "PromptOptions": "rationalize.sampling.writing",
    "Provenance": "rationalize.sampling.writing",
    "write_attempts": "rationalize.sampling.writing",
    "RewardSuite": "rationalize.rewards",
    "load_rewards": "rationalize.rewards",
    "score_rows": "rationalize.commands.score",
    "FitConfig": "rationalize.training.loop",
    "ControlFitConfig": "rationalize.training.loop",
    "HeadFitConfig": "rationalize.training.loop",
    "EvaluateConfig": "rationalize.commands.evaluate",
    "evaluate": "rationalize.commands.evaluate",
    "bootstrap_mean": "rationalize.evaluation.intervals",
    "paired_difference": "rationalize.evaluation.intervals",
    "summarise": "rationalize.evaluation.results",
    "compare_runs": "rationalize.evaluation.compare",
    "write_report": "rationalize.report",
    "Method": "rationalize.methods",
    "Experiment": "rationalize.methods.base",
    "Learned": "rationalize.methods.base",
    "RunConfig": "rationalize.methods.settings",
    "Stage": "rationalize.runs",
    "demo": "rationalize.methods.launch",
    "train": "rationalize.methods.launch",
    "SftConfig": "rationalize.methods.sft",
    "FiltAccConfig": "rationalize.methods.filt_acc",
    "MarioConfig": "rationalize.methods.mario_config",
    "StarConfig": "rationalize.methods.self_training",
    "RftConfig": "rationalize.methods.self_training",
    "IterativeDpoConfig": "rationalize.methods.iterative_dpo",
    "SelfMotivatedConfig": "rationalize.methods.self_motivated",
    "PpoConfig": "rationalize.methods.ppo",
    "GrpoConfig": "rationalize.methods.grpo",
    "GdpoConfig": "rationalize.methods.grpo",
    "WriteConfig": "rationalize.methods.own_attempts",
    "CoalitionConfig": "rationalize.methods.coalition.config",
    "Coalition": "rationalize.methods.coalition.inference",
    "RewardModelConfig": "rationalize.methods.train_scorers.reward_model",
    "RewardModel": "rationalize.models.reward_model",
    "AnswerScorerConfig": "rationalize.methods.train_scorers.answer_scorer",
    "train_answer_scorer": "rationalize.methods.train_scorers.answer_scorer",
    "VerifierConfig": "rationalize.methods.train_scorers.verifier",
    "train_verifier": "rationalize.methods.train_scorers.verifier",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rationalize' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
