"""The records and their readers work where torch is not installed."""

from __future__ import annotations

import subprocess
import sys


def test_no_torch_in_runs_or_report() -> None:
    program = (
        "import sys\n"
        "from importlib import import_module\n"
        "from pkgutil import iter_modules\n"
        "for name in ('groupwise.runs', 'groupwise.report'):\n"
        "    package = import_module(name)\n"
        "    for module in iter_modules(package.__path__, name + '.'):\n"
        "        import_module(module.name)\n"
        "    for public in package.__all__:\n"
        "        getattr(package, public)\n"
        "heavy = {'torch', 'transformers', 'wandb', 'tensorboard', 'trackio', 'datasets'} & set(sys.modules)\n"
        "print(sorted(heavy))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
