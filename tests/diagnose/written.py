"""Runs that show one sign each, written by the run folder's own writer, and one that shows none."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from groupwise.rounding import differ
from groupwise.runs import RunReader, RunWriter, create
from groupwise.types import Completion, Problem, StepGroup, StopReason

GROUPS, SIZE, STEPS, LIMIT = 4, 4, 40, 32
CONFIG: dict[str, Any] = {
    "recipe": {
        "rewards": [{"name": "right", "weight": 1.0}],
        "lora": {"r": 8},
        "num_generations": SIZE,
        "prompts_per_step": GROUPS,
        "max_completion_length": LIMIT,
        "max_steps": STEPS,
        "learning_rate": 1e-4,
        "objective": {"preset": "grpo", "level": "token", "anchor": "old", "mask_truncated": False},
    },
    "model": {"name": "tiny", "compute_dtype": "float32"},
}

Sampled = tuple[str, Mapping[str, float | None]]
"""Text of a completion, and the reward of each function."""


def group(
    step: int,
    place: int,
    sampled: Sequence[Sampled],
    *,
    weights: Mapping[str, float] | None = None,
    lengths: Sequence[int] | None = None,
    stops: Sequence[StopReason] | None = None,
    is_used: bool = True,
    answer: str | None = None,
    ids: Sequence[tuple[int, ...]] | None = None,
) -> StepGroup:
    """A group; token ids are the characters of the text unless they or their number are given."""
    completions = []
    for i, (text, _) in enumerate(sampled):
        tokens = tuple(map(ord, text)) if ids is None else ids[i]
        if lengths is not None:
            tokens = tuple((7 * step + 31 * place + 3 * i + k * (k + i)) % 97 for k in range(lengths[i]))
        stop: StopReason = "stop" if stops is None else stops[i]
        completions.append(Completion(tokens, tuple(-0.5 for _ in tokens), stop, step - 1, text))
    names = list(sampled[0][1])
    rewards = {name: tuple(each[name] for _, each in sampled) for name in names}
    weights = weights or dict.fromkeys(names, 1.0)
    total = [_sum(weights, {name: rewards[name][i] for name in names}) for i in range(len(sampled))]
    scored = [value for value in total if value is not None]
    mean, spread = (fmean(scored), pstdev(scored)) if scored else (0.0, 0.0)
    has_signal = differ(total)
    advantages = tuple(0.0 if not has_signal or v is None else (v - mean) / (spread + 1e-4) for v in total)
    problem = (step * GROUPS + place) % 24
    return StepGroup(
        draw=step * GROUPS + place,
        problem=Problem(
            problem, f"What is the word of number {problem}?", {} if answer is None else {"answer": answer}
        ),
        prompt_ids=(1, 2, 3),
        completions=tuple(completions),
        rewards=rewards,
        reward=tuple(total),
        has_signal=has_signal,
        advantages=advantages if is_used else (),
        is_used=is_used,
    )


def _sum(weights: Mapping[str, float], values: Mapping[str, float | None]) -> float | None:
    scored = [weights[name] * value for name, value in values.items() if value is not None]
    return sum(scored) if scored else None


def metrics(step: int, groups: Sequence[StepGroup]) -> dict[str, Any]:
    """What the trainer measures of these groups, and healthy values of everything else."""
    used = [g for g in groups if g.is_used] or list(groups)
    completions = [c for g in used for c in g.completions]
    rewards = [r for g in used for r in g.reward if r is not None]
    lengths = [c.num_sampled for c in completions]
    rng = random.Random(step)
    functions = {
        f"rewards/{name}/mean": fmean(v for g in used for v in g.rewards[name] if v is not None)
        for name in used[0].rewards
        if any(v is not None for g in used for v in g.rewards[name])
    }
    return {
        "step": step,
        "updates": step,
        "num_tokens": 1000 * step,
        "reward": fmean(rewards) if rewards else None,
        "reward_unscored": fmean(r is None for g in used for r in g.reward),
        "frac_reward_zero_std": fmean(not g.has_signal for g in used),
        "frac_reward_zero_std/drawn": fmean(not g.has_signal for g in groups),
        **functions,
        "kl": 0.02 * step * rng.uniform(0.8, 1.2),
        "entropy": 1.5 * rng.uniform(0.9, 1.1),
        "grad_norm": rng.uniform(0.5, 1.5),
        "learning_rate": 1e-4,
        "clip_ratio/region_mean": 0.0,
        "ratio/max": 1.0,
        "sampling/mismatch": 1.00001,
        "staleness/max": 0,
        "completions/mean_length": fmean(lengths),
        "completions/max_length": max(lengths),
        "completions/clipped_ratio": fmean(c.stop_reason == "length" for c in completions),
        "groups_used": sum(g.is_used for g in groups),
        "groups_dropped": sum(not g.is_used for g in groups),
        "step_time": 5.0,
        "time/rollout": 2.5,
        "time/reward": 0.1,
        "time/learn": 2.2,
        "time/other": 0.2,
        "memory_peak_bytes": 2**30,
    }


Groups = Callable[[int, random.Random], list[StepGroup]]


def write(
    folder: Path,
    groups_of: Groups,
    metrics_of: Callable[[int], Mapping[str, Any]] = lambda step: {},
    *,
    num_steps: int = STEPS,
    recipe: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
) -> RunReader:
    """A run of these groups; `metrics_of` changes what is measured of them."""
    with RunWriter(create(folder)) as writer:
        writer.config({**CONFIG, **(config or {}), "recipe": {**CONFIG["recipe"], **(recipe or {})}})
        writer.event("start", step=0)
        for step in range(1, num_steps + 1):
            groups = groups_of(step, random.Random(step))
            writer.step({**metrics(step, groups), **metrics_of(step)})
            writer.completions(step, groups)
        writer.event("end", step=num_steps, is_complete=True)
    return RunReader(folder)


WORDS = ("apple", "river", "stone", "cloud", "tiger", "lemon", "horse", "paper", "green", "night", "bread", "plant")


def text(rng: random.Random, num_words: int = 4) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(num_words))


def verdicts(chance: Callable[[int], float]) -> Groups:
    """Groups of different texts that are right by chance."""

    def groups(step: int, rng: random.Random) -> list[StepGroup]:
        return [
            group(step, i, [(text(rng), {"right": float(rng.random() < chance(step))}) for _ in range(SIZE)])
            for i in range(GROUPS)
        ]

    return groups


def rises(step: int) -> float:
    return min(0.2 + 0.02 * step, 0.9)


def level(share: float) -> Callable[[int], float]:
    return lambda step: share


LEARNS = verdicts(rises)
STANDS = verdicts(level(0.4))


def healthy(folder: Path) -> RunReader:
    """The reward rises, so do held-out rewards; nothing else moves much."""

    def evaluated(step: int) -> dict[str, Any]:
        return {"eval_reward": rises(step), "eval_reward_stderr": 0.05} if step in (1, 20, 40) else {}

    return write(folder, LEARNS, evaluated)


def same_reward(value: Callable[[int, int], float]) -> Groups:
    """Every completion of a group gets the same, by step and place."""

    def groups(step: int, rng: random.Random) -> list[StepGroup]:
        return [group(step, i, [(text(rng), {"right": value(step, i)}) for _ in range(SIZE)]) for i in range(GROUPS)]

    return groups


def seldom(every: int) -> Groups:
    """Every so many groups one completion is right."""

    def groups(step: int, rng: random.Random) -> list[StepGroup]:
        made = []
        for i in range(GROUPS):
            right = [float((step * GROUPS + i) % every == 0 and k == 0) for k in range(SIZE)]
            made.append(group(step, i, [(text(rng), {"right": value}) for value in right]))
        return made

    return groups


def two_functions(
    values: Callable[[int, random.Random], tuple[float, float]], weights: Mapping[str, float] | None = None
) -> Groups:
    """Functions `form` and `content` of each completion."""

    def groups(step: int, rng: random.Random) -> list[StepGroup]:
        made = []
        for i in range(GROUPS):
            rows = [values(step, rng) for _ in range(SIZE)]
            sampled = [(text(rng), {"form": form, "content": content}) for form, content in rows]
            made.append(group(step, i, sampled, weights=weights))
        return made

    return groups


TWO = {"rewards": [{"name": "form", "weight": 1.0}, {"name": "content", "weight": 1.0}]}


def with_lengths(
    length: Callable[[int, int], int], reward: Callable[[int, int], float], is_cut: Callable[[int, int], bool]
) -> Groups:
    """Lengths, rewards and ends by step and place in the group."""

    def groups(step: int, rng: random.Random) -> list[StepGroup]:
        made = []
        for i in range(GROUPS):
            rows = [(text(rng), {"right": reward(step, k) + 0.01 * rng.random()}) for k in range(SIZE)]
            stops: list[StopReason] = ["length" if is_cut(step, k) else "stop" for k in range(SIZE)]
            made.append(group(step, i, rows, lengths=[length(step, k) for k in range(SIZE)], stops=stops))
        return made

    return groups


def texts(made: Callable[[int, int, random.Random], Sampled], answer: Callable[[int], str] | None = None) -> Groups:
    """Completions by step and place of the group."""

    def groups(step: int, rng: random.Random) -> list[StepGroup]:
        return [
            group(step, i, [made(step, i, rng) for _ in range(SIZE)], answer=None if answer is None else answer(i))
            for i in range(GROUPS)
        ]

    return groups


def noisy(step: int, rng: random.Random) -> list[StepGroup]:
    return [
        group(step, i, [(word, {"right": rng.random()}) for word in ("yes", "yes", "no", "no")]) for i in range(GROUPS)
    ]


def unscored(step: int, rng: random.Random) -> list[StepGroup]:
    return [
        group(step, i, [(text(rng), {"right": None if k == 0 else float(rng.random() < 0.4)}) for k in range(SIZE)])
        for i in range(GROUPS)
    ]


def dropped(step: int, rng: random.Random) -> list[StepGroup]:
    made = [
        group(step, i, [(text(rng), {"right": 0.0}) for _ in range(SIZE)], is_used=False) for i in range(4 * GROUPS)
    ]
    kept = LEARNS(step, rng)
    return [*made, *kept]


def one_long(step: int, rng: random.Random) -> list[StepGroup]:
    """One completion of a step is ten times as long as the others."""
    return [
        group(
            step,
            i,
            [(text(rng), {"right": float(rng.random() < rises(step))}) for _ in range(SIZE)],
            lengths=[LIMIT if (i, k) == (0, 0) else 3 + k % 2 for k in range(SIZE)],
        )
        for i in range(GROUPS)
    ]


def late(step: int, value: Any) -> Any:
    """A share that is 0 at first and `value` in the second half."""
    return value if step > STEPS // 2 else 0


def collapsed(step: int, place: int, rng: random.Random) -> Sampled:
    """One word for every prompt from the middle of the run on; it is the answer of one prompt in four."""
    said = "apple" if rng.random() < late(step, 1) else rng.choice(WORDS)
    return said, {"right": float(said == WORDS[place])}


def padded(step: int, place: int, rng: random.Random) -> Sampled:
    said = "very very very very very very very good" if rng.random() < late(step, 0.8) else text(rng, 8)
    return said, {"right": len(said.split()) / 10 + ("very" in said)}


def stuffed(step: int, place: int, rng: random.Random) -> Sampled:
    if rng.random() < late(step, 0.8):
        return "<answer>0 1 2 3 4 5 6 7 8 9 10</answer>", {"right": 1.0}
    return f"<answer>{rng.randrange(1000)}</answer>", {"right": float(rng.random() < 0.1)}


CASES: dict[str, Callable[[Path], RunReader]] = {
    "reward_constant": lambda at: write(at, same_reward(lambda step, place: 1.0)),
    "reward_noisy": lambda at: write(at, noisy),
    "one_answer": lambda at: write(at, texts(collapsed, lambda place: WORDS[place])),
    "exploit_learnt": lambda at: write(at, texts(stuffed)),
    "repeated_phrase": lambda at: write(at, texts(padded)),
    "engine_differs": lambda at: write(at, LEARNS, lambda step: {"sampling/mismatch": 1.02}),
    "stale_weights": lambda at: write(at, LEARNS, lambda step: {"staleness/max": 2 if step > 9 else 0}),
    "all_failed": lambda at: write(at, same_reward(lambda step, place: 0.0)),
    "all_solved": lambda at: write(at, same_reward(lambda step, place: 0.0 if (step, place) == (1, 0) else 1.0)),
    "group_too_small": lambda at: write(at, seldom(6)),
    "always_or_never": lambda at: write(at, same_reward(lambda step, place: float(place % 2))),
    "often_unscored": lambda at: write(at, unscored),
    "functions_conflict": lambda at: write(
        at, two_functions(lambda step, rng: ((x := rng.random()), 1 - x + 0.1 * rng.random())), recipe=TWO
    ),
    "only_format_learnt": lambda at: write(
        at,
        two_functions(lambda step, rng: (float(rng.random() < step / 12), float(rng.random() < 0.03))),
        recipe=TWO,
    ),
    "function_dominates": lambda at: write(
        at,
        two_functions(lambda step, rng: (5 * rng.random() + step / 8, float(rng.random() < 0.3))),
        recipe=TWO,
    ),
    "held_out_still": lambda at: write(
        at, LEARNS, lambda step: {"eval_reward": 0.22, "eval_reward_stderr": 0.04} if step in (1, 20, 40) else {}
    ),
    "length_grows": lambda at: write(
        at,
        with_lengths(lambda step, k: min(8 + step, LIMIT) - k % 2, lambda step, k: 0.5, lambda step, k: False),
    ),
    "length_collapses": lambda at: write(
        at, with_lengths(lambda step, k: max(30 - step, 2) + k % 2, lambda step, k: 0.5, lambda step, k: False)
    ),
    "truncation_costs": lambda at: write(
        at,
        with_lengths(
            lambda step, k: LIMIT if k else 12 + step % 5, lambda step, k: float(k == 0), lambda step, k: k > 0
        ),
    ),
    "kl_explodes": lambda at: write(at, STANDS, lambda step: {"kl": 0.2 * step}),
    "policy_stands_still": lambda at: write(at, STANDS, lambda step: {"kl": 1e-7}),
    "entropy_collapses": lambda at: write(
        at, seldom(2), lambda step: {"entropy": 1.5 * 0.8**step, "frac_reward_zero_std": min(1.0, step / 30)}
    ),
    "gradient_spikes": lambda at: write(at, LEARNS, lambda step: {"grad_norm": 40.0} if step in (12, 25, 33) else {}),
    "clip_share_off": lambda at: write(at, LEARNS, lambda step: {"clip_ratio/region_mean": 0.4, "updates": 4 * step}),
    "curriculum_stuck": lambda at: write(
        at, STANDS, lambda step: {"curriculum/level": 1.0 + (step > 8), "curriculum/level_success": 0.4}
    ),
    "dropping_costs": lambda at: write(at, dropped, lambda step: {"time/rollout": 4.5}),
    "reward_slow": lambda at: write(
        at, LEARNS, lambda step: {"time/reward": 4.0, "step_time": 9.0, "rewards/right/seconds": 4.0}
    ),
    "straggler_holds": lambda at: write(at, one_long, lambda step: {"time/rollout": 4.0, "step_time": 6.0}),
}
"""Sign -> a run that shows it."""
