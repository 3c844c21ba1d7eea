"""Sample from servers that get the weights of the policy which learns.

Prompts are sent as token ids and replies come back as token ids: nothing is encoded twice, and PPO
and GRPO learn from the tokens that were drawn. Log-probabilities are never taken from a server.
What is drawn depends on the seed of each request; a server that reads other requests at the same
time may round otherwise, so that a reply is kept as it came, under its prompt, its seed and the
version of the weights.
"""

from __future__ import annotations

import functools
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rationalize.errors import UsageError, UserError
from rationalize.models.versions import Version
from rationalize.processes import by_first
from rationalize.progress import Progress
from rationalize.records import Completion
from rationalize.runs import slug
from rationalize.sampling.addresses import Addresses
from rationalize.sampling.asking import Asker, Job
from rationalize.sampling.choices import read_choice
from rationalize.sampling.config import SamplingConfig
from rationalize.sampling.engines import Draw, Engine, check_model
from rationalize.sampling.local import Sampler
from rationalize.sampling.replies import Reply, ReplyCache
from rationalize.sampling.rollout_servers import Place, RolloutServers
from rationalize.sampling.writing import question_seed
from rationalize.text import clip

if TYPE_CHECKING:
    from rationalize.models.policy import Policy

_CONCURRENCY = 64
"""Requests under way at a time, for each server."""
_ROUNDS = 3
"""How often replies are asked for where a server's weights change meanwhile."""


class RolloutSampler(Sampler):
    """Writes completions with the policy's weights as they are at each call, on servers."""

    def __init__(self, policy: Policy, servers: RolloutServers, cache: ReplyCache) -> None:
        super().__init__(policy)
        self._servers, self._cache = servers, cache

    def sample_ids(
        self,
        prompts: Sequence[str],
        config: SamplingConfig,
        *,
        seeds: Sequence[int],
        controls: Sequence[Mapping[str, int] | None] | None = None,
        stop: str | None = None,
        progress: Progress | None = None,
    ) -> list[list[list[int]]]:
        """`sample` as token ids, as `Sampler.sample_ids` gives them; the draws are the servers'.

        Of several processes the first one asks, and the others get what it got.

        Raises `UsageError` for what servers cannot do, and `UserError` where no server has the
        policy's weights, or one answers with what was not asked.
        """
        check_policy(self.policy)
        check_sampling(config, "sampling")
        queries = self._queries_of(prompts, controls, config)
        n = 1 if config.greedy else config.n  # greedy: one reply, repeated
        ids_P = [(*q.prompt_ids, *q.control_ids) for q, *_ in queries]
        draw = Draw(
            self.policy.ends, tuple(range(self.policy.n_vocab, _rows(self.policy))),
            None if self.policy.chat else stop,
        )  # fmt: skip

        def ask() -> list[list[list[int]]]:
            version = self._servers.versions.of(self.policy)
            keys_PG = [
                [_key(version, ids, config, draw, 0 if config.greedy else s, j) for j in range(n)]
                for ids, s in zip(ids_P, seeds, strict=True)
            ]
            self._ask(version, prompts, ids_P, keys_PG, config, draw, progress)
            return [
                [[*self._cache.get(key)[0].completion.ids] for key, _ in keys_G]
                for keys_G in keys_PG
            ]

        ids_PG = by_first(ask)
        return [[self._cut(ids, stop) for ids in ids_G] * (config.n // n) for ids_G in ids_PG]

    def _ask(
        self, version: Version, prompts: Sequence[str], ids_P: Sequence[tuple[int, ...]],
        keys_PG: Sequence[Sequence[tuple[bytes, int]]], config: SamplingConfig, draw: Draw,
        progress: Progress | None,
    ) -> None:  # fmt: skip
        """Have all replies on disk."""
        self._cache.drop_unchecked()  # of a start that was killed
        for _ in range(_ROUNDS):
            missing = {k for keys_G in keys_PG for k, _ in keys_G if not self._cache.get(k)}
            if not missing:
                return
            engines = self._servers.refresh(self.policy, version)
            model = self._servers.model_of(engines[0], version)
            addresses = Addresses(
                [engine.replies for engine in engines],
                check=lambda url: self._servers.renew(url, self.policy, version),
            )
            asker = Asker(
                addresses, self._cache, partial(self._read, draw=draw),
                _CONCURRENCY * len(engines), self._servers.sleep,
                partial(_unified, engines[0], model),
            )  # fmt: skip
            jobs = [
                Job(key, prompt, seed, partial(_body, engines[0], ids, model, config, draw))
                for prompt, ids, keys_G in zip(prompts, ids_P, keys_PG, strict=True)
                for key, seed in keys_G
                if key in missing
            ]
            self._cache.expect_unchecked(missing)
            try:
                replies = asker.replies(jobs, 1, progress)
            finally:
                unchanged = self._servers.unchanged(self.policy, version)
                if unchanged:
                    self._cache.checked()
                else:  # who wrote them is not known
                    self._cache.drop_unchecked()
            if lacking := [job for job in jobs if job.key not in replies]:
                raise UserError(
                    f"--rollouts: {len(lacking)} of {len(jobs)} prompts were refused, and every "
                    f"prompt needs its replies; the first ends in {clip(lacking[0].prompt[-100:])}"
                )
            if unchanged:
                return
        raise UserError(
            f"--rollouts: a server's weights changed while it wrote, {_ROUNDS} times; does another "
            "run or a supervisor use the same servers?"
        )

    def _read(self, choice: Any, *, counted: bool, url: str, draw: Draw) -> Reply:
        """A choice with the ids that were drawn. Raises `UserError` where they are not to be had,
        or are not those of its text.
        """
        reply = read_choice(choice, chat=False, counted=counted, url=url)
        ids = choice.get("token_ids")
        if not isinstance(ids, list) or not ids or not all(type(i) is int for i in ids):
            raise UserError(
                f"--rollouts: {url} gave no ids of the tokens that it drew, which are learned "
                f"from; found {clip(str(ids), 100)}, expected a list in token_ids (vLLM from "
                "0.10.2, SGLang)"
            )
        if foreign := [i for i in ids if not 0 <= i < self.policy.n_vocab]:
            raise UserError(
                f"--rollouts: {url} drew the token {foreign[0]}, which is no word of "
                f"{self.policy.name} (0 to {self.policy.n_vocab - 1}); is it the same model?"
            )
        text = self.policy.tokenizer.decode(ids, skip_special_tokens=False)
        if _plain(text) != _plain(choice.get("text") or ""):
            raise UserError(
                f"--rollouts: {url} gave a text that its token ids do not stand for: found "
                f"{clip(str(choice.get('text')), 100)}, expected {clip(text, 100)}; it has another "
                "tokenizer than this run"
            )
        stopped = draw.stop is not None and draw.stop in text
        if reply.completion.finish == "stop" and ids[-1] not in draw.ends and not stopped:
            raise UserError(
                f"--rollouts: {url} ended a reply at the token {ids[-1]}, which is no end of "
                f"{self.policy.name} ({', '.join(map(str, draw.ends))})"
            )
        return Reply(Completion(reply.completion.text, reply.completion.finish, len(ids), (*ids,)))

    def _cut(self, ids: list[int], stop: str | None) -> list[int]:
        """The ids up to where a local sampler would have ended before `stop`."""
        if stop and self._end(self.policy.decode(ids, strip=False), stop) >= 0:
            for t in range(1, len(ids) + 1):
                if self._just_ended(ids[:t], stop):
                    return ids[:t]
        return ids


def check_policy(policy: Policy) -> None:
    """Raise `UsageError` for policies that servers cannot have exactly."""
    if policy.is_encoder_decoder:
        raise UsageError(
            f"--rollouts: {policy.name} is an encoder-decoder, which rollout servers do not serve; "
            "leave --rollouts out"
        )
    if policy.quantised:
        raise UsageError("--rollouts: found tuning=qlora; " + NOT_QUANTISED)
    if policy.controls and policy.tuning == "lora":
        raise UsageError("--rollouts: found control tokens with tuning=lora; " + NO_CONTROLS)


NOT_QUANTISED = (
    "a server does not round the weights below the adapter to the same 4 bits; expected "
    "tuning=lora or full, or no --rollouts"
)
NO_CONTROLS = (
    "an adapter in a server has no rows for control tokens; expected tuning=full, or no --rollouts"
)


def check_sampling(config: SamplingConfig, path: str) -> None:
    """Raise `UsageError` for sampling that servers do not do."""
    if config.beams > 1:
        raise UsageError(
            f"--rollouts: {path}.beams is {config.beams}; expected 1: servers have no beams"
        )
    if config.weights != "auto":
        raise UsageError(
            f"--rollouts: {path}.weights is {config.weights}; expected auto: servers have a "
            "precision of their own"
        )


@functools.cache
def servers_of(servers: str, folder: str | None, run: Path, model: Path | None) -> RolloutServers:
    """The rollout servers of a run, whose state lasts as long as the process."""
    # runs of one name may share servers and folder
    name = f"{slug(run.name)}-{zlib.crc32(str(run.absolute()).encode()):08x}"
    return RolloutServers(servers, Place.of(folder, run / "served"), name, model)


def rollout_sampler(policy: Policy, servers: RolloutServers, run: Path) -> RolloutSampler:
    """The sampler of a run; its replies are stored in the run's folder."""
    return RolloutSampler(policy, servers, ReplyCache(run / "replies"))


def _body(
    engine: Engine, ids: Sequence[int], model: str, config: SamplingConfig, draw: Draw, n: int,
    seed: int,
) -> Mapping[str, Any]:  # fmt: skip
    return engine.body(ids, model, config, draw, seed)


def _unified(engine: Engine, model: str, url: str, answer: Any) -> Any:
    answer = engine.unified(answer)
    check_model(answer, model, url)
    return answer


def _key(
    version: Version, ids: Sequence[int], config: SamplingConfig, draw: Draw, seed: int, j: int
) -> tuple[bytes, int]:
    """What sample j of a prompt is stored under, and its seed."""
    sampling = {**config.as_dict(), "n": 1}
    seed = question_seed(seed, j)
    request = [version.whole, version.adapter, ids, sampling, draw.ends, draw.stop, seed]
    return hashlib.blake2b(json.dumps(request).encode(), digest_size=20).digest(), seed


def _rows(policy: Policy) -> int:
    """Rows of the output layer, which a server draws from."""
    return policy.model.get_output_embeddings().weight.shape[0]


def _plain(text: str) -> str:
    """The text without what servers and tokenizers make of a character that is cut."""
    return text.replace("\ufffd", "").strip()
