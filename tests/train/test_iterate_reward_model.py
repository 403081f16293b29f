"""The reward model that goes on learning: its comparisons, its loss, its replay, and the whole of Algorithm 1."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from tiny import _SHAPE, tiny_tokenizer

from groupwise.errors import ConfigError
from groupwise.lifecycle.iterate_reward_model import (
    Comparison,
    ContinualRewardModel,
    IterateRewardModel,
    comparisons_of,
    preference_loss,
)
from groupwise.rewards.model import RewardModel
from groupwise.runs.reader import RunReader

PAIRS = [Comparison("say", "aa" * n, "b" * n) for n in (1, 2, 3)]


def reward_model() -> RewardModel:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**_SHAPE, num_labels=1)
    return RewardModel(transformers.LlamaForSequenceClassification(config), tiny_tokenizer())


def record(prompt: str, *texts: str) -> Any:
    return {"prompt": prompt, "completions": [{"text": text} for text in texts]}


def test_a_group_compares_its_best_with_its_worst():
    groups = [record("p", "a", "aaa", "", "aa"), record("q", "b", "c")]
    assert comparisons_of(groups, lambda _, texts: [t.count("a") for t in texts]) == [Comparison("p", "aaa", "")]


def test_the_loss_is_bradley_terry_on_the_scores_that_the_policy_is_judged_with():
    model = reward_model()
    chosen, rejected = ([getattr(c, side) for c in PAIRS] for side in ("chosen", "rejected"))
    margin = torch.tensor(model(["say"] * 3, chosen)) - torch.tensor(model(["say"] * 3, rejected))
    expected = torch.log(1 + torch.exp(-margin)).mean()
    assert float(preference_loss(model, PAIRS).detach()) == pytest.approx(float(expected), rel=1e-5)


def test_a_tenth_of_what_it_sees_is_old():
    continual = ContinualRewardModel(reward_model())
    new = [Comparison("new", str(i), "") for i in range(18)]
    assert sorted(continual.mix(new), key=new.index) == new, "nothing is old at first"
    continual.history = [Comparison("old", str(i), "") for i in range(50)]
    mixed = continual.mix(new)
    old = [c for c in mixed if c.prompt == "old"]
    assert (len(mixed), len(old), len(set(old))) == (20, 2, 2)
    assert set(new) <= set(mixed)


def test_training_learns_the_comparisons_and_remembers_them():
    continual = ContinualRewardModel(reward_model(), learning_rate=1e-2)
    losses = [continual.train(PAIRS) for _ in range(8)]
    assert losses[-1] < 0.5 * losses[0]
    assert continual.history == PAIRS * 8
    assert continual.train([]) is None


@pytest.mark.parametrize(
    ("every", "step", "words"), [(None, 0, "set ref_model_reset_steps"), (5, 3, "cannot be resumed")]
)
def test_a_run_that_it_cannot_follow_is_refused(every, step, words):
    callback = IterateRewardModel(ContinualRewardModel(reward_model()), lambda _, texts: [0.0] * len(texts))
    with pytest.raises(ConfigError, match=words):
        callback.on_train_begin(SimpleNamespace(ref_model_reset_steps=every), SimpleNamespace(global_step=step), None)


def test_the_example_teaches_the_reward_model_and_through_it_the_policy(tmp_path):
    path = Path(__file__).parents[2] / "examples" / "iterative_grpo.py"
    spec = importlib.util.spec_from_file_location("iterative_grpo", path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    _, callback = example.main(str(tmp_path / "run"))
    reader = RunReader(tmp_path / "run")

    def wanted(steps: Any) -> float:
        texts = [c["text"] for step in steps for g in reader.completions(step) for c in g["completions"]]
        return sum(text.count("a") for text in texts) / len(texts)

    assert len(callback.losses) == 4
    assert callback.losses[-1] < callback.losses[0]
    assert wanted(range(16, 21)) > 2 * wanted(range(1, 6))
    kl = [m["kl"] for m in reader.metrics()]
    assert all(kl[i] == pytest.approx(0, abs=1e-5) for i in (0, 5, 10, 15)), "the reference was just reset"
