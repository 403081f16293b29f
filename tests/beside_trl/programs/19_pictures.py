"""TRL's example for vision-language models: a column of pictures."""

from datasets import Dataset
from PIL import Image

from groupwise.trl import GRPOConfig, GRPOTrainer

picture = Image.new("RGB", (8, 8))
rows = [{"prompt": [{"role": "user", "content": "what is this"}], "image": picture, "solution": "a square"}] * 4


def reward(completions, solution, **kwargs):
    return [float(s in c[0]["content"]) for c, s in zip(completions, solution, strict=True)]


trainer = GRPOTrainer(
    model="model",
    reward_funcs=reward,
    args=GRPOConfig(output_dir="pictures", per_device_train_batch_size=4, num_generations=4, max_completion_length=8),
    train_dataset=Dataset.from_list(rows),
)
trainer.train()
