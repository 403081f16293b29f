"""TRL's LoRA/QLoRA notebook with quantization switched off: memory and runtime are printed from the result."""

import torch
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoTokenizer

from groupwise.trl import GRPOConfig, GRPOTrainer
from groupwise.trl.rewards import accuracy_reward, think_format_reward

train_dataset = load_dataset("math", split="train")
peft_config = LoraConfig(r=32, lora_alpha=32, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
training_args = GRPOConfig(
    learning_rate=2e-5,
    max_steps=4,
    per_device_train_batch_size=8,
    max_completion_length=16,
    num_generations=8,
    optim="paged_adamw_8bit",
    logging_steps=1,
    report_to="none",
    output_dir="lora",
    log_completions=False,
    push_to_hub=False,
)
trainer = GRPOTrainer(
    model="model",
    reward_funcs=[think_format_reward, accuracy_reward],
    args=training_args,
    train_dataset=train_dataset,
    quantization_config=None,
    peft_config=peft_config,
)
memory = torch.cuda.max_memory_reserved() if torch.cuda.is_available() else 0
trainer_stats = trainer.train()
runtime = f"{trainer_stats.metrics['train_runtime']:.1f} seconds, {memory} bytes"
trainer.save_model("lora")
tokenizer = AutoTokenizer.from_pretrained("lora")
