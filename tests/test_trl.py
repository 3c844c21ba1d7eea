"""Our DPO against TRL's, on the same pairs. Needs the extra `trl`; skipped without it."""

import dataclasses

import pytest
from tiny import tiny_folder, tiny_policy

from rationalize.models.forward import Row
from rationalize.training.loop import FitConfig
from rationalize.training.objectives import PairTag, dpo, response_logprobs

trl = pytest.importorskip("trl")

PAIRS = [
    ("Why?", "It is dense.", "No."),
    ("How does it float?", "So.", "Because it is lighter than water."),
]
BETA = 0.3


@pytest.mark.parametrize("loss_type", ["sigmoid", "sigmoid_norm"])
def test_our_dpo_is_trls(tmp_path, loss_type):
    datasets = pytest.importorskip("datasets")
    from transformers import AutoModelForCausalLM

    policy = tiny_policy("decoder", seed=0)
    reference = tiny_policy("decoder", seed=1)
    config = FitConfig()

    def rows(logprobs):
        return [
            Row(
                tuple(policy.encode_prompt(prompt)), tuple(policy.encode_response(response)),
                tag=PairTag(i, j == 0, logprobs[2 * i + j]),
            )
            for i, (prompt, *responses) in enumerate(PAIRS)
            for j, response in enumerate(responses)
        ]  # fmt: skip

    loss = dpo(beta=BETA, length_normalized=loss_type == "sigmoid_norm")
    out = loss(policy, rows(response_logprobs(reference, rows([0.0] * 4), config)))

    folders = [tiny_folder("decoder", tmp_path / str(seed), seed) for seed in (0, 1)]
    model, ref_model = (AutoModelForCausalLM.from_pretrained(f).eval() for f in folders)
    trainer = trl.DPOTrainer(
        model, ref_model, processing_class=policy.tokenizer,
        args=trl.DPOConfig(
            output_dir=str(tmp_path / "trl"), beta=BETA, loss_type=loss_type, use_cpu=True,
            bf16=False, report_to=[], per_device_train_batch_size=len(PAIRS), disable_dropout=True,
        ),
        train_dataset=datasets.Dataset.from_list(
            [{"prompt": f"{p}\n", "chosen": c, "rejected": r} for p, c, r in PAIRS]
        ),
    )  # fmt: skip
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(PAIRS))])
    theirs = trainer.compute_loss(trainer.model, batch).item()
    assert out.total.item() / out.weight == pytest.approx(theirs, abs=1e-4)


def test_our_reward_model_loss_is_trls(tmp_path):
    """One pair a question: TRL's reward trainer knows no more."""
    datasets = pytest.importorskip("datasets")
    import torch
    from transformers import AutoTokenizer, LlamaForSequenceClassification

    from rationalize.models.heads import new_head
    from rationalize.training.objectives import RankTag, rank

    policy = tiny_policy("decoder", seed=0)
    scalar_head = new_head(policy, seed=3)
    ours = [
        Row(
            tuple(policy.encode_prompt(prompt)), tuple(policy.encode_response(response)),
            tag=RankTag(i, place, (1,) if place == 0 else (), place == 0),
        )
        for i, (prompt, *both) in enumerate(PAIRS)
        for place, response in enumerate(both)
    ]  # fmt: skip
    out = rank(scalar_head)(policy, ours)

    folder = tiny_folder("decoder", tmp_path / "model", 0)
    theirs = LlamaForSequenceClassification.from_pretrained(folder, num_labels=1).eval()
    # its model looks for the last token that is not the pad, so that the end must be another one
    tokenizer = AutoTokenizer.from_pretrained(folder, pad_token="<|start|>")
    theirs.config.pad_token_id = tokenizer.pad_token_id
    with torch.no_grad():
        theirs.score.weight.copy_(scalar_head.weight)
    trainer = trl.RewardTrainer(
        theirs, processing_class=tokenizer,
        args=trl.RewardConfig(
            output_dir=str(tmp_path / "trl"), use_cpu=True, bf16=False, report_to=[],
            per_device_train_batch_size=len(PAIRS), disable_dropout=True,
        ),
        train_dataset=datasets.Dataset.from_list(
            [{"prompt": f"{p}\n", "chosen": c, "rejected": r} for p, c, r in PAIRS]
        ),
    )  # fmt: skip
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(PAIRS))])
    loss = trainer.compute_loss(trainer.model, batch).item()
    assert out.total.item() / out.weight == pytest.approx(loss, abs=1e-4)


@pytest.mark.parametrize(
    ("method", "theirs", "average"),
    [
        ("grpo", {}, "attempts"),
        ("grpo", {"scale_rewards": "none", "mask_truncated_completions": True}, "tokens"),
        ("grpo", {"scale_rewards": "batch"}, "attempts"),
        ("gdpo", {"multi_objective_aggregation": "normalize_then_sum"}, "attempts"),
    ],
)
def test_our_grpo_and_gdpo_are_trls(tmp_path, method, theirs, average):
    """The same attempts and rewards: advantages, loss and gradient."""
    datasets = pytest.importorskip("datasets")
    import numpy as np
    import torch

    from rationalize.models.logits import token_logprobs
    from rationalize.signals.advantages import gdpo_advantages, grpo_advantages
    from rationalize.training.objectives import GroupTag, grpo

    def thirds(completions, **_):
        return [len(c) % 3 / 2 for c in completions]

    def vowels(completions, **_):
        return [sum(letter in "aeiou" for letter in c) / 4 for c in completions]

    rows = [{"prompt": f"{prompt}\n"} for prompt, *_ in PAIRS]
    weights = {"thirds": 1.0, "vowels": 0.5}
    trainer = trl.GRPOTrainer(
        str(tiny_folder("decoder", tmp_path / "model", 0)), [thirds, vowels],
        args=trl.GRPOConfig(
            output_dir=str(tmp_path / "trl"), use_cpu=True, bf16=False, report_to=[], beta=BETA,
            num_generations=4, per_device_train_batch_size=8, max_completion_length=8,
            reward_weights=list(weights.values()), epsilon=0.2, seed=1,
            use_bias_correction_kl=False,  # the ratio before the KL, which is not GRPO's
            loss_type="grpo" if average == "attempts" else "dapo", **theirs,
        ),
        train_dataset=datasets.Dataset.from_list(rows),
    )  # fmt: skip
    model = trainer.model.eval()  # it then writes without dropout, in order, and does not divide
    inputs = trainer._prepare_inputs([row for row in rows for _ in range(4)])

    # advantages
    scores = {name: np.reshape(trainer._logs["rewards"][name], (2, 4)) for name in weights}
    scale = theirs.get("scale_rewards", "group")
    if method == "grpo":
        advantages_PG = grpo_advantages(scores, weights, scale=scale)
    else:
        advantages_PG = gdpo_advantages(scores, weights)
    found = inputs["advantages"].tolist()
    assert np.ptp(found) > 0.1
    assert advantages_PG.ravel().tolist() == pytest.approx(found, abs=1e-4)

    # loss and gradient, as if two other policies had written and stood for the reference
    masks = [inputs[f"{part}_mask"].bool() for part in ("prompt", "completion")]
    plain = [
        Row(tuple(prompt[p].tolist()), tuple(completion[c].tolist()))
        for prompt, completion, p, c in zip(
            inputs["prompt_ids"], inputs["completion_ids"], *masks, strict=True
        )
    ]
    kept = [i for i, row in enumerate(plain) if row.response_ids]
    assert (len(kept) < 8) == ("mask_truncated_completions" in theirs)
    columns = []
    for seed, name in ((1, "old_per_token_logps"), (2, "ref_per_token_logps")):
        near = tiny_policy("decoder", seed=0)
        with torch.no_grad():
            for parameter in near.model.parameters():
                noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
                parameter.add_(0.02 * noise)
            columns.append(token_logprobs(near, [plain[i] for i in kept]))
        inputs[name] = torch.zeros(inputs["completion_ids"].shape)
        for i, logprob_T in zip(kept, columns[-1], strict=True):
            inputs[name][i, : len(logprob_T)] = logprob_T
    loss = trainer.compute_loss(model, inputs)
    loss.backward()

    policy = tiny_policy("decoder", seed=0)
    tagged = [
        dataclasses.replace(plain[i], tag=GroupTag(old_T, reference_T, found[i]))
        for i, old_T, reference_T in zip(kept, *columns, strict=True)
    ]
    out = grpo(clip=0.2, beta=BETA, average=average)(policy, tagged)
    assert 0 < out.metrics["clipfrac"] < out.weight
    assert out.total.item() / out.weight == pytest.approx(loss.item(), abs=1e-5)
    (out.total / out.weight).backward()
    gradients = {n: p.grad for n, p in policy.model.named_parameters()}
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-4, rtol=1e-3)
