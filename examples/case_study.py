"""The case study as one program: a 135M-parameter model learns to summarise posts in 50 characters.

It is written as users of the ecosystem write it, and needs their accounts: Weights & Biases for the curves, the Hugging
Face Hub for the model, the posts and the place to publish (`hf auth login`). docs/case-study.md explains every line;
recipes/case-study-smollm2-cpu.yaml is the same run without accounts.

    python examples/case_study.py
"""

from __future__ import annotations

import wandb
from datasets import load_dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from groupwise import GRPOConfig, GRPOTrainer

MODEL = "HuggingFaceTB/SmolLM-135M-Instruct"
PUBLISH_AS = "SmolLM-135M-50-characters"
IDEAL_LENGTH = 50


def reward_len(completions, **kwargs):
    """Minus the distance from 50 characters: 0 is perfect."""
    return [-abs(IDEAL_LENGTH - len(completion)) for completion in completions]


wandb.login()
dataset = load_dataset("mlabonne/smoltldr")

# The model: every linear layer gets an adapter, the rest stays as it is.
model = AutoModelForCausalLM.from_pretrained(MODEL, torch_dtype="auto", device_map="auto", attn_implementation="eager")
tokenizer = AutoTokenizer.from_pretrained(MODEL)
model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear"))
model.print_trainable_parameters()

# The run: 4 x 2 = 8 completions a step, which are 2 posts with 4 summaries each.
args = GRPOConfig(
    output_dir="GRPO",
    run_name="experiment",
    learning_rate=2e-5,
    per_device_train_batch_size=4,
    gradient_accumulation_steps=2,
    max_prompt_length=512,
    max_completion_length=96,
    num_generations=4,
    optim="adamW_8bit",
    num_train_epochs=1,
    bf16=True,
    report_to=["wandb"],
    remove_unused_columns=False,
    logging_steps=1,
)
trainer = GRPOTrainer(model=model, reward_funcs=[reward_len], args=args, train_dataset=dataset["train"])

wandb.init(project="GRPO")
trainer.train()

# The result: a plain transformers model, published and asked for a summary. Here the sum of weights and adapter has the
# weights' number format; trainer.push_to_hub(merge=True) publishes it in float32, with tokenizer and card, as the name
# in GRPOConfig(hub_model_id=PUBLISH_AS).
merged = trainer.model.merge_and_unload()
merged.push_to_hub(PUBLISH_AS, private=False)

POST = """Summarise this post: The domestic cat is a small carnivore that has lived beside people for about ten thousand
years. It came for the mice in their grain and stayed for the warmth of their houses."""

generate = pipeline("text-generation", model=merged, tokenizer=tokenizer)
messages = [{"role": "user", "content": POST}]
answer = generate(messages, max_new_tokens=256, do_sample=True, temperature=0.5, min_p=0.1)
print(answer[0]["generated_text"][-1]["content"])
