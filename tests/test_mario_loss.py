"""MaRio's loss (Quark, section 2) over rows with control tokens, against a naive form: whole passes
of the transformers model, one row at a time, no padding, one position after another.
"""

import copy
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from rationalize.models.forward import Row, collate
from rationalize.records import Attempt
from rationalize.runs import Run, Stage
from rationalize.training.batches import OtherTag, RowMaker
from rationalize.training.loop import FitConfig, fit
from rationalize.training.objectives import quark, response_logprobs
from tests.tiny import tiny_policy

BINS = {"consistency": 5, "correctness": 2, "diversity": 5}
COEFFICIENTS = {"beta": 0.4, "alpha": 0.06}
REPLIES = (  # question, reply, finish, bins
    ("Which falls faster?", "The stone is. So the answer is (A).", "stop", (0, 0, 4)),
    ("Ice or grass, which is smoother for the sled?", "Ice, so it is (B).", "stop", (3, 1, 0)),
    ("Tom has four apples", "Tom has four apples and eats", "length", (4, 1, 2)),
)


@pytest.fixture(params=["decoder", "t5", "decoder-lora", "t5-lora"])
def policy(request):
    """A policy that has moved away from its reference, which it carries as `policy.was`."""
    kind, _, tuning = request.param.partition("-")
    made = tiny_policy(kind, tuning=tuning or "full")
    made.add_controls(BINS)
    made.was = made.become_reference()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return made


def attempt(question, reply, finish="stop"):
    return Attempt(
        id=question, question_id=question, mode="rationale_answer", prompt=question,
        completion=reply, rationale=reply, prediction="A", gold="A", parsed=True, finish=finish,
        writer="policy", model="tiny", round=1, step=1, split="train", seed=0, n_tokens=0,
    )  # fmt: skip


def rows_of(policy):
    maker = RowMaker(policy)
    return [
        maker.attempt(attempt(q, r, finish), dict(zip(BINS, bins, strict=True)))
        for q, r, finish, bins in REPLIES
    ]


def logits_after(policy, model, prompt, written):
    """The model's own logits of all positions of one sequence, and the index that predicts the
    first of `written`.
    """
    if policy.is_encoder_decoder:
        decoder_ids = torch.tensor([[policy.start_id, *written]])
        return model(input_ids=torch.tensor([prompt]), decoder_input_ids=decoder_ids).logits[0], 0
    return model(input_ids=torch.tensor([[*prompt, *written]])).logits[0], len(prompt) - 1


def naive_loss(
    policy,
    rows,
    *,
    beta,
    alpha=0.0,
    direction="reverse",
    policy_shift=0,
    reference_shift=0,
    on_controls=False,
):
    """The mean over response tokens; the last three are mistakes that the tests must see."""
    words = policy.n_vocab
    terms = []
    for row in rows:
        prompt, controls, response = (
            list(part) for part in (row.prompt_ids, row.control_ids, row.response_ids)
        )
        logits, first = logits_after(policy, policy.model, prompt, controls + response)
        with torch.no_grad(), policy.was() as frozen:
            reference, reference_first = logits_after(policy, frozen.model, prompt, response)
        for t, target in enumerate(response):
            p = torch.log_softmax(logits[first + len(controls) + t + policy_shift, :words], -1)
            q = torch.log_softmax(reference[reference_first + t + reference_shift, :words], -1)
            if direction == "reverse":
                kl = (p.exp() * (p - q)).sum()
            else:
                kl = (q.exp() * (q - p)).sum()
            terms.append(-p[target] + beta * kl + alpha * (p.exp() * p).sum())
        if on_controls:
            terms += [-torch.log_softmax(logits[first + i], -1)[c] for i, c in enumerate(controls)]
    return torch.stack(terms).mean()


def our_loss(policy, rows, *, beta, alpha=0.0, direction="reverse"):
    out = quark(policy.was, beta=beta, alpha=alpha, direction=direction)(policy, rows)
    return out.total / out.weight


def gradients(policy, loss):
    policy.model.zero_grad(set_to_none=True)
    loss.backward()
    return {n: p.grad for n, p in policy.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("direction", ["reverse", "forward"])
def test_value_and_gradient_equal_the_naive_form(policy, direction):
    rows = rows_of(policy)
    ours = our_loss(policy, rows, direction=direction, **COEFFICIENTS)
    our_gradients = gradients(policy, ours)
    naive = naive_loss(policy, rows, direction=direction, **COEFFICIENTS)
    expected = gradients(policy, naive)
    torch.testing.assert_close(ours, naive, rtol=1e-5, atol=1e-5)
    assert our_gradients.keys() == expected.keys()
    largest = max(g.abs().max().item() for g in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(
            our_gradients[name], gradient, rtol=1e-3, atol=1e-5 * largest, msg=name
        )


def test_every_mistake_would_show(policy):
    """Masks off by one, a wrong term, a wrong sign: each moves the value by far more than the
    difference allowed above.
    """
    rows = rows_of(policy)
    right = our_loss(policy, rows, **COEFFICIENTS).item()
    mistakes = {
        "policy read one position early": {"policy_shift": -1},
        "policy read one position late": {"policy_shift": 1},
        "reference read one position late": {"reference_shift": 1},
        "control tokens predicted": {"on_controls": True},
        "the other direction": {"direction": "forward"},
        "no KL": {"beta": 0.0},
        "entropy with the wrong sign": {"alpha": -COEFFICIENTS["alpha"]},
    }
    for mistake, how in mistakes.items():
        wrong = naive_loss(policy, rows, **{**COEFFICIENTS, **how}).item()
        assert abs(wrong - right) > 1e-3, mistake


def test_the_metrics_are_the_terms(policy):
    rows = rows_of(policy)
    out = quark(policy.was, direction="reverse", **COEFFICIENTS)(policy, rows)
    terms = out.metrics["nll"] + 0.4 * out.metrics["kl"] - 0.06 * out.metrics["entropy"]
    assert out.total.item() == pytest.approx(terms, rel=1e-5)
    assert out.metrics["kl"] > 0.01
    assert out.weight == sum(len(r.response_ids) for r in rows)


@pytest.mark.parametrize("kind", ["decoder", "t5"])
def test_control_tokens_are_never_predicted(kind):
    """With an output layer of its own: no gradient reaches the rows of control ids there, and what
    they hold does not matter. Their input rows learn.
    """
    policy = tiny_policy(kind)
    policy.add_controls(BINS)
    untie(policy)
    reference = policy.become_reference()
    rows = rows_of(policy)
    loss = quark(reference, direction="reverse", **COEFFICIENTS)
    first = loss(policy, rows)
    first.total.backward()
    output = policy.model.get_output_embeddings().weight
    assert output.grad[: policy.n_vocab].abs().sum() > 0
    assert output.grad[policy.n_vocab :].abs().sum() == 0
    used = sorted({c for row in rows for c in row.control_ids})
    learned = policy.model.get_input_embeddings().weight.grad[policy.controls.first_id :]
    moved = policy.controls.first_id + learned.abs().sum(1).nonzero()[:, 0]
    assert moved.tolist() == used
    with torch.no_grad():
        output[policy.n_vocab :] = 50.0
    assert loss(policy, rows).total.item() == first.total.item()


def untie(policy):
    model = policy.model
    output = torch.nn.Linear(*reversed(model.get_output_embeddings().weight.shape), bias=False)
    output.weight.data = model.get_output_embeddings().weight.detach().clone()
    model.set_output_embeddings(output)


def test_the_reference_sees_no_control_tokens(policy):
    """It reads the same with and without them; the policy does not predict the same."""
    rows = rows_of(policy)
    plain_rows = [Row(r.prompt_ids, r.response_ids) for r in rows]
    read = []

    @contextmanager
    def watched():
        with policy.was() as frozen:
            hook = frozen.model.get_decoder().register_forward_pre_hook(
                lambda _module, _args, given: read.append(given["input_ids"]), with_kwargs=True
            )
            yield frozen
            hook.remove()

    loss = quark(watched, beta=0.4, alpha=0.0, direction="reverse")
    with_controls, without = (loss(policy, r).metrics["kl"] for r in (rows, plain_rows))
    assert len(read) == 2
    assert torch.equal(*read)
    assert read[0].max() < policy.n_vocab
    assert abs(with_controls - without) > 1e-3


def test_a_reply_cut_at_the_limit_has_no_end(policy):
    maker = RowMaker(policy)
    whole, cut = (maker.attempt(attempt("x", "So it is", f)) for f in ("stop", "length"))
    assert whole.response_ids == (*cut.response_ids, policy.eos_id)
    assert policy.eos_id not in collate([cut], policy).targets
    weights = [
        quark(policy.was, beta=0.4, alpha=0.0, direction="reverse")(policy, [row]).weight
        for row in (whole, cut)
    ]
    assert weights[0] == weights[1] + 1


def test_padding_does_not_matter(policy):
    """Rows alone, together, and with another padding id: the same sums and gradients."""
    rows = rows_of(policy)
    together = our_loss(policy, rows, **COEFFICIENTS)
    expected = gradients(policy, together)
    n = sum(len(r.response_ids) for r in rows)
    alone = sum(our_loss(policy, [r], **COEFFICIENTS) * len(r.response_ids) for r in rows) / n
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)
    policy.tokenizer = copy.deepcopy(policy.tokenizer)
    policy.tokenizer.pad_token = policy.tokenizer.convert_ids_to_tokens(40)
    assert policy.pad_id == 40
    padded = our_loss(policy, rows, **COEFFICIENTS)
    torch.testing.assert_close(padded, together, rtol=1e-5, atol=1e-5)
    largest = max(g.abs().max().item() for g in expected.values())
    for name, gradient in gradients(policy, padded).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-5 * largest)


def test_without_beta_there_is_no_reference_pass(policy):
    def nobody():
        raise AssertionError("the reference was asked for")

    rows = rows_of(policy)
    calls = []
    hook = policy.model.get_decoder().register_forward_pre_hook(lambda *_: calls.append(1))
    out = quark(nobody, beta=0.0, alpha=0.0, direction="reverse")(policy, rows)
    hook.remove()
    assert len(calls) == 1
    assert out.metrics.keys() == {"nll"}
    torch.testing.assert_close(out.total / out.weight, naive_loss(policy, rows, beta=0.0))


@pytest.mark.parametrize("kind", ["decoder", "t5"])
def test_accumulation_keeps_the_mean_over_tokens(kind, tmp_path):
    """One pass over all rows or a pass for each: the logged loss is the naive one."""
    losses, norms = [], []
    for micro_tokens in (2048, 1):
        policy = tiny_policy(kind)
        policy.add_controls(BINS)
        policy.was = policy.become_reference()
        rows = rows_of(policy)
        expected = naive_loss(policy, rows, **COEFFICIENTS).item()
        config = FitConfig(micro_tokens=micro_tokens)
        with Run.open(tmp_path / str(micro_tokens), {}) as run:
            fit(
                policy, quark(policy.was, direction="reverse", **COEFFICIENTS), lambda _step,
                r=rows: r, config, Stage(run, "mario"), steps=1,
            )  # fmt: skip
            (logged,) = run.metrics("mario")
        losses.append(logged["loss"])
        norms.append(logged["grad_norm"])
        assert logged["loss"] == pytest.approx(expected, rel=1e-4)
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_contrast_tells_a_row_from_its_other_tokens(policy):
    """-log p(own tokens | response), of two: value, terms, and rows without others."""
    rows = rows_of(policy)
    others = [{**dict(zip(BINS, bins, strict=True)), "correctness": 1 - bins[1]}
              for _, _, _, bins in REPLIES]  # fmt: skip
    tagged = [
        replace(row, tag=OtherTag(tuple(policy.controls.prefix(other))))
        for row, other in zip(rows, others, strict=True)
    ]
    plain = quark(policy.was, direction="reverse", **COEFFICIENTS)(policy, rows)
    loss = quark(policy.was, direction="reverse", contrast=3.0, **COEFFICIENTS)
    out = loss(policy, tagged)
    swapped = [replace(row, control_ids=row.tag.control_ids) for row in tagged]
    own, other = (
        torch.tensor(response_logprobs(policy, part, FitConfig())) for part in (rows, swapped)
    )
    expected = -torch.log(torch.sigmoid(own - other))
    assert out.metrics["contrast"] == pytest.approx(expected.sum().item(), rel=1e-4)
    assert (out.total - plain.total).item() == pytest.approx(3 * expected.sum().item(), rel=1e-3)
    told = sum(len(r.response_ids) for r, better in zip(rows, own > other, strict=True) if better)
    assert out.metrics["told"] == told
    assert out.weight == plain.weight
    assert loss(policy, rows).total.item() == pytest.approx(plain.total.item(), rel=1e-5)
