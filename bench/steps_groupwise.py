"""groupwise's side of step_vs_trl.py."""

from __future__ import annotations

import common

common.measure_this_checkout()

from dataclasses import replace  # noqa: E402

from peft import LoraConfig  # noqa: E402
from stepping import Reward, StepClock, read_job, write_answer  # noqa: E402

from groupwise import GRPOConfig, GRPOTrainer  # noqa: E402


def main() -> None:
    job, answer = read_job()
    clock, reward = StepClock(), Reward()
    args = GRPOConfig(
        output_dir=f"{job['folder']}/groupwise",
        prompts_per_step=job["num_prompts"],
        num_generations=job["num_generations"],
        max_completion_length=job["completion_tokens"],
        beta=job["beta"],
        learning_rate=job["learning_rate"],
        micro_batch_tokens=job.get("micro_batch_tokens"),
        max_steps=job["num_warmup"] + job["num_steps"],
        shuffle_dataset=False,
        save_strategy="no",
        dtype=job["dtype"],
        use_cpu=True,
    )
    trainer = GRPOTrainer(
        model=job["model"],
        reward_funcs=[reward],
        args=args,
        train_dataset=[{"prompt": prompt} for prompt in job["prompts"]],
        callbacks=[clock],
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear"),
    )
    # completions run to their full length, so that both sides do the same work
    trainer.parts = replace(trainer.parts, policy=replace(trainer.parts.policy, stop_ids=()))
    trainer.train()
    write_answer(answer, job, clock, reward, trainer.state.log_history)


if __name__ == "__main__":
    main()
