"""Draws the pictures of README and docs from the records of a real run.

python docs/make_images.py runs/demo demo reward screen
python docs/make_images.py runs/case-study case-study reward kl-and-loss

writes docs/images/NAME-PICTURE.png, and NAME-screen.svg: the screen as it stood after three fifths of the run.
"""

from __future__ import annotations

import argparse
import io
import re
from pathlib import Path
from typing import Any

from rich.console import Console

from groupwise.report.style import LIGHT
from groupwise.report.write import draw
from groupwise.runs import RunReader
from groupwise.runs.progress import Progress
from groupwise.runs.records import GroupRecord
from groupwise.runs.screen import Picture
from groupwise.types import Completion, Problem, StepGroup

IMAGES = Path(__file__).parent / "images"
COLUMNS, ROWS = 104, 30
SHARE_OF_RUN = 0.6
MONOSPACE = "Menlo, Consolas, 'DejaVu Sans Mono', monospace"


class RecordedClock:
    """A clock that stands where the records say."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of a finished run")
    parser.add_argument("name", help="first part of the pictures' names")
    parser.add_argument("pictures", nargs="+", help="screen, or curves of the report: reward, kl-and-loss, ...")
    options = parser.parse_args()
    reader = RunReader(options.run)
    IMAGES.mkdir(exist_ok=True)
    curves = draw(reader.metrics(), LIGHT)
    for picture in options.pictures:
        if picture == "screen":
            target = IMAGES / f"{options.name}-screen.svg"
            target.write_text(screen(reader), encoding="utf-8")
        else:
            target = IMAGES / f"{options.name}-{picture}.png"
            target.write_bytes(curves[picture])
        print(target)


def screen(reader: RunReader) -> str:
    """The live picture as SVG, drawn by the screen itself from the records."""
    records = reader.metrics()
    shown = records[: max(1, round(SHARE_OF_RUN * len(records)))]
    clock = RecordedClock()
    progress = Progress(clock)
    progress.start(summary(reader, len(records)))
    for record in shown:
        clock.now += record["step_time"] + (record.get("time/eval") or 0.0)
        progress.step(record, ())
    progress.groups = [group(record) for record in reader.completions(shown[-1]["step"])]
    console = Console(
        record=True, width=COLUMNS, height=ROWS, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    console.print(Picture(progress))
    svg = console.export_svg(title=f"groupwise train, step {shown[-1]['step']}", unique_id="screen")
    svg = re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL)  # the picture fetches nothing
    svg = re.sub(r"font-family: Fira Code, ?monospace", f"font-family: {MONOSPACE}", svg)
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


def summary(reader: RunReader, num_steps: int) -> dict[str, Any]:
    """What the trainer told the screen at the start, read back from run.json."""
    config = reader.config
    model, recipe = config["model"], config["recipe"]
    trained, total = model["num_trainable_parameters"], model["num_parameters"]
    return {
        "run_name": reader.folder.path.resolve().name,
        "model": model["name"],
        "parameters": f"{trained:,} of {total:,} parameters are trained ({100 * trained / total:.2f}%)",
        "objective": recipe["objective"]["preset"],
        "steps": num_steps,
        "batch": config["description"][0],
        "device": f"{config['hardware']['device']}, {model['compute_dtype']}",
        "engine": config["used"]["engine"],
    }


def group(record: GroupRecord) -> StepGroup:
    """A recorded group as the screen wants it."""
    completions = [
        Completion(tuple(c["ids"]), (), "stop", record["policy_version"] or 0, c["text"]) for c in record["completions"]
    ]
    return StepGroup(
        draw=record["draw"],
        problem=Problem(record["problem"], record["prompt"]),
        prompt_ids=(),
        completions=tuple(completions),
        rewards={},
        reward=tuple(c["reward"] for c in record["completions"]),
        has_signal=True,
    )


if __name__ == "__main__":
    main()
