"""Reads the score from the reply of an LLM judge."""

from __future__ import annotations

import json
import re

_NUMBER = r"(-?\d+(?:\.\d+)?)(?![\d.]*\d)"
_JSON = re.compile(r"\{[^{}]*\}")
_BRACKETS = re.compile(rf"\[\[\s*{_NUMBER}\s*\]\]")
_GAP = r"(?:[^\w\-]|_|[-–]\s)*?"
_LABEL = re.compile(rf"\b(?:score|rating|grade|verdict)\b{_GAP}(?:is|of|would be)?{_GAP}{_NUMBER}", re.IGNORECASE)
_ALONE = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w.]*\d)")


def read_score(text: str, low: float, high: float) -> float | None:
    """The score from `low` to `high` in a reply; None where it has none, an ambiguous one, or one out of range.

    Looked for in this order: the last JSON object with a "score", the last [[8]], the last "Score: 8", the last "8/10"
    or "8 out of 10", and a number that is the only one of the reply. Thoughts in think tags are not read.
    """
    text = re.sub(r"<think>.*?(?:</think>|\Z)", " ", text, flags=re.DOTALL)
    for found in (_json_scores(text), _BRACKETS.findall(text), _LABEL.findall(text), _of_highest(text, high)):
        if found:
            return _within(float(found[-1]), low, high)
    alone = set(_ALONE.findall(text))
    return _within(float(alone.pop()), low, high) if len(alone) == 1 else None


def _json_scores(text: str) -> list[float]:
    found = []
    for part in _JSON.findall(text):
        try:
            value = json.loads(part)
        except ValueError:
            continue  # braces of prose
        score = next((v for k, v in value.items() if k.lower() in ("score", "rating", "grade")), None)
        if isinstance(score, str) and re.fullmatch(r"\s*-?\d+(?:\.\d+)?\s*", score):
            score = float(score)
        if isinstance(score, int | float) and not isinstance(score, bool):
            found.append(float(score))
    return found


def _of_highest(text: str, high: float) -> list[str]:
    return re.findall(rf"{_NUMBER}\s*(?:/|out of)\s*{re.escape(f'{high:g}')}(?![\d.]*\d)", text)


def _within(score: float, low: float, high: float) -> float | None:
    return score if low <= score <= high else None
