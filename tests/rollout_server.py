"""A small rollout server on loopback: a tiny model behind the addresses of vLLM or SGLang, which
misbehaves on request. It generates by whole passes in float32.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

Kind = Literal["vllm", "sglang", "llama.cpp", "unknown"]


class RolloutServer(ThreadingHTTPServer):
    """`faults` may be changed at any time: `stale` and `half` weights are loaded with success,
    `ignored` adapters are loaded and not used, `renamed` answers as another model, `misread` has
    another tokenizer, `no ids`, `never ready` answers 503, `not running`; `busy` is how many
    requests are answered by 503, `dies_at` the number of the
    request for a reply at which it closes.
    """

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(
        self, folder: Path, kind: Kind = "vllm", *, port: int = 0, dev: bool = True,
        adapters: bool = True, faults: tuple[str, ...] = (), busy: int = 0, dies_at: int = 0,
        source: str = "",
    ) -> None:  # fmt: skip
        super().__init__(("127.0.0.1", port), Handler)
        self.kind, self.dev, self.takes_adapters = kind, dev, adapters
        self.faults, self.busy, self.dies_at = set(faults), busy, dies_at
        self.source = source or str(folder)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.adapters: list[str] = []
        self.weight_version = "default"
        self.asked: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.paused = False
        self.orders: list[str] = []
        self.lock = threading.RLock()  # guards the model

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, *_: Any) -> None:
        """A client that left is no news."""

    def load_whole(self, folder: str, version: str | None = None) -> None:
        weights: dict[str, torch.Tensor] = {}
        for file in Path(folder).glob("*.safetensors"):
            weights |= load_file(file)
        base = self.model.get_base_model() if self.adapters else self.model
        if "half" in self.faults:
            weights = {n: w for n, w in weights.items() if ".layers.0." in n}
        if "stale" not in self.faults:
            own = {n.replace(".base_layer", ""): p for n, p in base.named_parameters()}
            for name, weight in weights.items():
                if own[name].shape != weight.shape:
                    raise ValueError(f"size mismatch for {name}")
                own[name].data.copy_(weight)
        self.weight_version = version or self.weight_version

    def load_adapter(self, name: str, folder: str) -> None:
        from peft import PeftModel

        if name in self.adapters:
            raise ValueError(f"The lora adapter '{name}' has already been loaded.")
        if self.adapters:
            self.model.load_adapter(folder, adapter_name=name)
        else:
            self.model = PeftModel.from_pretrained(self.model, folder, adapter_name=name).eval()
        self.adapters.append(name)

    def unload_adapter(self, name: str) -> None:
        self.adapters.remove(name)
        if self.adapters:
            self.model.delete_adapter(name)
        else:
            self.model = self.model.unload()

    @torch.no_grad()
    def logprobs(self, ids: list[int], name: str) -> torch.Tensor:
        """Log-probabilities (T, V) of what follows each id."""
        if max(ids) >= self.model.get_input_embeddings().weight.shape[0]:
            raise ValueError(f"Token id {max(ids)} is out of vocabulary")
        off: Any = nullcontext()
        if name in self.adapters:
            self.model.set_adapter(name)
        if self.adapters and (name not in self.adapters or "ignored" in self.faults):
            off = self.model.disable_adapter()
        with off:
            return self.model(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)

    def generate(self, ids: list[int], name: str, asked: dict[str, Any]) -> tuple[list[int], str]:
        generator = torch.Generator().manual_seed(asked["seed"] % 2**63)
        written: list[int] = []
        while len(written) < asked["max_tokens"]:
            scores = self.logprobs([*ids, *written], name)[-1]
            for i, bias in (asked.get("logit_bias") or {}).items():
                scores[int(i)] += bias
            if asked["temperature"]:
                p = (scores / asked["temperature"]).softmax(-1)
                written.append(int(torch.multinomial(p, 1, generator=generator)))
            else:
                written.append(int(scores.argmax()))
            text = self.tokenizer.decode(written)
            if written[-1] in asked["stop_token_ids"] or any(
                stop in text for stop in asked.get("stop") or ()
            ):
                return written, "stop"
        return written, "length"


class Handler(BaseHTTPRequestHandler):
    server: RolloutServer

    def do_GET(self) -> None:
        server, path = self.server, self.path
        known: dict[tuple[str, str], Any] = {
            ("vllm", "/version"): {"version": "0.32.0"},
            ("sglang", "/get_model_info"): {
                "model_path": "m", "is_generation": True, "weight_version": server.weight_version,
            },
            ("sglang", "/get_server_info"): {"version": "0.5.23"},
            ("llama.cpp", "/props"): {"model_path": "m.gguf"},
        }  # fmt: skip
        if server.dev:
            known["vllm", "/weight_info"] = {"weight_version": server.weight_version}
        cards = [{"id": "m", "root": server.source, "parent": None}]
        cards += [{"id": name, "root": "", "parent": "m"} for name in server.adapters]
        if path == "/v1/models":
            self.send({"data": cards})
        elif (server.kind, path) in known:
            self.send(known[server.kind, path])
        else:
            self.send({"detail": "Not Found"}, 404)

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        path = self.path.partition("?")[0]
        with server.lock:
            server.asked[path] += 1
            if server.busy or "never ready" in server.faults:
                server.busy -= bool(server.busy)
                self.send({"error": "loading"}, 503)
                return
            try:
                self.send(*self._answer(path, body))
            except ValueError as error:
                self.send({"error": {"message": str(error)}}, 400)

    def _answer(self, path: str, body: dict[str, Any]) -> tuple[Any, int]:
        server = self.server
        if path in ("/v1/completions", "/generate"):
            return self._completion(body)
        server.orders.append(path)
        if path in ("/v1/load_lora_adapter", "/load_lora_adapter") and server.takes_adapters:
            server.load_adapter(body["lora_name"], body["lora_path"])
        elif path in ("/v1/unload_lora_adapter", "/unload_lora_adapter") and server.takes_adapters:
            server.unload_adapter(body["lora_name"])
        elif path == "/update_weights_from_disk" and server.kind == "sglang":
            server.load_whole(body["model_path"], body["weight_version"])
        elif not server.dev:
            return {"detail": "Not Found"}, 404
        elif path == "/collective_rpc":
            assert body["method"] == "reload_weights"
            assert server.paused
            server.load_whole(body["kwargs"]["weights_path"])
        elif path in ("/pause", "/resume"):
            server.paused = path == "/pause"
        elif path == "/reset_prefix_cache":
            return {"success": True}, 200
        elif path == "/update_weight_version":
            server.weight_version = body["new_version"]
        else:
            return {"detail": "Not Found"}, 404
        return b"Success", 200

    def _completion(self, body: dict[str, Any]) -> tuple[Any, int]:
        server, native = self.server, self.server.kind == "sglang"
        name = body.get("lora_path", "m") if native else body["model"]
        if name not in ("m", *server.adapters):
            return {"error": {"message": f"The model `{name}` does not exist."}}, 404
        assert not server.paused
        ids = body["input_ids"] if native else body["prompt"]
        if body.get("return_logprob") or "prompt_logprobs" in body:
            table = server.logprobs(ids, name)
            told = [float(table[t, i]) for t, i in enumerate(ids[1:])]
            if native:
                places = [[v, i, None] for i, v in zip(ids, [None, *told], strict=True)]
                return {"text": "", "meta_info": {"input_token_logprobs": places}}, 200
            logprobs = [None, *({str(i): {"logprob": v}} for i, v in zip(ids[1:], told))]
            return {"model": name, "choices": [{"text": "", "prompt_logprobs": logprobs}]}, 200
        server.bodies.append(body)
        if len(server.bodies) == server.dies_at:
            threading.Thread(target=server.shutdown).start()
            server.socket.close()
            self.close_connection = True
            raise ConnectionAbortedError
        asked = body
        if native:
            sampling = body["sampling_params"]
            asked = {
                **sampling, "seed": sampling["sampling_seed"],
                "max_tokens": sampling["max_new_tokens"],
            }  # fmt: skip
        written, finish = server.generate(ids, name, asked)
        text = server.tokenizer.decode(written)
        if "misread" in server.faults:
            text += "?"
        counts = {"prompt_tokens": len(ids), "completion_tokens": len(written)}
        if native:
            meta = {"finish_reason": {"type": finish}, **counts}
            return {"text": text, "output_ids": written, "meta_info": meta}, 200
        choice = {"text": text, "finish_reason": finish, "token_ids": written}
        if "no ids" in server.faults:
            del choice["token_ids"]
        said = "another" if "renamed" in server.faults else name
        return {"model": said, "choices": [choice], "usage": counts}, 200

    def send(self, content: Any, status: int = 200) -> None:
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving(folder: Path, kind: Kind = "vllm", **options: Any) -> Iterator[RolloutServer]:
    server = RolloutServer(folder, kind, **options)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def wait(_: float) -> None:
    """Between tries: as good as nothing."""
    time.sleep(0.001)
