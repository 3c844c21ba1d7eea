"""What other libraries call our settings, so that a flag of theirs is answered with ours."""

from __future__ import annotations

from collections.abc import Iterable

from rationalize.config.schema import nearest

ALIASES = {
    "learning_rate": ("lr", "peak_lr", "step_size"),
    "batch_size": (
        "per_device_train_batch_size", "train_batch_size", "per_device_batch_size", "bs", "batch",
        "gradient_accumulation_steps",
    ),
    "micro_tokens": ("micro_batch_size", "per_device_eval_batch_size"),
    "epochs": ("num_epochs", "num_train_epochs", "n_epochs", "epoch"),
    "steps": ("max_steps", "num_steps", "total_steps", "train_steps", "num_training_steps"),
    "updates": ("num_ppo_updates", "total_updates"),
    "warmup": ("warmup_ratio", "warmup_steps", "num_warmup_steps", "warmup_share"),
    "schedule": ("lr_scheduler_type", "lr_scheduler", "scheduler", "lr_schedule"),
    "max_grad_norm": ("grad_clip", "gradient_clipping", "clip_grad_norm", "max_norm"),
    "max_new_tokens": (
        "max_tokens", "max_completion_length", "max_completion_tokens", "max_length",
        "response_length", "max_response_length",
    ),
    "n": ("num_generations", "num_return_sequences", "num_samples", "num_completions"),
    "beams": ("num_beams", "beam_size"),
    "model": ("model_name_or_path", "model_name", "model_id", "base_model", "pretrained"),
    "questions": (
        "dataset", "dataset_name", "data", "dataset_path", "train_file", "data_path", "tasks",
    ),
    "split": ("dataset_split", "dataset_test_split", "dataset_train_split"),
    "columns": ("column_mapping", "remap_columns"),
    "limit": ("max_samples", "num_examples", "max_examples", "n_questions"),
    "limits": (
        "max_train_samples", "max_eval_samples", "limit", "train_limit", "dev_limit", "test_limit",
        "teacher_limit",
    ),
    "shots": ("num_fewshot", "num_shots", "n_shots", "fewshot", "few_shot"),
    "rewards": ("reward_funcs", "reward_functions", "reward", "metrics"),
    "reward_model": ("reward_model_path", "reward_model_name_or_path"),
    "beta": ("kl_coef", "kl_coeff", "kl_weight", "init_kl_coef"),
    "clip": ("cliprange", "epsilon", "clip_range"),
    "value_weight": ("vf_coef",),
    "weights": ("reward_weights",),
    "scale": ("scale_rewards",),
    "average": ("loss_type",),
    "learn_cut": ("mask_truncated_completions",),
    "checkpoint_every": ("save_steps", "save_interval", "save_every"),
    "evaluate_every": ("eval_steps", "eval_every"),
    "tuning": ("use_lora", "use_peft", "lora", "peft"),
    "precision": ("bf16", "fp16", "mixed_precision"),
    "dtype": ("torch_dtype", "model_dtype"),
    "lora_rank": ("lora_r", "peft_r", "rank", "r"),
    "track": ("report_to", "log_with", "logger"),
    "seed": ("random_seed", "data_seed", "rng_seed"),
    "server": ("base_url", "api_base", "url", "endpoint", "host"),
    "out": ("output_dir", "output", "out_dir", "save_dir", "output_path", "output_file", "o"),
    "overwrite": ("overwrite_output_dir", "force", "overwrite_output"),
    "config": ("config_file", "yaml"),
}  # fmt: skip
"""Our name -> what TRL, transformers and others call it."""

_OURS = {theirs: ours for ours, names in ALIASES.items() for theirs in names}


def suggestion(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'fit.learning-rate'?`: by meaning, else by spelling, else where to look.

    `known` are the flags of the command at hand, as dotted names.
    """
    known = list(known)
    last = word.rpartition(".")[2]
    for target in (last, _OURS.get(last), _OURS.get(last, last).replace("limits", "limit")):
        same = [name for name in known if name.rpartition(".")[2] == target]
        if same:  # the outermost ones: a part's own setting is rarely meant
            depth = min(name.count(".") for name in same)
            flags = [_flag(name) for name in same if name.count(".") == depth]
            return f"; did you mean {' or '.join(map(repr, flags[:3]))}?"
    near = nearest(word, known, listed=True)
    return near.replace("_", "-") or "; --help lists all flags"


def _flag(name: str) -> str:
    return name.replace("_", "-")
