"""What a program calls of mlflow."""

from __future__ import annotations

from collections.abc import Mapping

LOGGED: list[tuple[int, dict[str, float]]] = []
"""The step and the numbers of each call."""


def log_metrics(metrics: Mapping[str, float], step: int) -> None:
    LOGGED.append((step, dict(metrics)))
