"""Finds the draw at which two numbers of ranks sample different tokens, and how near a tie it is, in nats.

    python -m tests.ranks.near_tie --out bench/results/ranks_near_tie.json

A token is the first whose cumulative probability exceeds the uniform of its place. Rounding moves the cumulative
probabilities by some 1e-7, so that a uniform which lies that close to one of them is a tie. Its gap is the difference
of two log odds, of the uniform and of the cumulative probability: a change of every logit by half the gap closes it.
The run is that of the tests with dynamic sampling and seed 3, in which one such draw occurs.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from groupwise.rollout.sampler import uniforms
from tests.histories import completions
from tests.ranks.launching import Launch, launch_all
from tests.tiny import tiny_model

LARGEST_GAP = 1e-5
"""Nats."""
SEED = 3
SETTINGS: dict[str, Any] = {
    "seed": SEED, "is_sparse": True, "dynamic_sampling": True, "num_minibatches": 1, "save_strategy": "steps",
    "save_steps": 1,
}  # fmt: skip


def groups_of(run: Path) -> dict[tuple[int, int], dict[str, Any]]:
    """(step, draw) -> the group as it is recorded."""
    found = {}
    for name, text in completions(run).items():
        step = int("".join(filter(str.isdigit, name)))
        found |= {(step, group["draw"]): group for group in map(json.loads, text.splitlines())}
    return found


def first_difference(one: Path, other: Path) -> tuple[int, int, int, int] | None:
    """(step, draw, completion, place) of the first token that differs; None where all are equal."""
    theirs = groups_of(other)
    for (step, draw), group in sorted(groups_of(one).items()):
        for number, mine in enumerate(group["completions"]):
            found = theirs[step, draw]["completions"][number]["ids"]
            if found != mine["ids"]:
                pairs = zip([*mine["ids"], None], [*found, None], strict=False)
                return step, draw, number, next(place for place, (a, b) in enumerate(pairs) if a != b)
    return None


def gap_of(logits_V: torch.Tensor, uniform: float, tokens: tuple[int, int]) -> float:
    """Nats between the uniform and the nearest cumulative probability that lies between the two tokens."""
    cumulative_V = logits_V.double().softmax(-1).cumsum(-1)
    low, high = sorted(tokens)
    return min(abs(_log_odds(float(cumulative_V[token])) - _log_odds(uniform)) for token in range(low, high))


def _log_odds(probability: float) -> float:
    return math.log(probability) - math.log1p(-probability)


def weights_before(run: Path, step: int) -> Any:
    """The model of float64 that sampled the step."""
    model = tiny_model("llama")
    if step > 1:
        model.load_state_dict(load_file(run / f"checkpoint-{step - 1}" / "model.safetensors"), strict=False)
    return model.double()


@torch.no_grad()
def describe(one: Path, other: Path) -> dict[str, Any] | None:
    """The first draw that differs, with its gap; None where none does."""
    if (found := first_difference(one, other)) is None:
        return None
    step, draw, number, place = found
    mine, theirs = (groups_of(run)[step, draw] for run in (one, other))
    tokens = tuple(group["completions"][number]["ids"][place] for group in (mine, theirs))
    ids = [*mine["prompt_ids"], *mine["completions"][number]["ids"][:place]]
    uniform = float(uniforms((SEED, step, draw), number, place + 1)[place])
    logits = [weights_before(run, step)(input_ids=torch.tensor([ids])).logits[0, -1] for run in (one, other)]
    assert len(tokens) == 2
    return {
        "step": step,
        "draw": draw,
        "completion": number,
        "place": place,
        "tokens": list(tokens),
        "uniform": uniform,
        "gap_nats": max(gap_of(each, uniform, tokens) for each in logits),
        "logits_differ_by": float((logits[0] - logits[1]).abs().max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write what was found here")
    arguments = parser.parse_args()
    scratch = Path(tempfile.mkdtemp())
    try:
        runs = launch_all(scratch, [Launch(f"tie-{size}", size, "trains", SETTINGS) for size in (1, 2, 4)])
        found = {f"1 and {n} ranks": describe(*(runs[f"tie-{m}"].folder / "run" for m in (1, n))) for n in (2, 4)}
    finally:
        shutil.rmtree(scratch)
    date = datetime.now(UTC).isoformat(timespec="seconds")
    text = json.dumps({"date": date, "command": "make ranks", "bound_nats": LARGEST_GAP, **found}, indent=1) + "\n"
    print(text, end="")
    if arguments.out is not None:
        arguments.out.write_text(text, encoding="utf-8")
    sys.exit(any(each is not None and each["gap_nats"] > LARGEST_GAP for each in found.values()))


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main()
