"""The tables of names are those of the code that implements them."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import groupwise
from groupwise.config.names import DATASETS, REQUIRED_PARAMETERS, REWARD_PARAMETERS
from groupwise.config.yaml_file import parse
from groupwise.data import packaged
from groupwise.rewards.shipped import SHIPPED

DOCS = Path(__file__).parents[2] / "docs"


def test_shipped_rewards() -> None:
    parameters = {name: tuple(field.name for field in dataclasses.fields(kind)) for name, kind in SHIPPED.items()}
    assert parameters == REWARD_PARAMETERS
    needed = {
        name: tuple(f.name for f in dataclasses.fields(kind) if f.default is f.default_factory is dataclasses.MISSING)
        for name, kind in SHIPPED.items()
    }
    assert {name: names for name, names in needed.items() if names} == REQUIRED_PARAMETERS


def test_packaged_data() -> None:
    assert set(packaged.NAMES) == set(DATASETS)


def test_every_callback_event_that_is_called_is_on_the_page() -> None:
    package = Path(groupwise.__file__).parent
    source = "".join(path.read_text(encoding="utf-8") for path in package.rglob("*.py"))
    called = set(re.findall(r"""\.call\(\s*"(on_\w+)\"""", source))
    table = (DOCS / "from-trl.md").read_text(encoding="utf-8").partition("These events are called:")[2]
    assert called <= set(re.findall(r"`(on_\w+)`", table.partition("The others")[0]))


def test_the_recipe_on_the_page_is_one() -> None:
    from groupwise.config import Recipe

    page = (DOCS / "config.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert Recipe(**parse(text)).config.objective.epsilon_high == 0.3


def test_loading_the_configuration_is_quick() -> None:
    """Processor seconds of a fresh interpreter, so that a busy machine does not fail it; nothing heavy is loaded."""
    program = (
        "import sys, time; import groupwise.config; print(time.process_time()); "
        "print({'torch', 'transformers', 'numpy', 'datasets'} & set(sys.modules))"
    )
    seconds, heavy = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert float(seconds) < 0.5
    assert heavy == "set()"
