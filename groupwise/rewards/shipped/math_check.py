"""Compares two mathematical answers, in a worker: the parser may never end, and evaluates what it reads."""

from __future__ import annotations

import logging
from typing import Any

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that somebody else must watch the time: we do
_CONFIGS = (LatexExtractionConfig(), ExprExtractionConfig())


def check(given: str, answer: str, decimals: int) -> dict[str, Any]:
    """`is_right` (None where the data set's answer cannot be read), and `given` as it was read (None: nothing was)."""
    gold = _parse(answer)
    if not gold:
        return {"is_right": None, "given": None}
    read = _parse(given)
    is_right = bool(read) and verify(gold, read, float_rounding=decimals, timeout_seconds=None)
    return {"is_right": bool(is_right), "given": str(read[0])[:200] if read else None}


def _parse(text: str) -> list[Any]:
    """The parsed answer, its value first; empty where nothing can be parsed."""
    found: list[Any] = parse(text, extraction_config=_CONFIGS, parsing_timeout=None)
    return found
