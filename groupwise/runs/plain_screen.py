"""The screen of a log file: one compact line a step, in ASCII."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TextIO

from groupwise.runs.metrics import held_out_rewards
from groupwise.runs.progress import Progress, of_turns
from groupwise.runs.text import clean, duration, number, percent
from groupwise.streams import Stream, lasting_output
from groupwise.types import StepGroup

HEADER_EVERY = 20

_COLUMNS = (
    ("step", 11),
    ("reward", 9),
    ("avg", 9),
    ("kl", 11),
    ("length", 7),
    ("cut", 5),
    ("no signal", 11),
    ("tok/s", 7),
)
_LAST_COLUMNS = (("s/step", 7), ("left", 8))


class PlainScreen:
    """Prints lines to `stream`; to nowhere when it is None."""

    def __init__(self, stream: TextIO | None, progress: Progress | None = None, *, is_plan_shown: bool = False) -> None:
        """`is_plan_shown`: model and batch stand above already."""
        self._stream, self._is_plan_shown = Stream(stream), is_plan_shown
        self._progress = progress or Progress()
        self._lines_since_header = HEADER_EVERY
        self._open = contextlib.ExitStack()

    def start(self, summary: Mapping[str, Any]) -> None:
        self._progress.start(summary)
        shown = ("model", "batch") if self._is_plan_shown else ()
        for keys in (("run_name", "model", "parameters", "objective"), ("batch", "device", "engine")):
            parts = ["groupwise"] if "run_name" in keys else []
            parts += [str(summary[key]) for key in keys if summary.get(key) and key not in shown]
            self._print(" | ".join(parts))
        self._print("cut: share of completions cut off at the limit; no signal: share of groups without signal")

    def step(self, metrics: Mapping[str, Any], groups: Sequence[StepGroup]) -> None:
        self._progress.step(metrics, groups)
        if self._lines_since_header >= HEADER_EVERY:
            self._print("".join(name.rjust(width) for name, width in _COLUMNS + _LAST_COLUMNS))
            self._lines_since_header = 0
        self._lines_since_header += 1
        self._print(self._line())

    def progress(self, phase: str, done: int, total: int) -> None:
        """Within a step a log stays silent."""

    def evaluation(self, metrics: Mapping[str, Any]) -> None:
        self._progress.evaluated(metrics)
        self._print("  evaluation: " + evaluation_text(metrics))

    def note(self, text: str) -> None:
        self._print(text)

    def close(self, message: str = "") -> None:
        if message:
            self._print(message)

    def __enter__(self) -> Self:
        self._open.enter_context(lasting_output())  # what rewards print
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        self._open.close()

    def _line(self) -> str:
        state, m = self._progress, self._progress.metrics
        total = f"/{state.num_steps}" if state.num_steps else ""
        values = (
            f"{state.steps_done}{total}",
            number(m.get("reward")),
            number(state.averages[-1]),
            number(m.get("kl"), 4),
            number(m.get("completions/mean_length")),
            percent(m.get("completions/clipped_ratio")),
            percent(m.get("frac_reward_zero_std")),
            number(m.get("tokens_per_second")),
            number(m.get("step_time")),
            duration(state.seconds_left),
        )
        line = "".join(v.rjust(width) for v, (_, width) in zip(values, _COLUMNS + _LAST_COLUMNS, strict=True))
        return line + "".join(f"  {name} {number(mean)}" for name, mean in [*of_turns(m), *state.functions.items()])

    def _print(self, text: str) -> None:
        self._stream.write(f"{text}\n")
        self._stream.flush()


def evaluation_text(metrics: Mapping[str, Any]) -> str:
    """The rewards of an evaluation with their standard errors."""
    parts = []
    for label, key in held_out_rewards(metrics):
        if metrics.get(key) is not None:
            parts.append(f"{label} {number(metrics[key])} +/- {number(metrics.get(f'{key}_stderr'))}")
    return clean(", ".join(parts)) or "nothing measured"
