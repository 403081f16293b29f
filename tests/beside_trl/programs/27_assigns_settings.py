"""The habit of filling in a configuration line by line, two settings that only fit together among them."""

from datasets import load_dataset

from groupwise.trl import GRPOConfig, GRPOTrainer

CALLS = []


def reward_len(completions, **kwargs):
    CALLS.append(len(completions))
    return [-abs(20 - len(completion)) for completion in completions]


training_args = GRPOConfig(output_dir="assigned")
training_args.learning_rate = 1e-4
training_args.per_device_train_batch_size = 2
training_args.num_generations = 2
training_args.gradient_accumulation_steps = 2
training_args.max_completion_length = 16
training_args.num_iterations = 1
training_args.beta = 0.1
training_args.loss_type = "dr_grpo"
training_args.max_steps = 2
training_args.logging_steps = 1
training_args.report_to = "none"
training_args.lr_scheduler_type = "constant"
trainer = GRPOTrainer(
    model="model",
    processing_class=None,
    reward_funcs=[reward_len],
    args=training_args,
    train_dataset=load_dataset("short", split="train"),
)
trainer.train()
