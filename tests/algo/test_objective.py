"""An objective is complete and consistent when it is built, or says what is wrong with it."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import pytest

from groupwise.algo import Objective
from groupwise.errors import ConfigError


def test_the_defaults_are_deepseekmath() -> None:
    found = dataclasses.asdict(Objective())
    published = {
        "baseline": "group_mean",
        "scale": "group_std",
        "ddof": 1,
        "eps": 1e-4,
        "combine": "weighted_sum",
        "kl_in_reward": "none",
        "anchor": "old",
        "level": "token",
        "trust_region": "clip",
        "epsilon_low": 0.2,
        "epsilon_high": 0.2,
        "delta": None,
        "weight_min": 0,
        "weight_max": 5,
        "tau_pos": 1,
        "tau_neg": 1.05,
        "gamma_pos": (2, 3),
        "gamma_neg": (3, 2),
        "divergence": "tv",
        "shaping": 0.1,
        "aggregation": "seq_mean_token_mean",
        "kl": "k3",
        "beta": 0.04,
        "mismatch": "none",
        "mismatch_min": None,
        "mismatch_max": None,
        "mask_truncated": False,
        "top_entropy": None,
        "off_policy_threshold": None,
        "covariance": None,
        "entropy_coef": 0,
    }
    assert {name: found[name] for name in published} == published
    assert Objective.preset("grpo") == Objective()


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("trl_default", {"aggregation": "token_mean", "beta": 0, "mismatch": "seq_mask", "mismatch_max": 3.0}),
        ("verl_default", {"eps": 1e-6, "delta": 3.0, "aggregation": "token_mean", "beta": 0}),
        ("dr_grpo", {"scale": "none", "aggregation": "constant", "beta": 0}),
        ("dapo", {"epsilon_low": 0.2, "epsilon_high": 0.28, "aggregation": "token_mean", "beta": 0}),
        ("r1_zero", {"epsilon_low": 0.2, "epsilon_high": 0.2, "beta": 0.001}),
        ("r1", {"epsilon_low": 10.0, "epsilon_high": 10.0, "beta": 0.001}),
        ("gspo", {"level": "seq_geo", "epsilon_low": 3e-4, "epsilon_high": 4e-4}),
        ("luspo", {"level": "seq_geo", "epsilon_low": 2e-3, "epsilon_high": 2.5e-3}),
        ("rloo", {"baseline": "group_loo", "scale": "none", "anchor": "self", "kl_in_reward": "k1", "kl": "none"}),
        ("rloo_trl", {"level": "seq_prod", "aggregation": "seq_mean_token_mean", "trust_region": "clip"}),
        ("prime_rl", {"anchor": "rollout", "trust_region": "div_mask", "weight_cap": None, "log_ratio_penalty": 1e-3}),
        ("m2po", {"trust_region": "m2_mask", "threshold": 0.04, "anchor": "rollout"}),
        ("icepop", {"mismatch": "token_mask", "mismatch_min": 0.5, "mismatch_max": 5.0}),
        ("areal", {"mismatch": "token_truncate", "mismatch_max": None, "combine": "normalise_each"}),
        ("entropy_8020", {"top_entropy": 0.2, "epsilon_high": 0.28}),
        ("gmpo", {"trust_region": "geo_clip", "epsilon_low": 0.4, "epsilon_high": 0.4}),
        ("nanochat", {"anchor": "self", "trust_region": "reinforce", "scale": "none"}),
    ],
)
def test_a_preset_holds_its_paper(name: str, fields: dict[str, Any]) -> None:
    objective = Objective.preset(name)
    assert {field: getattr(objective, field) for field in fields} == fields


def test_overrides_replace_fields() -> None:
    assert Objective.preset("dapo", epsilon_high=0.3, beta=0.01).epsilon_high == 0.3
    assert Objective.preset("DAPO") == Objective.preset("dapo")
    assert Objective.preset("bnpo") == Objective.preset("bnpo_trl")
    assert Objective.preset("vespo", gamma_pos=[1, 2]).gamma_pos == (1.0, 2.0)


def test_a_raised_beta_takes_effect_in_every_preset() -> None:
    for name in Objective.preset_names():
        objective = Objective.preset(name, beta=0.01)
        assert objective.uses_kl or objective.uses_kl_in_reward
        assert "ref" in objective.needs
    assert all("ref" not in Objective.preset(name, beta=0.0).needs for name in Objective.preset_names())


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Objective.preset("gspoo"), ('"gspoo"', 'Did you mean "gspo"')),
        (lambda: Objective.preset("dapo", epsilon_hgh=1), ('"epsilon_hgh"', 'Did you mean "epsilon_high"')),
        (lambda: Objective(trust_region="clp"), ("trust_region", 'Did you mean "clip"')),
        (lambda: Objective(kl="k1"), ("k1", "expected gradient of 0", "kl_in_reward")),
        (lambda: Objective(kl_in_reward="k3"), ("k3", "only k1")),
        (lambda: Objective(delta=1.2), ("delta 1.2", "above 1 + epsilon_high")),
        (lambda: Objective(trust_region="sapo", delta=3.0), ("delta", "sapo")),
        (lambda: Objective(anchor="rollout", mismatch="token_mask"), ("rollout", "already corrects")),
        (lambda: Objective(trust_region="gamma", mismatch="seq_mask"), ("seq_mask", "twice")),
        (lambda: Objective(scale="token_whiten", level="seq_geo"), ("token_whiten", "seq_geo_token")),
        (lambda: Objective(trust_region="weight_clip", weight_max=0.28), ("0.28", "absolute", "1.28")),
        (lambda: Objective(baseline="passk"), ("passk", "passk_std")),
        (lambda: Objective(scale="passk_std"), ("passk", "passk_std")),
        (lambda: Objective(beta=-1), ("beta", "-1")),
        (lambda: Objective(beta=float("nan")), ("beta", "nan")),
        (lambda: Objective(epsilon_low="0.2"), ("epsilon_low", "number")),
        (lambda: Objective(gamma_pos=3), ("gamma_pos", "two numbers")),
        (lambda: Objective(top_entropy=1.5), ("top_entropy", "1.5")),
        (lambda: Objective(mismatch_min=3.0, mismatch_max=2.0), ("mismatch_min", "above")),
    ],
)
def test_a_mistake_is_named_with_its_reason(build: Any, words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as error:
        build()
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"level": "seq_geo"}, "GSPO uses 3e-4"),
        ({"epsilon_low": 3e-4, "epsilon_high": 4e-4}, "PPO uses 0.2"),
        ({"level": "seq_prod", "mismatch": "token_mask"}, "seq_geo_token"),
        ({"aggregation": "token_sum"}, "grows with the length"),
        ({"kl_in_reward": "k1"}, "in the reward and in the loss"),
    ],
)
def test_an_odd_choice_is_a_warning(fields: dict[str, Any], words: str) -> None:
    assert any(words in warning for warning in Objective(**fields).warnings)
    assert not Objective().warnings


def test_an_objective_is_held_against_its_run() -> None:
    assert not Objective().check_run(num_generations=8, updates_per_rollout=16)
    assert "0.707" in Objective().check_run(num_generations=2)[0]
    for objective, run in (
        (Objective(), {"num_generations": 1}),
        (Objective.preset("opo"), {"num_generations": 8, "updates_per_rollout": 2}),
        (Objective.preset("passk", pass_k=9), {"num_generations": 8}),
    ):
        with pytest.raises(ConfigError):
            objective.check_run(**run)


def test_needs_name_the_scores_that_are_read() -> None:
    assert Objective().needs == {"old", "ref"}
    assert Objective.preset("nanochat").needs == frozenset()
    assert Objective.preset("scalerl").needs == {"rollout"}
    assert Objective.preset("trl_default").needs == {"old", "rollout"}
    assert Objective.preset("entropy_8020").needs == {"old", "entropy"}
    forward = {name for name in Objective.preset_names() if Objective.preset(name).needs_forward}
    assert forward == {"m2po", "entropy_8020", "kl_cov", "clip_cov"}


def test_recipe_defaults_stand_beside_the_loss() -> None:
    assert Objective.recipe_defaults("grpo") == {}
    assert Objective.recipe_defaults("dapo")["dynamic_sampling"] is True
    assert Objective.recipe_defaults("r1_zero")["ref_model_reset_steps"] == 400
    fields = {field.name for field in dataclasses.fields(Objective)}
    for name in Objective.preset_names():
        assert not fields & Objective.recipe_defaults(name).keys()


def test_choosing_an_objective_loads_no_torch() -> None:
    program = (
        "import sys; from groupwise.algo import Objective; Objective.preset('dapo').needs; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
