"""TRL's agent example: functions that the model may call."""

from datasets import Dataset

from groupwise.trl import GRPOConfig, GRPOTrainer


def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: the first
        b: the second
    """
    return a + b


def called(completions, **kwargs):
    return [float(any("tool_calls" in turn for turn in completion)) for completion in completions]


args = GRPOConfig(output_dir="agent", per_device_train_batch_size=4, num_generations=4, max_completion_length=16)
args.chat_template_kwargs = {"enable_thinking": False}
trainer = GRPOTrainer(
    model="model",
    reward_funcs=called,
    args=args,
    train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": "1 and 2"}]}] * 4),
    tools=[add],
)
trainer.train()
