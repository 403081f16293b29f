"""TRL's side of step_vs_trl.py; runs in TRL's own environment."""

from __future__ import annotations

from datasets import Dataset
from peft import LoraConfig
from stepping import Reward, StepClock, read_job, write_answer
from trl import GRPOConfig, GRPOTrainer


def main() -> None:
    job, answer = read_job()
    clock, reward = StepClock(), Reward()
    num_completions = job["num_prompts"] * job["num_generations"]
    args = GRPOConfig(
        output_dir=f"{job['folder']}/trl",
        per_device_train_batch_size=job["trl_batch"],
        gradient_accumulation_steps=num_completions // job["trl_batch"],
        num_generations=job["num_generations"],
        max_completion_length=job["completion_tokens"],
        generation_kwargs={"min_new_tokens": job["completion_tokens"]},  # no end token: the full length, as opposite
        beta=job["beta"],
        loss_type="grpo",
        learning_rate=job["learning_rate"],
        max_steps=job["num_warmup"] + job["num_steps"],
        shuffle_dataset=False,
        save_strategy="no",
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,  # no autocast: bfloat16 weights themselves are faster where bfloat16 is fast at all
        model_init_kwargs={"dtype": job["dtype"]},
        gradient_checkpointing=job["trl_checkpointing"],
    )
    trainer = GRPOTrainer(
        model=job["model"],
        reward_funcs=[reward],
        args=args,
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in job["prompts"]]),
        callbacks=[clock],
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear"),
    )
    trainer.train()
    write_answer(answer, job, clock, reward, trainer.state.log_history)


if __name__ == "__main__":
    main()
