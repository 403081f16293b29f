"""An Unsloth notebook whose model is loaded by a stand-in: 1 completion a step, in groups of 8, and vLLM."""

from datasets import load_dataset
from unsloth import FastLanguageModel, is_bfloat16_supported

from groupwise.trl import GRPOConfig, GRPOTrainer

model, tokenizer = FastLanguageModel.from_pretrained(
    model_name="model", max_seq_length=512, load_in_4bit=True, fast_inference=True, max_lora_rank=8
)
model = FastLanguageModel.get_peft_model(
    model, r=8, target_modules=["q_proj", "v_proj"], lora_alpha=8, use_gradient_checkpointing="unsloth"
)
dataset = load_dataset("short", split="train")


def reward_len(completions, **kwargs):
    return [float(len(completion)) for completion in completions]


training_args = GRPOConfig(
    use_vllm=True,
    learning_rate=5e-6,
    adam_beta1=0.9,
    adam_beta2=0.99,
    weight_decay=0.1,
    warmup_ratio=0.1,
    lr_scheduler_type="cosine",
    optim="adamw_8bit",
    logging_steps=1,
    bf16=is_bfloat16_supported(),
    fp16=not is_bfloat16_supported(),
    per_device_train_batch_size=1,
    gradient_accumulation_steps=1,
    num_generations=8,
    max_prompt_length=256,
    max_completion_length=200,
    max_steps=2,
    save_steps=250,
    max_grad_norm=0.1,
    report_to="none",
    output_dir="outputs",
)
trainer = GRPOTrainer(
    model=model, processing_class=tokenizer, reward_funcs=[reward_len], args=training_args, train_dataset=dataset
)
trainer.train()
