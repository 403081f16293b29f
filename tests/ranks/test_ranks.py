"""One rank, two and four make the same run; what one of them meets ends all of them, and loses nothing."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch

from tests.histories import completions, history
from tests.ranks.launching import Launch, Launched, launch_all, long_runs

pytestmark = [pytest.mark.slow, long_runs]

DYNAMIC = {"seed": 5, "is_sparse": True, "dynamic_sampling": True, "num_minibatches": 1}
LONG_AND_SHORT = {"max_completion_length": 48, "num_minibatches": 1, "num_iterations": 1, "micro_batch_tokens": 60}
FEW_ROWS = {"prompts_per_step": 1, "num_generations": 2, "num_minibatches": 1, "micro_batch_tokens": 4096}
SAVED = {"save_strategy": "steps", "save_steps": 1}
AHEAD = {"rollout_lag": 1, "max_steps": 4, "dynamic_sampling": True}
SERVED_PLAY = {"max_completion_length": 40, "max_turn_length": 4, "max_steps": 2}
PLAYED = {**SAVED, "lr_scheduler_type": "constant"}
PLAYED_ON = {**PLAYED, "resume": True}
FAULTS = ("raises", "is killed", "is stopped", "hangs", "drifts")


def _alike(name: str, sizes: tuple[int, ...], settings: dict[str, Any]) -> list[Launch]:
    return [Launch(f"{name} {size}", size, "trains", settings) for size in sizes]


def _fault(kind: str, rank: int, **more: Any) -> Launch:
    """One that goes on afterwards where rank 1 was at fault; `make ranks` does so for every rank."""
    resume = Launch("", 2, "resumes", {**SAVED, "max_steps": 6}) if rank else None
    return Launch(f"{kind} {rank}", 2, "fails", {"kind": kind, "rank": rank, "step": 3, **more}, then=resume)


LAUNCHES = [
    *[_fault(kind, rank) for kind in ("hangs", "is stopped", "raises", "is killed", "drifts") for rank in (1, 0)],
    Launch("shares", 2, "shares"),
    Launch("evaluates", 2, "evaluates"),
    *_alike("plain", (1, 2, 4), {}),
    Launch("again 2", 2, "lives_on", {}),
    *_alike("lora", (1, 2), {"lora": True, "beta": 0.04}),
    *_alike("dynamic", (1, 2), DYNAMIC),
    *_alike("long", (1, 4), LONG_AND_SHORT),
    *_alike("few", (1, 4), FEW_ROWS),
    *_alike("synced", (1, 2), {"sync_ref_model": True, "ref_model_sync_steps": 2, "beta": 0.04}),
    *_alike("entropy", (1, 2), {"objective": "entropy_8020"}),
    *[Launch(f"plays {size}", size, "plays", PLAYED) for size in (1, 2)],
    Launch(
        "plays 2 then 1 then 2",
        2,
        "plays",
        {**PLAYED, "max_steps": 1},
        then=Launch("", 1, "plays", {**PLAYED_ON, "max_steps": 2}, then=Launch("", 2, "plays", PLAYED_ON)),
    ),
    *[Launch(f"served ahead {size}", size, "serves", {**SAVED, **AHEAD}) for size in (1, 2)],
    *[Launch(f"served whole {size}", size, "serves", {"lora": False, "shard": "full"}) for size in (1, 2)],
    *[Launch(f"served episodes {size}", size, "serves", {**SERVED_PLAY, "plays": True}) for size in (1, 2)],
    Launch(
        "served 2 then 1",
        2,
        "serves",
        {**SAVED, **AHEAD, "stop": 2},
        then=Launch("", 1, "serves", {**SAVED, **AHEAD, "resume": True}),
    ),
    Launch("dies in an episode", 2, "plays", {**PLAYED, "kill": 1}),
    *_alike("uninterrupted", (2,), {**SAVED, "max_steps": 6}),
    Launch("other settings", 2, "fails", {"kind": "other settings", "rank": 1, "step": 1}),
    Launch("other weights", 2, "fails", {"kind": "other weights", "rank": 1, "step": 1}),
    Launch(
        "4 then 2 then 1",
        4,
        "trains",
        {**SAVED, "max_steps": 2},
        then=Launch("", 2, "resumes", {**SAVED, "max_steps": 4}, Launch("", 1, "resumes", {**SAVED, "max_steps": 6})),
    ),
]


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Launched]:
    return launch_all(tmp_path_factory.mktemp("ranks"), LAUNCHES, timeout=900)


def weights(launched: Launched, rank: int = 0) -> dict[str, torch.Tensor]:
    return torch.load(launched.folder / f"weights-{rank}.pt")  # type: ignore[no-any-return]


def largest_difference(one: Launched, other: Launched) -> float:
    mine, theirs = weights(one), weights(other)
    assert mine.keys() == theirs.keys()
    return max(float((mine[name] - theirs[name]).abs().max()) for name in mine)


def ids(launched: Launched) -> list[Any]:
    """Token ids of every completion of the run."""
    lines = [line for text in completions(launched.folder / "run").values() for line in text.splitlines()]
    return [[c["ids"] for c in json.loads(line)["completions"]] for line in lines]


def all_well(launched: Launched) -> bool:
    return all(code == 0 for codes in launched.codes for code in codes)


def test_ranks_share_gather_and_sum(launched: dict[str, Launched]) -> None:
    found = launched["shares"]
    assert all_well(found), found.output
    for rank in range(2):
        result = found.result(rank)
        assert result["shared"] == {"from": 0}
        assert result["gathered"] == [0, 10]
        assert result["sums"] == [[3.0] * 3, [[2.0] * 2] * 2, [pytest.approx(0.2)]]
        assert result["taken"] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("plain", (1, 2, 4)),
        ("lora", (1, 2)),
        ("dynamic", (1, 2)),
        ("long", (1, 4)),
        ("few", (1, 4)),
        ("synced", (1, 2)),
        ("entropy", (1, 2)),
    ],
)
def test_the_number_of_ranks_changes_neither_tokens_nor_weights(
    launched: dict[str, Launched], name: str, sizes: tuple[int, ...]
) -> None:
    one = launched[f"{name} 1"]
    for size in sizes[1:]:
        several = launched[f"{name} {size}"]
        assert all_well(several), several.output
        assert ids(several) == ids(one)
        assert largest_difference(several, one) < 1e-5
        for mine, theirs in zip(history(several.folder / "run"), history(one.folder / "run"), strict=True):
            assert mine.keys() == theirs.keys()
            for key in ("loss", "kl", "grad_norm", "reward", "reward_std", "clip_ratio/region_mean", "num_tokens"):
                assert (mine[key], key) == (theirs[key] and pytest.approx(theirs[key], rel=1e-4, abs=1e-6), key)


def played(launched: Launched) -> list[Any]:
    """Tokens, messages, turns and rewards of every completion, without the seconds of the environments."""
    lines = [line for text in completions(launched.folder / "run").values() for line in text.splitlines()]
    keys = ("ids", "text", "stop_reason", "rewards", "messages", "turns")
    found = [[each.get(key) for key in keys] for line in lines for each in json.loads(line)["completions"]]
    for *_, turns in found:
        assert turns
        for turn in turns:
            del turn["seconds"]
    return found


def test_every_rank_plays_the_episodes_of_its_own_completions(launched: dict[str, Launched]) -> None:
    one, two = launched["plays 1"], launched["plays 2"]
    assert all_well(two), two.output
    assert played(two) == played(one)
    assert largest_difference(two, one) < 1e-5
    for mine, theirs in zip(history(two.folder / "run"), history(one.folder / "run"), strict=True):
        for key in ("loss", "grad_norm", "reward", "eval_reward", "eval_greedy_reward", "num_tokens"):
            assert (mine.get(key), key) == (theirs.get(key) and pytest.approx(theirs[key], rel=1e-4, abs=1e-6), key)


def test_episodes_go_on_on_other_ranks(launched: dict[str, Launched]) -> None:
    moved, stayed = launched["plays 2 then 1 then 2"], launched["plays 2"]
    assert all_well(moved), moved.output
    assert played(moved) == played(stayed)
    assert largest_difference(moved, stayed) < 2e-5


def test_a_rank_that_dies_in_an_episode_ends_all_and_is_named(launched: dict[str, Launched]) -> None:
    """`make ranks` resumes such runs."""
    found = launched["dies in an episode"]
    assert all(code != 0 for code in found.codes[0]), found.output
    assert found.seconds[0] < 60
    assert re.search(r"Rank 1 .* is gone", found.output), found.output
    assert (found.folder / "run" / "checkpoint-1").is_dir()


@pytest.mark.parametrize("name", ["served ahead", "served whole", "served episodes"])
def test_servers_answer_rank_0_and_every_rank_learns(launched: dict[str, Launched], name: str) -> None:
    one, two = launched[f"{name} 1"], launched[f"{name} 2"]
    assert all_well(one), one.output
    assert all_well(two), two.output
    assert ids(two) == ids(one)
    assert largest_difference(two, one) < 1e-5
    mine = weights(two)
    assert all(torch.equal(mine[key], theirs) for key, theirs in weights(two, 1).items())


def test_collections_ahead_go_on_on_other_ranks(launched: dict[str, Launched]) -> None:
    moved, stayed = launched["served 2 then 1"], launched["served ahead 2"]
    assert all_well(moved), moved.output
    assert ids(moved) == ids(stayed)
    assert largest_difference(moved, stayed) < 2e-5


def test_every_rank_ends_with_the_same_bits(launched: dict[str, Launched]) -> None:
    for name in ("plain 2", "plain 4", "lora 2"):
        first = weights(launched[name])
        for rank in range(1, int(name[-1])):
            assert all(torch.equal(first[key], theirs) for key, theirs in weights(launched[name], rank).items())


def test_at_the_same_number_of_ranks_a_run_is_the_same_to_the_bit(launched: dict[str, Launched]) -> None:
    assert largest_difference(launched["plain 2"], launched["again 2"]) == 0.0
    assert history(launched["plain 2"].folder / "run") == history(launched["again 2"].folder / "run")


def test_only_rank_0_writes(launched: dict[str, Launched]) -> None:
    """How often each rank changed something on the disk."""
    assert launched["again 2"].result(0) > 0
    assert launched["again 2"].result(1) == 0


def test_dynamic_sampling_drew_again(launched: dict[str, Launched]) -> None:
    lines = [json.loads(x) for t in completions(launched["dynamic 2"].folder / "run").values() for x in t.splitlines()]
    assert any(not line["is_used"] for line in lines)


def test_a_script_gets_on_every_rank_what_rank_0_found(launched: dict[str, Launched]) -> None:
    found = launched["evaluates"]
    assert all_well(found), found.output
    first, second = found.result(0), found.result(1)
    assert first["rewards"] == second["rewards"]
    assert first["log"] == second["log"] > 3
    assert "model.safetensors" in second["files"]
    assert (first["flags"], second["flags"]) == ([True, True, 2], [False, False, 2])


def test_checkpoints_do_not_know_the_number_of_ranks(launched: dict[str, Launched]) -> None:
    moved, stayed = launched["4 then 2 then 1"], launched["uninterrupted 2"]
    assert all_well(moved), moved.output
    assert ids(moved) == ids(stayed)
    assert largest_difference(moved, stayed) < 2e-5


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_of_one_rank_ends_all_and_names_it(launched: dict[str, Launched], kind: str, rank: int) -> None:
    found, stayed = launched[f"{kind} {rank}"], launched["uninterrupted 2"]
    assert all(code != 0 for code in found.codes[0]), found.output
    assert found.seconds[0] < 60
    words = {
        "raises": f"Rank {rank} .* has failed: ValueError: this pass cannot be computed",
        "is killed": f"Rank {rank} .* is gone",
        "is stopped": f"Rank {rank} .*has given no sign of life",
        "hangs": f"Rank {rank} .* hangs in learning",
        "drifts": "Rank 1 holds other weights than rank 0: model.embed_tokens.weight differs",
    }
    assert re.search(words[kind], found.output), found.output
    if rank:
        assert found.codes[1] == [0, 0], found.output
        assert ids(found) == ids(stayed)
        assert largest_difference(found, stayed) == 0.0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("other settings", "Rank 1 was started with learning_rate 0.003, rank 0 with 0.0003"),
        ("other weights", "Rank 1 holds other weights than rank 0"),
    ],
)
def test_ranks_that_were_started_differently_are_refused(launched: dict[str, Launched], name: str, words: str) -> None:
    found = launched[name]
    assert all(code != 0 for code in found.codes[0]), found.output
    assert words in found.output
    assert not list((found.folder / "run").glob("checkpoint-*"))
