"""The GSM8K demo with XML rewards, in its first form: 4 completions an optimizer step, in groups of 16."""

import torch
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer

from groupwise.trl import GRPOConfig, GRPOTrainer

dataset = load_dataset("gsm", split="train")
dataset = dataset.map(
    lambda row: {"prompt": [{"role": "user", "content": row["question"]}], "answer": row["answer"].split("#### ")[-1]}
)


def extract(text):
    return text.split("<answer>")[-1].split("</answer>")[0].strip()


def correctness_reward_func(prompts, completions, answer, **kwargs):
    responses = [extract(completion[0]["content"]) for completion in completions]
    return [2.0 if response == a else 0.0 for response, a in zip(responses, answer, strict=True)]


def int_reward_func(completions, **kwargs):
    return [0.5 if extract(completion[0]["content"]).isdigit() else 0.0 for completion in completions]


training_args = GRPOConfig(
    output_dir="outputs",
    run_name="gsm8k",
    learning_rate=5e-6,
    adam_beta1=0.9,
    adam_beta2=0.99,
    weight_decay=0.1,
    warmup_steps=0.1,
    lr_scheduler_type="cosine",
    logging_steps=1,
    bf16=True,
    per_device_train_batch_size=1,
    gradient_accumulation_steps=4,
    num_generations=16,
    max_completion_length=786,
    num_train_epochs=1,
    save_steps=100,
    max_grad_norm=0.1,
    report_to="none",
    log_on_each_node=False,
)
model = AutoModelForCausalLM.from_pretrained("model", dtype=torch.bfloat16, device_map=None)
tokenizer = AutoTokenizer.from_pretrained("model")
tokenizer.pad_token = tokenizer.eos_token
trainer = GRPOTrainer(
    model=model,
    processing_class=tokenizer,
    reward_funcs=[int_reward_func, correctness_reward_func],
    args=training_args,
    train_dataset=dataset,
    peft_config=LoraConfig(r=16, lora_alpha=64, target_modules=["q_proj", "k_proj"], task_type="CAUSAL_LM"),
)
trainer.train()
