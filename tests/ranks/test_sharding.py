"""Weights in shards make the run that whole ones make; numbers in comments are those of the list of traps."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from groupwise.runs.reader import RunReader
from tests.histories import history
from tests.ranks.launching import Launch, Launched, launch_all, long_runs
from tests.ranks.test_ranks import FEW_ROWS, LONG_AND_SHORT, SAVED, all_well, ids, largest_difference, weights

pytestmark = [pytest.mark.slow, long_runs]

FULL = {"shard": "full"}
TIED = {"model": "llama-tied", "beta": 0.04}
MORE = {"optim": "sgd", "learning_rate": 0.05, "gradient_checkpointing": True, "max_grad_norm": 0.3}
ALIKE: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "plain": ((2, 4), {}),
    "tied": ((2, 4), TIED),
    "few": ((4,), FEW_ROWS),
    "long": ((4,), LONG_AND_SHORT),
    "lora": ((2,), {"lora": True}),
    "experts": ((2,), {"model": "qwen3-moe", "num_iterations": 1}),
    "more": ((2,), MORE),
}


def _fault(kind: str, rank: int) -> Launch:
    resume = Launch("", 2, "resumes", {**FULL, **SAVED, "max_steps": 6})
    return Launch(f"{kind} {rank}", 2, "fails", {"kind": kind, "rank": rank, "step": 3, "with": FULL}, then=resume)


LAUNCHES = [
    *[_fault(kind, rank) for kind, rank in (("hangs", 1), ("is killed", 1), ("is stopped", 1), ("raises", 0))],
    *[Launch(f"{name} whole", 1, "trains", settings) for name, (_, settings) in ALIKE.items()],
    *[
        Launch(f"{name} {size}", size, "trains", {**settings, **FULL})
        for name, (sizes, settings) in ALIKE.items()
        for size in sizes
    ],
    Launch("again 2", 2, "trains", FULL),
    Launch("alone", 1, "trains", FULL),
    Launch("saved 2", 2, "trains", {**FULL, **SAVED, "max_steps": 6}),
    Launch("uninterrupted", 2, "trains", {**TIED, **SAVED, "max_steps": 8}),
    Launch(
        "moves",
        4,
        "trains",
        {**FULL, **TIED, **SAVED, "max_steps": 2},
        then=Launch(
            "",
            2,
            "resumes",
            {**FULL, **TIED, **SAVED, "max_steps": 4},
            then=Launch(
                "",
                1,
                "resumes",
                {**FULL, **TIED, **SAVED, "max_steps": 6},
                then=Launch("", 2, "resumes", {**TIED, **SAVED, "max_steps": 8}),
            ),
        ),
    ),
    Launch(
        "into shards",
        2,
        "trains",
        {**TIED, **SAVED, "max_steps": 4},
        then=Launch("", 4, "resumes", {**FULL, **TIED, **SAVED, "max_steps": 8}),
    ),
    Launch("low whole", 2, "trains", {**FULL, **SAVED, "dtype": "bfloat16", "max_steps": 4}),
    Launch(
        "low resumed",
        2,
        "trains",
        {**FULL, **SAVED, "dtype": "bfloat16", "max_steps": 2},
        then=Launch("", 2, "resumes", {**FULL, **SAVED, "dtype": "bfloat16", "max_steps": 4}),
    ),
    Launch("evaluates", 2, "evaluates", FULL),
    Launch("overflows", 2, "fails", {"kind": "overflows", "rank": 1, "step": 2, "with": {**FULL, "max_steps": 2}}),
    Launch("holds", 2, "holds", {**FULL, "max_steps": 1}),
    Launch("holds low", 2, "holds", {**FULL, "max_steps": 1, "dtype": "bfloat16"}),
    Launch("slow path", 2, "trains", {**FULL, "model": "lfm2"}),
]


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Launched]:
    return launch_all(tmp_path_factory.mktemp("sharding"), LAUNCHES, timeout=1500)


@pytest.mark.parametrize("name", list(ALIKE))
def test_shards_change_neither_tokens_nor_weights(launched: dict[str, Launched], name: str) -> None:
    """Trap 32: "few" leaves ranks without a pass, "long" gives them different numbers of passes. Trap 31: a mean over
    the ranks would be half of the sum. "experts": an expert may get no token on one rank."""
    whole = launched[f"{name} whole"]
    for size in ALIKE[name][0]:
        sharded = launched[f"{name} {size}"]
        assert all_well(sharded), sharded.output
        assert ids(sharded) == ids(whole)
        assert largest_difference(sharded, whole) < 1e-5
        for mine, theirs in zip(history(sharded.folder / "run"), history(whole.folder / "run"), strict=True):
            for key in ("loss", "kl", "grad_norm", "reward", "clip_ratio/region_mean"):
                assert (mine[key], key) == (theirs[key] and pytest.approx(theirs[key], rel=1e-4, abs=1e-6), key)


def test_every_rank_samples_with_the_same_bits(launched: dict[str, Launched]) -> None:
    first = weights(launched["plain 4"])
    for rank in range(1, 4):
        assert all(torch.equal(first[key], theirs) for key, theirs in weights(launched["plain 4"], rank).items())


def test_a_sharded_run_is_the_same_to_the_bit_again(launched: dict[str, Launched]) -> None:
    assert largest_difference(launched["plain 2"], launched["again 2"]) == 0.0


def test_checkpoints_know_neither_shards_nor_ranks(launched: dict[str, Launched]) -> None:
    stayed = launched["uninterrupted"]
    for name in ("moves", "into shards"):
        moved = launched[name]
        assert all_well(moved), moved.output
        assert ids(moved) == ids(stayed)
        assert largest_difference(moved, stayed) < 2e-5


def test_rank_0_writes_whole_weights(launched: dict[str, Launched]) -> None:
    """Trap 41: a checkpoint and a saved model hold what all ranks hold, not the shards of rank 0."""
    found = launched["saved 2"]
    assert all_well(found), found.output
    held = weights(found)
    for folder in ("checkpoint-6", "final"):
        model = transformers.AutoModelForCausalLM.from_pretrained(found.folder / "run" / folder)
        assert all(torch.equal(tensor, held[name]) for name, tensor in model.named_parameters())
    moments = load_file(found.folder / "run/checkpoint-6/state/optimizer.safetensors")
    whole = sorted(tuple(tensor.shape) for tensor in held.values())
    assert sorted(tuple(t.shape) for name, t in moments.items() if name.endswith("exp_avg")) == whole


def test_checkpoints_hold_the_float32_values_that_no_rank_has_whole(launched: dict[str, Launched]) -> None:
    """The weights that a rank samples with are bfloat16 here, and a run that goes on from them would be another one."""
    stayed, resumed = launched["low whole"], launched["low resumed"]
    assert all_well(resumed), resumed.output
    final, held = (load_file(run.folder / "run/final/model.safetensors") for run in (stayed, resumed))
    assert all(torch.equal(final[name], held[name]) for name in final)
    name = "model.layers.0.mlp.down_proj.weight"
    assert (final[name].dtype, weights(stayed)[name].dtype) == (torch.float32, torch.bfloat16)
    assert not torch.equal(final[name], weights(stayed)[name].float())


def test_a_tied_embedding_stays_tied(launched: dict[str, Launched]) -> None:
    """Trap 40: one weight is trained and stored, as without shards."""
    assert weights(launched["tied 4"]).keys() == weights(launched["tied whole"]).keys()
    assert "lm_head.weight" not in weights(launched["tied 4"])
    assert "lm_head.weight" not in load_file(launched["moves"].folder / "run/checkpoint-2/model.safetensors")


def test_a_script_saves_and_evaluates_as_without_shards(launched: dict[str, Launched]) -> None:
    found = launched["evaluates"]
    assert all_well(found), found.output
    assert found.result(0)["rewards"] == found.result(1)["rewards"]
    saved = transformers.AutoModelForCausalLM.from_pretrained(found.folder / "saved")
    plain = weights(launched["plain 2"])
    assert all(torch.equal(tensor, plain[name]) for name, tensor in saved.named_parameters())


@pytest.mark.parametrize(("kind", "rank"), [("hangs", 1), ("is killed", 1), ("is stopped", 1), ("raises", 0)])
def test_a_fault_ends_all_ranks_and_loses_nothing(launched: dict[str, Launched], kind: str, rank: int) -> None:
    """Trap 36."""
    found = launched[f"{kind} {rank}"]
    assert all(code != 0 for code in found.codes[0]), found.output
    assert found.seconds[0] < 60
    assert re.search(f"Rank {rank} ", found.output), found.output
    assert found.codes[1] == [0, 0], found.output
    assert largest_difference(found, launched["saved 2"]) == 0.0


def test_a_gradient_that_is_not_finite_on_one_rank_is_skipped_on_all(launched: dict[str, Launched]) -> None:
    """Trap 38: rank 1 alone has the number, and both leave the update out and name the weight."""
    found = launched["overflows"]
    assert found.codes[0] == [1, 1]
    assert found.output.count("errors.GuardError: Guard non_finite (stop) at step 2: 6 updates in a row") == 2
    skipped = [event for event in RunReader(found.folder / "run").events() if event["kind"] == "update_skipped"]
    assert [event["num_skipped"] for event in skipped] == [6]
    assert "the gradient of model.embed_tokens.weight is not finite" in skipped[0]["message"]


@pytest.mark.parametrize("name", ["holds", "holds low"])
def test_the_plan_is_what_a_rank_holds(launched: dict[str, Launched], name: str) -> None:
    found = launched[name]
    assert all_well(found), found.output
    for rank in range(2):
        plan, held = found.result(rank)["plan"], found.result(rank)["held"]
        for part, size in held.items() if rank == 0 else [*held.items()][:-1]:
            assert size == pytest.approx(plan[part], rel=0.01, abs=256), (part, plan, held)


def test_one_rank_alone_has_nothing_to_shard(launched: dict[str, Launched]) -> None:
    found = launched["alone"]
    assert all_well(found), found.output
    assert "shard: full has no effect on one rank" in found.output
    assert largest_difference(found, launched["plain whole"]) == 0.0
    assert "shard: full has nothing to cut under an adapter" in launched["lora 2"].output


def test_a_model_on_the_slow_path_is_refused(launched: dict[str, Launched]) -> None:
    found = launched["slow path"]
    assert all(code != 0 for code in found.codes[0]), found.output
    assert "shard: full cannot train this model, which takes the slow path" in found.output
