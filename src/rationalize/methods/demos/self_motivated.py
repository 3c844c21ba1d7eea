RFT, STAR, DPO = "RFT (M_sft)", "STaR", "iterative DPO"
RANK = "reward model"
PPO_ROWS: Mapping[Mode, str] = {"z": "PPO, z", "rm": "PPO, rm", "rm+z": "PPO, rm+z"}

SELF_SAMPLING = SamplingConfig(temperature=1.0, max_new_tokens=48, n=3)


@dataclass(frozen=True)
class SelfMotivatedDemoConfig:
    """The demo of Self-motivated Learning: every method that learns from one store of attempts."""

    methods: tuple[str, ...] = ("ppo-z", "ppo-rm+z")
    """Beside RFT: star, dpo, ppo-z, ppo-rm, ppo-rm+z."""
    seeds: tuple[int, ...] = (0,)
    """One run of every method per seed."""
    votes: int = 4
    """Attempts per test question of M_sft, for the majority and the reward model's choice; 0: none.
    """
    shots: int = 2
    """Demonstrations of the few-shot baseline."""
    direct: StartConfig = StartConfig(epochs=1.0, fit=FitConfig(learning_rate=3e-4, batch_size=8))
    """The direct fine-tune."""
    rft: RftConfig = RftConfig(
        seed_rationales=160, seed_epochs=3.0, epochs=2.0, evaluations=1,
        write=WriteConfig(sampling=SELF_SAMPLING), select=SelectConfig(positives=2),
        fit=FitConfig(learning_rate=3e-4, batch_size=8),
    )  # fmt: skip
    """Stages A to C: how attempts are written, sorted and imitated."""
    redraw: WriteConfig = WriteConfig(shots=0, sampling=SELF_SAMPLING)
    """Stage C': how M_sft attempts every question again."""
    rm: RewardModelConfig = RewardModelConfig(
        pairs=8, held_out=0.2, epochs=3.0,
        fit=HeadFitConfig(learning_rate=3e-4, head_rate=3e-3, batch_size=8, schedule="cosine"),
    )  # fmt: skip
    """Stage D: the reward model and its gate."""
    ppo: PpoConfig = PpoConfig(
        updates=5, prompts=12, epochs=1, evaluate_every=3, sampling=SELF_SAMPLING,
        fit=HeadFitConfig(
            learning_rate=2e-5, head_rate=1e-3, batch_size=16, schedule="constant",
            max_grad_norm=0.5,
        ),
    )  # fmt: skip
    """Stage E, in the modes that `methods` names."""
    star: StarConfig = StarConfig(
        rounds=2, seed_rationales=160, seed_epochs=3.0, first_steps=45,
        write=WriteConfig(
            hints="failed", sampling=SamplingConfig(temperature=0.0, max_new_tokens=48)
        ),
        fit=FitConfig(learning_rate=3e-4, batch_size=8),
    )  # fmt: skip
    """STaR."""
    dpo: IterativeDpoConfig = IterativeDpoConfig(
        rounds=1, pairs=4, write=WriteConfig(shots=0, sampling=SELF_SAMPLING),
        fit=FitConfig(learning_rate=1e-5, batch_size=16),
    )  # fmt: skip
    """Iterative DPO, from M_sft and its redrawn attempts."""

    RUN: ClassVar[dict[str, Any]] = {
        "questions": "builtin:train=180,dev=24,test=72,unseen=0",
        "evaluation_tokens": 48,
    }

    def __post_init__(self) -> None:
        refuse_unknown(self.methods, ("star", "dpo", *(f"ppo-{mode}" for mode in PPO_ROWS)))

    @property
    def modes(self) -> list[Mode]:
        return [mode for mode in PPO_ROWS if f"ppo-{mode}" in self.methods]


