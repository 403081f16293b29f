"""The registry names exactly the task files that exist."""

from pathlib import Path

from groupwise import tasks

SHARED = {"__init__", "asking", "generated", "hub_tasks", "task", "gym_scorer"}
"""What tasks are made from."""


def test_every_name_has_its_file_and_every_file_its_name() -> None:
    files = {path.stem for path in Path(tasks.__file__).parent.glob("*.py")} - SHARED
    assert {name.replace("-", "_") for name in tasks.NAMES} == files
