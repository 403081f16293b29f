"""Which adapters vLLM takes whole, by their settings alone, so that a recipe is refused before anything loads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAX_RANK = 512
"""Of an adapter that vLLM takes."""
_STARTS_AT_BASE = (True, False, "gaussian")
"""Values of `init_lora_weights` that leave the base as it is."""


def why_not_served(lora: Mapping[str, Any]) -> str | None:
    """Why vLLM does not take an adapter with these settings, in words; None where it does."""
    kind = lora.get("peft_type")
    found = {
        f"the adapter is {getattr(kind, 'value', kind)}": getattr(kind, "value", kind) not in ("LORA", None),
        "use_dora": lora.get("use_dora"),
        f"modules_to_save {lora.get('modules_to_save')}": lora.get("modules_to_save"),
        f"bias {lora.get('bias')}": lora.get("bias") not in ("none", None),
        f"rank {lora.get('r')}, above {MAX_RANK}": (lora.get("r") or 0) > MAX_RANK,
        f"init_lora_weights {lora.get('init_lora_weights')}, which changes the base": lora.get(
            "init_lora_weights", True
        )
        not in _STARTS_AT_BASE,
        "rank_pattern": lora.get("rank_pattern"),
        "alpha_pattern": lora.get("alpha_pattern"),
        "trainable_token_indices": lora.get("trainable_token_indices"),
        "target_parameters": lora.get("target_parameters"),
        f"an adapter on {_on_tokens(lora)}": _on_tokens(lora),
    }
    return next((name for name, is_wrong in found.items() if is_wrong), None)


def _on_tokens(lora: Mapping[str, Any]) -> str | None:
    targets = lora.get("target_modules") or ()
    names = [targets] if isinstance(targets, str) else [*targets]
    return next((n for n in names if any(n.endswith(end) for end in ("lm_head", "embed_tokens"))), None)
