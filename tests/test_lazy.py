"""What can be imported without paying for torch, and what must work where a heavy package is not installed."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "peft", "datasets", "matplotlib", "pyarrow", "numpy")


def heavy_after(program: str) -> set[str]:
    """Heavy packages that a fresh interpreter has loaded after running this."""
    program += f"\nimport sys\nprint(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split("\n")[-2].split())


@pytest.mark.parametrize(
    "program",
    [
        "import groupwise; dir(groupwise); groupwise.__version__",
        "from groupwise import GRPOConfig, GroupwiseError; GRPOConfig(objective='dapo').describe()",
        "import groupwise.algo.objective as o; o.Objective.preset('grpo')",
        "import groupwise.algo, groupwise.types, groupwise.errors, groupwise.chat, groupwise.sources",
        "import groupwise.runs, groupwise.report, groupwise.data, groupwise.rewards, groupwise.tasks",
        "import groupwise.cli",
    ],
)
def test_light_modules_load_nothing_heavy(program):
    assert heavy_after(program) == set()


def test_public_names_resolve_and_misspelt_ones_do_not():
    import groupwise

    assert all(getattr(groupwise, name) is not None for name in groupwise.__all__)
    with pytest.raises(AttributeError, match="GRPOTrainr"):
        _ = groupwise.GRPOTrainr
