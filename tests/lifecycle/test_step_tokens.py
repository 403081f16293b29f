"""The per-token record of real runs: its numbers are those of the metrics and of the groups beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from api_helpers import CHATS, trainer
from histories import history, token_records
from tiny import tiny_model, with_lora

from groupwise.environments import Observation
from groupwise.runs.folder import RunFolder
from groupwise.runs.reader import RunReader
from groupwise.runs.token_record import TokenRecord, read_token_record


def letters(completions: list[Any], **_: Any) -> list[float]:
    return [float(sum(map(ord, str(completion))) % 17) for completion in completions]


def run(folder: Path, rewards: Any = letters, **settings: Any) -> Any:
    rest = settings.pop("rest", None)
    data = settings.pop("data", None)
    made = trainer(
        folder, rewards=rewards, rest=rest, **({} if data is None else {"data": data}), **{"max_steps": 3, **settings}
    )
    made.train()
    return made


def records(folder: Path, step: int) -> tuple[TokenRecord, list[Any]]:
    """The record of a step and the completions that it is of."""
    found = read_token_record(RunFolder(folder), step)
    assert found is not None
    return found, [c for group in RunReader(folder).completions(step) for c in group["completions"]]


def test_it_has_the_log_probs_of_every_completion_and_the_ratios_of_the_kl(tmp_path: Path) -> None:
    run(tmp_path, beta=0.04, learning_rate=3e-2)
    for step, metrics in zip((1, 2, 3), history(tmp_path), strict=True):
        found, completions = records(tmp_path, step)
        assert found.lengths.tolist() == [len(c["ids"]) for c in completions]
        means = [float(found.of_completion(i)["logprob"].astype(float).mean()) for i in range(len(completions))]
        assert means == pytest.approx([c["logprob_mean"] for c in completions], abs=5e-3)
        assert found.ref_log_ratio is not None
        ratios = found.ref_log_ratio.astype(float)
        assert np.abs(ratios).max() < 1e-5 if step == 1 else np.abs(ratios).max() > 1e-2
        assert ratios.mean() == pytest.approx(metrics["kl/k1"], abs=2e-3)
        assert np.mean(np.expm1(-ratios) + ratios) == pytest.approx(metrics["kl"], rel=2e-2, abs=1e-5)
        assert found.advantage is None


@pytest.mark.parametrize(
    "settings", [{"num_minibatches": 2}, {"num_iterations": 2}, {"micro_batch_tokens": 1}], ids=str
)
def test_the_ratio_is_that_of_the_policy_that_sampled(tmp_path: Path, settings: dict[str, Any]) -> None:
    run(tmp_path, beta=0.04, max_steps=1, learning_rate=3e-2, **settings)
    found, _ = records(tmp_path, 1)
    assert found.ref_log_ratio is not None
    assert np.abs(found.ref_log_ratio).max() < 1e-4, "the first update of a step has not moved it"


def test_what_was_not_scored_is_absent(tmp_path: Path) -> None:
    run(tmp_path / "a", beta=0.0)
    assert records(tmp_path / "a", 3)[0].ref_log_ratio is None
    run(tmp_path / "b", beta=0.0, kl_metric_steps=2)
    assert records(tmp_path / "b", 1)[0].ref_log_ratio is None
    assert records(tmp_path / "b", 2)[0].ref_log_ratio is not None


def test_groups_that_were_dropped_have_log_probs_alone(tmp_path: Path) -> None:
    def by_prompt(prompts: list[Any], completions: list[Any], **_: Any) -> list[float]:
        return [len(str(c)) * ("o" in str(p)) for p, c in zip(prompts, completions, strict=True)]

    run(tmp_path, by_prompt, beta=0.04, dynamic_sampling=True, max_steps=1)
    groups = RunReader(tmp_path).completions(1)
    is_used = [group["is_used"] for group in groups for _ in group["completions"]]
    assert not all(is_used)
    found, completions = records(tmp_path, 1)
    for number, used in enumerate(is_used):
        part = found.of_completion(number)
        assert len(part["logprob"]) == len(completions[number]["ids"])
        assert not np.isnan(part["logprob"]).any()
        assert np.isnan(part["ref_log_ratio"]).any() == np.isnan(part["ref_log_ratio"]).all() == (not used)


def test_truncated_completions_that_are_masked_have_no_ratio(tmp_path: Path) -> None:
    run(tmp_path, beta=0.04, mask_truncated=True, max_steps=1, num_generations=4)
    found, completions = records(tmp_path, 1)
    cut = [c["stop_reason"] == "length" for c in completions]
    assert sum(cut) > 0
    for number, is_cut in enumerate(cut):
        assert np.isnan(found.of_completion(number)["ref_log_ratio"]).all() == is_cut


def test_advantages_are_there_where_they_differ_by_token(tmp_path: Path) -> None:
    run(tmp_path, process_rewards=True, beta=0.0)
    found, completions = records(tmp_path, 3)
    assert found.advantage is not None
    means = [float(found.of_completion(i)["advantage"].mean()) for i in range(len(completions))]
    assert means == pytest.approx([c["advantage"] for c in completions], abs=2e-3)


def test_of_turns_the_sampled_tokens_count(tmp_path: Path) -> None:
    class Echo:
        def reset(self, problem: Any, seed: int) -> Any:
            self.turn = 0
            return None

        async def step(self, reply: Any) -> Observation:
            self.turn += 1
            return Observation(
                [{"role": "user", "content": "go on"}], reward=float(len(reply.text)), done=self.turn == 2
            )

        def close(self) -> None: ...

    settings = {"max_completion_length": 60, "max_turn_length": 4, "max_steps": 1, "beta": 0.04}
    run(tmp_path, None, data=CHATS, rest={"environment": Echo}, **settings)
    found, completions = records(tmp_path, 1)
    turns = [sum(turn["end"] - turn["start"] for turn in c["turns"]) for c in completions]
    assert found.lengths.tolist() == turns
    assert all(length < len(c["ids"]) for length, c in zip(turns, completions, strict=True))
    assert (found.logprob < 0).all(), "a given token has log-prob 0"
    assert found.ref_log_ratio is not None
    assert not np.isnan(found.ref_log_ratio).any()


@pytest.mark.parametrize(("every", "steps"), [(0, []), (2, [2]), (1, [1, 2, 3])])
def test_every_so_many_steps_have_one(tmp_path: Path, every: int, steps: list[int]) -> None:
    run(tmp_path, log_token_stats_steps=every)
    assert RunFolder(tmp_path).token_steps() == steps
    assert RunFolder(tmp_path).completion_steps() == [1, 2, 3]


def test_recording_changes_nothing_else(tmp_path: Path) -> None:
    base = {"beta": 0.04, "model": with_lora(tiny_model())}
    run(tmp_path / "with", **base)
    run(tmp_path / "without", log_token_stats_steps=0, **{**base, "model": with_lora(tiny_model())})
    assert history(tmp_path / "with") == history(tmp_path / "without")
    weights = [(tmp_path / name / "final/adapter_model.safetensors").read_bytes() for name in ("with", "without")]
    assert weights[0] == weights[1]
    assert len(token_records(tmp_path / "with")) == 3
