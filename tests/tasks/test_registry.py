"""The registry names exactly the task files that exist."""

from pathlib import Path

from groupwise import tasks


def test_every_name_has_its_file_and_every_file_its_name() -> None:
    files = {path.stem for path in Path(tasks.__file__).parent.glob("*.py")} - {"__init__"}
    assert {name.replace("-", "_") for name in tasks.NAMES} == files
