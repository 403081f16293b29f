"""Every way of writing the objective ends in one `Objective`."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from groupwise.algo.axes import CHOICES
from groupwise.algo.objective import Objective
from groupwise.config import GRPOConfig
from groupwise.config.objective_keys import AXES, READ_BY


def objective(**written: Any) -> Objective:
    return GRPOConfig(**written).objective


def test_three_ways_are_one() -> None:
    expected = Objective.preset("dapo", epsilon_high=0.3)
    assert objective(objective="dapo", epsilon_high=0.3) == expected
    assert objective(objective={"preset": "dapo", "epsilon_high": 0.3}) == expected
    assert objective(objective=expected) == expected
    assert objective(objective={"preset": "dapo", "epsilon_high": 0.5}, epsilon_high=0.3) == expected


@pytest.mark.parametrize(
    ("written", "axes"),
    [
        ({"loss_type": "bnpo"}, {"aggregation": "token_mean"}),
        ({"loss_type": "DAPO"}, {"aggregation": "token_mean"}),
        ({"loss_type": "dr_grpo", "max_completion_length": 96}, {"aggregation": "constant", "max_length": 96}),
        ({"loss_type": "luspo"}, {"aggregation": "seq_mean_token_sum"}),
        ({"loss_type": "cispo"}, {"trust_region": "weight_clip", "aggregation": "token_mean", "weight_max": 5.0}),
        (
            {"loss_type": "cispo", "epsilon": 0.2, "epsilon_high": 4.0},
            {"trust_region": "weight_clip", "aggregation": "token_mean", "weight_max": 4.0},
        ),
        ({"loss_type": "sapo", "sapo_temperature_neg": 2}, {"trust_region": "sapo", "tau_neg": 2.0, "tau_pos": 1.0}),
        (
            {"loss_type": "vespo", "vespo_k_pos": 4.0, "importance_sampling_level": "token"},
            {"trust_region": "gamma", "level": "seq_prod", "aggregation": "token_mean", "gamma_pos": (4.0, 3.0)},
        ),
        ({"epsilon": 0.1}, {"epsilon_low": 0.1, "epsilon_high": 0.1}),
        ({"epsilon": 0.1, "epsilon_high": 0.3}, {"epsilon_low": 0.1, "epsilon_high": 0.3}),
        ({"objective": "dapo", "epsilon": 0.1}, {"epsilon_low": 0.1, "epsilon_high": 0.28}),
        ({"delta": 4.0}, {"delta": 4.0}),
        ({"scale_rewards": True}, {"scale": "group_std"}),
        ({"scale_rewards": False}, {"scale": "none"}),
        ({"scale_rewards": "none"}, {"scale": "none"}),
        ({"scale_rewards": "batch"}, {"scale": "batch_std"}),
        ({"importance_sampling_level": "sequence"}, {"level": "seq_geo"}),
        ({"multi_objective_aggregation": "normalize_then_sum"}, {"combine": "normalise_each"}),
        ({"mask_truncated_completions": True}, {"mask_truncated": True}),
        ({"top_entropy_quantile": 0.2}, {"top_entropy": 0.2}),
        ({"top_entropy_quantile": 1.0}, {"top_entropy": None}),
        ({"off_policy_mask_threshold": 0.5}, {"off_policy_threshold": 0.5}),
        ({"use_bias_correction_kl": True}, {"kl": "k3_corrected", "beta": 0.04}),
        ({"beta": 0.0}, {"beta": 0.0}),
        ({"vllm_importance_sampling_correction": False}, {"mismatch": "none"}),
        ({"vllm_importance_sampling_correction": True}, {"mismatch": "seq_mask", "mismatch_max": 3.0}),
        (
            {"vllm_importance_sampling_mode": "token_truncate", "vllm_importance_sampling_cap": 2.0},
            {"mismatch": "token_truncate", "mismatch_max": 2.0, "mismatch_min": None},
        ),
        ({"objective": "intellect2", "delta": None}, {"delta": None}),
    ],
)
def test_the_ecosystems_words(written: dict[str, Any], axes: dict[str, Any]) -> None:
    """Exactly these axes change from what the objective starts from."""
    start = Objective.preset(written.get("objective", "grpo"))
    resolved = objective(**written)
    changed = {name: getattr(resolved, name) for name in axes}
    assert changed == axes
    assert dataclasses.replace(resolved, **{name: getattr(start, name) for name in axes}) == start


@pytest.mark.parametrize("word", ["loss_type", "scale_rewards", "use_bias_correction_kl", "top_entropy_quantile"])
def test_words_can_be_read_back_from_axes(word: str) -> None:
    written = {
        "loss_type": "dapo",  # bnpo is the same here
        "scale_rewards": "batch",
        "use_bias_correction_kl": True,
        "top_entropy_quantile": 0.2,
    }
    axes = objective(**written)
    read = GRPOConfig(objective=axes)
    assert getattr(read, word) == written[word]


def test_axes_and_epsilon_can_be_read() -> None:
    config = GRPOConfig(objective="dapo")
    assert (config.epsilon, config.epsilon_high, config.beta, config.aggregation) == (0.2, 0.28, 0.0, "token_mean")


def test_a_number_that_nothing_reads_is_said() -> None:
    notes = GRPOConfig(tau_pos=2.0).notes
    assert "tau_pos has no effect: trust_region clip does not read it." in notes


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ({"max_length": 64}, "aggregation seq_mean_token_mean does not read it. Completions are cut at max_completion"),
        ({"tau": 0.4}, "trust_region clip does not read it."),
        ({"band_low": -0.3}, "trust_region clip does not read it."),
        ({"threshold": 0.3}, "trust_region clip does not read it."),
        ({"gamma_pos": [1, 2]}, "trust_region clip does not read it."),
        ({"pass_k": 2}, "baseline group_mean does not read it."),
        ({"ema_decay": 0.5}, "baseline group_mean does not read it."),
        ({"eps": 0.1, "scale": "none"}, "scale none does not read it."),
        ({"mismatch_max": 2.0}, "mismatch none does not read it."),
        ({"covariance_low": 0.5, "covariance": "kl_cov"}, "covariance kl_cov does not read it."),
        ({"covariance_coef": 0.5}, "covariance null does not read it."),
    ],
)
def test_every_number_that_nothing_reads_is_said(written: dict[str, object], why: str) -> None:
    number = next(iter(written))
    assert any(note.startswith(f"{number} has no effect: {why}") for note in GRPOConfig(**written).notes)


@pytest.mark.parametrize("preset", Objective.preset_names())
def test_no_preset_remarks_on_its_own_numbers(preset: str) -> None:
    config = GRPOConfig(objective=preset)
    for same in (config, GRPOConfig(**config.resolved()), GRPOConfig(objective=Objective.preset(preset))):
        assert not [note for note in same.notes if "has no effect" in note]


def test_the_numbers_that_may_have_no_effect_are_axes_and_their_readers_choices() -> None:
    for number, readers in READ_BY.items():
        assert number in AXES
        assert all(set(names) <= set(CHOICES[axis]) for axis, names in readers.items())


def test_the_papers_other_settings_come_with_the_name() -> None:
    config = GRPOConfig(objective="dapo", prompts_per_step=4)
    assert (config.dynamic_sampling, config.num_minibatches) == (True, 4)
    assert config.overlong_cache == 0.2
    assert "objective dapo sets overlong_cache 0.2." in config.notes
    notes = GRPOConfig(objective="scalerl").notes
    assert any("max_pass_rate" in note for note in notes), "what groupwise does not do is said"
    chosen = GRPOConfig(objective="dapo", dynamic_sampling=False, num_minibatches=2)
    assert (chosen.dynamic_sampling, chosen.num_minibatches) == (False, 2)
