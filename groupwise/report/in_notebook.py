"""The report of a run as a value: a line in a program, headline and pictures in a notebook."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from html import escape
from pathlib import Path

from groupwise.diagnose.trend import reward_change
from groupwise.report.ending import ending
from groupwise.report.history import in_short
from groupwise.runs import RunReader


@dataclass(frozen=True)
class WrittenReport:
    """A report that was written: `page` opens in a browser, `pictures` are its curves."""

    page: Path
    pictures: tuple[Path, ...]

    def __str__(self) -> str:
        return str(self.page)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        reader = RunReader(self.page.parent.parent)
        records = reader.metrics()
        change = reward_change(records)
        lines = [ending(reader), change.verdict if change else "", *(f"{k}: {v}" for k, v in in_short(records))]
        words = "<br>".join(escape(line) for line in lines if line)
        images = "".join(f'<img src="{_inline(path)}" alt="{path.stem}" width="480">' for path in self.pictures)
        return f"<p>{words}</p><div>{images}</div><p><code>{escape(str(self.page))}</code></p>"


def _inline(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
