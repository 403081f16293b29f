"""What of a function's rewards counts: clip, normalise, gates and products, in a group and in a recipe."""

from __future__ import annotations

import math

import pytest

from groupwise.config import Recipe
from groupwise.errors import ConfigError, RewardError
from groupwise.rewards import RewardScorer, resolve_rewards
from groupwise.runs.records import group_record
from groupwise.train.batch import reward_matrix
from groupwise.types import StepGroup

from .groups import make_group


def returning(name, values):
    def function(completions):
        return values[: len(completions)]

    function.__name__ = name
    return function


def scored(*specs, num=4, groups=1):
    """One scored batch of groups of `num` completions; specs are (name, values, settings)."""
    rewards = [{"function": returning(name, values), **settings} for name, values, settings in specs]
    made = [make_group("p", ["x"] * num, draw=draw) for draw in range(groups)]
    return RewardScorer(resolve_rewards(rewards)).score(made).groups


def test_a_reward_without_settings_counts_as_it_is():
    (group,) = scored(("a", [1, 2, 3, None], {"weight": 2}))
    assert group.shaped == {}
    assert group.shaped_rewards == group.rewards
    assert group.reward == (2, 4, 6, None)


@pytest.mark.parametrize(
    ("settings", "counted"),
    [
        ({"clip": [-100, 0]}, (-100, -50, 0, None)),
        ({"clip": [None, -50]}, (-300, -50, -50, None)),
        ({"clip": [-100, None]}, (-100, -50, 20, None)),
        ({"clip": [-100, 0], "normalise": "range"}, (0, 0.5, 1, None)),
    ],
)
def test_clip_bounds_and_range_maps_the_bounds_to_0_and_1(settings, counted):
    (group,) = scored(("a", [-300, -50, 20, None], {**settings, "weight": 3}))
    assert group.rewards["a"] == (-300, -50, 20, None)
    assert group.shaped["a"] == counted
    assert group.reward == tuple(None if c is None else 3 * c for c in counted)


def test_group_and_batch_standardise_over_different_rows():
    values = [0.0, 1.0, 10.0, 11.0, 5.0, 5.0]
    by_group = scored(("a", values, {"normalise": "group"}), num=2, groups=3)
    step = math.sqrt(0.5)
    for group in by_group[:2]:
        assert group.shaped["a"] == pytest.approx((-0.5 / (step + 1e-4), 0.5 / (step + 1e-4)))
    assert by_group[2].shaped["a"] == (0, 0)
    by_batch = [v for g in scored(("a", values, {"normalise": "batch"}), num=2, groups=3) for v in g.shaped["a"]]
    assert sum(by_batch) == pytest.approx(0)
    assert by_batch[4] == by_batch[5]
    assert by_batch[0] < by_batch[1] < by_batch[4] < by_batch[2] < by_batch[3]


def test_a_gate_lets_a_reward_count_only_where_the_other_is_high_enough():
    (group,) = scored(
        ("correct", [1, 0.5, 0, None], {}),
        ("brief", [0.3, 0.3, None, 0.3], {"when": {"correct": 0.5}}),
        ("effort", [7, 7, 7, 7], {"unless": {"correct": 0.5}}),
    )
    assert group.shaped == {"brief": (0.3, 0.3, None, None), "effort": (0, 0, 7, None)}
    assert group.reward == (1.3, 0.8, 7, None)


def test_a_shut_gate_is_0_even_where_another_gate_cannot_be_read():
    (group,) = scored(("a", [0, None], {}), ("b", [None, None], {}), ("c", [1, 1], {"when": {"a": 1, "b": 1}}), num=2)
    assert group.shaped["c"] == (0, None)


def test_times_multiplies_by_what_is_left_of_the_other():
    (group,) = scored(
        ("quality", [-5, 4, 10, None], {"clip": [0, 10], "normalise": "range", "weight": 0}),
        ("correct", [1, 1, 0, 1], {"times": "quality"}),
    )
    assert group.shaped["correct"] == (0, 0.4, 0, None)
    assert group.reward == (0, 0.4, 0, None)


def test_gates_read_what_was_returned_and_products_read_no_gates():
    """Two rewards may read each other: neither waits for the other's gate."""
    (group,) = scored(
        ("a", [2, 0], {"when": {"b": 3}}), ("b", [3, 3], {"clip": [0, 1], "when": {"a": 1}, "times": ["a"]}), num=2
    )
    assert group.shaped == {"a": (2, 0), "b": (2, 0)}


def test_the_learner_gets_what_counts():
    groups = scored(("a", [5, -5, 1, None], {"clip": [-1, 1]}), ("b", [1, 2, 3, 4], {}))
    assert reward_matrix(groups).nan_to_num(-9).tolist() == [[1, 1], [-1, 2], [1, 3], [-9, 4]]


def test_rewards_of_steps_cannot_be_shaped():
    with pytest.raises(RewardError, match='"a" scored the steps of a completion'):
        scored(("a", [[(1, 1.0)], 0, 0, 0], {"clip": [0, 1]}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clip": [1, 0]}, "the lower first"),
        ({"clip": [None, None]}, r"clip of a reward is \[None, None\]"),
        ({"clip": 3}, "clip of a reward is 3"),
        ({"normalise": "grup"}, 'Did you mean "group"'),
        ({"normalise": "range"}, "add clip"),
        ({"normalise": "range", "clip": [0, None]}, "add clip"),
        ({"when": {"b": "high"}}, "The gate 'b' of a reward is 'high'"),
        ({"when": {"bb": 1}}, 'gated by "bb".*there are a, b. Did you mean "b"'),
        ({"times": "a"}, 'Reward "a" is gated by itself'),
        ({"wehn": {"b": 1}}, 'has no setting "wehn".*Did you mean "when"'),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        scored(("a", [1] * 4, settings), ("b", [1] * 4, {}))


def test_a_recipe_says_the_same_and_records_it():
    written = [
        "my.py:correct",
        {"name": "length", "target": 20, "clip": [-20, 0], "normalise": "range", "when": {"correct": 1}, "weight": 0.2},
        {"name": "format", "unless": {"length": 0.5}, "times": "correct"},
    ]
    recipe = Recipe(rewards=written)
    resolved = recipe.resolved()["rewards"]
    assert Recipe(rewards=resolved) == recipe
    assert resolved[1]["when"] == {"correct": 1}
    functions = resolve_rewards([{"function": returning("correct", [1])}, *resolved[1:]])
    assert functions[1].shaping.clip == (-20, 0)
    assert functions[2].shaping.times == ("correct",)


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        (["length", {"name": "format", "when": {"lenth": 0}}], 'rewards.1: Reward "format" is gated by "lenth"'),
        ([{"name": "format", "when": {"format": 0}}], '"format" is gated by itself'),
        ([{"name": "length", "clip": [3, 1]}], "the lower first"),
        ([{"name": "length", "normalise": "range"}], "add clip"),
        ([{"name": "length", "when": {"format": "x"}}], "when.format"),
        ([{"name": "length", "whenn": {"format": 1}}], 'no setting "whenn".*Did you mean "when"'),
    ],
)
def test_a_recipe_is_checked_before_anything_is_loaded(rewards, message):
    with pytest.raises(ConfigError, match=message):
        Recipe(rewards=rewards)


def test_two_of_one_name_are_gated_by_their_recorded_names():
    Recipe(rewards=["length", "length", {"name": "format", "when": {"length_2": 0}}])


def test_the_record_keeps_what_was_returned_what_counted_and_why():
    def why(completions, log_why, log_extra):
        log_why([None, "short"])
        log_extra("words", [3, 1])
        return [3, 1]

    made = make_group("p", ["a b c", "a"])
    group = RewardScorer(resolve_rewards([{"function": why, "clip": [0, 2]}])).score([made]).groups[0]
    first, second = group_record(StepGroup.of_scored(group), 1)["completions"]
    assert (first["rewards"], first["counted"], first["reward"]) == ({"why": 3}, {"why": 2}, 2)
    assert second["extra"] == {"why/why": "short", "words": 1}
    plain = RewardScorer(resolve_rewards([lambda completions: [1, 2]])).score([made]).groups[0]
    assert not {"counted", "extra"} & group_record(StepGroup.of_scored(plain), 1)["completions"][0].keys()
