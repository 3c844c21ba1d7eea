"""GGUF files as base models: the same model as the one that was written, and what is refused."""

from __future__ import annotations

import json

import gguf
import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM, Qwen2ForCausalLM

from rationalize.cli import main
from rationalize.errors import UserError
from rationalize.models import gguf as conversion
from rationalize.models.cards import base_facts, read_card
from rationalize.models.folders import check_model
from rationalize.models.policy import load_policy
from rationalize.models.precision import Numbers
from tests.tiny import CHAT_TEMPLATE, tiny_policy, tiny_tokenizer

Q8, Q5 = gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q5_0
F32 = gguf.GGMLQuantizationType.F32


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RATIONALIZE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("head", ["absent", "copied", "apart"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_a_file_becomes_the_model_that_it_holds(architecture, head, tmp_path, cache):
    """`head`: none in the file (tied), the embedding quantised a second time, or one of its own."""
    model = tiny_model(architecture, tied=head != "apart")
    path = write_gguf(tmp_path / "tiny.Q8_0.gguf", model, twice=head == "copied")
    policy = load_policy(path, device="cpu", numbers=Numbers("float32"))
    tied = policy.model.get_output_embeddings().weight is policy.model.get_input_embeddings().weight
    assert tied == policy.model.config.tie_word_embeddings == (head != "apart")
    assert policy.chat
    assert policy.n_vocab == 300  # without the two entries that pad the vocabulary
    assert policy.encode_prompt("The stone.") == tiny_policy(chat=True).encode_prompt("The stone.")
    assert policy.model.generation_config.eos_token_id == policy.eos_id == 0
    # only rounding differs: to 8 bits, then to bfloat16
    ids = torch.tensor([[5, 80, 299, 12, 7]])
    with torch.no_grad():
        expected, logits = model(ids).logits, policy.model(ids).logits
    assert (logits - expected).norm() < 0.02 * expected.norm()
    (folder,) = cache.iterdir()
    before = folder.stat().st_mtime_ns
    load_policy(path, device="cpu")
    assert [f.stat().st_mtime_ns for f in cache.iterdir()] == [before]  # converted once


def test_what_the_file_says_of_itself(tmp_path, cache, capsys):
    path = write_gguf(
        tmp_path / "some.gguf", tiny_model("llama"), licence="mit",
        url="https://huggingface.co/owner/some",
    )  # fmt: skip
    assert load_policy(path, device="cpu").name == "Tiny Model"
    assert "some.gguf (0.00 GB, llama): converted once" in capsys.readouterr().err
    assert base_facts(str(path)) == ("owner/some", "mit")
    (folder,) = cache.iterdir()
    assert read_card(folder) == {"license": "mit", "base_model": "owner/some"}
    assert base_facts(str(folder)) == ("owner/some", "mit")
    other = write_gguf(tmp_path / "none.gguf", tiny_model("llama"))
    assert base_facts(str(other)) == (None, None)


def test_floats_keep_their_type(tmp_path):
    path = write_gguf(tmp_path / "floats.gguf", tiny_model("qwen2"), kind=F32)
    policy = load_policy(path, device="cpu")
    expected = tiny_model("qwen2").state_dict()["model.layers.0.mlp.up_proj.weight"]
    assert torch.equal(policy.model.model.layers[0].mlp.up_proj.weight, expected)


def test_other_architectures_are_refused_by_name(tmp_path, capsys):
    path = write_gguf(tmp_path / "clip.gguf", tiny_model("llama"), architecture="clip")
    with pytest.raises(UserError, match=r"architecture 'clip'.*expected one of .*llama.*qwen2"):
        check_model(path)
    argv = ["sample", "--model", str(path), "--questions", "builtin", "--dry-run"]
    assert main(argv) == 1
    assert "architecture 'clip'" in capsys.readouterr().err


def test_broken_files(tmp_path):
    page = tmp_path / "page.gguf"
    page.write_text("<html>not found</html>")
    with pytest.raises(UserError, match="cannot be read as GGUF"):
        check_model(page)
    with pytest.raises(UserError, match="there is no such file"):
        check_model(tmp_path / "absent.gguf")
    whole = write_gguf(tmp_path / "whole.gguf", tiny_model("llama"))
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(whole.read_bytes()[:-5000])
    with pytest.raises(UserError, match=r"cut.gguf.*whole file"):
        load_policy(cut)
    part = write_gguf(tmp_path / "part.gguf", tiny_model("llama"), parts=3)
    with pytest.raises(UserError, match="one of 3 parts"):
        check_model(part)


def test_the_disk_is_looked_at_beforehand(tmp_path):
    free = 1 << 60  # more than any disk has
    with pytest.raises(UserError, match=r"need 1152921504\.7 GB.*RATIONALIZE_CACHE"):
        conversion.check_disk(tmp_path / "large.gguf", tmp_path, free)


def tiny_model(architecture, *, tied=True):
    sizes = {
        "vocab_size": 302, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": tied,
        "initializer_range": 0.2, "max_position_embeddings": 512,
    }  # fmt: skip
    kind = {"llama": LlamaForCausalLM, "qwen2": Qwen2ForCausalLM}[architecture]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(kind.config_class(**sizes)).eval()
        for parameter in model.parameters():  # biases and norms too
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def write_gguf(
    path, model, *, kind=Q8, twice=False, architecture=None, licence=None, url=None, parts=1
):
    """What llama.cpp's converter and quantiser write. `twice`: a tied head as a tensor of its own,
    beside a coarser embedding.
    """
    config = model.config
    writer = gguf.GGUFWriter(path, architecture or config.model_type)
    writer.add_name("Tiny Model")
    if licence:
        writer.add_license(licence)
    if url:
        writer.add_repo_url(url)
    if parts > 1:
        writer.add_uint16("split.count", parts)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    write_tokenizer(writer, config.vocab_size)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[config.model_type.upper()], 2)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings and not twice:
            continue
        values = tensor.numpy()
        if config.model_type == "llama" and ("q_proj" in name or "k_proj" in name):
            heads = config.num_key_value_heads if "k_proj" in name else config.num_attention_heads
            # llama.cpp pairs neighbouring dimensions in its rotary embedding
            values = values.reshape(heads, 2, -1, 32).swapaxes(1, 2).reshape(values.shape)
        stored = Q5 if twice and "embed_tokens" in name else kind
        stored = stored if values.ndim == 2 else F32
        data = gguf.quants.quantize(np.ascontiguousarray(values), stored)
        stem, _, suffix = name.rpartition(".")
        writer.add_tensor(f"{names.get_name(stem)}.{suffix}", data, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_tokenizer(writer, rows):
    tokenizer = tiny_tokenizer("decoder", chat=True)
    vocab = tokenizer.get_vocab()
    tokens = sorted(vocab, key=vocab.get)
    padding = [f"[PAD{i}]" for i in range(len(tokens), rows)]
    control, normal, unused = (
        gguf.TokenType.CONTROL, gguf.TokenType.NORMAL, gguf.TokenType.UNUSED
    )  # fmt: skip
    types = [control if token.startswith("<|") else normal for token in tokens]
    pieces = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens + padding)
    writer.add_token_types(types + [unused] * len(padding))
    writer.add_token_merges([" ".join(pair) for pair in pieces["merges"]])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(CHAT_TEMPLATE)
