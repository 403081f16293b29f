"""vLLM in TRL's words: an address means servers; without one, groupwise's own engine samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WORDS = frozenset(
    {
        "use_vllm",
        "vllm_mode",
        "vllm_server_base_url",
        "vllm_server_host",
        "vllm_server_port",
        "vllm_server_timeout",
    }
)
_ADDRESSES = ("vllm_server_base_url", "vllm_server_host", "vllm_server_port")


def means_servers(written: Mapping[str, Any]) -> bool:
    """Whether vLLM was asked for at an address."""
    return bool(written.get("use_vllm")) and any(written.get(name) is not None for name in _ADDRESSES)


def address_of(written: Mapping[str, Any]) -> str:
    """The one server, by TRL's rules for its keys; 0.0.0.0, its default, is this machine."""
    if base := written.get("vllm_server_base_url"):
        return str(base)
    host = str(written.get("vllm_server_host") or "localhost").replace("0.0.0.0", "localhost")
    return f"http://{host}:{written.get('vllm_server_port') or 8000}"
