"""A fake vLLM: the same paths over a tiny model and the plain engine, with faults that a test scripts.

`FakeServer.fault(path, name, count)` lets the next `count` calls of a path go wrong:

    drop      the connection closes without an answer          status    500
    hang      no answer until the server is closed             late      the answer after 1.2 s
    empty     completions without tokens                       floor     a log-prob of -9999
    fewer     one completion missing                           long      a token more than was asked for
    stop_id   ends with a token that is no end token           beyond    a token beyond the vocabulary
    prompt    another prompt echoed                            ignored   200, and nothing is done
"""

from __future__ import annotations

import copy
import json
import threading
import time
from collections import Counter, defaultdict, deque
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tiny import tiny_tokenizer

from groupwise.rollout.sequences import SequenceState, draw_tokens, new_sequences
from groupwise.types import Request, Sampling


class FakeServer:
    """One server on a free port; use it as a context manager."""

    def __init__(
        self,
        model: Any,
        *,
        name: str = "base",
        max_model_len: int = 256,
        max_loras: int = 4,
        is_processed: bool = True,
        paths: tuple[str, ...] = ("/v1/load_lora_adapter", "/collective_rpc"),
        tokenizer: Any = None,
        keep_alive: bool = True,
        key: str | None = None,
        extra_stop_id: int | None = None,
        version: str = "0.32.0",
        dtype: torch.dtype = torch.float32,
        gpu: str | None = None,
    ) -> None:
        self.name, self.max_model_len, self.max_loras = name, max_model_len, max_loras
        self.is_processed, self.paths, self.key, self.version = is_processed, paths, key, version
        self.extra_stop_id, self.gpu = extra_stop_id, gpu
        self.tokenizer = tokenizer or tiny_tokenizer()
        self.keep_alive, self.dtype = keep_alive, dtype
        self._start_model = copy.deepcopy(model)
        self.calls: Counter[str] = Counter()
        self.seen: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.on_load: list[Any] = []
        """Called with the body of each load of an adapter, before it is read."""
        self.num_running = 0
        self.most_running_at_reload = 0
        self._faults: dict[str, deque[str]] = defaultdict(deque)
        self._lock = threading.Lock()
        self._compute = threading.Lock()
        self._closed = threading.Event()
        self.restart(is_new=True)

    def restart(self, *, is_new: bool = False) -> None:
        """Forget every adapter and reloaded weight, as a process that starts again."""
        with self._lock:
            self.models: dict[str, Any] = {self.name: copy.deepcopy(self._start_model)}
            self.folders: dict[str, str] = {}

    def fault(self, path: str, name: str, count: int = 1) -> None:
        self._faults[path].extend([name] * count)

    def heal(self) -> None:
        self._faults.clear()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    @property
    def port(self) -> int:
        return self._http.server_address[1]

    def __enter__(self) -> FakeServer:
        self.start(0)
        return self

    def start(self, port: int) -> None:
        self._closed.clear()
        self._http = _Http(("127.0.0.1", port), _handler(self))
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self) -> int:
        """Go down; returns the port."""
        port = self.port
        self._closed.set()
        self._http.shutdown()
        self._http.server_close()
        self._http.close_all()
        return port

    def __exit__(self, *_: Any) -> None:
        if not self._closed.is_set():
            self.stop()

    def answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """(status, value)."""
        with self._lock:
            self.calls[path] += 1
            self.seen[path].append(body)
            fault = self._faults[path].popleft() if self._faults[path] else None
        if fault == "drop":
            raise ConnectionAbortedError
        if fault == "hang":
            self._closed.wait(30)
            raise ConnectionAbortedError
        if fault == "late":
            time.sleep(1.2)
        if fault == "status":
            return 500, {"error": {"message": "the engine is dead"}}
        if fault == "ignored":
            return 200, "Success"
        found = getattr(self, "_do" + path.replace("/", "_").replace(".", "_"), None)
        if found is None:
            return 404, {"error": {"message": "Not Found"}}
        return found(body, fault)

    def _do_health(self, body: Any, fault: str | None) -> tuple[int, Any]:
        return 200, ""

    def _do_version(self, body: Any, fault: str | None) -> tuple[int, Any]:
        return 200, {"version": self.version}

    def _do_openapi_json(self, body: Any, fault: str | None) -> tuple[int, Any]:
        return 200, {"paths": {path: {} for path in ("/v1/completions", *self.paths)}}

    def _do_metrics(self, body: Any, fault: str | None) -> tuple[int, Any]:
        return 200, f'vllm:lora_requests_info{{max_lora="{self.max_loras}",running_lora_adapters=""}} 1.0'

    def _do_v1_models(self, body: Any, fault: str | None) -> tuple[int, Any]:
        names = [self.name] if self.gpu is None else [f"on-{self.gpu}", self.name]
        cards = [{"id": name, "parent": None, "max_model_len": self.max_model_len} for name in names]
        adapters = [{"id": name, "parent": self.name} for name in self.models if name != self.name]
        return 200, {"data": [*cards, *adapters]}

    def _do_tokenize(self, body: Any, fault: str | None) -> tuple[int, Any]:
        return 200, {"tokens": self.tokenizer(body["prompt"], add_special_tokens=False)["input_ids"]}

    def _do_v1_load_lora_adapter(self, body: Any, fault: str | None) -> tuple[int, Any]:
        name, folder = body["lora_name"], body["lora_path"]
        for watch in self.on_load:
            watch(body)
        if not Path(folder, "adapter_config.json").is_file():
            return 404, {"error": {"message": f"No adapter found for {folder}"}}
        if name in self.models:
            return 400, {"error": {"message": f"The lora adapter '{name}' has already been loaded."}}
        model = _merged(self._start_model, Path(folder))
        if fault == "stale":
            model = copy.deepcopy(self.models[list(self.models)[-1]])
        with self._lock:
            self.models[name], self.folders[name] = model, folder
        return 200, "Success"

    def _do_v1_unload_lora_adapter(self, body: Any, fault: str | None) -> tuple[int, Any]:
        if self.models.pop(body["lora_name"], None) is None:
            return 404, {"error": {"message": "not loaded"}}
        return 200, "Success"

    def _do_collective_rpc(self, body: Any, fault: str | None) -> tuple[int, Any]:
        assert body["method"] == "reload_weights"
        self.most_running_at_reload = max(self.most_running_at_reload, self.num_running)
        folder = body["kwargs"]["weights_path"]
        model = copy.deepcopy(self._start_model)
        model.load_state_dict(load_file(Path(folder, "model.safetensors")), strict=False)
        self.models[self.name] = model
        return 200, {"results": [None]}

    def _do_reset_prefix_cache(self, body: Any, fault: str | None) -> tuple[int, Any]:
        return 200, ""

    def _do_v1_completions(self, body: Any, fault: str | None) -> tuple[int, Any]:
        model = self.models.get(body["model"])
        if model is None:
            return 404, {"error": {"message": f"The model `{body['model']}` does not exist."}}
        if len(body["prompt"]) + body["max_tokens"] > self.max_model_len:
            return 400, {"error": {"message": "maximum context length"}}
        with self._lock:
            self.num_running += 1
        try:
            with self._compute:
                if "prompt_logprobs" in body:
                    return 200, {"choices": [self._prompt_choice(model, body)]}
                if body["logprobs"]:
                    return 200, {"choices": [self._top_choice(model, body)]}
                return 200, {"choices": self._choices(model, body, fault)}
        finally:
            with self._lock:
                self.num_running -= 1

    @torch.no_grad()
    def _logprobs(self, model: Any, ids: list[int], temperature: float = 1.0) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()
        return (logits / temperature).log_softmax(-1)

    def _prompt_choice(self, model: Any, body: dict[str, Any]) -> dict[str, Any]:
        ids = body["prompt"]
        found = self._logprobs(model, ids)
        each = [{str(t): {"logprob": float(found[i, t])}} for i, t in enumerate(ids[1:])]
        return {"index": 0, "prompt_logprobs": [None, *each]}

    def _top_choice(self, model: Any, body: dict[str, Any]) -> dict[str, Any]:
        temperature = body["temperature"] if self.is_processed else 1.0
        values, ids = self._logprobs(model, body["prompt"], temperature)[-1].topk(body["logprobs"])
        return {
            "index": 0,
            "logprobs": {"top_logprobs": [dict(zip(map(str, ids.tolist()), values.tolist(), strict=True))]},
        }

    @torch.no_grad()
    def _sampled(self, model: Any, request: Request) -> list[SequenceState]:
        rows = new_sequences(0, request)
        texts = torch.tensor([request.prompt_ids] * len(rows))
        while live := [n for n, row in enumerate(rows) if not row.is_finished]:
            with torch.autocast("cpu", torch.bfloat16, enabled=self.dtype == torch.bfloat16):
                logits = model(input_ids=texts, use_cache=False).logits[:, -1].float()
            draw_tokens(logits[live], [rows[n] for n in live])
            texts = torch.cat([texts, torch.tensor([[row.token_ids[-1]] for row in rows])], 1)
        return rows

    def _choices(self, model: Any, body: dict[str, Any], fault: str | None) -> list[dict[str, Any]]:
        stops = tuple(body["stop_token_ids"])
        extra = () if self.extra_stop_id is None else (self.extra_stop_id,)
        sampling = Sampling(
            body["temperature"],
            repetition_penalty=body["repetition_penalty"],
            max_tokens=body["max_tokens"],
            stop_ids=(*stops, *extra),
            stop=tuple(body["stop"]),
        )
        request = Request(
            tuple(body["prompt"]), body["n"], sampling, seed=(body["seed"],), decode=self.tokenizer.decode
        )
        rows = self._sampled(model, request)
        choices = [
            {
                "index": i,
                "token_ids": list(row.token_ids),
                "prompt_token_ids": body["prompt"],
                "logprobs": {"token_logprobs": list(row.logprobs)},
                "finish_reason": "length" if row.stop_reason == "length" else "stop",
                "stop_reason": body["stop"][0] if row.stop_reason == "stop_string" else None,
            }
            for i, row in enumerate(rows)
        ]
        _spoil(choices, fault)
        return choices


def _merged(base: Any, folder: Path) -> Any:
    """The base with the product of the adapter's factors added to its weights."""
    config = json.loads((folder / "adapter_config.json").read_text())
    factors = load_file(folder / "adapter_model.safetensors")
    model = copy.deepcopy(base)
    with torch.no_grad():
        for key, a in factors.items():
            if "lora_A" in key:
                module = model.get_submodule(key.removeprefix("base_model.model.").removesuffix(".lora_A.weight"))
                module.weight += factors[key.replace("lora_A", "lora_B")] @ a * config["lora_alpha"] / config["r"]
    return model


def _spoil(choices: list[dict[str, Any]], fault: str | None) -> None:
    first = choices[0]
    if fault == "empty":
        first["token_ids"], first["logprobs"]["token_logprobs"] = [], []
    elif fault == "floor":
        first["logprobs"]["token_logprobs"][-1] = -9999.0
    elif fault == "fewer":
        choices.pop()
    elif fault == "long":
        first["token_ids"] += first["token_ids"] * 300
        first["logprobs"]["token_logprobs"] = [-1.0] * len(first["token_ids"])
    elif fault == "stop_id":
        first["finish_reason"], first["token_ids"][-1] = "stop", 33
    elif fault == "beyond":
        first["token_ids"][0] = 10_000
    elif fault == "prompt":
        first["prompt_token_ids"] = [5, 5]
    elif fault == "mismatch":
        first["logprobs"]["token_logprobs"] = first["logprobs"]["token_logprobs"][:-1] or [0.0, 0.0]


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._open: set[Any] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def close_all(self) -> None:
        for each in list(self._open):
            with suppress(OSError):
                each.shutdown(2)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A dropped connection is no news."""


def _handler(fake: FakeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1" if fake.keep_alive else "HTTP/1.0"
        timeout = 5

        def log_message(self, *_: Any) -> None:
            pass

        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length) or b"{}")
            if fake.key and self.headers.get("Authorization") != f"Bearer {fake.key}" and self.path.startswith("/v1"):
                self._send(401, {"error": "Unauthorized"})
                return
            try:
                status, value = fake.answer(self.command, self.path, body)
            except ConnectionAbortedError:
                self.close_connection = True
                self.connection.close()
                return
            self._send(status, value)

        def _send(self, status: int, value: Any) -> None:
            data = value.encode() if isinstance(value, str) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = _serve

    return Handler
