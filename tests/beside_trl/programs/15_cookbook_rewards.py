"""The cookbook's advanced rewards: a half-precision model, LoRA, four rewards whose names are read back."""

import re

import torch
from datasets import load_dataset
from peft import LoraConfig, TaskType, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from groupwise.trl import GRPOConfig, GRPOTrainer

CALLS = []

model = AutoModelForCausalLM.from_pretrained("model", dtype=torch.float16, device_map="cpu")
tokenizer = AutoTokenizer.from_pretrained("model")
model = get_peft_model(
    model, LoraConfig(r=16, lora_alpha=32, target_modules=["q_proj", "v_proj"], task_type=TaskType.CAUSAL_LM)
)
dataset = load_dataset("gsm", split="train").map(
    lambda row: {"prompt": [{"role": "user", "content": row["question"]}], "answer": row["answer"].split("#### ")[-1]}
)


def match_format_exactly(completions, **kwargs):
    CALLS.append(len(completions))
    return [3.0 if re.search(r"<start>.*<end>", c[0]["content"]) else 0.0 for c in completions]


def match_format_approximately(completions, **kwargs):
    return [0.5 if c[0]["content"].count("<") == 1 else -0.5 for c in completions]


def check_answer_correctness(prompts, completions, answer, **kwargs):
    return [3.0 if a in c[0]["content"] else 0.0 for c, a in zip(completions, answer, strict=True)]


def check_numbers_extraction(prompts, completions, answer, **kwargs):
    return [1.5 if re.search(r"\d", c[0]["content"]) else 0.0 for c in completions]


training_args = GRPOConfig(
    output_dir="grpo-advanced",
    learning_rate=5e-6,
    per_device_train_batch_size=2,
    gradient_accumulation_steps=8,
    max_prompt_length=64,
    max_completion_length=32,
    max_steps=3,
    logging_steps=1,
    save_steps=2,
    max_grad_norm=0.1,
    report_to="none",
    bf16=False,
    fp16=False,
    dataloader_drop_last=True,
    warmup_steps=1,
    lr_scheduler_type="cosine",
    num_generations=4,
)
trainer = GRPOTrainer(
    model=model,
    reward_funcs=[
        match_format_exactly,
        match_format_approximately,
        check_answer_correctness,
        check_numbers_extraction,
    ],
    args=training_args,
    train_dataset=dataset,
    processing_class=tokenizer,
)
names = [function.__name__ for function in trainer.reward_funcs]
trainer.train()
trainer.save_model("grpo-advanced/saved")
