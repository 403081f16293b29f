"""Binds a process by limits that it cannot raise again."""

from __future__ import annotations

import sys
from collections.abc import Mapping


def apply_limits(limits: Mapping[str, int]) -> None:
    """Set each limit, by its name in `resource` without RLIMIT_, soft and hard; lower ones that hold already stay."""
    if sys.platform == "win32":
        return
    import resource

    for name, wanted in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}", None)
        if kind is None:
            continue  # macOS has no RLIMIT_AS that holds, and other systems lack one or the other
        _, hard = resource.getrlimit(kind)
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(kind, (limit, limit))
