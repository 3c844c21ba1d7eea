"""Our DPO against TRL's, on the same pairs. Needs the extra `trl`; skipped without it."""

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


def test_our_dpo_is_trls(tmp_path):
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

    out = dpo(beta=BETA)(policy, rows(response_logprobs(reference, rows([0.0] * 4), config)))

    folders = [tiny_folder("decoder", tmp_path / str(seed), seed) for seed in (0, 1)]
    model, ref_model = (AutoModelForCausalLM.from_pretrained(f).eval() for f in folders)
    trainer = trl.DPOTrainer(
        model, ref_model, processing_class=policy.tokenizer,
        args=trl.DPOConfig(
            output_dir=str(tmp_path / "trl"), beta=BETA, use_cpu=True, bf16=False,
            report_to=[], per_device_train_batch_size=len(PAIRS), disable_dropout=True,
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
