"""Sample from any OpenAI-style HTTP server: `/chat/completions`, or `/completions` for base models.

Every answer is stored on disk under its request as soon as it arrives. A second start, after a kill
or with more samples, pays only for what is missing. No torch here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rationalize.answers import end_after_answer
from rationalize.errors import UsageError
from rationalize.files import cache_folder
from rationalize.processes import by_first
from rationalize.progress import Progress
from rationalize.records import Completion
from rationalize.sampling.addresses import Addresses, endpoints_of
from rationalize.sampling.asking import Asker, Job
from rationalize.sampling.choices import read_choice
from rationalize.sampling.config import HttpConfig, SamplingConfig
from rationalize.sampling.replies import ReplyCache
from rationalize.templates import BLOCK_END


class ServerSampler:
    """Writes completions with a model behind a server.

    Sample j of a prompt is the j-th reply that was ever stored for this server, model, prompt,
    sampling and seed.
    """

    def __init__(
        self,
        server: str,
        model: str,
        http: HttpConfig | None = None,
        *,
        cache: Path | None = None,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        """`server` is the address up to `/v1`, which is added where there is no path, or several
        with commas that have the same model; `cache` is a folder (None: `replies` in the user's
        cache); `sleep` waits before a retry.
        """
        self.name = model
        self.http = http or HttpConfig()
        addresses = Addresses(endpoints_of(server, self.http))
        self._origin = addresses.first
        self._asker = Asker(
            addresses, ReplyCache(cache or cache_folder() / "replies"),
            partial(read_choice, chat=self.http.endpoint == "chat"), self.http.concurrency, sleep,
        )  # fmt: skip
        self.bill = self._asker.bill
        self._fields = {name: _json_or_text(text) for name, text in self.http.fields.items()}

    def fits(self, *_: object) -> bool:
        """True: only the server knows its model's context, and refuses what is beyond it."""
        return True

    def sample(
        self,
        prompts: Sequence[str],
        config: SamplingConfig,
        *,
        seeds: Sequence[int],
        controls: Sequence[Mapping[str, int] | None] | None = None,
        stop: str | None = None,
        progress: Progress | None = None,
    ) -> list[list[Completion]]:
        """`config.n` completions per prompt, in order; none for a prompt that the server refuses
        while it answers others.

        `/completions` ends at an empty line, whatever `stop` is; a chat's reply is cut before the
        first `stop` after its answer. A reply without text is an empty completion and counted in
        the bill. `n_tokens` is a reply's share of the tokens that its answer cost, by length of
        text; 0 where the server did not count.

        Raises `UsageError` for control tokens or beams, which no server has, and `UserError` where
        the server refuses what all prompts share, refuses every prompt, or fails eight times.
        """
        if controls and any(controls):
            raise UsageError(
                f"{self.name} is behind a server, which has no control tokens; leave --control "
                "out, or name a model that MaRio taught"
            )
        if config.beams > 1:
            raise UsageError(f"sampling.beams is {config.beams}; expected 1: servers have no beams")
        if config.weights != "auto":
            raise UsageError(
                f"sampling.weights is {config.weights}; expected auto: a server has its own"
            )
        n = 1 if config.greedy else config.n  # greedy: one reply, repeated; any seed
        # equal prompts with equal seeds have one key, and are asked and paid for once
        jobs_P = [
            self._job(prompt, config, 0 if config.greedy else seed)
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        # of several processes the first one asks
        replies = by_first(lambda: self._asker.replies(jobs_P, n, progress))
        completions_PG = [
            [_truncated(r.completion, stop) for r in replies.get(job.key, ())] for job in jobs_P
        ]
        return [completions_G * (config.n // n) for completions_G in completions_PG]

    def _job(self, prompt: str, config: SamplingConfig, seed: int) -> Job:
        request = [self._origin, self._body(prompt, config, 1, None), seed]
        digest = hashlib.blake2b(json.dumps(request, sort_keys=True).encode(), digest_size=20)
        return Job(digest.digest(), prompt, seed, partial(self._body, prompt, config))

    def _body(self, prompt: str, config: SamplingConfig, n: int, seed: int | None) -> dict:
        body: dict[str, Any] = {
            "model": self.name,
            "max_tokens": config.max_new_tokens,
            "temperature": config.temperature,
            "top_p": config.top_p if config.top_p < 1 and not config.greedy else None,
            "top_k": config.top_k or None,
            "n": n if n > 1 else None,
            "seed": seed,
        }
        if self.http.endpoint == "chat":
            system = [{"role": "system", "content": self.http.system}] if self.http.system else []
            body["messages"] = [*system, {"role": "user", "content": prompt}]
        else:
            body |= {"prompt": prompt + "\n", "stop": [BLOCK_END]}
        return {name: v for name, v in (body | self._fields).items() if v is not None}


def _truncated(completion: Completion, stop: str | None) -> Completion:
    """The completion up to the first `stop` after its answer."""
    end = end_after_answer(completion.text, stop) if stop else -1
    if end < 0:
        return completion
    return replace(completion, text=completion.text[:end].strip(), finish="stop")


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
