"""TRL's own script for a command line: parser, registry of rewards, everything behind one main()."""

import sys
from dataclasses import dataclass, field

from datasets import load_dataset

from groupwise.trl import (
    GRPOConfig,
    GRPOTrainer,
    ModelConfig,
    ScriptArguments,
    TrlParser,
    get_peft_config,
    get_quantization_config,
)
from groupwise.trl.rewards import accuracy_reward, get_soft_overlong_punishment, think_format_reward


@dataclass
class GRPOScriptArguments(ScriptArguments):
    """What the script needs beside the data set."""

    reward_funcs: list[str] | None = field(default=None, metadata={"help": "names of rewards"})


REGISTRY = {
    "accuracy_reward": accuracy_reward,
    "think_format_reward": think_format_reward,
    "get_soft_overlong_punishment": get_soft_overlong_punishment(max_completion_len=1280, soft_punish_cache=256),
}


def main(script_args, training_args, model_args):
    """Train and save."""
    training_args.model_init_kwargs = dict(
        revision=model_args.model_revision,
        trust_remote_code=training_args.trust_remote_code,
        attn_implementation=model_args.attn_implementation,
        dtype=model_args.dtype,
    )
    dataset = load_dataset(
        script_args.dataset_name, name=script_args.dataset_config, streaming=script_args.dataset_streaming
    )
    trainer = GRPOTrainer(
        model=model_args.model_name_or_path,
        reward_funcs=[REGISTRY[name] for name in script_args.reward_funcs],
        args=training_args,
        train_dataset=dataset[script_args.dataset_train_split],
        eval_dataset=dataset[script_args.dataset_test_split] if training_args.eval_strategy != "no" else None,
        quantization_config=get_quantization_config(model_args),
        peft_config=get_peft_config(model_args),
    )
    trainer.train()
    trainer.accelerator.print("Training completed.")
    trainer.save_model(training_args.output_dir)
    if training_args.push_to_hub:
        trainer.push_to_hub(dataset_name=script_args.dataset_name)
        trainer.accelerator.print(f"Model pushed to https://huggingface.co/{trainer.hub_model_id}.")
    return trainer


if __name__ == "__main__":
    parser = TrlParser((GRPOScriptArguments, GRPOConfig, ModelConfig))
    parsed = parser.parse_args_and_config(args=sys.argv[1:], fail_with_unknown_args=False)
    trainer = main(*parsed[:3])
