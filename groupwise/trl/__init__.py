"""groupwise under TRL's conventions: the names of TRL, its defaults where a script is silent, its metrics in the log.

`from groupwise.trl import GRPOConfig, GRPOTrainer` instead of `from trl import ...` keeps the algorithm, the batch and
the length of a run. What groupwise does not have comes from TRL itself where that is installed.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from groupwise.trl.modules import OtherModules
from groupwise.trl.names import HOMES, OTHER_NAMES, from_trl

if TYPE_CHECKING:
    from groupwise.trl.configs import GRPOConfig as GRPOConfig
    from groupwise.trl.configs import RLOOConfig as RLOOConfig
    from groupwise.trl.parser import TrlParser as TrlParser
    from groupwise.trl.script_arguments import ModelConfig as ModelConfig
    from groupwise.trl.script_arguments import ScriptArguments as ScriptArguments
    from groupwise.trl.script_arguments import get_kbit_device_map as get_kbit_device_map
    from groupwise.trl.script_arguments import get_peft_config as get_peft_config
    from groupwise.trl.script_arguments import get_quantization_config as get_quantization_config
    from groupwise.trl.trainers import GRPOTrainer as GRPOTrainer
    from groupwise.trl.trainers import RLOOTrainer as RLOOTrainer

__all__ = [*HOMES]

sys.meta_path.append(OtherModules())


def __getattr__(name: str) -> Any:
    if name in HOMES:
        return getattr(import_module(HOMES[name]), name)
    if name in OTHER_NAMES:
        return from_trl("trl", name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
