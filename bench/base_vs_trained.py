"""Base against trained on held-out prompts: mean |50 - characters|, greedy and sampled, with standard errors.

Usage: python bench/base_vs_trained.py runs/length-smollm2-cpu

Four answers to the same prompts: the base and the trained policy in groupwise's engine (sampled and greedy), and the
merged model as plain transformers runs it (`generate`, greedy, float32), which must lie within one standard error of
the trained policy's greedy answers.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import common

common.measure_this_checkout()

SEED = 20_000
"""Of the sampled completions; no training run uses it as its own."""


def distances(texts: Sequence[Sequence[str]], target: int) -> dict[str, float]:
    """Mean |target - characters| and its standard error; completions of one prompt are averaged first."""
    means = [fmean(abs(target - len(text)) for text in group) for group in texts]
    error = stdev(means) / len(means) ** 0.5 if len(means) > 1 else 0.0
    return {"mean": fmean(means), "stderr": error, "characters": fmean(len(t) for group in texts for t in group)}


def engine_texts(policy: Any, prompts: Sequence[Sequence[int]], config: Any, count: int) -> list[list[str]]:
    """`count` sampled completions of each prompt from groupwise's engine; one greedy completion for count 0."""
    from groupwise.chat import completion_decoder
    from groupwise.lifecycle.build import make_engine
    from groupwise.train.sampler import make_sampling
    from groupwise.types import Request

    sampling = make_sampling(config, policy.stop_ids)
    if count == 0:
        sampling = replace(sampling, temperature=0.0, top_k=0, top_p=1.0, min_p=0.0)
    decode = completion_decoder(policy.tokenizer, sampling)
    requests = [
        Request(tuple(ids), max(count, 1), sampling, seed=(SEED, number), decode=decode)
        for number, ids in enumerate(prompts)
    ]
    engine = make_engine(policy, config)
    engine.load_weights(policy.policy_model, version=0)
    answers = dict(engine.generate(requests))
    return [[decode(c.token_ids) for c in answers[number]] for number in range(len(prompts))]


def plain_texts(folder: Path, prompts: Sequence[Sequence[int]], max_tokens: int) -> list[list[str]]:
    """One greedy completion of each prompt from plain transformers in float32, left-padded, 16 prompts at a time."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from groupwise.chat import decode_completion

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    texts = []
    for start in range(0, len(prompts), 16):
        batch = tokenizer.pad({"input_ids": [list(p) for p in prompts[start : start + 16]]}, return_tensors="pt")
        with torch.inference_mode():
            ids = model.generate(**batch, do_sample=False, max_new_tokens=max_tokens)
        texts += [[decode_completion(tokenizer, row)] for row in ids[:, batch["input_ids"].shape[1] :].tolist()]
    return texts


def load_policy(name: str, tokenizer: Any, config: Any, run: Path | None) -> Any:
    """The base model, or with `run` what the run has trained, ready to be sampled from."""
    from peft import PeftModel

    from groupwise.lifecycle.build import make_policy
    from groupwise.policy.load_model import load_model
    from groupwise.world import pick_device

    device = pick_device(use_cpu=config.use_cpu)
    has_adapter = run is not None and (run / "final" / "adapter_config.json").exists()
    source = name if run is None or has_adapter else str(run / "final")
    model = load_model(source, device=device, full=not has_adapter)
    if run is not None and has_adapter:
        model = PeftModel.from_pretrained(model, run / "final")
    return make_policy(model, name, tokenizer, config)


def held_out_prompts(recipe: Any, tokenizer: Any, count: int) -> list[tuple[int, ...]]:
    """Ids of the first `count` prompts of the recipe's evaluation split."""
    from groupwise.data import load_problems, prepare

    problems = load_problems(recipe.data.path, split=recipe.data.eval_split or "eval", columns=recipe.data.columns)
    prepared = prepare(problems, tokenizer, max_prompt_length=recipe.config.max_prompt_length)
    return [prepared[row].prompt_ids for row in range(min(count, len(prepared)))]


def measure(run: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """All answers of base, trained policy and merged model, as distances."""
    from groupwise.config import Recipe
    from groupwise.policy.load_model import load_tokenizer
    from groupwise.policy.save import save_merged
    from groupwise.runs import RunReader

    recipe = Recipe(**RunReader(run).config["recipe"])
    tokenizer = load_tokenizer(recipe.tokenizer or recipe.model)
    prompts = held_out_prompts(recipe, tokenizer, arguments.prompts)
    found: dict[str, Any] = {"num_prompts": len(prompts)}
    for name, source in (("base", None), ("trained", run)):
        policy = load_policy(recipe.model, tokenizer, recipe.config, source)
        for kind, count in (("sampled", arguments.samples), ("greedy", 0)):
            texts = engine_texts(policy, prompts, recipe.config, count)
            found[f"{name}_{kind}"] = distances(texts, arguments.target)
            show(f"{name}, {kind}", found[f"{name}_{kind}"])
    with tempfile.TemporaryDirectory() as folder:
        save_merged(policy.model, tokenizer, folder)
        texts = plain_texts(Path(folder), prompts, recipe.config.max_completion_length)
    found["merged_plain_greedy"] = distances(texts, arguments.target)
    show("merged, plain transformers, greedy", found["merged_plain_greedy"])
    gap = abs(found["merged_plain_greedy"]["mean"] - found["trained_greedy"]["mean"])
    found["merged_gap"] = gap
    found["is_merged_within_one_stderr"] = gap <= found["trained_greedy"]["stderr"]
    return found


def show(name: str, distance: dict[str, float]) -> None:
    print(f"{name:36} {distance['mean']:7.1f} +- {distance['stderr']:.1f} characters from the target", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run of a length recipe")
    parser.add_argument("--prompts", type=int, default=64, help="held-out prompts (64)")
    parser.add_argument("--samples", type=int, default=4, help="sampled completions of each prompt (4)")
    parser.add_argument("--target", type=int, default=50, help="characters that the reward asks for (50)")
    parser.add_argument("--output", type=Path, default=common.RESULTS / "base_vs_trained.json")
    parser.add_argument("--quick", action="store_true", help="smoke test: two prompts, one sample")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.prompts, arguments.samples = 2, 1
    result = {**common.header(), "run": arguments.run.name, "is_quick": arguments.quick}
    result |= measure(arguments.run, arguments)
    verdict = "within" if result["is_merged_within_one_stderr"] else "NOT within"
    print(f"The merged model lies {verdict} one standard error of the trained policy.")
    common.save(arguments.output, result)


if __name__ == "__main__":
    main()
