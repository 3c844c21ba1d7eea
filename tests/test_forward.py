"""Forward passes over response positions, against the models' own logits."""

import pytest
import torch
from transformers import AutoModelForCausalLM, GraniteConfig

from rationalize.models import logits as logits_module
from rationalize.models.forward import Row, collate, hidden_at_response
from rationalize.models.logits import find_head, head, output_rows, token_logprobs
from tests.tiny import tiny_policy

KINDS = ("decoder", "t5")
TEXTS = (
    ("Which falls faster?", "The stone."),
    ("Ice or grass, which is smoother?", "Ice is, so it is (B)."),
    ("x", "y"),
)


@pytest.fixture(params=KINDS)
def policy(request):
    made = tiny_policy(request.param)
    made.add_controls({"correctness": 2, "diversity": 5})
    return made


def rows_of(policy, **controls):
    ids = tuple(policy.controls.prefix(controls))
    return [
        Row(tuple(policy.encode_prompt(q)), tuple(policy.encode_response(r)), ids) for q, r in TEXTS
    ]


def model_logits(policy, row, control_ids):
    """The model's own logits of one row by itself, at the positions that predict the response."""
    before = [*control_ids, *row.response_ids[:-1]]
    if policy.is_encoder_decoder:
        prompt, written = torch.tensor([row.prompt_ids]), torch.tensor([[policy.start_id, *before]])
        logits = policy.model(input_ids=prompt, decoder_input_ids=written).logits[0]
    else:
        logits = policy.model(input_ids=torch.tensor([[*row.prompt_ids, *before]])).logits[0]
    return logits[-len(row.response_ids) :, : policy.n_vocab]


@pytest.mark.parametrize("with_controls", [True, False])
def test_logits_are_the_models_own(policy, with_controls):
    """Each row of a padded batch, with control tokens and as the reference sees it."""
    rows = rows_of(policy, correctness=0, diversity=3)
    batch = collate(rows, policy)
    with torch.no_grad():
        logits = head(policy, hidden_at_response(policy, batch, with_controls=with_controls))
        expected = [model_logits(policy, r, r.control_ids if with_controls else ()) for r in rows]
    assert logits.shape == (sum(len(r.response_ids) for r in rows), policy.n_vocab)
    assert torch.allclose(logits, torch.cat(expected), atol=1e-4)
    assert batch.targets.tolist() == [t for r in rows for t in r.response_ids]
    assert batch.row_of.tolist() == [i for i, r in enumerate(rows) for _ in r.response_ids]


def test_a_row_does_not_depend_on_its_batch_mates(policy):
    rows = rows_of(policy, diversity=0)
    with torch.no_grad():
        together = token_logprobs(policy, rows)
        alone = [token_logprobs(policy, [row])[0] for row in rows]
    for a, b in zip(together, alone, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_controls_change_what_is_predicted_and_carry_no_loss(policy):
    best, worst = (token_logprobs(policy, rows_of(policy, diversity=b))[0] for b in (0, 4))
    assert len(best) == len(policy.encode_response(TEXTS[0][1]))
    assert (best - worst).abs().max() > 1e-3
    best.sum().backward()
    gradient = policy.model.get_input_embeddings().weight.grad
    used = policy.controls.prefix({"diversity": 0})
    assert gradient[used].abs().sum() > 0
    others = [i for i in policy.controls.ids() if i not in used]
    assert (
        gradient[others].abs().sum() == 0
    )  # nothing is learned about tokens that are not in the prefix


def test_the_models_own_head_is_the_fallback(policy):
    """Where the linear map is not all of it, logits come from the model's code, with the same
    values and gradients.
    """
    rows = rows_of(policy, diversity=0)
    hidden = hidden_at_response(policy, collate(rows, policy)).detach().requires_grad_()
    linear = head(policy, hidden)
    policy.linear_head = False
    model_code = head(policy, hidden)
    assert torch.allclose(linear, model_code, atol=1e-5)
    seed = torch.randn_like(linear)
    ours, theirs = (
        torch.autograd.grad((logits * seed).sum(), hidden)[0] for logits in (linear, model_code)
    )
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_an_unusual_head_is_noticed():
    policy = tiny_policy("decoder")
    assert policy.linear_head
    config = GraniteConfig(
        vocab_size=300, hidden_size=32, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, logits_scaling=8.0,
    )  # fmt: skip
    policy.model = AutoModelForCausalLM.from_config(config).eval()
    find_head(policy)
    assert not policy.linear_head  # Granite divides its logits
    assert torch.isfinite(token_logprobs(policy, [Row((5, 6), (7,))])[0]).all()


def test_rows_need_a_prompt_and_a_response(policy):
    for row in (Row((), (1,)), Row((1,), ())):
        with pytest.raises(ValueError, match="needs a prompt and a response"):
            collate([row], policy)
    assert Row((1, 2), (3, 4, 5), (300,)).length == 6


def test_attention_for_short_rows_changes_no_number():
    policy = tiny_policy("decoder")
    rows = [Row((5, 6, 7), (8, 9)), Row((5,), (9, 9, 8, 7))]
    short = hidden_at_response(policy, collate(rows, policy))
    config = policy.model.config
    assert config._attn_implementation == "sdpa"  # as it was
    beyond = Row(tuple(i % 300 for i in range(600)), (5,))  # one long row is fused with the others
    fused = hidden_at_response(policy, collate([*rows, beyond], policy))
    assert torch.allclose(short, fused[:-1], atol=1e-5)


def test_all_rows_of_the_head_are_not_copied():
    policy = tiny_policy("decoder")
    weight = policy.model.get_output_embeddings().weight
    assert output_rows(policy) is weight
    policy.add_controls({"diversity": 2})
    assert len(output_rows(policy)) == policy.n_vocab


@pytest.mark.parametrize("half", [False, True])
def test_gradients_of_the_output_layer_are_those_of_a_plain_product(half, monkeypatch):
    """In blocks of a few rows, tied to the embeddings, with control rows and a bias or without."""
    monkeypatch.setattr(logits_module, "_BLOCK", 32 * 7)  # blocks of 7 rows, the last a part
    policy = tiny_policy("decoder")
    policy.add_controls({"diversity": 3})
    layer = policy.model.get_output_embeddings()
    for bias in (None, torch.nn.Parameter(torch.randn(len(layer.weight)))):
        layer.bias = bias
        inputs = [layer.weight] if bias is None else [layer.weight, bias]
        hidden = torch.randn(5, layer.weight.shape[1], requires_grad=True)
        seed = torch.randn(5, policy.n_vocab)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            rows, of_bias = layer.weight[: policy.n_vocab], None
            if bias is not None:
                of_bias = bias[: policy.n_vocab]
            plain = torch.nn.functional.linear(hidden, rows, of_bias)
            ours = head(policy, hidden)
        assert ours.dtype == plain.dtype
        assert torch.allclose(ours, plain)
        expected = torch.autograd.grad((plain * seed).sum(), [hidden, *inputs])
        found = torch.autograd.grad((ours * seed).sum(), [hidden, *inputs])
        for a, b in zip(found, expected, strict=True):
            assert a.dtype == b.dtype
            assert torch.allclose(a, b, rtol=0.02 if half else 1e-5, atol=0.02 if half else 1e-5)
        assert found[1][policy.n_vocab :].abs().sum() == 0
