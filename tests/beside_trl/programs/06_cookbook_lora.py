"""The cookbook's fine-tuning of a reasoning model: chats, two rewards, math_verify, the Hub at the end."""

import re

import torch
from datasets import load_dataset
from math_verify import parse, verify
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from groupwise.trl import GRPOConfig, GRPOTrainer

CALLS = []

train_dataset, test_dataset = load_dataset("gsm", split=["train", "test"])


def make_conversation(example):
    return {
        "prompt": [
            {"role": "system", "content": "think first"},
            {"role": "user", "content": example["question"]},
        ]
    }


train_dataset = train_dataset.map(make_conversation)
test_dataset = test_dataset.map(make_conversation)
train_dataset = train_dataset.remove_columns(["question"]).rename_column("answer", "solution")

model = AutoModelForCausalLM.from_pretrained("model", dtype="auto", device_map="cpu")
lora_config = LoraConfig(
    task_type="CAUSAL_LM", r=8, lora_alpha=32, lora_dropout=0.1, target_modules=["q_proj", "v_proj"]
)
model = get_peft_model(model, lora_config)
model.print_trainable_parameters()


def format_reward(completions, **kwargs):
    CALLS.append(len(completions))
    contents = [completion[0]["content"] for completion in completions]
    return [1.0 if re.match(r"^<think>.*?</think>\s*<answer>.*?</answer>$", text) else 0.0 for text in contents]


def accuracy_reward(completions, **kwargs):
    rewards = []
    for completion, solution in zip(completions, kwargs["solution"], strict=True):
        gold = parse(solution, parsing_timeout=None)
        answer = parse(completion[0]["content"], parsing_timeout=None)
        rewards.append(float(verify(answer, gold, timeout_seconds=None)) if gold else 1.0)
    return rewards


training_args = GRPOConfig(
    output_dir="Qwen2-0.5B-GRPO-test",
    learning_rate=1e-5,
    remove_unused_columns=False,
    gradient_accumulation_steps=2,
    num_train_epochs=1,
    bf16=True,
    max_completion_length=64,
    num_generations=4,
    max_prompt_length=128,
    report_to=["tensorboard"] if torch.cuda.is_available() else "none",
    logging_steps=10,
    push_to_hub=True,
    save_strategy="steps",
    save_steps=10,
)
trainer = GRPOTrainer(
    model=model, reward_funcs=[format_reward, accuracy_reward], args=training_args, train_dataset=train_dataset
)
train_result = trainer.train()
trainer.save_model(training_args.output_dir)
trainer.push_to_hub(dataset_name="AI-MO/NuminaMath-TIR")
