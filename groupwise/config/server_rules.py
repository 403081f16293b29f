"""What served rollouts can and cannot do, found out before anything is loaded."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from groupwise.config.fields import ServerFields
from groupwise.config.mistakes import Mistakes
from groupwise.errors import listed


def check_servers(config: Any, problems: Mistakes) -> None:
    """Addresses, sampling and lag."""
    for address in config.servers:
        if not _is_address(address):
            problems.add(f'servers names "{address}"; expected an address such as http://localhost:8000.')
    if len({*config.servers}) < len(config.servers):
        problems.add("servers names an address twice. Keep one of them.")
    filters = {"top_k": config.top_k > 0, "top_p": config.top_p < 1, "min_p": config.min_p > 0}
    if config.servers and (used := [name for name, is_on in filters.items() if is_on]):
        problems.add(
            f"{listed(used)} cannot be used with servers: which tokens they kept is not sent back, and without it the "
            "log-probs that are trained on are wrong by up to log(kept mass) a token. Leave them out, or leave servers "
            "out."
        )
    if config.rollout_lag:
        _check_lag(config, problems)


def _check_lag(config: Any, problems: Mistakes) -> None:
    lag = config.rollout_lag
    if not config.servers:
        problems.add(f"rollout_lag {lag} needs servers: this process cannot sample while it trains.")
    if config.objective.mismatch == "none":
        problems.add(
            f"rollout_lag {lag} trains on completions of older weights, and mismatch is none, so nothing corrects "
            "that. Set mismatch (token_truncate, for example), or rollout_lag 0."
        )
    if config.curriculum != "none":
        problems.add(
            f"rollout_lag {lag} draws the problems of a step before the steps ahead of it are done, and a curriculum "
            "draws by their results. Leave one of them out."
        )


def servers_without_effect(config: Any) -> str | None:
    """The keys of servers that were written where there are none."""
    if config.servers:
        return None
    fields = ServerFields.model_fields
    idle = [n for n in fields if n not in ("servers", "rollout_lag") and getattr(config, n) != fields[n].default]
    return f"{', '.join(idle)} without effect: there are no servers." if idle else None


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
