"""Adapters of peft: which of them can be trained, and which trained parameters an adapter holds.

A parameter is *inside* the adapter when switching the adapter off switches the parameter off; any other trained
parameter is *beside* it (a bias, a norm, an embedding that was unfrozen). Nothing here loads peft by itself.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from groupwise.errors import ConfigError, ModelError, did_you_mean, named

_REFUSED: Mapping[str, str] = {
    "ADAPTION_PROMPT": "its prompts enter every attention layer, which neither engine nor learner follows",
    "POLY": "it needs a task id for every row, which a rollout has not",
    "SHADOW": "its state lives beside the forward pass, which a rollout cannot keep",
    "XLORA": "it weighs its adapters by a pass of its own for every batch",
}
"""Kinds of adapters that cannot be trained here, with the reason; prompt learning is refused apart."""

_LAYERS_OF_TOKENS = ("alora_invocation_tokens", "arrow_config")
"""Settings of LoRA whose layers depend on the other tokens of a batch: sampling token by token is another model."""


@dataclass(frozen=True)
class TrainedParameters:
    """The parameters with `requires_grad` by their names."""

    adapter: str | None
    """Name of the active adapter; None for a model without one."""
    inside: Mapping[str, nn.Parameter]
    beside: Mapping[str, nn.Parameter]
    """All of them where there is no adapter."""


def lora_config(arguments: Mapping[str, Any]) -> Any:
    """peft's `LoraConfig`; peft is loaded only where an adapter is asked for."""
    from peft import LoraConfig

    return LoraConfig(**arguments)


def has_adapter(model: nn.Module) -> bool:
    """Whether the model is wrapped by peft."""
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")


def base_of(model: nn.Module) -> Any:
    """The model under its adapter, or itself."""
    return model.get_base_model() if has_adapter(model) else model  # type: ignore[operator]


def active_adapter(model: nn.Module) -> str | None:
    """Name of the adapter that is trained; None for a model without one.

    Raises:
        ModelError: several adapters are active at once.
    """
    if not has_adapter(model):
        return None
    names = list(model.active_adapters)  # type: ignore[arg-type]
    if len(names) != 1:
        raise ModelError(
            f"{len(names)} adapters are active at once ({', '.join(names) or 'none'}), and a trained model is saved as "
            "one adapter on its base. Merge the others into the base (merge_and_unload), combine them "
            "(add_weighted_adapter), or activate one with set_adapter."
        )
    return str(names[0])


def active_config(model: nn.Module) -> Any:
    """The configuration of the adapter that is trained; None for a model without one."""
    name = active_adapter(model)
    return None if name is None else model.peft_config[name]  # type: ignore[index]


def named_trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters with `requires_grad` by their names."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def trained_parameters(model: nn.Module) -> TrainedParameters:
    """Every trained parameter, by whether the active adapter holds it.

    Raises:
        ModelError: several adapters are active, or parameters of another than the active one are trained.
    """
    adapter = active_adapter(model)
    trained = named_trained(model)
    if adapter is None:
        return TrainedParameters(None, {}, trained)
    owner = dict(_owners(model))
    idle = sorted({owner[id(p)] for p in trained.values() if owner.get(id(p), adapter) != adapter})
    if idle:
        raise ModelError(
            f'Parameters of the adapter "{idle[0]}" have requires_grad, but the active adapter is "{adapter}", so they '
            f'would never get a gradient. Activate "{idle[0]}" with set_adapter, or freeze its parameters.'
        )
    inside = {name: p for name, p in trained.items() if id(p) in owner}
    beside = {name: p for name, p in trained.items() if id(p) not in owner}
    return TrainedParameters(adapter, inside, beside)


def _owners(model: nn.Module) -> Iterator[tuple[int, str]]:
    """(id of a parameter that an adapter holds, name of the adapter)."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    names = set(model.peft_config)  # type: ignore[arg-type]
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            held = [getattr(module, name, None) for name in module.adapter_layer_names]
        elif isinstance(module, AuxiliaryTrainingWrapper):
            held = [getattr(module, "modules_to_save", None)]
        else:
            continue
        for part in held:
            yield from _owned(part, names)


def _owned(part: Any, names: set[str]) -> Iterator[tuple[int, str]]:
    """The same for one dictionary of an adapter layer, whose keys are names of adapters."""
    if isinstance(part, nn.Module | nn.ParameterDict):
        for name, parameter in part.named_parameters():
            yield id(parameter), next((step for step in name.split(".") if step in names), "")


def starts_as_base(model: nn.Module) -> bool:
    """Whether the model with its adapter switched off is the model as it is now, whatever is trained later.

    So it is for plain LoRA with a factor of 0 (B, or A of an embedding) and nothing trained beside it. Any other
    adapter may start elsewhere.
    """
    if not has_adapter(model) or _kind(active_config(model)) != "LORA" or trained_parameters(model).beside:
        return False
    from peft.utils.other import AuxiliaryTrainingWrapper

    if any(isinstance(module, AuxiliaryTrainingWrapper) for module in model.modules()):
        return False
    factors = [p for name, p in model.named_parameters() if "lora_B" in name or "lora_embedding_A" in name]
    return bool(factors) and not any(bool(p.detach().count_nonzero()) for p in factors)


def require_trainable_adapter(config: Any) -> None:
    """Refuse the configuration of an adapter that cannot be trained, saved or loaded exactly.

    Raises:
        ConfigError: it is no configuration of an adapter.
        ModelError: naming the kind or the setting, and what to use instead.
    """
    if isinstance(config, type) or not hasattr(config, "peft_type"):
        settings = ", ".join(f"{key}={value!r}" for key, value in config.items()) if isinstance(config, dict) else ""
        raise ConfigError(
            f"peft_config is {named(config)}; expected a configuration of peft, such as "
            f"peft.LoraConfig({settings or 'r=16'}). In a recipe it is lora: {{r: 16}}."
        )
    kind = _kind(config)
    if getattr(config, "is_prompt_learning", False):
        raise ModelError(
            f"The adapter is {kind}, a prompt-learning one, which puts virtual tokens before every prompt. These are "
            "not supported: log-probs would belong to other tokens. Use LoRA (lora: in a recipe, peft.LoraConfig)."
        )
    if kind in _REFUSED:
        raise ModelError(f"The adapter {kind} is not supported: {_REFUSED[kind]}. Use LoRA, or another weight adapter.")
    for name in _LAYERS_OF_TOKENS:
        if getattr(config, name, None):
            raise ModelError(
                f"{name} makes the adapter depend on the other tokens of a batch, which is not supported. Leave it out."
            )
    if kind == "LORA" and config.lora_alpha == 0:
        raise ModelError("lora_alpha is 0, which multiplies the adapter by 0: nothing could be learnt. Set it above 0.")
    _check_pattern(getattr(config, "target_modules", None))
    init = getattr(config, "init_lora_weights", True)
    if kind == "LORA":
        _check_start(init)
    if kind == "LORA" and (why := why_start_is_lost(init)):
        raise ModelError(f'init_lora_weights "{init}" is not supported: {why}')


def _check_start(init: bool | str) -> None:
    """Refuse an `init_lora_weights` that peft does not know, before the model is loaded."""
    from peft import LoraConfig

    known = re.findall(r"'([^']+)'", str(LoraConfig.__annotations__["init_lora_weights"]))
    plain = [name for name in known if "[" not in name]
    if isinstance(init, str) and init.lower() not in (*plain, "lora_ga") and not init.startswith("pissa_niter_"):
        raise ModelError(
            f'init_lora_weights is "{init}"; expected true, false or one of {", ".join(plain)}.'
            f"{did_you_mean(init, plain)}"
        )


def _check_pattern(wanted: Any) -> None:
    """Refuse `target_modules` that are one text and no pattern."""
    try:
        re.compile(wanted if isinstance(wanted, str) else "")
    except re.error as error:
        raise ModelError(
            f'target_modules is "{wanted}", a pattern that cannot be read: {error}. Names need no pattern when they '
            "stand in a list: [q_proj, v_proj]."
        ) from error


def why_start_is_lost(init: bool | str | None) -> str | None:
    """Why an adapter with this `init_lora_weights` cannot be put on its base again; None where it can.

    PiSSA and its kin move the start of the adapter out of the base. peft repeats that when it loads the adapter, which
    gives the same base only where the start follows from the base alone.
    """
    if not isinstance(init, str) or not init.startswith(("pissa_niter_", "loftq", "corda", "lora_ga")):
        return None
    return (
        "it changes the base by a start that is random or made from data, so the saved adapter on its base would be "
        'another model. Use "pissa", "olora" or "orthogonal", whose start is computed again from the base, or true.'
    )


def require_named_modules(model: nn.Module, config: Any, key: str) -> None:
    """Refuse a name in that list of the adapter's configuration that no module has, and a pattern that none matches.

    peft passes over a name without a word.

    Raises:
        ModelError: with the names that there are.
    """
    wanted = getattr(config, key, None) or ()
    base = [name for name, _ in base_of(model).named_modules()]
    if isinstance(wanted, str):
        _require_matching(wanted, base, key)
        return
    for name in sorted(wanted):
        if not any(path == name or path.endswith(f".{name}") for path in base):
            raise ModelError(f'{key} names "{name}", which is no module of the model.{_near(str(name), base)}')


def _require_matching(pattern: str, base: Sequence[str], key: str) -> None:
    if pattern == "all-linear" or any(re.fullmatch(pattern, path) for path in base):
        return
    if any(path.endswith(f".{pattern}") for path in base):
        raise ModelError(
            f'{key} is "{pattern}", and one text is a pattern for whole names. Put it in a list: [{pattern}].'
        )
    example = next((path for path in base if path.endswith("q_proj")), base[-1])
    raise ModelError(
        f'{key} is "{pattern}", a pattern that matches no module of the model. It has to match a whole name, such as '
        f"{example}.{_near(pattern, base)}"
    )


def _near(wanted: str, base: Sequence[str]) -> str:
    """The modules that were probably meant, and some that there are."""
    ends = dict.fromkeys(path.rpartition(".")[2] for path in base if not path.rpartition(".")[2].isdigit())
    known = [end for end in ends if end and end not in ("modules_to_save", "original_module", "base_layer")]
    word = re.split(r"[^A-Za-z0-9_]", wanted)[-1]
    return f"{did_you_mean(word, known)} It has, for example, {', '.join(known[:12])}."


def require_plain_adapter(model: nn.Module) -> None:
    """Refuse an adapter that is merged into its base, and one that transformers holds without peft's own wrapper.

    Raises:
        ModelError: with the call that mends it.
    """
    if hasattr(model, "peft_config") and not has_adapter(model):
        raise ModelError(
            f"The {type(model).__name__} holds its adapter inside (add_adapter or load_adapter of transformers). Give "
            "it as a peft model: peft.get_peft_model(model, config), or PeftModel.from_pretrained(model, folder, "
            "is_trainable=True)."
        )
    embedding = base_of(model).get_input_embeddings()
    configs: Any = getattr(model, "peft_config", {})
    if hasattr(embedding, "base_layer") and any(getattr(c, "ensure_weight_tying", False) for c in configs.values()):
        raise ModelError(
            "The output layer takes its adapter from the embedding's (ensure_weight_tying), and such a model cannot be "
            "copied. Leave ensure_weight_tying out, or name the embedding in modules_to_save."
        )
    for name, module in model.named_modules():
        if getattr(module, "merged_adapters", None):
            raise ModelError(
                f"The adapter is merged into its base (for example in {name}), so that it gets no gradient. Call "
                "model.unmerge_adapter() before training."
            )


def why_not_merged(model: nn.Module) -> str | None:
    """Why the adapter cannot be multiplied into the weights of its base; None where it can."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    seen: set[type] = set()
    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer) and type(module) not in seen:
            seen.add(type(module))
            try:
                copy.deepcopy(module).merge()
            except Exception as error:  # each kind of adapter refuses in its own way
                return f"{name} ({type(module).__name__}): {type(error).__name__}: {str(error).splitlines()[0]}"
    return None


def _kind(config: Any) -> str:
    kind = getattr(config, "peft_type", None)
    return str(getattr(kind, "value", kind))
