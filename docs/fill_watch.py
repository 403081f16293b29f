"""Writes the measured table of docs/watch.md from bench/results/watch.json, and takes the pictures of a run's page.

python docs/fill_watch.py                                the table
python docs/fill_watch.py --run runs/arithmetic          the pictures too, in a headless Chromium; --only NAME: one
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from blocks import replaced

DOCS = Path(__file__).parent
PAGE = DOCS / "watch.md"
RESULT = DOCS.parent / "bench" / "results" / "watch.json"
sys.path.append(str(DOCS.parent / "bench"))

from chromium import Chromium  # noqa: E402


class Picture(NamedTuple):
    """A picture of the page: its view, what has to stand on it, the size of the window, and whether it is dark."""

    name: str
    view: str
    condition: str
    width: int
    height: int
    is_dark: bool = False


COLOURED = "document.querySelector('.tokens:not([hidden]) .t') || document.querySelector('.completion')"
PICTURES = (
    Picture("watch-curves", "curves", "document.querySelectorAll('.chart canvas').length > 6", 1280, 1000),
    Picture("watch-group", "groups?run=0&sort=spread&colour=logprob", COLOURED, 1280, 860),
    Picture("watch-phone", "groups?run=0&sort=spread&colour=logprob", COLOURED, 390, 800, True),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="folder of a run to take the pictures of")
    parser.add_argument("--only", choices=[picture.name for picture in PICTURES], help="take this picture alone")
    options = parser.parse_args()
    if options.run:
        take_pictures(options.run, [p for p in PICTURES if options.only in (None, p.name)])
    text = table(json.loads(RESULT.read_text(encoding="utf-8")))
    PAGE.write_text(replaced(PAGE.read_text(encoding="utf-8"), "watch", text), encoding="utf-8")
    print(PAGE)


def table(result: Mapping[str, Any]) -> str:
    """What was measured, beside its bound."""
    bounds, run, attacks, first = result["bounds"], result["run"], result["attacks"], result["first_visit"]
    jump, mib = result["jump_s"], 2**20
    tried = f"requests for other files that got one, of {attacks['requests_for_other_files']:,}"
    rows = [
        ("from the visit to the first paint", f"{first['first_paint_s']:.2f} s", f"{bounds['first_paint_s']:g} s"),
        ("until all curves stand", f"{first['curves_s']:.2f} s", ""),
        (f"a jump to any step, the slowest of {jump['count']}", f"{jump['max']:.2f} s", f"{bounds['jump_s']:g} s"),
        ("the worst completions of 200 steps", f"{result['search_200_steps_s']:.1f} s", ""),
        ("server memory", f"{result['server_bytes'] / mib:.0f} MiB", f"{bounds['server_bytes'] / mib:.0f} MiB"),
        ("from the command to the address", f"{result['start_s']:.1f} s", ""),
        (tried, str(attacks["that_got_one"]), "0"),
    ]
    lines = ["| | measured | bound |", "|---|---:|---:|", *(f"| {' | '.join(row)} |" for row in rows)]
    size = f"{run['steps']:,} steps of {run['completions_a_step']} completions, {run['bytes'] / 1e9:.1f} GB of records"
    source = f"`{result['command']}`, {size}, {result['machine']['cores']} cores of {result['machine']['cpu']}"
    return "\n".join(lines) + f"\n\n{source}, {result['date'][:10]}"


def take_pictures(run: Path, pictures: Sequence[Picture]) -> None:
    command = [sys.executable, "-m", "groupwise", "watch", str(run)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        found = re.search(r"http://\S+", server.stdout.readline())
        assert found is not None
        with Chromium() as browser:
            for picture in pictures:
                take(browser, found[0], picture)
    finally:
        server.terminate()
        server.communicate()


def take(browser: Chromium, address: str, picture: Picture) -> None:
    page = browser.open(
        f"{address}#{picture.view}", width=picture.width, height=picture.height, is_dark=picture.is_dark
    )
    ready = f"document.getElementById('main')?.dataset.ready && ({picture.condition})"
    page.wait(ready, 120)
    time.sleep(3)  # findings are looked for beside the page
    page.go("about:blank")
    page.go(f"{address}#{picture.view}")
    page.wait(ready, 120)
    assert not page.complaints, page.complaints
    page.save(DOCS / "images" / f"{picture.name}.png")
    print(DOCS / "images" / f"{picture.name}.png")
    page.close()


if __name__ == "__main__":
    main()
