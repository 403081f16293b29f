"""What the doctor finds: each sign in a run that was built to show it, and nothing in healthy runs of shipped recipes.

Usage: python bench/doctor.py [--healthy FOLDER ...]

Recipes built to fail are trained on a tiny random model (`doctor_runs.py`); signs that no recipe brings about (an
engine with other weights) are written by the run folder's own writer (`tests/diagnose/written.py`). Every run is
diagnosed after each of its steps: `found_at` is the first one after which the sign is found. `--healthy` names the
folders of runs of shipped recipes; they are diagnosed after each of their steps too.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import common

common.measure_this_checkout()

import doctor_runs  # noqa: E402

from groupwise.diagnose import diagnose  # noqa: E402
from groupwise.diagnose.diagnosis import Sign  # noqa: E402
from groupwise.diagnose.run_view import RunView  # noqa: E402
from groupwise.diagnose.signs import SIGNS  # noqa: E402
from groupwise.diagnose.trend import has_learnt  # noqa: E402
from groupwise.runs import RunReader  # noqa: E402
from tests.diagnose.written import CASES  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--healthy", type=Path, nargs="*", default=[], help="folders of runs of shipped recipes")
    parser.add_argument("--only", nargs="*", help="signs to look at; the others stay in the result as they are")
    parser.add_argument("--again", action="store_true", help="make the runs again that were made already")
    parser.add_argument("--output", type=Path, default=common.RESULTS / "doctor.json")
    arguments = parser.parse_args()
    header = common.header()
    before: dict[str, Any] = {"signs": {}, "healthy": []}
    if arguments.again:
        shutil.rmtree(common.SCRATCH / "doctor", ignore_errors=True)
    elif arguments.only is not None and arguments.output.is_file():
        before = json.loads(arguments.output.read_text())
    signs = dict(before["signs"])
    for sign in SIGNS:
        if arguments.only is None or sign.name in arguments.only:
            signs[sign.name] = of_sign(sign)
    ordered = {sign.name: signs[sign.name] for sign in SIGNS if sign.name in signs}
    healthy = [of_healthy(folder) for folder in arguments.healthy] or before["healthy"]
    num_missed = sum(each["found_at"] is None for each in ordered.values())
    num_wrong = sum(len(each["found"]) for each in healthy)
    print(f"\n{num_missed} signs missed, {num_wrong} wrong findings in {len(healthy)} healthy runs")
    common.save(arguments.output, {**header, "signs": ordered, "healthy": healthy})
    sys.exit(1 if num_missed or num_wrong else 0)


def of_sign(sign: Sign) -> dict[str, Any]:
    """Make the run of a sign where it was not made yet, and look for it after each step."""
    name = sign.name
    folder = common.SCRATCH / "doctor" / name
    is_trained = name in doctor_runs.RUNS
    if not has_ended(folder):
        shutil.rmtree(folder, ignore_errors=True)
        (doctor_runs.RUNS if is_trained else CASES)[name](folder)
    run = RunReader(folder)
    steps = [record["step"] for record in run.metrics()]
    found_at = next((step for step in steps if sign.find(RunView(run, step)) is not None), None)
    diagnoses = diagnose(run)
    own = next((each for each in diagnoses if each.name == name), None)
    row = {
        "made_by": "training" if is_trained else "the writer",
        "num_steps": len(steps),
        "found_at": found_at,
        "is_found_at_the_end": own is not None,
        "symptom": None if own is None else own.symptom,
        "certainty": None if own is None else own.certainty,
        "beside_it": [each.name for each in diagnoses if each.name != name],
    }
    print(f"{name:20} {row['made_by']:10} {len(steps):3} steps, found at {found_at}, beside it {row['beside_it']}")
    return row


def has_ended(folder: Path) -> bool:
    """Whether the run was made already."""
    return folder.is_dir() and any(event["kind"] == "end" for event in RunReader(folder).events())


def of_healthy(folder: Path) -> dict[str, Any]:
    """Findings of a healthy run after each of its steps; there should be none."""
    run = RunReader(folder)
    steps = [record["step"] for record in run.metrics()]
    found = {str(step): names for step in steps if (names := [each.name for each in diagnose(run, step)])}
    recipe = Path(folder).resolve().name
    print(f"{recipe:28} {len(steps):3} steps, learnt {has_learnt(run.metrics())}, found {found}", flush=True)
    return {"run": recipe, "num_steps": len(steps), "has_learnt": has_learnt(run.metrics()), "found": found}


if __name__ == "__main__":
    main()
