"""The flags of a stock vLLM server that can sample for a run."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Values of --max-lora-rank; an adapter of a lower rank fits."""

ON_GPU = "on-"
"""What the second name of a server's model begins with; the UUID of its GPU follows. Servers tell no GPU otherwise."""


@dataclass(frozen=True)
class ServerPlan:
    """What a server is started with."""

    model: str
    """A folder or a Hub id."""
    mode: str
    """How weights arrive: lora or weights."""
    rank: int = 0
    """Of the adapter."""
    lag: int = 0
    max_model_len: int | None = None
    dtype: str | None = None

    @property
    def environment(self) -> dict[str, str]:
        """Variables that open the way for new weights."""
        if self.mode == "lora":
            return {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
        return {"VLLM_SERVER_DEV_MODE": "1"}

    def arguments(self, host: str = "127.0.0.1", port: int = 8000) -> list[str]:
        """Everything after `vllm serve MODEL`."""
        found = ["--host", host, "--port", str(port)]
        found += ["--logprobs-mode", "processed_logprobs", "--generation-config", "vllm"]
        if self.mode == "lora":
            slots = self.lag + 2
            rank = next((each for each in RANKS if each >= self.rank), RANKS[-1])
            found += ["--enable-lora", "--max-lora-rank", str(rank), "--max-loras", str(slots)]
            found += ["--max-cpu-loras", str(slots + 2)]
        if self.max_model_len is not None:
            found += ["--max-model-len", str(self.max_model_len)]
        if self.dtype is not None:
            found += ["--dtype", self.dtype]
        return found

    def in_words(self, host: str = "127.0.0.1", port: int = 8000) -> str:
        """The command as a person types it."""
        variables = " ".join(f"{name}={value}" for name, value in self.environment.items())
        return f"{variables} {shlex.join(['vllm', 'serve', self.model, *self.arguments(host, port)])}"
