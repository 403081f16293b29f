"""The model that is trained: which objects can be, and the adapter they are wrapped with."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from groupwise.errors import ModelError, named, words_of
from groupwise.policy.adapter import (
    active_adapter,
    active_config,
    base_of,
    has_adapter,
    require_named_modules,
    require_plain_adapter,
    require_trainable_adapter,
    trained_parameters,
)
from groupwise.policy.quantized import require_adapter_on_quantized
from groupwise.transformers_internals import has_causal_class

_EXPECTED = "Give a causal language model, as AutoModelForCausalLM loads it."


def trainable_model(model: Any, peft_config: Any, seed: int) -> nn.Module:
    """The model that is trained: as it is given, or under a fresh adapter initialised from `seed`.

    Raises:
        ModelError: it is no causal language model, or its adapter cannot be trained and saved exactly.
    """
    require_causal_lm(model)
    require_plain_adapter(model)
    if peft_config is not None:
        require_trainable_adapter(peft_config)
        require_named_modules(model, peft_config, "target_modules")
        model = add_adapter(model, peft_config, seed)
    require_adapter_on_quantized(model, has_adapter=active_adapter(model) is not None)
    if active_adapter(model) is not None:
        require_trainable_adapter(active_config(model))
        require_named_modules(model, active_config(model), "modules_to_save")
    trained_parameters(model)
    return model  # type: ignore[no-any-return]


def add_adapter(model: nn.Module, peft_config: Any, seed: int) -> nn.Module:
    """The model wrapped by peft with a fresh adapter, initialised from `seed`."""
    from peft import get_peft_model

    if has_adapter(model):
        raise ModelError(
            "The model is a peft model already and peft_config was given too. Leave peft_config out to train the "
            "adapter it has, or give the base model."
        )
    with torch.random.fork_rng(), warnings.catch_warnings():
        # peft 0.21 asks transformers 5.23 for the old name of activation checkpointing
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        torch.manual_seed(seed)
        try:
            return get_peft_model(model, peft_config)  # type: ignore[no-any-return]
        except Exception as error:  # modules that are not there, a start that peft does not know, a missing package
            raise ModelError(f"The adapter does not fit the model: {words_of(error)}") from error


def require_causal_lm(model: Any) -> None:
    """Refuse an object that is not a causal language model with its weights.

    Whether a token sees the tokens after it is found where the model is sampled (`rollout/plain_decoding.py`).

    Raises:
        ModelError: what it is, and what to give instead.
    """
    name = type(model).__name__
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"model is {named(model)}; expected a Hub id, a folder, a .gguf file, pypi:<package>, or a transformers "
            "model."
        )
    if isinstance(getattr(model, "module", None), nn.Module) and not hasattr(model, "get_output_embeddings"):
        raise ModelError(f"The model is wrapped in {name}. Give the model itself: model.module.")
    if not hasattr(model, "config") or not hasattr(model, "get_output_embeddings"):
        raise ModelError(f"{name} is not a transformers model: it has no config or no output layer. {_EXPECTED}")
    if getattr(model.config, "is_encoder_decoder", False):
        raise ModelError(f"{name} is an encoder-decoder, which reads its prompt elsewhere. {_EXPECTED}")
    if (part := _medium_of(model.config)) is not None:
        raise ModelError(
            f"{name} has a part that reads no text ({part}), and groupwise trains on text. {_text_model(model)}"
        )
    if any(p.is_meta for p in model.parameters()):
        raise ModelError(
            f"The weights of the {name} are not in memory (device meta). Load it without offloading and not under "
            'torch.device("meta").'
        )
    if any(p.is_inference() for p in model.parameters()):
        raise ModelError(
            f"The {name} was made inside torch.inference_mode(), where no tensor can take part in training. Load it "
            "outside of it."
        )
    base = base_of(model)
    if base.get_output_embeddings() is None or not getattr(base, "can_generate", lambda: True)():
        raise ModelError(f"{type(base).__name__} gives no next-token probabilities. {_EXPECTED}")


def _medium_of(config: Any) -> str | None:
    """The configuration of a vision or audio tower, by its name; None for a model of text."""
    names = ("vision_config", "audio_config", "vq_config", "thinker_config")
    return next((name for name in names if getattr(config, name, None) is not None), None)


def _text_model(model: Any) -> str:
    """How the text model inside can be trained, where transformers has a class for it alone."""
    text, inner = type(model.config.get_text_config()), getattr(base_of(model), "model", None)
    if not has_causal_class(text) or not hasattr(inner, "language_model"):
        return "Give a model of text."
    return (
        "To train the text model inside it: text = AutoModelForCausalLM.from_config(model.config.get_text_config()); "
        "text.model, text.lm_head = model.model.language_model, model.lm_head; and give text with its tokenizer as "
        "processing_class."
    )
