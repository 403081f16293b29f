"""TRL's game of 2048: an environment for every completion."""

from datasets import Dataset

from groupwise.trl import GRPOConfig, GRPOTrainer


class Game:
    """A game of one number."""

    def reset(self, **kwargs) -> str:
        self.value = 0
        return "begin"

    def move(self, direction: str) -> str:
        """Make a move.

        Args:
            direction: up or down
        """
        self.value += 1
        return str(self.value)


def score(environments, **kwargs):
    return [float(environment.value) for environment in environments]


trainer = GRPOTrainer(
    model="model",
    reward_funcs=score,
    args=GRPOConfig(output_dir="game", per_device_train_batch_size=4, num_generations=4, max_completion_length=16),
    train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": "play"}]}] * 4),
    environment_factory=Game,
)
trainer.train()
