"""Writes trl_names.json: the members of TRL's GRPOTrainer with the parameters of its methods.

Run it with the Python of an environment that has TRL: python tests/trainer/list_trl_names.py
"""

from __future__ import annotations

import json
from pathlib import Path

from trainer_members_of import members

HERE = Path(__file__).parent


def main() -> None:
    import trl

    names = {"version": trl.__version__, **members(trl.GRPOTrainer)}
    (HERE / "trl_names.json").write_text(json.dumps(names, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
