"""The servers that take fresh weights: vLLM and SGLang. What each is asked, and how its answers are
read. No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol

from rationalize.errors import UserError
from rationalize.sampling.config import SamplingConfig
from rationalize.sampling.http import Endpoint, Transient
from rationalize.text import clip

KNOWN = "vLLM or SGLang"

_ADAPTERS = "start it with --enable-lora and the environment variable "
_HOW_VLLM = {
    "adapter": f"{_ADAPTERS}VLLM_ALLOW_RUNTIME_LORA_UPDATING=1",
    "whole": "start it with the environment variable VLLM_SERVER_DEV_MODE=1",
}
_HOW_SGLANG = {
    "adapter": "start it with --enable-lora, --max-lora-rank and --lora-target-modules all",
    "whole": "take a version that has /update_weights_from_disk",
}


class Engine(Protocol):
    """A server of one kind. All of its calls raise `Transient` and `UserError`."""

    @property
    def root(self) -> Endpoint:
        """Its address, without `/v1`."""

    @property
    def about(self) -> str:
        """Kind and version, for people."""

    @property
    def model(self) -> str:
        """What it calls the model that it was started with."""

    @property
    def source(self) -> str:
        """Where it read that model from."""

    @property
    def replies(self) -> Endpoint:
        """Where prompts are sent."""

    def body(
        self, ids: Sequence[int], model: str, config: SamplingConfig, draw: Draw, seed: int
    ) -> dict[str, Any]:
        """The request for one reply to the prompt `ids`."""

    def unified(self, answer: Any) -> Any:
        """An answer in the form of vLLM's `/v1/completions`."""

    def logprobs(self, ids: Sequence[int], model: str) -> list[float]:
        """The log-probability of each id but the first."""

    def load_whole(self, folder: str, version: str) -> None:
        """Take the model in a folder in the place of the one that is there."""

    def loaded_version(self) -> str | None:
        """The version that was given with the weights; None where the server keeps none."""

    def load_adapter(self, name: str, folder: str) -> None:
        """Load an adapter under a name of its own."""

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter."""


@dataclass(frozen=True)
class Draw:
    """What ids a reply may have."""

    ends: tuple[int, ...]
    """Ids that end it."""
    never: tuple[int, ...]
    """Ids that it must not contain: padding rows and control tokens."""
    stop: str | None = None
    """Text that ends it."""


def at(root: Endpoint, path: str) -> Endpoint:
    """An address of a server."""
    return replace(root, url=root.url.rstrip("/") + path)


@dataclass(frozen=True)
class _Found:
    """A server that was asked what it is. Both kinds load adapters alike, each at addresses of its
    own.
    """

    root: Endpoint
    about: str
    model: str
    source: str

    _prefix: ClassVar[str]
    """Of the addresses for adapters."""
    _weights: ClassVar[str]
    """Address that tells the version of the weights."""
    _how: ClassVar[Mapping[str, str]]
    """How it must be started."""

    def loaded_version(self) -> str | None:
        answer = optional(at(self.root, self._weights))
        return answer.get("weight_version") if isinstance(answer, dict) else None

    def load_adapter(self, name: str, folder: str) -> None:
        body = {"lora_name": name, "lora_path": folder}
        self._order(f"{self._prefix}/load_lora_adapter", body, "adapter")

    def unload_adapter(self, name: str) -> None:
        self._order(f"{self._prefix}/unload_lora_adapter", {"lora_name": name}, "adapter")

    def _order(self, path: str, body: Mapping[str, Any], kind: Literal["adapter", "whole"]) -> str:
        return order(at(self.root, path), body, self._how[kind])


@dataclass(frozen=True)
class Vllm(_Found):
    """vLLM's `vllm serve`."""

    _prefix, _weights, _how = "/v1", "/weight_info", _HOW_VLLM

    @property
    def replies(self) -> Endpoint:
        return at(self.root, "/v1/completions")

    def body(
        self, ids: Sequence[int], model: str, config: SamplingConfig, draw: Draw, seed: int
    ) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": model, "prompt": [*ids], "max_tokens": config.max_new_tokens,
            "temperature": config.temperature, "seed": seed, "stop_token_ids": [*draw.ends],
            "return_token_ids": True, "skip_special_tokens": False,
            "include_stop_str_in_output": True,
        }  # fmt: skip
        if not config.greedy:
            body |= {"top_p": config.top_p, "top_k": config.top_k or -1, "min_p": 0.0}
        # whatever the model's generation config says
        body |= {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
        if draw.never:
            body["logit_bias"] = {str(i): -100.0 for i in draw.never}
        return body | ({"stop": [draw.stop]} if draw.stop else {})

    def unified(self, answer: Any) -> Any:
        return answer

    def logprobs(self, ids: Sequence[int], model: str) -> list[float]:
        body = {
            "model": model, "prompt": [*ids], "max_tokens": 1, "temperature": 0.0,
            "prompt_logprobs": 0,
        }  # fmt: skip
        answer = self.replies.post(body)
        check_model(answer, model, self.root.url)
        try:
            places = answer["choices"][0]["prompt_logprobs"][1:]
            return [
                float(place[str(i)]["logprob"]) for i, place in zip(ids[1:], places, strict=True)
            ]
        except (KeyError, IndexError, TypeError, ValueError):
            raise no_logprobs(self.root, "prompt_logprobs in a choice", answer) from None

    def load_whole(self, folder: str, version: str) -> None:
        self._order("/pause?mode=wait", {}, "whole")
        try:
            body = {"method": "reload_weights", "kwargs": {"weights_path": folder}}
            self._order("/collective_rpc", body, "whole")
            said = self._order("/reset_prefix_cache", {}, "whole")
            if "false" in said:
                raise Transient(
                    "a kept cache", f"{self.root.url}: answered {said} to /reset_prefix_cache"
                )
        finally:
            self._order("/resume", {}, "whole")
        optional(at(self.root, "/update_weight_version"), {"new_version": version})


@dataclass(frozen=True)
class Sglang(_Found):
    """SGLang's `sglang.launch_server`."""

    _prefix, _weights, _how = "", "/get_model_info", _HOW_SGLANG

    @property
    def replies(self) -> Endpoint:
        return at(self.root, "/generate")

    def body(
        self, ids: Sequence[int], model: str, config: SamplingConfig, draw: Draw, seed: int
    ) -> dict[str, Any]:
        sampling: dict[str, Any] = {
            "max_new_tokens": config.max_new_tokens, "temperature": config.temperature,
            "top_p": config.top_p, "top_k": config.top_k or -1, "min_p": 0.0,
            "sampling_seed": seed, "stop_token_ids": [*draw.ends], "skip_special_tokens": False,
            "no_stop_trim": True, "repetition_penalty": 1.0, "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
        }  # fmt: skip
        if draw.never:
            sampling["logit_bias"] = {str(i): -100.0 for i in draw.never}
        if draw.stop:
            sampling["stop"] = [draw.stop]
        return {"input_ids": [*ids], "sampling_params": sampling, **self._adapter(model)}

    def unified(self, answer: Any) -> Any:
        if not isinstance(answer, dict) or "output_ids" not in answer:
            return answer
        meta = answer.get("meta_info") or {}
        choice = {
            "text": answer.get("text"), "token_ids": answer["output_ids"],
            "finish_reason": meta.get("finish_reason"),
        }  # fmt: skip
        counts = {name: meta.get(name) for name in ("prompt_tokens", "completion_tokens")}
        return {"choices": [choice], "usage": counts, "version": meta.get("weight_version")}

    def logprobs(self, ids: Sequence[int], model: str) -> list[float]:
        body = {
            "input_ids": [*ids], "sampling_params": {"max_new_tokens": 1, "temperature": 0.0},
            "return_logprob": True, "logprob_start_len": 0, **self._adapter(model),
        }  # fmt: skip
        answer = self.replies.post(body)
        try:
            places = answer["meta_info"]["input_token_logprobs"]
            told = {i: float(value) for i, (value, *_) in enumerate(places) if value is not None}
            if [place[1] for place in places] != [*ids]:
                raise ValueError
            return [told[i] for i in range(1, len(ids))]
        except (KeyError, IndexError, TypeError, ValueError):
            raise no_logprobs(self.root, "meta_info.input_token_logprobs", answer) from None

    def load_whole(self, folder: str, version: str) -> None:
        body = {"model_path": folder, "flush_cache": True, "weight_version": version}
        self._order("/update_weights_from_disk", body, "whole")

    def _adapter(self, model: str) -> dict[str, str]:
        return {} if model == self.model else {"lora_path": model}


def find_engine(root: Endpoint) -> Engine:
    """The server at an address, of the kind that it says it is.

    Raises `Transient` where it does not answer now, and `UserError` for other kinds, by name.
    """
    if isinstance(version := optional(at(root, "/version")), dict) and "version" in version:
        return Vllm(root, f"vLLM {version['version']}", *_first_model(root))
    info = optional(at(root, "/get_model_info"))
    if isinstance(info, dict) and "is_generation" in info:
        server = optional(at(root, "/get_server_info"))
        said = server.get("version", "") if isinstance(server, dict) else ""
        return Sglang(root, f"SGLang {said}".strip(), *_first_model(root))
    if isinstance(optional(at(root, "/props")), dict):
        raise UserError(
            f"--rollouts: {root.url} is llama.cpp's server, which reads weights and adapters when "
            f"it starts and at no other time, and so cannot follow a policy that learns; expected "
            f"{KNOWN}"
        )
    raise UserError(
        f"--rollouts: {root.url} is a server of an unknown kind (no /version, no /get_model_info); "
        f"expected {KNOWN}, and no proxy that hides those"
    )


def _first_model(root: Endpoint) -> tuple[str, str]:
    """Name and source of the model that a server was started with; adapters have a parent."""
    answer = at(root, "/v1/models").get()
    try:
        card = next(card for card in answer["data"] if not card.get("parent"))
        return str(card["id"]), str(card.get("root", ""))
    except (KeyError, TypeError, StopIteration, AttributeError):
        raise UserError(
            f"--rollouts: {root.url}/v1/models answered {clip(str(answer), 200)}; expected a list "
            "of models"
        ) from None


def check_model(answer: Any, model: str, url: str) -> None:
    """Raise `UserError` where another model than was asked has answered."""
    said = answer.get("model") if isinstance(answer, dict) else None
    if said is not None and said != model:
        raise UserError(
            f"--rollouts: {url} answered as the model {clip(str(said))}, but {model} was asked; "
            "these replies are not used. Is a proxy between, that renames or routes models?"
        )


def no_logprobs(root: Endpoint, where: str, answer: Any) -> UserError:
    """The error of a server whose weights cannot be checked."""
    return UserError(
        f"--rollouts: {root.url} gave no log-probabilities of a prompt, which its weights are "
        f"checked by; expected {where}, found {clip(str(answer), 200)}"
    )


def order(endpoint: Endpoint, body: Mapping[str, Any], how: str) -> str:
    """POST what a server shall do; a refusal says how it must be started. Raises `Transient`."""
    try:
        return endpoint.tell(body)
    except UserError as error:
        raise UserError(f"--rollouts: {error}\n{how}") from None


def optional(endpoint: Endpoint, body: Mapping[str, Any] | None = None) -> Any:
    """What a server answers that need not have this address; None where it has not.

    Raises `Transient` where it does not answer at all.
    """
    try:
        return endpoint.get() if body is None else endpoint.tell(body)
    except UserError:
        return None
    except Transient as error:
        if error.reason == "broken JSON":
            return None
        raise
