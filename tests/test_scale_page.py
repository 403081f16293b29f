"""docs/scale.md: every number of its lists of faults has a test."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROWS = re.findall(r"^\| (\d[\d, ]*) \|(.*)$", (ROOT / "docs/scale.md").read_text(), re.MULTILINE)
TESTS = {name for file in (ROOT / "tests").rglob("*.py") for name in re.findall(r"def (test_\w+)", file.read_text())}
NAMED = {
    int(n) for test in TESTS if (found := re.match(r"test_trap_((?:\d+_)+)", test)) for n in found[1].split("_")[:-1]
}


def numbers(cell: str) -> set[int]:
    return {int(number) for number in cell.split(",")}


def test_every_fault_has_its_number_and_its_test() -> None:
    listed: set[int] = set()
    for first, rest in ROWS:
        if tests := re.findall(r"`(test_\w+)`", rest):
            assert set(tests) <= TESTS, set(tests) - TESTS
            listed |= numbers(first)
        elif re.search(r"\| \d", rest) or "completion scored" in rest:
            cells = [first, *re.findall(r"\| (\d[\d, ]*) \|", rest)]
            assert set.union(*map(numbers, cells)) <= NAMED, set.union(*map(numbers, cells)) - NAMED
            listed |= set.union(*map(numbers, cells))
        else:
            assert "the same" in rest, rest
            listed |= numbers(first)
    assert listed == set(range(1, 51))
