"""Does a completion end in one of its stop strings? One rule for every engine. No torch here."""

from __future__ import annotations

from collections.abc import Sequence

from groupwise.types import Request

TAIL_MARGIN = 8
"""Tokens decoded before a stop string: they take what a decoder does to the first of a text, half characters too."""


def ends_in_stop_string(request: Request, token_ids: Sequence[int]) -> bool:
    """Whether a stop string of the request stands in the text of the last tokens."""
    assert request.decode is not None, "stop strings need Request.decode"
    longest = max(len(s.encode()) for s in request.sampling.stop)  # a token can be a single byte
    text = request.decode(token_ids[-(longest + TAIL_MARGIN) :])
    return any(s in text for s in request.sampling.stop)
