"""The scripts of bench/ start, deal out rewards fairly, and render what they measured."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from scored import scored_group
from tiny import tiny_model, tiny_tokenizer

from groupwise.config import load_recipe
from groupwise.rewards.scorer import ScoredGroups
from groupwise.types import Problem

BENCH = Path(__file__).resolve().parent.parent / "bench"
SCRIPTS = (
    "peers", "step_vs_trl", "rollout_vs_vllm", "engine", "base_vs_trained", "demo_seeds", "negative_controls",
    "resuming", "run_recipe", "table", "task_recipes", "choosing", "gpu", "gpu_profile", "scaling", "ranks",
    "environments",
    "agents", "sessions", "doctor", "token_record", "watch",
)  # fmt: skip


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a script of bench/ as it runs: its own folder first on the path."""
    monkeypatch.syspath_prepend(str(BENCH))

    def load_script(name: str) -> ModuleType:
        for shared in ("common", "peers", "runs"):
            monkeypatch.delitem(sys.modules, shared, raising=False)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return importlib.import_module(name)

    return load_script


def test_readme_names_every_command() -> None:
    text = (BENCH / "README.md").read_text()
    assert [name for name in SCRIPTS if name != "run_recipe" and f"bench/{name}.py" not in text] == []


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_works(name: str) -> None:
    found = subprocess.run([sys.executable, str(BENCH / f"{name}.py"), "--help"], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert f"{name}.py" in found.stdout


def machine() -> dict[str, Any]:
    return {"cores": 2, "cpu": "a CPU"}


def header(command: str) -> dict[str, Any]:
    return {"date": "2026-01-02T03:04:05+00:00", "command": f"python bench/{command}", "machine": machine()}


def spread(value: float) -> dict[str, float]:
    return {"min": value, "median": value, "max": value, "count": 1}


def side(seconds: float, gib: float) -> dict[str, Any]:
    return {"step_seconds": spread(seconds), "peak_bytes": spread(gib * 2**30), "versions": {"trl": "1.16.0"}}


RESULTS: dict[str, dict[str, Any]] = {
    "step_vs_trl": {
        **header("step_vs_trl.py"),
        "cases": {
            "case-study": {
                "case": {"title": "the case"},
                "groupwise": side(2.0, 1.25),
                "trl": side(30.0, 5.0),
                "speedup": 15.0,
                "speedup_by_round": [14.0, 16.5],
            }
        },
    },
    "engine": {
        **header("engine.py"),
        "rollout": {"8": {"tokens_per_second": 600.0, "floor_tokens_per_second": 1000.0, "share_of_floor": 0.6}},
        "learner": {
            "packed_tokens": 1280,
            "tokens_per_second": 640.0,
            "floor_seconds": spread(1.0),
            "share_of_floor": 0.5,
        },
    },
    "demo_seeds": {
        **header("demo_seeds.py"),
        "recipe": "demo.yaml",
        "seeds": {"42": {"wall_seconds": 305, "first_reward": -290, "last_10_reward": -22.5, "peak_bytes": 2**30}},
    },
    "base_vs_trained": {
        **header("base_vs_trained.py"),
        "num_prompts": 64,
        **{
            name: {"mean": 10.0, "stderr": 1.5}
            for name in ("base_sampled", "base_greedy", "trained_sampled", "trained_greedy", "merged_plain_greedy")
        },
    },
    "negative_controls": {
        **header("negative_controls.py"),
        "runs": {
            name: {"gain": gain, "stderr": None if gain == 0 else 3.0, "num_steps": 12}
            for name, gain in (("as_it_is", 120.0), ("shuffled_rewards", -4.0), ("learning_rate_0", 0.0))
        },
    },
    "rollout_vs_vllm": {
        **header("rollout_vs_vllm.py"),
        "dtype": "bfloat16",
        "rollout": {
            "8": {
                "groupwise": spread(1200.0),
                "vllm": spread(400.0),
                "speedup": 3.0,
                "speedup_by_round": [3.1, 2.9],
            }
        },
    },
    "resuming": {
        **header("resuming.py"),
        "settings": ["max_steps=20", "save_steps=10"],
        "killed_after_step": 11,
        "checkpoint_seconds": spread(0.25),
        "checkpoint_share": 0.0025,
        "resume_seconds": 9.6,
        "start_seconds": 10.2,
        "is_equal": {"metrics": True, "weights": True},
    },
}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for name, result in RESULTS.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(result))
    return tmp_path


def test_table_renders_every_result(load: Any, results: Path) -> None:
    block = load("table").render(results)
    for row in (
        "| the case | 2.00 s | 30.00 s | **15.0x** (14.0 to 16.5) | 1.25 against 5.00 GiB |",
        "| rollout, 8 completions at a time | 600 | 1,000 | 60% |",
        "| learner, 1,280 packed tokens | 640 | 1,280 | 50% |",
        "| 42 | 5:05 | -290.0 | -22.5 | 1.00 GiB |",
        "| trained, greedy | 10.0 ± 1.5 |",
        "| as it is | +120.0 ± 3.0 |",
        "| learning rate 0 | +0.0 |",
        "| 8 | 1,200 tokens/s | 400 tokens/s | **3.0x** (2.9 to 3.1) |",
        "`python bench/engine.py`, 2 cores of a CPU, 2026-01-02",
    ):
        assert row in block.splitlines()
    assert "takes 0.25 s, 0.25% of the run with one every 10 steps" in block
    assert "with the same metrics and weights at its end" in block


def test_table_leaves_out_what_was_not_measured(load: Any, results: Path) -> None:
    (results / "engine.json").unlink()
    assert "floor" not in load("table").render(results)


def test_table_refuses_a_smoke_test(load: Any, results: Path) -> None:
    (results / "engine.json").write_text(json.dumps({**RESULTS["engine"], "is_quick": True}))
    with pytest.raises(SystemExit, match="smoke test"):
        load("table").render(results)


def test_block_is_replaced_and_the_rest_kept(load: Any) -> None:
    table = load("table")
    text = f"before\n{table.OPEN}\nold \\1\n{table.CLOSE}\nafter\n"
    once = table.put(text, r"new \1")
    assert once == f"before\n{table.OPEN}\nnew \\1\n{table.CLOSE}\nafter\n"
    assert table.put(once, r"new \1") == once
    with pytest.raises(SystemExit, match="must have one"):
        table.put("no marks", "block")


def test_shuffling_deals_out_the_same_rewards_to_others(load: Any) -> None:
    groups = tuple(
        scored_group(draw, Problem(draw, "p"), (1,), (), {"length": rewards})
        for draw, rewards in enumerate([(1.0, 2.0, None), (4.0, 5.0, 6.0)])
    )

    class RewardScorer:
        functions = ("length",)

        def score(self, given: Any, *, trainer_state: Any = None) -> ScoredGroups:
            return ScoredGroups(given, {"length": 0.0})

    scorer = load("run_recipe").ShuffledScorer(RewardScorer(), seed=1)
    dealt = scorer.score(groups).groups
    flat = [r for group in dealt for r in group.reward]
    assert scorer.functions == ("length",)
    assert sorted(flat, key=str) == sorted([1.0, 2.0, None, 4.0, 5.0, 6.0], key=str)
    assert flat != [1.0, 2.0, None, 4.0, 5.0, 6.0]
    assert [group.rewards["length"] for group in dealt] == [group.reward for group in dealt]


def test_shuffling_deals_out_the_rewards_of_turns_and_leaves_their_ends(load: Any) -> None:
    rows = ((((1, 1.0), (3, 2.0)), None), (((2, None),), ((1, 4.0), (5, 5.0))))
    groups = tuple(
        replace(scored_group(draw, Problem(draw, "p"), (1,), (), {"game": (0.0, 0.0)}), steps={"game": row})
        for draw, row in enumerate(rows)
    )
    dealt = load("run_recipe")._deal_out_steps(groups, lambda count: [(i + 1) % count for i in range(count)])
    assert [group.steps["game"] for group in dealt] == [
        (((1, 2.0), (3, None)), None),
        (((2, 4.0),), ((1, 5.0), (5, 1.0))),
    ]
    assert [group.has_signal for group in dealt] == [False, True]


def test_gain_is_the_difference_over_the_last_third(load: Any) -> None:
    found = load("negative_controls").gain([-9.0, -9.0, -9.0, -9.0, -2.0, -4.0], [-9.0, -9.0, -9.0, -9.0, -8.0, -12.0])
    assert found == {"gain": 7.0, "stderr": pytest.approx(1.0)}


def test_distance_averages_a_prompt_first(load: Any) -> None:
    found = load("base_vs_trained").distances([["x" * 40, "x" * 60], ["x" * 54, "x" * 58]], 50)
    assert found["mean"] == 8.0
    assert found["stderr"] == pytest.approx(2.0)  # of 10 and 6


def test_different_work_is_an_error(load: Any) -> None:
    check = load("step_vs_trl").check_same_work
    answer = {"tokens": 10, "completion_tokens": 8, "completion_lengths": [4]}
    check({"groupwise": [answer], "trl": [answer]})
    with pytest.raises(SystemExit, match="did not do the same work"):
        check({"groupwise": [answer], "trl": [{**answer, "completion_tokens": 7}]})


def test_long_prompts_have_the_tokens_asked_for(load: Any) -> None:
    class Tokenizer:
        def encode(self, text: str, **options: Any) -> list[int]:
            return [0] * (2 if len(text) > 5 else 1)

    prompt = load("step_vs_trl")._long_prompt(iter(["one two three", "eleven twelve", "more"]), 6, Tokenizer())
    assert prompt == "one two three eleven"  # 1 + 1 + 1 + 2 tokens; the next word would need two


def test_every_run_of_a_study_samples_as_many_completions_in_as_many_steps(load: Any) -> None:
    choosing = load("choosing")
    runs = choosing.wanted(list(choosing.STUDIES))
    recipes = [load_recipe(choosing.RECIPE, list(settings)) for settings in runs.values()]
    assert {(recipe.config.completions_per_step, recipe.config.max_steps) for recipe in recipes} == {(16, 40)}
    assert len({json.dumps(recipe.resolved()) for recipe in recipes}) == len(runs), "two runs are the same"
    assert all(() in study.values() for study in choosing.STUDIES.values())
    assert next(iter(runs)) == choosing.BASELINE
    assert list(choosing.wanted(["scale"])) == ["baseline", "scale=none"]


def step_record(distance: float, **more: Any) -> dict[str, Any]:
    record = {"rewards/length/mean": distance, "rewards/regex/mean": 0.25, "frac_reward_zero_std": 0.5}
    return {**record, "step_time": 2.0, "num_tokens": 100, "kl": None, **more}


def test_a_run_is_measured_by_its_distance_and_not_by_its_reward(load: Any) -> None:
    choosing = load("choosing")
    held_out = "eval_rewards/length/mean"
    metrics = [step_record(-float(40 - step), reward=1.0) for step in range(20)]
    metrics[9]["kl"] = 0.5
    metrics[0][held_out], metrics[-1][held_out] = -44.0, -22.0
    found = choosing.measures(metrics)
    assert found["last_distance"]["mean"] == pytest.approx(-25.5)  # of -30 ... -21
    assert found["last_distance"]["stderr"] == pytest.approx(0.957, abs=1e-3)
    assert found["steps_until_close"] == 18  # steps 14 to 18 are 27 ... 23 away
    assert (found["no_signal"], found["seconds"], found["held_out"]) == (0.5, 40.0, {"before": -44.0, "after": -22.0})
    assert found["last_kl"] == 0.5  # at beta 0 it is measured now and then
    assert choosing.measures(metrics[:4])["steps_until_close"] is None
    assert choosing.measures(metrics[:4])["held_out"] is None
    assert choosing.curves([step_record(-1 / 3)])["distance"] == [-0.33333]
    assert choosing.curves([step_record(-1.0)])["kl"] == [None]


def test_studies_go_on_where_they_were_but_not_on_another_machine(load: Any, tmp_path: Path) -> None:
    choosing, path = load("choosing"), tmp_path / "choosing.json"
    assert choosing.begun(path, again=False) == {}
    here = choosing.common.machine()
    path.write_text(json.dumps({"machine": here, "runs": {"baseline": {"settings": []}}}))
    assert choosing.begun(path, again=False) == {"baseline": {"settings": []}}
    assert choosing.begun(path, again=True) == {}
    path.write_text(json.dumps({"machine": {**here, "cores": 128}, "runs": {}}))
    with pytest.raises(SystemExit, match="128 cores"):
        choosing.begun(path, again=False)


def test_a_run_that_is_there_with_its_settings_is_not_made_again(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choosing, made = load("choosing"), []

    def measure(key: str, settings: list[str], steps: int) -> dict[str, Any]:
        made.append(key)
        last = {"mean": -20.0, "stderr": 1.0}
        return {"settings": settings, "num_completions": 16, "seconds": 1.0, "last_distance": last}

    monkeypatch.setattr(choosing, "measure", measure)

    def run(*arguments: str) -> list[str]:
        made.clear()
        monkeypatch.setattr(sys, "argv", ["choosing.py", "--output", str(tmp_path / "choosing.json"), *arguments])
        choosing.main()
        return list(made)

    assert run("--studies", "scale") == ["baseline", "scale=none"]
    assert run("--studies", "scale", "seed") == ["seed=1", "seed=2"]
    assert run("--studies", "scale", "--set", "max_steps=20") == ["baseline", "scale=none"]
    assert run("--studies", "scale", "--again", "--set", "max_steps=20") == ["baseline", "scale=none"]


def test_peak_memory_of_this_process_is_known_on_linux(load: Any) -> None:
    common = load("common")
    now = common.status_bytes("VmRSS")  # read first: memory may grow between the two
    assert (common.status_bytes("VmHWM") >= now > 0) == (sys.platform == "linux")


def test_every_part_of_the_gpu_script_leaves_a_line(tmp_path: Path) -> None:
    out = tmp_path / "gpu.jsonl"
    command = [sys.executable, str(BENCH / "gpu.py"), "--tiny", "--device", "cpu", "--only", "ceilings", "--out", out]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    header, line = map(json.loads, out.read_text().splitlines())
    assert header["device"] == "cpu"
    assert (line["part"], line["ended"]) == ("ceilings", "well")
    assert line["found"]["product_flop_per_second"] > 0
    assert "product_flop_per_second" in found.stdout.splitlines()[-1]


def test_a_process_that_takes_too_long_leaves_what_it_said(load: Any) -> None:
    common = load("common")
    work = "import time; print('RESULT {}', flush=True); time.sleep(60)"
    ended = common.run_watched([sys.executable, "-c", work], 2.0)
    assert (ended.how, ended.lines) == ("cut off", ["RESULT {}"])
    assert common.run_watched([sys.executable, "-c", "1 / 0"], 20.0).how == "failed"


@pytest.mark.skipif(not os.environ.get("GROUPWISE_RANKS"), reason="minutes of runs of several ranks: make ranks")
def test_two_ranks_are_measured_against_one(tmp_path: Path) -> None:
    """With a tiny model: every part of a step and every kind of call has its seconds."""
    tiny_model().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "ab"}\n{"prompt": "cd"}\n' * 4)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model: ./model\ndata: rows.jsonl\nrewards: [{name: length, target: 3, unit: characters}]\n")
    sizes = ["prompts_per_step=2", "num_generations=2", "max_completion_length=4", f"model={tmp_path / 'model'}"]
    settings = [word for size in sizes for word in ("--set", size)]
    paths = ["--recipe", str(recipe), "--result", str(tmp_path / "ranks.json")]
    command = [sys.executable, str(BENCH / "ranks.py"), "--only", "full", "--steps", "2", *paths, *settings]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    found = json.loads((tmp_path / "ranks.json").read_text())["full"]
    assert [case["ranks"] for case in found["cases"]] == [1, 2, 2]
    assert found["overhead"]["step_s"] > 0
    whole, sharded = (case["traffic"] for case in found["cases"][1:])
    assert whole["sum gradients"]["bytes"] > 0 < whole["share the groups and orders"]["bytes"]
    assert "sum gradients" not in sharded
    assert found["cases"][1]["sharing"]["bytes"] == sum(call["bytes"] for call in whole.values())
    assert sharded["gather and reduce shards"]["count"] > 1
