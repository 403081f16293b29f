"""Iterative GRPO (DeepSeekMath, Algorithm 1) on a toy, offline, in seconds: `python examples/iterative_grpo.py`.

The policy, 2 layers, writes letters. Nobody tells it what is wanted: it is rewarded by a reward model, which starts at
random and learns from comparisons of the policy's own completions, made by an annotator who likes the letter "a".
Every 5 steps the reference becomes the policy and the reward model goes on learning, 10% of its comparisons being
old ones.
"""

import sys

import torch
import transformers
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from groupwise import GRPOConfig, GRPOTrainer
from groupwise.lifecycle.iterate_reward_model import ContinualRewardModel, IterateRewardModel
from groupwise.rewards import RewardModel

ITERATION = 5
SHAPE = {"vocab_size": 29, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
         "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1}  # fmt: skip


def letters_tokenizer():
    tokens = ["<pad>", "<eos>", " ", *"abcdefghijklmnopqrstuvwxyz"]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


def count_of_a(prompt, texts):
    """The annotator: the more often "a", the better."""
    return [text.count("a") for text in texts]


def main(output_dir="runs/iterative", iterations=4):
    torch.manual_seed(0)
    tokenizer, config = letters_tokenizer(), transformers.LlamaConfig(**SHAPE, num_labels=1)
    reward_model = RewardModel(transformers.LlamaForSequenceClassification(config), tokenizer)
    callback = IterateRewardModel(ContinualRewardModel(reward_model, learning_rate=3e-3), count_of_a)
    settings = GRPOConfig(
        output_dir=output_dir,
        max_steps=iterations * ITERATION,
        ref_model_reset_steps=ITERATION,
        beta=0.02,
        prompts_per_step=4,
        num_generations=8,
        max_completion_length=8,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        dtype="float32",
        use_cpu=True,
    )
    prompts = [{"prompt": f"say {word}"} for word in ("one", "two", "three", "four")]
    policy = transformers.LlamaForCausalLM(config)
    trainer = GRPOTrainer(policy, reward_model, settings, prompts, processing_class=tokenizer, callbacks=[callback])
    trainer.train(overwrite=True)
    return trainer, callback


if __name__ == "__main__":
    trainer, callback = main(*sys.argv[1:])
    print("loss of the reward model, by iteration:", callback.losses)
