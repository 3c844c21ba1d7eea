"""Teach small language models to write rationales.

Names load on first use: importing this imports no torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

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
    "FitConfig": "rationalize.training.loop",
    "EvaluateConfig": "rationalize.commands.evaluate",
    "evaluate": "rationalize.commands.evaluate",
    "bootstrap_mean": "rationalize.evaluation.intervals",
    "paired_difference": "rationalize.evaluation.intervals",
    "summarise": "rationalize.evaluation.results",
    "compare_runs": "rationalize.evaluation.compare",
    "write_report": "rationalize.report",
    "SftConfig": "rationalize.methods.sft",
    "train_sft": "rationalize.methods.sft",
    "ExpertIterationConfig": "rationalize.methods.expert_iteration",
    "train_expert_iteration": "rationalize.methods.expert_iteration",
    "MarioConfig": "rationalize.methods.mario",
    "train_mario": "rationalize.methods.mario",
    "CoalitionConfig": "rationalize.methods.coalition_config",
    "train_coalition": "rationalize.methods.coalition",
    "Coalition": "rationalize.sampling.coalition",
    "StarConfig": "rationalize.methods.expert_iteration",
    "train_star": "rationalize.methods.expert_iteration",
    "RftConfig": "rationalize.methods.expert_iteration",
    "train_rft": "rationalize.methods.expert_iteration",
    "IterativeDpoConfig": "rationalize.methods.iterative_dpo",
    "train_iterative_dpo": "rationalize.methods.iterative_dpo",
    "SelfMotivatedConfig": "rationalize.methods.self_motivated",
    "train_self_motivated": "rationalize.methods.self_motivated",
    "RewardModelConfig": "rationalize.methods.reward_model",
    "train_reward_model": "rationalize.methods.reward_model",
    "RewardModel": "rationalize.models.reward_model",
    "PpoConfig": "rationalize.methods.ppo",
    "WriteConfig": "rationalize.methods.own_attempts",
    "AnswerScorerConfig": "rationalize.methods.answer_scorer",
    "train_answer_scorer": "rationalize.methods.answer_scorer",
    "VerifierConfig": "rationalize.methods.verifier",
    "train_verifier": "rationalize.methods.verifier",
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
