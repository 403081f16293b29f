"""The live screen of a run. Reads records, never the trainer.

On a terminal a picture that stays in place, elsewhere plain lines (`plain_screen.py`). What other code prints while the
picture is up appears above it and stays in the scroll-back.
"""

from __future__ import annotations

import atexit
import contextlib
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import IO, Any, Protocol, Self, TextIO, cast

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.console import Group as Stack
from rich.live import Live
from rich.panel import Panel
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from groupwise.forks import not_in_children
from groupwise.runs.metrics import held_out_rewards
from groupwise.runs.plain_screen import PlainScreen
from groupwise.runs.progress import PARTS, WINDOW, Progress, ShownCompletion, of_turns, typical_sample
from groupwise.runs.text import clean, curve, duration, number, percent, resample, span_of, sparkline, split
from groupwise.streams import Stream, lasting
from groupwise.types import StepGroup

REFRESH_SECONDS = 0.25
CLOCK_SECONDS = 2.0
"""Without news, the picture is redrawn so often for its clock alone."""

_PART_STYLES = ("cyan", "magenta", "green", "bright_black")
_MIN_WIDTH, _MIN_HEIGHT = 24, 6
_LESSER_FIGURES = (
    ("entropy", "entropy"),
    ("differing answers", "completions/distinct_answers"),
    ("grad norm", "grad_norm"),
    ("clipped", "clip_ratio/region_mean"),
    ("mismatch", "sampling/mismatch"),
    ("lr", "learning_rate"),
    ("tokens", "num_tokens"),
    ("updates", "updates"),
)
"""Label and key of the figures shown where there is room."""

_TWO_COLUMNS = 64
"""Terminals narrower than this show the curve above the figures."""
_FIGURES_WIDTH = 34
_MAX_CURVE, _MAX_SAMPLE = 16, 10
"""Rows of the two panels that grow with the terminal, borders included."""


class Screen(Protocol):
    """Live display of a run; every call is cheap. As a context manager it restores the terminal at the end."""

    def start(self, summary: Mapping[str, Any]) -> None:
        """Keys, all optional: run_name, model, parameters, objective, steps, batch, device, engine, history."""

    def step(self, metrics: Mapping[str, Any], groups: Sequence[StepGroup]) -> None:
        """The record of a finished step, as the run folder gets it."""

    def progress(self, phase: str, done: int, total: int) -> None:
        """Within a step: `done` of `total` pieces of a phase ("rollout", "reward", "learn", "evaluate", ...)."""

    def evaluation(self, metrics: Mapping[str, Any]) -> None:
        """The `eval_...` keys of an evaluation, and the `step` after which it was made."""

    def note(self, text: str) -> None:
        """A sentence that stays: a warning, a checkpoint."""

    def close(self, message: str = "") -> None:
        """Give the terminal back; the last picture and `message` stay."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def make_screen(stream: TextIO | None = None, *, is_quiet: bool = False, is_plan_shown: bool = False) -> Screen:
    """A live picture when `stream` (standard output) is a terminal that can show one, or a notebook; else plain lines.

    `is_plan_shown`: model and batch stand on the screen already.
    """
    if is_quiet:
        return PlainScreen(None)
    outlived = Stream(lasting(stream or sys.stdout))
    console = Console(file=cast(IO[str], outlived))
    if console.is_jupyter and stream is None:
        from groupwise.runs.notebook import WIDTH, CellPicture

        return LiveScreen(Console(file=cast(IO[str], outlived), width=WIDTH, force_jupyter=False), show=CellPicture)
    can_draw = outlived.isatty() and not console.is_dumb_terminal and not console.is_jupyter
    if can_draw and console.encoding.startswith("utf"):
        return LiveScreen(console)
    return PlainScreen(stream or sys.stdout, is_plan_shown=is_plan_shown)


class LiveScreen:
    """A picture in place, redrawn when something has changed, and now and then for its clock."""

    def __init__(
        self, console: Console, progress: Progress | None = None, show: Callable[[Picture], Any] | None = None
    ) -> None:
        """`show` makes what shows the picture elsewhere than on the console, which then takes the notes alone."""
        self._console = console
        self._progress = progress or Progress()
        self._picture = Picture(self._progress)
        self._live = show(self._picture) if show is not None else _on_console(self._picture, console)
        self._has_news = threading.Event()
        self._is_closed = threading.Event()
        self._ticker: threading.Thread | None = None
        self._size = console.size
        self._open = contextlib.ExitStack()

    def start(self, summary: Mapping[str, Any]) -> None:
        self._progress.start(summary)
        self._picture.forget()
        self._is_closed.clear()
        self._open.enter_context(not_in_children(self._leave))
        atexit.register(self.close)  # whoever forgets to close gets the cursor back all the same
        self._live.start(refresh=True)
        self._ticker = threading.Thread(target=self._tick, name="groupwise-screen", daemon=True)
        self._ticker.start()

    def step(self, metrics: Mapping[str, Any], groups: Sequence[StepGroup]) -> None:
        self._progress.step(metrics, groups)
        self._picture.forget()
        self._has_news.set()

    def progress(self, phase: str, done: int, total: int) -> None:
        self._progress.phase = (phase, done, total)
        self._has_news.set()

    def evaluation(self, metrics: Mapping[str, Any]) -> None:
        self._progress.evaluated(metrics)
        self._picture.forget()
        self._has_news.set()

    def note(self, text: str) -> None:
        self._console.print(Text(text))

    def close(self, message: str = "") -> None:
        self._is_closed.set()
        self._has_news.set()
        atexit.unregister(self.close)
        self._open.close()
        self._progress.phase = ("", 0, 0)
        if self._ticker is not None:
            self._ticker.join()
            self._ticker = None
            self._live.stop()
        if message:
            self._console.print(Text(message))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _leave(self) -> None:
        """In a forked child: what it prints goes past the picture, which stays with its parent."""
        self._ticker = None
        sys.stdout, sys.stderr = (getattr(s, "rich_proxied_file", s) for s in (sys.stdout, sys.stderr))

    def _tick(self) -> None:
        """Redraw at most four times a second, on news or for the clock."""
        while not self._is_closed.is_set():
            self._has_news.wait(CLOCK_SECONDS)
            self._has_news.clear()
            self._redraw()
            self._is_closed.wait(REFRESH_SECONDS)

    def _redraw(self) -> None:
        if self._console.size != self._size:  # a narrower terminal has wrapped the old picture: start on a clean page
            self._size = self._console.size
            self._live.stop()
            self._console.clear()
            self._live.start()
        self._live.refresh()


def _on_console(picture: Picture, console: Console) -> Live:
    return Live(picture, console=console, auto_refresh=False, vertical_overflow="crop")


class Picture:
    """The picture as rich renders it; all but the clock is kept until the next step or another size."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._most_sample_rows = 5
        self._kept: tuple[tuple[int, int], list[list[Segment]], list[list[Segment]]] | None = None

    def forget(self) -> None:
        self._kept = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        size = (options.max_width, console.height)
        kept = self._kept
        if kept is None or kept[0] != size:
            top, body = self._draw(console, options)
            self._kept = kept = (size, _simplified(top), _simplified(body))
        moving = console.render_lines(self._clock_lines(options.max_width), options)
        lines = [*kept[1], *moving, *kept[2]][: max(1, console.height - 2)]
        for i, line in enumerate(lines):
            yield from line
            if i < len(lines) - 1:
                yield Segment.line()

    def _draw(self, console: Console, options: ConsoleOptions) -> tuple[list[list[Segment]], list[list[Segment]]]:
        width, height = options.max_width, console.height - 2  # room for the cursor and for a last word
        top = console.render_lines(self._title(width), options)
        room = height - len(top) - 2
        return top, console.render_lines(self._body(width, room), options)

    def _title(self, width: int) -> RenderableType:
        summary = self._progress.summary
        first = Text.assemble(("groupwise", "bold cyan"), "  ", (clean(str(summary.get("run_name") or "")), "bold"))
        for key in ("model", "parameters", "objective"):
            if summary.get(key):
                first.append(f"  {clean(str(summary[key]))}", style="bright_black" if key == "parameters" else "")
        rest = [clean(str(summary[key])) for key in ("batch", "device", "engine") if summary.get(key)]
        return Stack(_one_line(first, width), _one_line(Text("  ".join(rest), style="bright_black"), width))

    def _clock_lines(self, width: int) -> RenderableType:
        """Two lines: where the run is, and where the step is."""
        state = self._progress
        total = f"/{state.num_steps}" if state.num_steps else ""
        numbers = f"{duration(state.seconds_left)} left"
        if width >= _TWO_COLUMNS:
            numbers = f"{duration(state.seconds_elapsed)} gone, {numbers}"
        speed = f"{number(state.metrics.get('tokens_per_second'))} tok/s"
        run = _bar_line(f"step {state.steps_done}{total}", state.share_done, f"{numbers}, {speed}", width)
        phase, done, of = state.phase
        if not phase:
            return Stack(run, _one_line(Text(" " * width), width))
        return Stack(run, _bar_line(phase, done / of if of else 0.0, f"{done}/{of}", width, "magenta"))

    def _body(self, width: int, room: int) -> RenderableType:
        if width < _MIN_WIDTH or room < _MIN_HEIGHT:
            return self._essentials(width, room)
        sample = typical_sample(self._progress.groups)
        return self._two_columns(width, room, sample) if width >= _TWO_COLUMNS else self._one_column(width, room)

    def _essentials(self, width: int, room: int) -> RenderableType:
        lines = [
            _one_line(Text.assemble((f"{label} ", "bright_black"), value), width) for label, value in self._figures()
        ]
        return Stack(*lines[: max(0, room)])

    def _two_columns(self, width: int, room: int, sample: ShownCompletion | None) -> RenderableType:
        figures = self._figures()
        middle = max(5, min(_MAX_CURVE, room - 2 - (5 if room >= 16 else 0)))
        below = room - middle - 2
        curve_width = width - _FIGURES_WIDTH
        grid = Table.grid(expand=True)
        grid.add_column(width=curve_width)
        grid.add_column(width=_FIGURES_WIDTH)
        grid.add_row(self._curve(curve_width, middle), _figures_panel(figures, _FIGURES_WIDTH, middle))
        parts: list[RenderableType] = [grid, *self._time_lines(width)]
        if below >= 4 and sample is not None:
            parts.append(_sample_panel(sample, width, self._sample_height(sample, width, below)))
        return Stack(*parts)

    def _sample_height(self, sample: ShownCompletion, width: int, room: int) -> int:
        """What the longest sample so far needed: the picture may grow, but does not jump."""
        needed = 4 + cell_len(clean(sample.text)) // (width - 4)
        self._most_sample_rows = max(self._most_sample_rows, min(needed, _MAX_SAMPLE))
        return min(room, self._most_sample_rows)

    def _one_column(self, width: int, room: int) -> RenderableType:
        height = max(5, min(_MAX_CURVE, room // 2))
        left = max(0, room - height - 2)
        figures = [_one_line(_labelled(label, value), width) for label, value in self._figures()[:left]]
        return Stack(self._curve(width, height), *figures, *self._time_lines(width))

    def _curve(self, width: int, height: int) -> Panel:
        """The reward of each step as dots, its moving average as a line through them."""
        state, num_rows = self._progress, height - 2
        if all(value is None for value in state.rewards):
            lines = [Text("waiting for the first step", style="bright_black")]
        else:
            low, high = span_of(resample(state.rewards, 2 * width))
            labels = [number(high), *[""] * (num_rows - 2), number(low)]
            label_width = max(len(label) for label in labels)
            size = (width - 5 - label_width, num_rows)
            dots = curve(state.rewards, *size, span=(low, high), is_joined=False)
            line = curve(state.averages, *size, span=(low, high), is_joined=True)
            lines = [
                Text(f"{label:>{label_width}} ", style="bright_black", no_wrap=True) + _overlaid(under, over)
                for label, under, over in zip(labels, dots, line, strict=True)
            ]
        title = f"reward (dots) and its mean over {WINDOW} steps" if width >= 44 else "reward"
        steps = f"steps {state.steps_done - len(state.rewards) + 1} to {state.steps_done}" if state.rewards else None
        return Panel(
            Stack(*lines),
            title=title,
            title_align="left",
            subtitle=steps,
            subtitle_align="right",
            height=height,
            border_style="blue",
        )

    def _figures(self) -> list[tuple[str, Text]]:
        """Label and value of every figure, the most important first."""
        state, m = self._progress, self._progress.metrics
        figures = [("reward", _trend(m.get("reward"), state.averages))]
        figures += [(f"  {clean(name)}", Text(number(mean))) for name, mean in [*state.functions.items()][:6]]
        for label, key in held_out_rewards(state.evaluation):
            if not label.endswith("greedy") and state.evaluation[key] is not None:
                name = clean(label.removesuffix("sampled").rstrip(", ")) or "held out"
                figures.append((name, Text(_with_error(state.evaluation, key), style="yellow")))
        figures += [
            ("KL", Text(number(m.get("kl"), 4))),
            ("length", Text(f"{number(m.get('completions/mean_length')):8}{sparkline(state.lengths[-9:], 9)}")),
            ("cut off", _warned(m.get("completions/clipped_ratio"))),
            ("no signal", _warned(m.get("frac_reward_zero_std"))),
        ]
        figures += [(label, Text(number(value))) for label, value in of_turns(m)]
        return figures + [(label, Text(number(m[key]))) for label, key in _LESSER_FIGURES if m.get(key) is not None]

    def _time_lines(self, width: int) -> list[Text]:
        """Where the time of the latest step went: a bar, and what its colours mean."""
        seconds = self._progress.seconds_by_part
        columns = split(seconds, width)
        bar = Text.assemble(*(("█" * n, style) for n, style in zip(columns, _PART_STYLES, strict=True)))
        legend = Text(f"{number(self._progress.metrics.get('step_time'))} s a step", style="bright_black")
        total = sum(seconds)
        for part, value, style in zip(PARTS, seconds, _PART_STYLES, strict=True):
            legend.append("  ■ ", style=style)
            legend.append(f"{part} {percent(value / total if total else None)}")
        return [_one_line(bar, width), _one_line(legend, width)]


def _simplified(lines: list[list[Segment]]) -> list[list[Segment]]:
    """The same lines in as few segments as possible: they are written again at every tick of the clock."""
    return [list(Segment.simplify(line)) for line in lines]


def _figures_panel(figures: Sequence[tuple[str, Text]], width: int, height: int) -> Panel:
    lines = [_one_line(_labelled(label, value), width - 4) for label, value in figures[: height - 2]]
    return Panel(Stack(*lines), title="this step", title_align="left", height=height, border_style="blue")


def _sample_panel(sample: ShownCompletion, width: int, height: int) -> Panel:
    """A completion between its prompt and its place in the group."""
    inner_width = width - 4
    prompt = Text(set_size(clean(sample.prompt), inner_width), style="bright_black", no_wrap=True)
    room = inner_width * (height - 3)
    answer = Text(clean(sample.text[: 4 * room]), overflow="fold")
    place = f"its group: {number(sample.lowest)} to {number(sample.highest)}"
    title = Text(f"a completion, reward {number(sample.reward)}")
    return Panel(
        Stack(prompt, answer), title=title, title_align="left", subtitle=Text(place), height=height, border_style="blue"
    )


def _overlaid(under: str, over: str) -> Text:
    """One row of two braille pictures: where they meet the upper one is seen."""
    text = Text(no_wrap=True)
    for below, above in zip(under, over, strict=True):
        text.append(below if above == " " else above, style="bright_black" if above == " " else "bold green")
    return text


def _with_error(metrics: Mapping[str, Any], key: str) -> str:
    error = metrics.get(f"{key}_stderr")
    return number(metrics.get(key)) + (f" ± {number(error)}" if error is not None else "")


def _labelled(label: str, value: Text) -> Text:
    return Text.assemble((f"{set_size(label, 12)} ", "bright_black"), value)


def _trend(reward: float | None, averages: Sequence[float | None]) -> Text:
    """The reward now, and what its moving average has gained over as many steps as it averages."""
    text = Text(f"{number(reward):8}", style="bold")
    earlier = averages[-WINDOW - 1] if len(averages) > WINDOW else next(iter(averages), None)
    now = averages[-1] if averages else None
    if now is None or earlier is None or now == earlier:
        return text
    arrow, style = ("▲", "green") if now > earlier else ("▼", "red")
    return text.append(f"{arrow} {number(abs(now - earlier))}", style=style)


def _warned(share: float | None) -> Text:
    return Text(percent(share), style="yellow" if share is not None and share > 0.5 else "")


def _bar_line(label: str, share: float, rest: str, width: int, style: str = "cyan") -> Text:
    """`label`, a bar that fills what is left of the line, `rest`."""
    columns = max(0, width - cell_len(label) - cell_len(rest) - 9)
    done = round(min(1.0, share) * columns)
    bar = Text.assemble(label, " ", ("━" * done, style), ("─" * (columns - done), "bright_black"))
    return _one_line(bar.append(f" {percent(share):>5}  {rest}"), width)


def _one_line(text: Text, width: int) -> Text:
    text.no_wrap = True
    text.overflow = "ellipsis"
    text.truncate(width, overflow="ellipsis", pad=False)
    return text


def set_size(text: str, width: int) -> str:
    """`text` in exactly `width` columns, an ellipsis where it was cut; wide characters count two."""
    if cell_len(text) <= width:
        return set_cell_size(text, width)
    return set_cell_size(text, max(0, width - 1)) + "…"
