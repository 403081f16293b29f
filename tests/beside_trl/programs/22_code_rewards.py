"""Rewards that run code: a subprocess with a time limit, loops of their own, threads, and one that is asynchronous."""

import asyncio
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from datasets import load_dataset

from groupwise.trl import GRPOConfig, GRPOTrainer

CALLS = []


def by_subprocess(completions, **kwargs):
    CALLS.append(len(completions))
    code = "import sys; print(len(sys.stdin.read()))"
    run = subprocess.run(
        [sys.executable, "-S", "-c", code], input="".join(completions), capture_output=True, text=True, timeout=30
    )
    return [float(run.stdout) / len(completions)] * len(completions)


async def measured(text):
    await asyncio.sleep(0)
    return float(len(text))


async def gathered(texts):
    return await asyncio.gather(*map(measured, texts))


def by_run(completions, **kwargs):
    return list(asyncio.run(gathered(completions)))


def by_own_loop(completions, **kwargs):
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        return list(loop.run_until_complete(gathered(completions)))
    finally:
        loop.close()


def by_threads(completions, **kwargs):
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(len, completions))


async def beside(completions, **kwargs):
    return list(await gathered(completions))


args = GRPOConfig(
    output_dir="code",
    per_device_train_batch_size=8,
    num_generations=4,
    max_completion_length=16,
    max_steps=2,
    logging_steps=1,
    save_strategy="no",
    report_to="none",
    reward_weights=[1.0, 0.5, 0.5, 0.5, 0.5],
)
trainer = GRPOTrainer(
    model="model",
    reward_funcs=[by_subprocess, by_run, by_own_loop, by_threads, beside],
    args=args,
    train_dataset=load_dataset("short", split="train"),
)
trainer.train()
