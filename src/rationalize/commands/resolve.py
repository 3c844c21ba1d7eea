"""Names on the command line to models, samplers, rewards and bins. Imports torch when needed."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rationalize.commands.asked import split_of
from rationalize.commands.chain import coalition_folder
from rationalize.config import nearest, to_dict
from rationalize.config.checks import LARGEST_SEED, at_least, between, finite
from rationalize.errors import UsageError
from rationalize.progress import say

if TYPE_CHECKING:
    from rationalize.models.policy import Policy
    from rationalize.rewards.base import Reward
    from rationalize.sampling.config import SamplingConfig
    from rationalize.sampling.writing import AnySampler, Control


REPLY_TOKENS = 96
"""The longest reply of a model that no run of ours has evaluated."""

Form = Literal["auto", "told", "plain"]
"""How a command's prompts ask for the answer."""


@dataclass(frozen=True, kw_only=True)
class ScorerFolders:
    """The trained models that some rewards read with: settings of every command that scores."""

    answer_scorer: str | None = None
    """Folder of a trained answer scorer, for `consistency` and the others that read with one."""
    verifier: str | None = None
    """Folder of a trained verifier, or `vera`, for `plausibility`."""
    reward_model: str | None = None
    """Folder of a trained reward model, for `reward_model`."""
    judge_model: str | None = None
    """Model behind an OpenAI-style server, as NAME@URL, for `judge`."""


@dataclass(frozen=True)
class Writer:
    """The model that writes for a command."""

    sampler: AnySampler
    control: Control | None
    """Bin per reward to write under, where the model has control tokens."""
    told: bool
    """Whether prompts say the form of the answer."""
    weights_hash: str | None
    """None: the weights are behind a server."""
    tokenizer: Any = None
    """None: behind a server."""


@contextmanager
def open_writer(config: Any, elsewhere: Any = None) -> Iterator[Writer]:
    """The model that a command's settings name, in this process or behind `server`. A server's bill
    is printed at the end, also after an error. `elsewhere`: see `Sampler`.
    """
    if config.server is None:
        policy = load(config.model, trust_remote_code=config.trust_remote_code)
        control = bins_of(config.control, policy)
        from rationalize.sampling.local import Sampler

        told = is_told(config.form, policy)
        sampler = Sampler(policy, guidance=config.guidance, elsewhere=elsewhere)
        yield Writer(sampler, control, told, policy.weights_hash, policy.tokenizer)
        return
    from rationalize.sampling.server import ServerSampler

    server = ServerSampler(config.server, config.model, config.http)
    try:
        yield Writer(server, None, is_told(config.form, None), None)
    finally:
        if not server.bill.empty:
            print(f"{config.server}: {server.bill}", file=sys.stderr)


def is_told(form: Form, policy: Policy | None) -> bool:
    """Whether prompts say the form of the answer; no `policy`: a model behind a server."""
    if form == "auto":
        return policy is None or not policy.knows_form
    return form == "told"


def settings_of(config: Any) -> dict[str, Any]:
    """The settings that a second start must repeat, the longest reply as it is; of `http` only
    those that replies depend on, of several servers the first. Where results lie is none of them.
    """
    settings = {**to_dict(config), "max_new_tokens": sampling_of(config).max_new_tokens}
    for name in ("out", "server", "http", "executor", "address", "actor_cpus"):
        settings.pop(name, None)
    if not Path(config.questions).is_file():  # of which none is all, and a name a part
        settings["split"] = split_of(config)
    if config.server is not None:
        from rationalize.sampling.addresses import addresses_of

        server = addresses_of(config.server)[0]
        settings |= {"server": server, "http": config.http.reply_settings}
    return settings


def load(model: str, *, trust_remote_code: bool = False) -> Policy:
    """The policy of a finished run, a folder, a hub id, or the embedded default."""
    if coalition_folder(model):
        raise UsageError(
            f"{model} is a coalition: several models that answer together, where one was expected. "
            "`rationalize ask` and `rationalize evaluate` work with it; so does, from Python, "
            "Coalition.load(FOLDER).chains(questions, sampling)"
        )
    say(f"loading the model {model}")
    from rationalize.models.policy import load_policy

    return load_policy(model, trust_remote_code=trust_remote_code)


def rewards_of(
    names: Sequence[str], scorers: ScorerFolders, *, model: str = "default",
    base: Policy | None = None, trust_remote_code: bool = False,
) -> list[Reward]:  # fmt: skip
    """Rewards by name, with the models that they read with, and the rewards that some are always
    shown with (`COMPANIONS`). `fluency` asks `base`, or else the model called `model`.
    """
    from rationalize.rewards import load_rewards
    from rationalize.rewards.judge import Judge

    names = known_names(names, scorers)
    answer_scorer = verifier = reward_model = None
    if scorers.answer_scorer:
        from rationalize.models.scorers import AnswerScorer

        answer_scorer = AnswerScorer.load(scorers.answer_scorer)
    if scorers.verifier:
        from rationalize.models.scorers import load_verifier

        verifier = load_verifier(scorers.verifier)
    if "fluency" in names and base is None:
        base = load(model, trust_remote_code=trust_remote_code)
    if scorers.reward_model:
        from rationalize.models.reward_model import RewardModel

        reward_model = RewardModel.load(scorers.reward_model, trust_remote_code=trust_remote_code)
    return load_rewards(
        names, answer_scorer=answer_scorer, verifier=verifier, reward_model=reward_model, base=base,
        judge=Judge.at(scorers.judge_model) if scorers.judge_model else None,
    )  # fmt: skip


def known_names(names: Sequence[str], scorers: ScorerFolders) -> list[str]:
    """The names of all rewards that `rewards_of` loads.

    Raises what can be known to be wrong with them and with the scorers' folders; loads no model.
    """
    from rationalize.rewards import COMPANIONS
    from rationalize.rewards.judge import Judge
    from rationalize.rewards.known import known_rewards

    names = split_commas(names)
    companions = [other for name in names for other in COMPANIONS.get(name, ())]
    names += [name for name in dict.fromkeys(companions) if name not in names]
    if scorers.judge_model:
        Judge.at(scorers.judge_model)
    if scorers.answer_scorer or scorers.verifier or scorers.reward_model:
        from rationalize.methods.scoring import check_folders  # loads torch

        check_folders(scorers)
    known_rewards(
        names, answer_scorer=bool(scorers.answer_scorer), verifier=bool(scorers.verifier),
        reward_model=bool(scorers.reward_model), judge=bool(scorers.judge_model),
    )  # fmt: skip
    return names


def split_commas(listed: Sequence[str]) -> list[str]:
    """Names that a command line may separate by spaces or commas.

    >>> split_commas(["a,b", "c"])
    ['a', 'b', 'c']
    """
    return [name for part in listed for name in part.split(",") if name]


def bins_of(asked: Mapping[str, str], policy: Policy) -> Control | None:
    """`{"diversity": "worst"}` to numbers of bins, `random` to all of them. Rewards that it does
    not name get their best.
    """
    known = dict(policy.controls.bins) if policy.controls else {}
    for name, value in asked.items():
        if not known:
            raise UsageError(
                f"--control {name}={value}: {policy.name} has no control tokens; name a model that "
                "MaRio taught"
            )
        if name not in known:
            raise UsageError(
                f"--control: {policy.name} has no token for {name!r}{nearest(name, known)}"
            )
    return {name: _bin(name, asked.get(name, "best"), k) for name, k in known.items()} or None


def _bin(name: str, value: str, bins: int) -> int | tuple[int, ...]:
    if value == "random":
        return tuple(range(bins))
    numbers = {"best": 0, "worst": bins - 1, **{str(b): b for b in range(bins)}}
    if value not in numbers:
        raise UsageError(
            f"--control {name}={value}: expected best, worst, random, or a number from 0 (best) to "
            f"{bins - 1}"
        )
    return numbers[value]


def check_writing(config: Any) -> None:
    """The check of a command's settings for writing: sampling, and how much of it."""
    _sampling(config, REPLY_TOKENS)
    finite(config, "guidance")
    between(config, 0, LARGEST_SEED, "seed")
    if hasattr(config, "limit"):
        at_least(config, 1, "limit")
    if hasattr(config, "shots"):
        at_least(config, 0, "shots")
    if getattr(config, "server", None) is not None and (config.control or config.guidance):
        raise UsageError(
            "--control and --guidance need control tokens, and a model behind a server has none; "
            "leave them out, or name a model that MaRio taught without --server"
        )


def sampling_of(config: Any) -> SamplingConfig:
    """The sampling that a command's settings ask for. Where they set no longest reply: that of the
    run that made the model, as far as its folder says, or `REPLY_TOKENS`.
    """
    served = getattr(config, "server", None) is not None
    return _sampling(config, (None if served else reply_tokens(config.model)) or REPLY_TOKENS)


def _sampling(config: Any, longest: int) -> SamplingConfig:
    from rationalize.sampling.config import SamplingConfig

    names = {f.name for f in dataclasses.fields(SamplingConfig)} & {
        f.name for f in dataclasses.fields(config)
    }
    given = {name: getattr(config, name) for name in names}
    if given["max_new_tokens"] is None:
        given["max_new_tokens"] = longest
    return SamplingConfig(**given)


def reply_tokens(model: str) -> int | None:
    """The longest reply that a run evaluated its model or its coalition with, or None."""
    from rationalize.models.folders import read_facts

    if folder := coalition_folder(model):
        return json.loads((folder / "coalition.json").read_text()).get("reply_tokens")
    facts = read_facts(Path(model) / "model") or read_facts(model)
    return facts.get("reply_tokens")
