"""The gap of a draw that two numbers of ranks decide differently."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from tests.ranks.near_tie import LARGEST_GAP, gap_of

RESULT = Path(__file__).parents[2] / "bench/results/ranks_near_tie.json"


def test_the_gap_is_that_of_the_log_odds() -> None:
    logits = torch.tensor([0.2, 0.3, 0.5]).log()
    assert gap_of(logits, 0.5, (1, 2)) == pytest.approx(0.0, abs=1e-6)
    assert gap_of(logits, 0.6, (1, 2)) == pytest.approx(math.log(1.5), abs=1e-6)
    assert gap_of(logits, 0.2 + 1e-6, (2, 0)) == pytest.approx(1e-6 / (0.2 * 0.8), rel=1e-2)


def test_a_shift_of_the_logits_by_half_the_gap_closes_it() -> None:
    logits = torch.tensor([0.2, 0.3, 0.5]).log().double()
    gap = gap_of(logits, 0.6, (1, 2))
    logits[:2] += gap / 2
    logits[2] -= gap / 2
    assert float(logits.softmax(-1).cumsum(-1)[1]) == pytest.approx(0.6, abs=1e-9)


def test_the_ties_that_were_found_are_within_the_bound() -> None:
    """`make ranks` finds them."""
    found = json.loads(RESULT.read_text())
    ties = [found["1 and 2 ranks"], found["1 and 4 ranks"]]
    assert any(ties)
    assert all(tie["gap_nats"] <= LARGEST_GAP for tie in ties if tie)
