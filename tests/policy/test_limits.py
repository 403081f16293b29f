"""What a model has room for is found whatever its configuration calls it, and wherever it keeps it."""

from __future__ import annotations

import pytest
import torch
import transformers
from tiny import tiny_model, with_lora

from groupwise.policy.bounds import context_length, num_embeddings, num_logits

TEXT = {"max_position_embeddings": 24}


class Remote(transformers.PretrainedConfig):
    """As a repository's own code declares one."""

    model_type = "remote"

    def __init__(self, seq_length: int | None = 48, **rest) -> None:
        super().__init__(**rest)
        self.seq_length = seq_length


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (transformers.LlamaConfig(**TEXT), 24),
        (transformers.OPTConfig(**TEXT), 24),
        (transformers.FalconConfig(**TEXT), 24),
        (transformers.GPT2Config(n_positions=24), 24),
        (transformers.GPTJConfig(n_positions=24), 24),
        (transformers.MptConfig(max_seq_len=24), 24),
        (transformers.DbrxConfig(max_seq_len=24), 24),
        (transformers.Gemma3Config(text_config=TEXT), 24),
        (transformers.Qwen2VLConfig(text_config=TEXT), 24),
        (transformers.Qwen2_5_VLConfig(text_config=TEXT), 24),
        (transformers.Mistral3Config(text_config={"model_type": "mistral", **TEXT}), 24),
        (transformers.LlavaConfig(text_config={"model_type": "llama", **TEXT}), 24),
        (transformers.Llama4Config(text_config=TEXT), 24),
        (Remote(), 48),
        (Remote(seq_length=None), None),
        (Remote(seq_length=-1), None),
        (transformers.BloomConfig(), None),
        (transformers.BloomConfig(seq_length=24), None),  # a number of its training: its positions are relative
        (transformers.MambaConfig(), None),
        (transformers.Mamba2Config(), None),
        (transformers.RecurrentGemmaConfig(), None),
    ],
    ids=lambda each: type(each).__name__,
)
def test_the_context_of_a_configuration(config, expected) -> None:
    assert context_length(config) == expected


def test_embedding_and_head_are_counted_under_an_adapter_too() -> None:
    model = tiny_model(vocab_size=70)
    assert (num_embeddings(model), num_logits(model)) == (70, 70)
    wrapped = with_lora(model, modules_to_save=["embed_tokens", "lm_head"])
    assert (num_embeddings(wrapped), num_logits(wrapped)) == (70, 70)
    other = tiny_model(vocab_size=70)
    other.set_input_embeddings(torch.nn.Embedding(80, 32))
    assert (num_embeddings(other), num_logits(other)) == (80, 70)
