"""Tiny seeded models for tests: a Llama-like decoder and a T5, each with a real tokenizer of about
300 tokens.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import tempfile
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from rationalize.models.policy import Policy, load_policy
from rationalize.models.precision import Numbers

Kind = Literal["decoder", "t5"]

CHAT_TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)

SENTENCES = (
    "The stone is heavier than the leaf, so it falls faster. So the answer is (A).",
    "Ice is smoother than grass, so the sled slides farther there. So the answer is (B).",
    "Tom has four apples and eats one. Three are left. So the answer is (C).",
    "Explain, then answer.",
)


def tiny_policy(
    kind: Kind = "decoder", seed: int = 0, *, chat: bool = False, **options: Any
) -> Policy:
    """A tiny policy in float32; `options` go to `load_policy`."""
    own = {f.name for f in dataclasses.fields(Numbers)} & set(options)
    numbers = Numbers(**{"precision": "float32", **{name: options.pop(name) for name in own}})
    return load_policy(_cached_folder(kind, seed, chat), device="cpu", numbers=numbers, **options)


def tiny_folder(kind: Kind, path: Path, seed: int = 0, *, chat: bool = False) -> Path:
    """Write a tiny model to `path`."""
    path.mkdir(parents=True, exist_ok=True)
    tokenizer = tiny_tokenizer(kind, chat=chat)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _decoder(tokenizer) if kind == "decoder" else _t5(tokenizer)
        last_norm = model.model.norm if kind == "decoder" else model.decoder.final_layer_norm
        torch.nn.init.normal_(
            last_norm.weight, std=2.0
        )  # else a tied output layer repeats the last token
        rows = model.get_input_embeddings().weight.data
        rows[tokenizer.eos_token_id] = 2 * rows[9]  # so that replies end at times
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def tiny_tokenizer(kind: Kind, *, chat: bool = False) -> PreTrainedTokenizerFast:
    """Byte-level pieces learned from a few sentences. The decoder's pad and end are one token, as
    in SmolLM2; the T5's are not.
    """
    special = ["<|end|>", "<|start|>"] if kind == "decoder" else ["<pad>", "</s>"]
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    pieces.train_from_iterator(SENTENCES, trainer)
    if kind == "t5":
        pieces.post_processor = processors.TemplateProcessing(
            single="$A </s>", special_tokens=[("</s>", 1)]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=pieces,
        eos_token=special[0 if kind == "decoder" else 1],
        pad_token=special[0],
    )
    if chat:
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


@functools.cache
def _cached_folder(kind: Kind, seed: int, chat: bool) -> Path:
    return tiny_folder(kind, Path(tempfile.mkdtemp(prefix="tiny-")), seed, chat=chat)


def _decoder(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
        tie_word_embeddings=True, initializer_range=0.2, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def _t5(tokenizer: PreTrainedTokenizerFast) -> T5ForConditionalGeneration:
    config = T5Config(
        vocab_size=len(tokenizer) + 4,  # rows that no token uses, as in T5
        d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, tie_word_embeddings=True,
        initializer_factor=1.0, decoder_start_token_id=tokenizer.pad_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return T5ForConditionalGeneration(config)


def weights(policy: Policy) -> str:
    """A hash of all weights."""
    digest = hashlib.sha256()
    for _, tensor in sorted(policy.model.state_dict().items()):
        digest.update(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
