"""With TRL installed (`make trl`): the committed defaults are its own, and its parser takes our configuration."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest

import groupwise.trl as trl_names
from groupwise.rewards import TRLS

trl = pytest.importorskip("trl", reason="TRL is not installed: make trl runs this in an environment that has it")


def test_the_committed_defaults_are_those_of_the_installed_trl() -> None:
    from config.make_trl_defaults import TABLE, table

    assert json.loads(TABLE.read_text(encoding="utf-8")) == json.loads(json.dumps(table())), "run make_trl_defaults.py"


@pytest.mark.parametrize("config", [trl_names.GRPOConfig, trl_names.RLOOConfig])
@pytest.mark.parametrize("theirs", [True, False], ids=["TRL's dataclasses", "ours"])
def test_its_parser_takes_our_configuration(config: Any, theirs: bool, tmp_path: Path) -> None:
    home = trl if theirs else trl_names
    file = tmp_path / "config.yaml"
    keys = (
        "learning_rate: 1e-5",
        "dtype: bfloat16",
        "use_peft: true",
        "bf16: true",
        "max_prompt_length: 64",
        "seed: 3",
    )
    file.write_text("\n".join(keys))
    parser = trl.TrlParser((home.ScriptArguments, config, home.ModelConfig))
    line = ["--config", str(file), "--seed", "4", "--dataset_name", "d", "--no_gradient_checkpointing"]
    script, args, model = parser.parse_args_and_config(line)
    assert (args.learning_rate, args.seed, args.max_prompt_length, args.gradient_checkpointing) == (1e-5, 4, 64, False)
    assert (script.dataset_name, model.dtype, model.use_peft) == ("d", "bfloat16", True)
    made, theirs_made = trl_names.get_peft_config(model), trl.get_peft_config(model)
    assert made.to_dict() == theirs_made.to_dict()


def test_what_is_trls_own_is_the_same_object() -> None:
    from groupwise.trl import SFTConfig, rewards

    assert SFTConfig is trl.SFTConfig
    for name in TRLS:
        assert getattr(rewards, name) is getattr(trl.rewards, name)


def test_every_name_of_trl_is_there() -> None:
    names = [name for name in dir(trl) if not name.startswith("_") and not inspect.ismodule(getattr(trl, name))]
    assert [name for name in names if not hasattr(trl_names, name)] == []
