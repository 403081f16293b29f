"""Tiny random models and tokenizers, built in milliseconds, for every test that needs a language model.

Weights are drawn wide (`initializer_range`), so that distributions are far from uniform: a model that ignores half of
what it should attend to is then off by whole nats, not by the sixth digit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import nn

from groupwise.policy.packing import CompletionRows

PAD, EOS, BOS = 0, 1, 2
CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789 .,!?<>/\n"
VOCABULARY = 64
WINDOW = 5
"""Tokens a sliding-window layer sees: fewer than any prompt of these tests."""

_SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "initializer_range": 0.25,
    "tie_word_embeddings": False,
    "pad_token_id": PAD,
    "eos_token_id": EOS,
    "bos_token_id": BOS,
}
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
_MIXED_LAYERS = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}

CONFIGS: dict[str, Callable[..., Any]] = {
    "llama": lambda **o: transformers.LlamaConfig(**_SHAPE | o),
    "llama-bias": lambda **o: transformers.LlamaConfig(**_SHAPE | {"attention_bias": True, "mlp_bias": True} | o),
    "llama-tied": lambda **o: transformers.LlamaConfig(**_SHAPE | {"tie_word_embeddings": True} | o),
    "qwen2": lambda **o: transformers.Qwen2Config(**_SHAPE | o),
    "qwen3": lambda **o: transformers.Qwen3Config(**_SHAPE | o),
    "qwen3-moe": lambda **o: transformers.Qwen3MoeConfig(**_SHAPE | _EXPERTS | {"num_experts": 4} | o),
    "phi3": lambda **o: transformers.Phi3Config(**_SHAPE | o),
    "olmo2": lambda **o: transformers.Olmo2Config(**_SHAPE | o),
    "gemma3": lambda **o: transformers.Gemma3TextConfig(**_SHAPE | _MIXED_LAYERS | {"query_pre_attn_scalar": 8} | o),
    "mistral": lambda **o: transformers.MistralConfig(**_SHAPE | {"sliding_window": None} | o),
    "mistral-window": lambda **o: transformers.MistralConfig(**_SHAPE | {"sliding_window": WINDOW} | o),
    "lfm2": lambda **o: transformers.Lfm2Config(**_SHAPE | {"layer_types": ["conv", "full_attention"]} | o),
    "gpt-oss": lambda **o: transformers.GptOssConfig(
        **_SHAPE | _MIXED_LAYERS | {"num_local_experts": 4, "num_experts_per_tok": 2, "rope_parameters": _ROPE} | o
    ),
    "gemma2": lambda **o: transformers.Gemma2Config(
        **_SHAPE
        | _MIXED_LAYERS
        | {"query_pre_attn_scalar": 8, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0}
        | o
    ),
    "granite": lambda **o: transformers.GraniteConfig(
        **_SHAPE | {"logits_scaling": 3.0, "embedding_multiplier": 2.0, "residual_multiplier": 0.7} | o
    ),
}


def tiny_model(name: str = "llama", *, seed: int = 0, **overrides: Any) -> Any:
    """A random float32 causal language model of that architecture, in evaluation mode."""
    attention = overrides.pop("attn_implementation", "eager" if name in ("gpt-oss", "gemma2") else "sdpa")
    config = CONFIGS[name](**overrides)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention).float()
        for parameter in model.parameters():  # norms, biases and sinks start at constants that hide mistakes
            if parameter.dim() < 2:
                nn.init.normal_(parameter, float(parameter.detach().mean().nan_to_num()), 0.3)
    return model.eval()


def with_lora(model: Any, *, seed: int = 0, rank: int = 4, is_learnt: bool = True, **settings: Any) -> Any:
    """The model under a LoRA adapter on all linear layers; a learnt one already changes what the base computes."""
    settings = {"target_modules": "all-linear", "lora_alpha": 2 * rank, "task_type": "CAUSAL_LM"} | settings
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        wrapped = get_peft_model(model, LoraConfig(r=rank, **settings))
        if is_learnt:
            for name, parameter in wrapped.named_parameters():
                if "lora_B" in name:
                    nn.init.normal_(parameter, 0.0, 0.1)
    return wrapped


def tiny_tokenizer(*, chat: bool = False) -> Any:
    """One token a character; `<eos>` ends, and there is no token put before or after a text."""
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", *CHARACTERS]
    tokens += [f"<{i}>" for i in range(len(tokens), VOCABULARY)]
    tokenizer = Tokenizer(models.WordLevel({t: i for i, t in enumerate(tokens)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>"
    )
    if chat:
        fast.chat_template = (
            "{% for m in messages %}{{ m['role'][0] }}/{{ m['content'] }}\n{% endfor %}"
            "{% if add_generation_prompt %}a/{% endif %}"
        )
    return fast


def random_ids(generator: torch.Generator, length: int) -> tuple[int, ...]:
    """Ordinary tokens: no padding, no end."""
    return tuple(torch.randint(4, VOCABULARY, (length,), generator=generator).tolist())


def random_rows(
    prompts: Sequence[int] = (9, 14, 6),
    completions: Sequence[Sequence[int]] = ((7, 1, 12), (4, 9), (1,)),
    seed: int = 0,
) -> CompletionRows:
    """Groups of random tokens with these prompt lengths, and these lengths of each group's completions."""
    generator = torch.Generator().manual_seed(seed)
    prompt_ids, token_ids, group = [], [], []
    for number, (prompt_length, lengths) in enumerate(zip(prompts, completions, strict=True)):
        prompt = random_ids(generator, prompt_length)
        for length in lengths:
            prompt_ids.append(prompt)
            token_ids.append(random_ids(generator, length))
            group.append(number)
    return CompletionRows(prompt_ids, token_ids, group)
