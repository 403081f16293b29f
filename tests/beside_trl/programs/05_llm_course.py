"""The exercise of the LLM course: adapter put on before, 8-bit optimizer, merged and used in a pipeline at the end."""

from datasets import load_dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from groupwise.trl import GRPOConfig, GRPOTrainer

CALLS = []

dataset = load_dataset("short")
model = AutoModelForCausalLM.from_pretrained("model", dtype="auto", device_map="cpu")
tokenizer = AutoTokenizer.from_pretrained("model")
lora_config = LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear")
model = get_peft_model(model, lora_config)


def reward_len(completions, **kwargs):
    CALLS.append(len(completions))
    return [-abs(50 - len(completion)) for completion in completions]


training_args = GRPOConfig(
    output_dir="GRPO",
    learning_rate=2e-5,
    per_device_train_batch_size=4,
    gradient_accumulation_steps=2,
    max_prompt_length=512,
    max_completion_length=96,
    num_generations=4,
    optim="adamw_8bit",
    num_train_epochs=1,
    bf16=True,
    report_to=["none"],
    remove_unused_columns=False,
    logging_steps=1,
)
trainer = GRPOTrainer(model=model, reward_funcs=[reward_len], args=training_args, train_dataset=dataset["train"])
trainer.train()
merged_model = trainer.model.merge_and_unload()
merged_model.save_pretrained("SmolGRPO")
tokenizer.save_pretrained("SmolGRPO")
generator = pipeline("text-generation", model="SmolGRPO")
generated_text = generator("say a word", max_new_tokens=4, do_sample=True)[0]["generated_text"]
