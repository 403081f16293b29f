"""The live picture of a run in a notebook: one output of the cell, redrawn in place. No widget is needed."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console, RenderableType

WIDTH, HEIGHT = 100, 32
"""Columns and rows of the picture. A cell has no size of its own to ask for."""
_FORMAT = (
    "<pre style=\"font-family:Menlo,Consolas,'DejaVu Sans Mono',monospace;line-height:1.2;white-space:pre;"
    'overflow-x:auto">{code}</pre>'
)
"""Colours of the text are the notebook's own, so that it can be read on dark pages too."""


class CellPicture:
    """Shows a picture as an output of the cell under way, and replaces it: what `rich.live.Live` is elsewhere."""

    def __init__(self, picture: RenderableType) -> None:
        self._picture = picture
        self._shown: Any = None

    def start(self, refresh: bool = False) -> None:
        from IPython.display import HTML, display

        self._shown = display(HTML(as_html(self._picture)), display_id=True)

    def refresh(self) -> None:
        from IPython.display import HTML

        if self._shown is not None:
            self._shown.update(HTML(as_html(self._picture)))

    def stop(self) -> None:
        """The last picture stays, and is what a saved notebook holds."""
        self.refresh()
        self._shown = None


def as_html(picture: RenderableType) -> str:
    """The picture as coloured text."""
    console = Console(
        record=True, file=io.StringIO(), width=WIDTH, height=HEIGHT, force_terminal=True, color_system="truecolor",
        force_jupyter=False, legacy_windows=False,
    )  # fmt: skip
    console.print(picture, end="")
    return console.export_html(inline_styles=True, code_format=_FORMAT)
