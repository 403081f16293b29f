"""Words of other libraries that edit distance would send to the wrong key: each with its answer."""

from __future__ import annotations

from typing import Any

_BEAMS = "beam search looks for one likely text, and a group needs different ones; leave it out"
_UNKNOWN_TO_LEARNER = "the learner computes the probabilities of plain sampling; reward the text instead"
_OTHER_CUT = "of the cuts there are top_p, top_k and min_p"
_SET = "completions end at the end tokens of the model; set `stop` for more"
_GUIDED = "completions cannot be constrained; reward the format instead"

GENERATION: dict[str, tuple[Any, str]] = {
    "do_sample": (True, "a group needs different completions; leave it out, or lower temperature"),
    **dict.fromkeys(("num_beams", "num_beam_groups"), (1, _BEAMS)),
    **dict.fromkeys(("length_penalty", "early_stopping"), (None, _BEAMS)),
    "diversity_penalty": (0.0, _BEAMS),
    **dict.fromkeys(("no_repeat_ngram_size", "encoder_no_repeat_ngram_size"), (0, _UNKNOWN_TO_LEARNER)),
    **dict.fromkeys(("bad_words_ids", "force_words_ids", "sequence_bias"), (None, _UNKNOWN_TO_LEARNER)),
    **dict.fromkeys(("suppress_tokens", "begin_suppress_tokens", "logit_bias"), (None, _UNKNOWN_TO_LEARNER)),
    **dict.fromkeys(("presence_penalty", "frequency_penalty"), (0.0, _UNKNOWN_TO_LEARNER)),
    **dict.fromkeys(("forced_bos_token_id", "forced_eos_token_id"), (None, _UNKNOWN_TO_LEARNER)),
    **dict.fromkeys(("typical_p", "top_h", "epsilon_cutoff", "eta_cutoff"), (None, _OTHER_CUT)),
    **dict.fromkeys(("guided_decoding", "structured_outputs"), (None, _GUIDED)),
    **dict.fromkeys(("min_length", "min_new_tokens", "min_tokens"), (0, "reward the length instead")),
    **dict.fromkeys(("eos_token_id", "stop_token_ids"), (None, _SET)),
    **dict.fromkeys(("pad_token_id", "bos_token_id"), (None, "these tokens are the tokenizer's own; leave it out")),
    "max_length": (None, "set max_completion_length, which counts the completion alone"),
    **dict.fromkeys(("max_tokens", "max_time"), (None, "set max_completion_length")),
    **dict.fromkeys(("num_return_sequences", "n"), (None, "set num_generations")),
    **dict.fromkeys(("use_cache", "cache_implementation"), (True, "the engine has its own cache; leave it out")),
    "seed": (None, "set seed of the configuration"),
}
"""Key of `generation_kwargs` -> the value that asks for nothing (None beside it), and what to do instead."""

TRACKERS = {
    "mlflow": "MLflowCallback",
    "swanlab": "SwanLabCallback",
    "comet_ml": "CometCallback",
    "clearml": "ClearMLCallback",
    "neptune": "NeptuneCallback",
    "dvclive": "DVCLiveCallback",
    "codecarbon": "CodeCarbonCallback",
    "azure_ml": "AzureMLCallback",
    "dagshub": "DagsHubCallback",
    "flyte": "FlyteCallback",
}
"""Name in `report_to` -> the callback of `transformers.integrations` that does it."""

RECIPE_KEYS = {
    **dict.fromkeys(("dataset", "datasets", "dataset_name", "dataset_id_or_path", "train_dataset"), "data"),
    "dataset_config": "data.subset",
    "dataset_config_name": "data.subset",
    "dataset_train_split": "data.split",
    "dataset_test_split": "data.eval_split",
    "eval_dataset": "data.eval_path",
    **dict.fromkeys(("reward", "reward_funcs", "reward_functions", "reward_model_name_or_path"), "rewards"),
    **dict.fromkeys(("adapter", "peft_config", "use_peft"), "lora"),
    "lora_r": "lora.r",
    "lora_alpha": "lora.lora_alpha",
    "lora_dropout": "lora.lora_dropout",
    **dict.fromkeys(("lora_target_modules", "lora_target_linear"), "lora.target_modules"),
    "lora_modules_to_save": "lora.modules_to_save",
    "use_rslora": "lora.use_rslora",
    **dict.fromkeys(("use_dora", "peft_use_dora"), "lora.use_dora"),
    **dict.fromkeys(("model_name_or_path", "base_model", "model_name", "model_id"), "model"),
    "model_revision": "model_init_kwargs.revision",
    "tokenizer_name_or_path": "tokenizer",
    **dict.fromkeys(("micro_batch_size", "train_batch_size"), "per_device_train_batch_size"),
    "lr_scheduler": "lr_scheduler_type",
    "gradient_clipping": "max_grad_norm",
    "sequence_len": "max_prompt_length",
    "flash_attention": "attn_implementation",
}
"""Key of open-r1's, TRL's or axolotl's files -> the key of a recipe."""

_QUANTIZED = (
    "write model_init_kwargs: {{quantization_config: {{quant_method: bitsandbytes, load_in_4bit: true}}}} with lora"
)
_ONE_READER = "data is read in one process: leave it out"

RECIPE_SENTENCES = {
    **dict.fromkeys(("load_in_8bit", "load_in_4bit", "bnb_4bit_quant_type", "use_bnb_nested_quant"), _QUANTIZED),
    **dict.fromkeys(("wandb_project", "wandb_entity", "wandb_run_group"), "set {} in the environment"),
    "lora_task_type": "an adapter is always one of a causal language model: leave it out",
    "rl": "a recipe always trains with GRPO and its family: choose one by objective",
    "trl": "its keys stand at the top level of a recipe",
    "chat_template": "the tokenizer's own chat template is used: give a tokenizer that has it",
    "hub_model_revision": "the main branch is uploaded to: leave it out",
    **dict.fromkeys(("dataset_num_proc", "dataloader_num_proc", "preprocessing_num_workers"), _ONE_READER),
}
"""Key of such files -> what to do instead, where no key of a recipe is the same."""


def recipe_sentence(key: str) -> str | None:
    """What to do about a key of another library's file; None for one that only has another name, or is unknown."""
    sentence = RECIPE_SENTENCES.get(key)
    return None if sentence is None else f'unknown key "{key}": {sentence.format(key.upper())}.'
