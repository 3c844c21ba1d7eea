"""Tiny models of every family in transformers' registry, and what this package does with each.

`make matrix` runs all of them and writes docs/families.md; `python -m tests.families FAMILY ..`
prints what it finds for some.
"""

from __future__ import annotations

import re
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from transformers.models.auto import configuration_auto, modeling_auto

from rationalize.errors import UserError
from rationalize.models.choices import ChoiceScorer, Continuation
from rationalize.models.exported import compare_export, kept_replies
from rationalize.models.forward import Row
from rationalize.models.loading import auto_class
from rationalize.models.logits import token_logprobs
from rationalize.models.policy import Policy, load_policy
from rationalize.models.precision import Numbers
from rationalize.models.probe import Decoding
from rationalize.records import Question
from rationalize.sampling.local import Sampler, SamplingConfig
from rationalize.sampling.writing import PromptOptions, Provenance, Recorded, write_attempts
from tests.tiny import tiny_tokenizer

PROMPTS = ("The stone is heavier than the leaf, is it not?", "Ice", "Tom has four apples.")
COLUMNS = ("writes", "learns", "LoRA", "control tokens", "export")

_KINDS = {
    "causal": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "seq2seq": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "pictures": modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
}

# A number of a configuration whose name matches is made small; the first match counts.
_SIZES: tuple[tuple[str, Any], ...] = (
    (r"max_.*position|n_positions|n_ctx|max_seq|seq_length|context_length|max_length", 512),
    (r"keep_window", sys.maxsize),
    (r"head_dim|d_kv|key_length|qk_.*dim|v_head|d_head|head_size|rotary_dim", 8),
    (r"lora_rank", 16),
    (r"n_groups$|ngroups|topk_group|n_group$", 1),
    (r"num_experts_per_tok|moe_topk|top_k_experts|moe_top_k|num_selected|moe_k$|expert_top_k", 1),
    (r"n_shared_experts|num_shared_experts", 1),
    (r"experts|moe_num", 2),
    (r"key_value_heads|num_kv|n_kv|kv_heads|num_query_groups|linear_num_key_heads", 2),
    (r"heads|n_head", 4),
    (r"d_state|state_size|ssm_state", 8),
    (r"d_ssm", 32),
    (r"intermediate|ffn_dim|d_ff|n_inner|ffn_hidden|ffn_size|mlp_dim|mlp_hidden", 64),
    (r"first_k_dense|n_dense|num_dense|nextn|mtp|num_nextn", 1),
    (r"kv_shared_layers|_from_layers|start_layer", 0),
    (r"num_.*layers|n_layers?$|^.*_layers$|n_layer|depth$|num_blocks|num_block", 2),
    (r"sliding_window|attention_window|window_size|chunk_size$|local_attention|block_size", 16),
    (r"image_size", 32),
    (r"patch_size", 16),
    (r"hidden_size|d_model|n_embd|^dim$|embed_dim|embedding_size|hidden_dim|proj_dim|lru_width|"
     r"hidden_size_per_layer|out_hidden|projection_dim|emb_dim|_width$|^width$", 32),
)  # fmt: skip


def families(kind: str) -> list[str]:
    """Names of the registry's families of a kind; those with a class for text alone come first."""
    earlier = list(_KINDS)[: list(_KINDS).index(kind)]
    return [n for n in _KINDS[kind] if not any(n in _KINDS[other] for other in earlier)]


def build(name: str, folder: Path) -> None:
    """Write a tiny model with random weights, and its tokenizer."""
    encoder_decoder = (name in _KINDS["seq2seq"] and name not in _KINDS["causal"]) or name in _BOTH
    tokenizer = tiny_tokenizer("t5" if encoder_decoder else "decoder")
    config = _tiny_config(name, tokenizer, encoder_decoder)
    torch.manual_seed(0)
    model = auto_class(config).from_config(config, dtype=torch.float32)
    drawn = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.dim() >= 2:
            parameter.data.copy_(torch.randn(parameter.shape, generator=drawn) * 0.15)
    size = sum(p.numel() for p in model.parameters())
    if size > 5_000_000:
        raise ValueError(f"{size:,} parameters are left after shrinking")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


_BOTH = {"bart", "bigbird_pegasus", "blenderbot", "blenderbot-small", "marian", "mbart", "mvp",
         "pegasus", "plbart", "prophetnet"}  # fmt: skip
"""Encoder-decoders whose decoder is in the causal registry, too."""

_OWN: dict[str, dict[str, Any]] = {
    "bailing_hybrid": {"head_dim": 16},
    "bamba": {"mamba_n_heads": 4, "mamba_d_head": 16, "attn_layer_indices": [1]},
    "gpt_neo": {"num_layers": 2, "attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {
        "mamba_n_heads": 4, "mamba_d_head": 16, "layer_types": ["mamba", "attention"] * 2,
    },
    "hunyuan_v1_dense": {"head_dim": 8}, "hunyuan_v1_moe": {"head_dim": 8},
    "jamba": {
        "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2,
        "expert_layer_offset": 1, "use_mamba_kernels": False,
    },
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    # all experts at once: by its rounding, bfloat16 would choose others
    "hy_v4": {"num_experts_per_tok": 2}, "qwen3_5_moe_text": {"num_experts_per_tok": 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2, "num_experts_per_tok": 2},
    "longcat_flash": {"qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "head_dim": 8},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "ministral": {"head_dim": 8},
    "nemotron": {"head_dim": 8, "num_key_value_heads": 2},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "t5gemma": {"decoder_start_token_id": 2},
    **{f"{name}_text": {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1]}}
       for name in ("qwen2_vl", "qwen2_5_vl", "qwen2_5_omni", "glm4v", "glm_ocr", "paddleocr_vl")},
    "glm4v_moe_text": {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 0]}},
    "deepseek_v2": {"topk_method": "greedy", "first_k_dense_replace": 1},
    "xmod": {"default_language": "en_XX"},
    "zamba2": {"layers_block_type": ["mamba", "hybrid"] * 2, "mamba_headdim": 16},
}  # fmt: skip
"""What a family needs beyond smaller numbers."""


def _tiny_config(name: str, tokenizer: Any, encoder_decoder: bool) -> Any:
    config_class = getattr(hf, configuration_auto.CONFIG_MAPPING_NAMES[name])
    values = _shrunk(config_class, tokenizer)
    if encoder_decoder:
        start = {"decoder_start_token_id": tokenizer.pad_token_id}
        values = {**start, "forced_eos_token_id": None, "forced_bos_token_id": None, **values}
    return config_class(**values)


def _shrunk(config_class: Any, tokenizer: Any) -> dict[str, Any]:
    """Small values for the sizes of a configuration, and of those inside it."""
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
           "bos_token_id": tokenizer.eos_token_id}  # fmt: skip
    values: dict[str, Any] = {}
    for field, default in config_class().to_dict().items():
        if field in (config_class.sub_configs or {}):
            inner = config_class.sub_configs[field]
            if inner is not hf.AutoConfig:
                values[field] = _shrunk(inner, tokenizer)
            elif isinstance(default, dict) and "model_type" in default:
                inner = getattr(hf, configuration_auto.CONFIG_MAPPING_NAMES[default["model_type"]])
                values[field] = {**_shrunk(inner, tokenizer), "model_type": default["model_type"]}
        elif "vocab_size" in field and default:
            values[field] = len(tokenizer)
        elif field in ids:
            values[field] = ids[field]
        elif isinstance(default, dict) and "mrope_section" in default:
            values[field] = {**default, "mrope_section": [2, 1, 1]}
        elif isinstance(default, int) and not isinstance(default, bool):
            small = next((v for pattern, v in _SIZES if re.search(pattern, field)), None)
            if small is not None and default > small:
                values[field] = small
    if "kv_lora_rank" in values:  # latent attention has no groups
        values["num_key_value_heads"] = 4
    if values.get("num_hidden_layers") and _SEVERAL_LAYERS & set(config_class().to_dict()):
        values["num_hidden_layers"] = 4
    return {**values, **_OWN.get(config_class.model_type, {})}


_SEVERAL_LAYERS = {"layer_types", "layers_block_type", "full_attention_interval", "block_types"}
"""Fields of families whose layers differ: few of them would leave a kind out."""


def check(folder: Path) -> dict[str, str]:
    """Per column `yes` or what went wrong. Raises `UserError` for a model that is refused."""
    policy = load_policy(folder, device="cpu", numbers=Numbers("float32"))
    plain = auto_class(policy.model.config).from_pretrained(folder, dtype=torch.float32).eval()
    work: dict[str, Callable[[], str]] = {
        "writes": lambda: _writes(policy, plain),
        "learns": lambda: _learns(folder, plain, "full"),
        "LoRA": lambda: _learns(folder, plain, "lora"),
        "control tokens": lambda: _obeys(folder),
        "export": lambda: _exports(folder),
    }
    verdicts = {"decoding": str(policy.decoding) if policy.decoding != Decoding() else ""}
    for column in COLUMNS:
        try:
            verdicts[column] = work[column]()
        except Exception as error:
            verdicts[column] = f"no: {_first_line(error)}"
    return verdicts


def _own_logits(policy: Policy, plain: Any, prompt: list[int], reply: list[int]) -> torch.Tensor:
    """The model's own logits (len(reply) + 1, n_vocab) after the prompt and each reply token."""
    if policy.is_encoder_decoder:
        ids = {"input_ids": [prompt], "decoder_input_ids": [[policy.start_id, *reply]]}
    else:
        ids = {"input_ids": [[*prompt, *reply]]}
    with torch.no_grad():
        logits = plain(**{k: torch.tensor(v) for k, v in ids.items()}, use_cache=False).logits[0]
    return logits[-len(reply) - 1 :, : policy.n_vocab]


def _writes(policy: Policy, plain: Any) -> str:
    """Greedy replies are those of full passes; four draws do not depend on the batch."""
    sampler = Sampler(policy, shadow=False)
    greedy = SamplingConfig(temperature=0.0, max_new_tokens=8)
    for prompt, [reply] in zip(
        PROMPTS, sampler.sample_ids(PROMPTS, greedy, seeds=[0, 1, 2]), strict=True
    ):
        logits = _own_logits(policy, plain, policy.encode_prompt(prompt), reply[:-1])
        if logits.argmax(-1).tolist() != reply:
            return "no: other tokens than the model's own"
    drawn = SamplingConfig(n=4, max_new_tokens=12)
    together = sampler.sample_ids(PROMPTS, drawn, seeds=[0, 1, 2])
    alone = [sampler.sample_ids([p], drawn, seeds=[i])[0] for i, p in enumerate(PROMPTS)]
    return "yes" if together == alone else "no: replies depend on the batch"


def _rows(policy: Policy) -> list[Row]:
    reply = tuple(policy.encode_response("So the answer is (A)."))
    return [Row(tuple(policy.encode_prompt(p)), reply) for p in PROMPTS]


def _learns(folder: Path, plain: Any, tuning: Any) -> str:
    """Log-probabilities are the model's own, and a step on their gradient raises them."""
    policy = load_policy(folder, device="cpu", numbers=Numbers("float32"), tuning=tuning)
    rows = _rows(policy)
    before = token_logprobs(policy, rows)
    for row, ours in zip(rows, before, strict=True):
        reply = list(row.response_ids)
        logits = _own_logits(policy, plain, list(row.prompt_ids), reply[:-1]).float()
        own = torch.log_softmax(logits, -1).gather(1, torch.tensor(reply)[:, None])[:, 0]
        if (gap := (own - ours).abs().max().item()) > 1e-3:
            return f"no: log-probabilities differ by {gap:.2g}"
    continuations = [Continuation(row.prompt_ids, row.response_ids) for row in rows]
    own = [logprobs[:-1].sum().item() for logprobs in before]
    scores = ChoiceScorer(policy).score_ids(continuations)  # in bfloat16 where that is fast
    for continuation, total in zip(continuations, own, strict=True):
        if abs(scores[continuation].logprob_sum - total) > 0.01 * abs(total):
            return "no: scores of choices differ"
    policy.model.train()
    weights = [p for p in policy.model.parameters() if p.requires_grad]
    torch.cat(token_logprobs(policy, rows)).mean().backward()
    norm = sum(p.grad.square().sum() for p in weights if p.grad is not None) ** 0.5
    with torch.no_grad():
        for p in weights:
            if p.grad is not None:
                p += 0.02 * p.grad / norm
    policy.model.eval()
    with torch.no_grad():
        after = token_logprobs(policy, rows)
    rises = torch.cat(after).mean() > torch.cat(before).mean()
    return "yes" if rises else "no: a step does not raise them"


def _obeys(folder: Path) -> str:
    """A control token changes the log-probabilities, and takes part in learning."""
    policy = load_policy(folder, device="cpu", numbers=Numbers("float32"))
    policy.add_controls({"diversity": 3})
    rows = [
        replace(_rows(policy)[0], control_ids=tuple(policy.controls.prefix({"diversity": b})))
        for b in (0, 2)
    ]
    best, worst = token_logprobs(policy, rows)
    if torch.equal(best, worst):
        return "no: the token changes nothing"
    best.sum().backward()
    grad = policy.model.get_input_embeddings().weight.grad
    learns = grad is not None and grad[policy.controls.first_id].abs().sum() > 0
    return "yes" if learns else "no: no gradient reaches the token"


def _exports(folder: Path) -> str:
    """Plain transformers loads the exported folder, and computes and writes the same with it."""
    policy = load_policy(folder, device="cpu", numbers=Numbers("float32"), tuning="lora")
    policy.add_controls({"diversity": 3})
    out = folder / "out"
    policy.export(out, bake={"diversity": 0})
    plain = auto_class(policy.model.config).from_pretrained(out, dtype=torch.float32).eval()
    again = load_policy(out, device="cpu", numbers=Numbers("float32"))
    row = replace(_rows(policy)[0], control_ids=tuple(policy.controls.prefix({"diversity": 0})))
    with torch.no_grad():
        [ours], [reloaded] = token_logprobs(policy, [row]), token_logprobs(again, [row])
    reply = list(row.response_ids)
    prompt, before = list(row.prompt_ids), list(row.control_ids)
    logits = _own_logits(policy, plain, prompt, [*before, *reply[:-1]])[len(before) :].float()
    own = torch.log_softmax(logits, -1).gather(1, torch.tensor(reply)[:, None])[:, 0]
    gap = max((ours - reloaded).abs().max().item(), (ours - own).abs().max().item())
    if gap > 1e-3:
        return f"no: log-probabilities differ by {gap:.2g}"
    recorded = Recorded(Sampler(policy, shadow=False))
    attempts = write_attempts(
        recorded, [Question(f"q{i}", prompt, "?") for i, prompt in enumerate(PROMPTS)],
        SamplingConfig(temperature=0.0, max_new_tokens=8), Provenance("test", 0),
        PromptOptions(control={"diversity": 0}),
    )  # fmt: skip
    kept = kept_replies(policy, attempts, recorded.ids, policy.dtype)
    compare_export(policy, out, {a.id: a for a in attempts}, kept)  # raises where they differ
    return "yes"


def verdict(name: str) -> dict[str, str]:
    """What is known of a family; `refused` or `not tiny` hold the reason where that is all."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / name
        try:
            build(name, folder)
        except Exception as error:
            return {"not tiny": _first_line(error)}
        try:
            return check(folder)
        except Exception as error:
            return {"refused": _first_line(error).replace(scratch, "")}


def _first_line(error: Exception) -> str:
    kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    return f"{kind}{error}".split("\n")[0].split("; expected")[0][:140].replace("|", "\\|")


def page(verdicts: dict[str, dict[str, str]]) -> str:
    """The table of all families, in Markdown."""
    checked = {n: v for n, v in verdicts.items() if "writes" in v}
    lines = [
        _ABOUT.format(version=hf.__version__, torch=torch.__version__),
        f"## Used: {len(checked)} families", "",
        f"| family | {' | '.join(COLUMNS)} | decoding |", "|---" * (len(COLUMNS) + 2) + "|",
    ]  # fmt: skip
    for name, found in sorted(checked.items()):
        lines.append(f"| {name} | {' | '.join(found[c] for c in COLUMNS)} | {found['decoding']} |")
    for title, key in (("Refused", "refused"), ("Not made tiny, so not checked", "not tiny")):
        others = {n: v[key] for n, v in verdicts.items() if key in v}
        lines += ["", f"## {title}: {len(others)} families", ""]
        lines += [f"- `{name}`: {reason}" for name, reason in sorted(others.items())]
    return "\n".join(lines) + "\n"


_ABOUT = """# Model families

`make matrix` writes this page: every causal, encoder-decoder and image-text family in the registry
of transformers {version} (torch {torch}, one CPU thread, float32), each as a tiny model with random
weights of a fixed seed. Models of images or sound are used with text alone.

- **writes**: greedy replies are those of full forward passes, and sampled ones (four per prompt) do
  not depend on the batch.
- **learns**: log-probabilities and scores of choices are the model's own (to 1e-3 per token), and a
  gradient step raises them.
  **LoRA**: the same with an adapter.
- **control tokens**: one changes the log-probabilities, and gets a gradient.
- **export**: a model with an adapter and control tokens, exported, gives the same log-probabilities
  in plain transformers, and `generate` writes the same greedy replies.
- **decoding**: empty for the fastest way. When a model is loaded, a probe compares what it writes
  step by step with full passes, on a few tokens; what is not the same is done in a slower way that
  is, and one line of the log says so. What no way does exactly is refused by name.

The probe reads rows of about 30 tokens. A family that changes beyond that (Doge selects keys after
`keep_window_size` tokens) is only as exact as its own code.

A refusal below may be one of the tiny model alone: its sizes are chosen by name, and where they do
not fit each other, the model's own forward pass fails.
"""


def main(arguments: list[str]) -> None:
    """Print a verdict per family; `--write FILE` writes the page of all."""
    hf.logging.set_verbosity_error()
    hf.logging.disable_progress_bar()
    target = Path(arguments[1]) if arguments[:1] == ["--write"] else None
    named = [] if target else arguments
    verdicts: dict[str, dict[str, str]] = {}
    for kind in _KINDS:
        for name in families(kind):
            if not named or name in named:
                verdicts[name] = verdict(name)
                print(name, verdicts[name], flush=True)
    if target:
        target.write_text(page(verdicts))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    main(sys.argv[1:])
