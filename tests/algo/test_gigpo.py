"""GiGPO against numbers worked out by hand, and what it has to be where states do not repeat."""

from __future__ import annotations

from math import nan, sqrt
from typing import Any

import pytest
import torch
from torch import Tensor

from groupwise.algo import advantages, gigpo_advantages
from groupwise.errors import RewardError

EXACT: dict[str, Any] = {"eps": 0.0}


def close(found: Tensor, expected: Any) -> None:
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_by_hand() -> None:
    """Two completions of two turns. Both begin in state a; their second turns are taken in b and c.

    Sums 1 and 0: z is +-(1/2) / sqrt(1/2) = +-sqrt(1/2). Returns of the turns in a with discount 1/2: 0 + 1/2 and
    0, with the same z-scores. b and c are met once.
    """
    z = sqrt(0.5)
    found = gigpo_advantages(
        [[2, 4], [1, 3]], [[0.0, 1.0], [0.0, 0.0]], [["a", "b"], ["a", "c"]], [0, 0], [4, 3], discount=0.5, **EXACT
    )
    close(found, [[2 * z, 2 * z, z, z], [-2 * z, -z, -z, 0.0]])


def test_by_hand_with_a_state_that_is_met_three_times() -> None:
    """Completion 0 meets state a twice. Returns in a, undiscounted: 3, 2 and 0; mean 5/3, sample variance 7/3."""
    mean, std = 5 / 3, sqrt(7 / 3)
    whole = 1.5 / sqrt(4.5)
    found = gigpo_advantages(
        [[1, 2], [1]], [[1.0, 2.0], [0.0]], [["a", "a"], ["a"]], [7, 7], [2, 1], discount=1.0, weight=0.5, **EXACT
    )
    by_turn = [0.5 * (value - mean) / std for value in (3.0, 2.0, 0.0)]
    close(found, [[whole + by_turn[0], whole + by_turn[1]], [-whole + by_turn[2], 0.0]])


def test_without_a_scale_only_the_mean_is_taken() -> None:
    found = gigpo_advantages([[1], [1], [1]], [[1.0], [2.0], [6.0]], [["a"], ["a"], ["b"]], [0] * 3, [1] * 3, eps=None)
    close(found[:, 0], [-2.0 - 0.5, -1.0 + 0.5, 3.0])


def test_states_that_never_repeat_leave_the_group_advantage() -> None:
    rewards = [[0.0, 1.0], [0.25, 0.0], [0.5, 0.75]]
    found = gigpo_advantages([[2, 3]] * 3, rewards, [[i, -i - 1] for i in range(3)], [0] * 3, [3] * 3)
    expected = advantages([sum(row) for row in rewards], [0] * 3)
    close(found, expected.double().unsqueeze(1).expand(3, 3))


def test_equal_states_of_other_groups_are_no_company() -> None:
    one = gigpo_advantages([[1], [1]], [[1.0], [0.0]], [["a"], ["a"]], [0, 0], [1, 1])
    both = gigpo_advantages([[1]] * 4, [[1.0], [0.0], [9.0], [5.0]], [["a"]] * 4, [0, 0, 1, 1], [1] * 4)
    close(both[:2], one)


@pytest.mark.parametrize("missing", [None, nan])
def test_an_unscored_completion_changes_nothing_for_the_others(missing: float | None) -> None:
    ends, states = [[1, 2], [1, 2], [2]], [["a", "b"], ["a", "b"], ["a"]]
    found = gigpo_advantages(ends, [[1.0, missing], [0.0, 0.5], [missing]], states, [0] * 3, [2] * 3)
    alone = gigpo_advantages(ends[:2], [[1.0, 0.0], [0.0, 0.5]], states[:2], [0] * 2, [2] * 2)
    close(found[:2], alone)
    assert not found[2].any()


def test_no_signal_is_exactly_zero() -> None:
    rewards = [[-287.3, 0.1], [-287.3, 0.1], [-287.2, 0.0]]
    assert not gigpo_advantages([[1, 2]] * 3, rewards, [["a", "b"]] * 3, [0] * 3, [2] * 3, discount=1.0)[:, 0].any()


def test_turns_that_do_not_fit_are_refused() -> None:
    with pytest.raises(RewardError, match="2 step rewards for 1 step ends"):
        gigpo_advantages([[1]], [[1.0, 2.0]], [["a", "b"]], [0], [3])
    with pytest.raises(RewardError, match="token 4; expected 1 to its length 3"):
        gigpo_advantages([[4]], [[1.0]], [["a"]], [0], [3])
    with pytest.raises(RewardError, match="1 states for 2 turns"):
        gigpo_advantages([[1, 2]], [[1.0, 1.0]], [["a"]], [0], [3])
