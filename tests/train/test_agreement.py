"""Before the first step: engines that disagree with the learner are refused, and the likely cause is named."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from api_helpers import trainer
from tiny import tiny_model, with_lora

from groupwise.errors import GuardError
from groupwise.policy.packing import CompletionRows
from groupwise.policy.policy_model import PolicyModel, Scoring
from groupwise.rollout.native import NativeEngine
from groupwise.rollout.plain import PlainEngine
from groupwise.runs.reader import RunReader
from groupwise.types import Completion

from .guarded import letters, sabotage, said, same, weights


def shifted(by: float) -> Callable[[int, Completion], Completion]:
    return lambda version, c: replace(c, rollout_logprob=tuple(x + by for x in c.rollout_logprob))


@pytest.mark.parametrize(("by", "is_refused"), [(0.0009, False), (0.0012, True), (math.nan, True), (-math.inf, True)])
def test_engines_that_disagree_are_refused(by: float, is_refused: bool, tmp_path: Path, monkeypatch: Any) -> None:
    grpo = trainer(tmp_path, rewards=letters)
    sabotage(monkeypatch, shifted(by))
    before = weights(grpo.model)
    if not is_refused:
        grpo.train()
        assert said(tmp_path) == []
        return
    with pytest.raises(GuardError, match=r"This run was not started\. Guard agreement \(stop\): .*Likely cause: "):
        grpo.train()
    assert same(weights(grpo.model), before)
    assert RunReader(tmp_path).metrics() == []
    assert [event["guard"] for event in said(tmp_path)] == ["agreement"]


@pytest.mark.parametrize(("by", "guard"), [(0.0, None), (0.08, "precision"), (0.2, "precision_limit")])
def test_bfloat16_has_wider_bounds(by: float, guard: Any, tmp_path: Path, monkeypatch: Any) -> None:
    grpo = trainer(tmp_path, model=with_lora(tiny_model(initializer_range=0.05)), rewards=letters, dtype="bfloat16")
    sabotage(monkeypatch, shifted(by))
    if guard == "precision_limit":
        with pytest.raises(GuardError, match=r"Guard precision_limit \(stop\)"):
            grpo.train()
    else:
        grpo.train()
    assert [event["guard"] for event in said(tmp_path) if event["step"] == 0] == ([] if guard is None else [guard])


CAUSES: dict[str, tuple[dict[str, Any], str]] = {
    "temperature": ({"temperature": 0.6}, "leave the temperature out"),
    "penalty": ({"repetition_penalty": 1.5}, "leave the repetition penalty out"),
    "kept": ({"top_k": 5}, "not of what top_k, top_p or min_p keep"),
    "adapter": ({}, "samples without the adapter"),
    "other": ({}, "samples from other weights"),
}


@pytest.mark.parametrize("name", CAUSES)
def test_the_likely_cause_is_named(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    settings, cause = CAUSES[name]
    model = with_lora(tiny_model()) if name == "adapter" else tiny_model()
    data = [{"prompt": "say one"}] * 6  # rescored with the one prompt that there is
    grpo = trainer(tmp_path, model=model, rewards=letters, data=data, **settings)
    scores = _as_if(name, grpo)
    sabotage(monkeypatch, scores)
    with pytest.raises(GuardError, match=cause):
        grpo.train()


def _as_if(name: str, grpo: Any) -> Callable[[int, Completion], Completion]:
    """Rescores completions the way an engine with that fault would."""
    base = tiny_model(seed=5) if name == "other" else grpo.model
    config = grpo.args
    temperature = 1.0 if name == "temperature" else config.temperature
    scoring = Scoring(temperature, 1.0 if name == "penalty" else config.repetition_penalty)
    problems = grpo.parts.problems
    shortest = min((problems[i].prompt_ids for i in range(len(problems))), key=len)

    def rescore(version: int, c: Completion) -> Completion:
        kept = None if name == "kept" or c.kept_ids is None else [c.kept_ids]
        with base.disable_adapter() if name == "adapter" else nullcontext():
            scores = PolicyModel(base, torch.float32, None).score(
                CompletionRows([shortest], [c.token_ids], [0], kept), scoring
            )
        return replace(c, rollout_logprob=tuple(scores.logprob_NT[0].tolist()))

    return rescore


def test_the_slow_path_is_compared_in_float32_too(tmp_path: Path, monkeypatch: Any) -> None:
    generate = PlainEngine.generate

    def wrong(self: PlainEngine, requests: Any) -> Any:
        for number, found in generate(self, requests):
            yield number, [shifted(0.01)(0, c) for c in found]

    monkeypatch.setattr(PlainEngine, "generate", wrong)
    settings = {"engine": "transformers", "dtype": "bfloat16"}
    grpo = trainer(tmp_path, model=tiny_model(initializer_range=0.05), rewards=letters, **settings)
    with pytest.raises(GuardError, match=r"Guard agreement \(stop\)"):
        grpo.train()


def test_what_is_off_is_not_even_sampled_and_the_check_changes_no_bit(tmp_path: Path, monkeypatch: Any) -> None:
    requests: list[int] = []
    generate = NativeEngine.generate

    def counted(self: NativeEngine, asked: Any) -> Any:
        requests.append(len(asked))
        return generate(self, asked)

    monkeypatch.setattr(NativeEngine, "generate", counted)
    models = []
    for number, written in enumerate(("off", {})):
        grpo = trainer(tmp_path / str(number), rewards=letters, guards=written)
        requests.clear()
        grpo.train()
        models.append(weights(grpo.model))
        assert requests == ([2] if number else []) + [2, 2]
    assert same(*models)


def after(tokens: int) -> Callable[[int, Completion], Completion]:
    """An engine that is wrong from that token on."""
    return lambda version, c: replace(
        c, rollout_logprob=tuple(x + 0.5 * (t >= tokens) for t, x in enumerate(c.rollout_logprob))
    )


def from_step(step: int) -> Callable[[int, Completion], Completion]:
    """Weights that are no longer taken over, say: wrong from a step on."""
    return lambda version, c: shifted(0.5)(version, c) if version >= step - 1 else c


def test_an_engine_that_is_wrong_for_the_longest_prompt_alone_is_refused(tmp_path: Path, monkeypatch: Any) -> None:
    generate = NativeEngine.generate

    def wrong(self: NativeEngine, requests: Any) -> Any:
        for number, found in generate(self, requests):
            is_long = len(requests[number].prompt_ids) > 20
            yield number, [shifted(0.5)(0, c) if is_long else c for c in found]

    monkeypatch.setattr(NativeEngine, "generate", wrong)
    data = [{"prompt": "say one"}] * 5 + [{"prompt": "say it with many more words"}]
    with pytest.raises(GuardError, match=r"This run was not started\. Guard agreement"):
        trainer(tmp_path, rewards=letters, data=data).train()


@pytest.mark.parametrize(("change", "step"), [(after(20), 1), (from_step(3), 3)])
def test_a_gap_that_begins_late_ends_the_run_in_its_step(
    change: Any, step: int, tmp_path: Path, monkeypatch: Any
) -> None:
    grpo = trainer(tmp_path, rewards=letters, max_completion_length=40, max_steps=6, learning_rate=1e-4)
    sabotage(monkeypatch, change)
    with pytest.raises(GuardError, match=rf"Guard gap \(rollback\) at step {step}: "):
        grpo.train()
    assert [metrics["step"] for metrics in RunReader(tmp_path).metrics()] == list(range(1, step + 1))


def test_bfloat16_may_differ_by_more_in_every_step(tmp_path: Path, monkeypatch: Any) -> None:
    grpo = trainer(tmp_path, model=tiny_model(initializer_range=0.05), rewards=letters, dtype="bfloat16")
    sabotage(monkeypatch, after(2))
    with pytest.raises(GuardError, match=r"Guard (gap|precision_limit)"):
        grpo.train()
    calm = trainer(tmp_path / "calm", model=tiny_model(initializer_range=0.05), rewards=letters, dtype="bfloat16")
    calm.train()


@pytest.mark.parametrize("settings", [{"anchor": "rollout"}, {}, {"objective": "cispo"}])
def test_updates_of_a_step_are_no_gap_of_its_engine(settings: dict[str, Any], tmp_path: Path) -> None:
    trainer(tmp_path, rewards=letters, num_iterations=3, learning_rate=1e-2, **settings).train()
    assert max(metrics["sampling/mismatch"] for metrics in RunReader(tmp_path).metrics()) < 1.0001
