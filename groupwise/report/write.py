"""From a run folder to its report: PNG curves and one page. Reads nothing but the folder."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from groupwise import __version__
from groupwise.diagnose.doctor import Examination, examine
from groupwise.report.about import about
from groupwise.report.ending import ending
from groupwise.report.figures import FIGURES
from groupwise.report.held_out import held_out_of
from groupwise.report.in_notebook import WrittenReport
from groupwise.report.page import Picture, page
from groupwise.report.samples import pairs
from groupwise.report.style import DARK, LIGHT, Theme, as_png, styled
from groupwise.runs import RunFolder, RunReader, disk
from groupwise.runs.series import Record

PAGE = "index.html"


def write_report(run_folder: str | Path | RunFolder, examination: Examination | None = None) -> Path:
    """Write `report/*.png` and `report/index.html` into the run folder; returns the page's path.

    `examination`: what `diagnose.doctor.examine` has found in the run, where the caller needs it, too.

    A run that is still training, or has recorded nothing yet, gets the report of what there is.

    Raises:
        RunError: the folder holds no run, or a record is damaged.
    """
    reader = RunReader(run_folder)
    examination, folder = examination or examine(reader), reader.folder
    records = examination.records
    folder.report.mkdir(parents=True, exist_ok=True)
    light, dark = draw(records, LIGHT), draw(records, DARK)
    for name, png in light.items():
        disk.replace(folder.report / f"{name}.png", png)
    pictures: list[Picture] = [(f"curve: {name.replace('-', ' ')}", light[name], dark[name]) for name in light]
    ingredients = about(reader.config, folder.path.resolve().name)
    written = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    footer = f"Written by groupwise {__version__} on {written} from the records in this run's folder."
    shown, held_out = pairs(reader), held_out_of(reader)
    text = page(ingredients, examination, reader.events(), pictures, shown, footer, ending(reader), held_out)
    disk.replace(folder.report / PAGE, text.encode("utf-8", "replace"))
    return folder.report / PAGE


def written_report(run_folder: str | Path | RunFolder) -> WrittenReport:
    """Write the report and return what was written, in the order of the page."""
    page = write_report(run_folder)
    pictures = (page.parent / f"{name}.png" for name in FIGURES)
    return WrittenReport(page, tuple(path for path in pictures if path.is_file()))


def draw(records: Sequence[Record], theme: Theme) -> dict[str, bytes]:
    """Every curve that the records can give: file name without its end -> PNG."""
    with styled(theme):
        figures = {name: draw_one(records, theme) for name, draw_one in FIGURES.items()}
        return {name: as_png(figure) for name, figure in figures.items() if figure is not None}
