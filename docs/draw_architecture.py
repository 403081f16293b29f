"""Draws the pictures of docs/architecture.md from the code, and compares them with it.

python docs/draw_architecture.py           writes docs/images/architecture-*.svg
python docs/draw_architecture.py --check   writes nothing, and fails where a picture differs from the code

What the pictures show is read from the source (read_calls.py): the calls of a step and what they return, the lists of
hooks in `start_run`, the events of a run that each hook handles, and the parts of a checkpoint.
"""

from __future__ import annotations

import ast
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from generated import run, stale
from read_calls import Call, Scope, calls_of, file_of, in_order, syntax_of

from groupwise.checkpoint import parts, store
from groupwise.data.load import load_problems
from groupwise.lifecycle.build import RunParts
from groupwise.lifecycle.fits import prepare_problems
from groupwise.lifecycle.hooks import RunHooks
from groupwise.lifecycle.run import start_run
from groupwise.policy import save
from groupwise.rewards.scorer import RewardScorer
from groupwise.train.collect import Collector, score_as_the_program
from groupwise.train.learner import Learner
from groupwise.train.loop import learn, take_step, train
from groupwise.train.sampler import GroupSampler
from groupwise.train.step import Hook, Idle
from groupwise.trainer import GRPOTrainer

IMAGES = Path(__file__).parent / "images"

OPENED: tuple[Any, ...] = (
    RunParts.of,
    prepare_problems,
    take_step,
    learn,
    Collector.collect,
    Collector._round,
    GroupSampler.sample,
    GroupSampler.answer,
    score_as_the_program,
    RewardScorer.score,
    Learner.score,
    Learner._score_all,
    Learner.prepare,
    Learner.update,
    Learner._optimizer_step,
    Learner._gradients,
    Learner._backward,
)
"""Functions whose own calls are drawn under them, each where it is first called."""

HANDED_OVER: dict[str, Any] = {
    **dict.fromkeys(("self._log", "log", "log or self.log"), GRPOTrainer.log),
    "self._evaluate": GRPOTrainer.evaluate,
}
"""How hooks and `Callbacks` call the trainer's own methods, which a subclass may extend -> the method."""

LEFT_OUT = """
Batch.select Clock Clock.part Collected Collected.drop Collected.without_signal ConfigError DataError FlatGroups.of
LRScheduler.get_last_lr Learner._minibatches Learner._passes Learner._rows_with_gradient Learner._within_memory
LogProbs PolicyModel.refresh
RewardScorer.check CompletionRows.select RunParts ScoredGroup.of ScoredGroups Stats.floats Stats.merge_all Update _Notes
_check_rotation _clip_grads_with_norm_ _cut _from_object _get_total_norm _is_hub_id _means _read _split_name
_stats_of_skipped _without_mismatch check_ids context_length moving_average remark_on_endings settings_of_program
"""
"""Calls that are not drawn: helpers, errors, and values put together from what is drawn."""

MONO, SANS = "Menlo, Consolas, 'DejaVu Sans Mono', monospace", "Helvetica, Arial, 'DejaVu Sans', sans-serif"
INK, PALE, LINE, PAPER = "#1f2933", "#61707f", "#c5ced8", "#ffffff"
BLUE, GREEN, AMBER = "#1d5fa8", "#1f7a4d", "#9a5b00"
WIDTH = 1040


def main() -> None:
    run(__doc__, IMAGES, PICTURES)


def stale_pictures() -> list[str]:
    """Pictures that differ from the code."""
    return stale(IMAGES, PICTURES)


# --- the path of a prompt ---


def step_picture() -> str:
    """The calls from a data file to the result of a step, those of an opened function under it."""
    drawing = Drawing()
    shown: set[Any] = set()
    for title, root in (
        ("once, when the run is built", load_problems),
        ("", RunParts.of),
        ("every step", take_step),
    ):
        if title:
            drawing.heading(title)
        drawing.call(Call(root.__qualname__, root, str(root.__annotations__["return"])), depth=0)
        for depth, call in outline(root, shown):
            drawing.call(call, depth)
    return drawing.svg("The calls from a data file to the weights of the next step, read from the code")


def outline(function: Any, shown: set[Any], depth: int = 1) -> Iterator[tuple[int, Call]]:
    """The calls of a function and, of each that is opened, its own, with how deep they lie."""
    names: set[str] = set()
    for call in calls_of(function):
        if call.name in LEFT_OUT.split() or call.name in names:
            continue
        names.add(call.name)
        yield depth, call
        if call.target in OPENED and call.name not in shown:
            shown.add(call.name)
            yield from outline(call.target, shown, depth + 1)


# --- the life of a run ---


def run_picture() -> str:
    """The loop, every hook with the events that it handles, in order, and what a checkpoint holds."""
    drawing, scope, syntax = Drawing(), Scope(start_run), syntax_of(start_run)
    for node in ast.walk(syntax):
        scope.learn(node)
    drawing.heading("train(loop)")
    drawing.chips(loop_calls())
    hooks = hooks_of(scope, syntax)
    drawing.heading("the hooks, in the order of the numbers")
    drawing.columns(EVENTS)
    for name, kinds in hooks.items():
        if name == "finishing":
            drawing.bar("COMMIT: weights and metrics of the step are final; an interrupted run can be saved exactly")
        drawing.group(name)
        for kind in kinds:
            drawing.hook(kind, {event: order_of(kind, event, hooks) for event in EVENTS if event in vars(kind)})
    drawing.heading("what a checkpoint holds: the state_dict() of each part, and tensors")
    for part, kind in saved_parts(scope, syntax):
        drawing.part(part, kind.__name__, file_of(kind) or "torch")
    for file, writer in tensor_files().items():
        drawing.part(file, "tensors", file_of(writer))
    return drawing.svg("The hooks of a run in their order, and the parts of a checkpoint, read from the code")


EVENTS = tuple(name for name in vars(Hook) if name in vars(Idle) and not name.startswith("_"))
"""The methods of a hook."""


def loop_calls() -> list[tuple[str, bool]]:
    """What `train` calls, and whether it does so in every step."""
    (loop,) = (node for node in ast.walk(syntax_of(train)) if isinstance(node, ast.For))
    every_step = {ast.unparse(node.func) for each in loop.body for node in ast.walk(each) if isinstance(node, ast.Call)}
    calls = [call for call in calls_of(train) if call.name != "Schedule.steps"]
    return [(call.written.removeprefix("loop."), call.written in every_step) for call in calls]


def hooks_of(scope: Scope, syntax: ast.AST) -> dict[str, list[type]]:
    """Name of a list of hooks in `start_run` -> their classes."""
    lists = {keyword.arg: keyword.value for keyword in call_to(syntax, "RunHooks").keywords}
    return {
        str(name): [class_of(scope.value(element)) for element in hooks.elts]
        for name, hooks in lists.items()
        if isinstance(hooks, ast.List)
    }


def order_of(kind: type, event: str, hooks: dict[str, list[type]]) -> int:
    """The place of a hook among those that handle an event, from 1."""
    is_reversed = "reversed(self._finishing)" in ast.unparse(syntax_of(getattr(RunHooks, event)))
    measuring, finishing = hooks.values()
    order = [*measuring, *(reversed(finishing) if is_reversed else finishing)]
    return [each for each in order if event in vars(each)].index(kind) + 1


def sent_by(method: Any, callers: tuple[Any, ...] = ()) -> list[str]:
    """The events that callbacks get when a hook's method runs, in order."""
    scope, sent = Scope(method), list[str]()
    for node in in_order(syntax_of(method)):
        scope.learn(node)
        if not isinstance(node, ast.Call):
            continue
        if ast.unparse(node.func).endswith(".call") and isinstance(node.args[0], ast.Constant):
            sent.append(str(node.args[0].value))
            continue
        handed_over = HANDED_OVER.get(ast.unparse(node.func))
        target = handed_over or scope.target(node)
        if isinstance(target, types.FunctionType) and target not in callers:
            is_near = handed_over or file_of(target).startswith(("lifecycle/", "checkpoint/hook"))
            sent += sent_by(target, (*callers, target)) if is_near else []
    return list(dict.fromkeys(sent))


def call_to(syntax: ast.AST, name: str) -> ast.Call:
    """The one call of a function of that name."""
    (found,) = [n for n in ast.walk(syntax) if isinstance(n, ast.Call) and ast.unparse(n.func) == name]
    return found


def class_of(value: Any) -> type:
    kind = getattr(value, "kind", None)
    assert isinstance(kind, type), f"{value} has no known class"
    return kind


def saved_parts(scope: Scope, syntax: ast.AST) -> Iterator[tuple[str, type]]:
    """Name in a checkpoint -> class, from the dict `named` of `start_run` and what is added to it."""
    for node in ast.walk(syntax):
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "named":
            assert isinstance(node.value, ast.Dict)
            for key, value in zip(node.value.keys, node.value.values, strict=True):
                yield ast.literal_eval(key or ""), class_of(scope.value(value))
        elif isinstance(node, ast.Assign) and isinstance(added := node.targets[0], ast.Subscript):
            yield ast.literal_eval(added.slice), class_of(scope.value(node.value))
    beside = next(n for n in ast.walk(syntax_of(parts.state_of)) if isinstance(n, ast.Dict))
    state = Scope(parts.state_of)
    for key, value in zip(beside.keys, beside.values, strict=True):
        if (name := ast.literal_eval(key or "")) != "parts":
            owner = next(n for n in ast.walk(value) if isinstance(n, ast.Attribute) and n.attr == "state_dict").value
            yield name, class_of(state.value(owner))


def tensor_files() -> dict[str, Any]:
    """The safetensors files of a checkpoint -> the function that writes them, as the code names them."""
    names = [str(n.value) for n in ast.walk(syntax_of(store.learner_tensors)) if isinstance(n, ast.Constant)]
    state = [f"{store.STATE}/{name}" for name in names if name.endswith(".safetensors")]
    return {save.ADAPTER_WEIGHTS: save.save_policy, **dict.fromkeys(state, store.save_checkpoint)}


# --- lines, boxes and words ---


class Drawing:
    """A picture that grows downward."""

    def __init__(self) -> None:
        self.y = 8
        self._parts: list[str] = []
        self._rows: dict[int, int] = {}
        """Depth -> where the branch of the tree goes on that the next line at this depth hangs on."""

    def heading(self, text: str) -> None:
        self._text(18, self.y + 24, text, SANS, BLUE, 15, is_bold=True)
        self.y += 38

    def call(self, call: Call, depth: int) -> None:
        """One line: the function, what it returns, the file that defines it."""
        x, height = 28 + 28 * depth, 34 if depth <= 1 else 26
        if depth <= 1:
            self._box(x - 10, self.y, WIDTH - x - 8, height - 4, "#dde8f5" if depth == 0 else "#eef3f9")
        else:
            self._line(x - 16, self._rows[depth], x - 16, self.y + 13)
            self._line(x - 16, self.y + 13, x - 5, self.y + 13)
        self._rows |= {depth: self.y + 13, depth + 1: self.y + height - 4}
        self._text(x, self.y + 18, call.name, MONO, INK, 13, is_bold=depth <= 1)
        self._text(470, self.y + 18, f"\u2192 {call.returns}" if call.returns else "", MONO, GREEN, 12)
        self._text(830, self.y + 18, call.file or call.target.__module__.split(".")[0], SANS, PALE, 12)
        self.y += height

    def columns(self, names: Sequence[str]) -> None:
        for number, name in enumerate(names):
            self._text(_column(number), self.y + 18, name, MONO, BLUE, 13, is_bold=True)
        self.y += 26

    def group(self, name: str) -> None:
        self._text(18, self.y + 18, name, SANS, BLUE, 14, is_bold=True)
        self.y += 28

    def hook(self, kind: type, order: Mapping[str, int]) -> None:
        """One line: the hook, and under each event that it handles its place and what callbacks get of it."""
        self._box(18, self.y, WIDTH - 36, 46, "#eef3f9")
        self._text(28, self.y + 19, kind.__name__, MONO, INK, 13, is_bold=True)
        self._text(28, self.y + 37, file_of(kind), SANS, PALE, 12)
        for event, place in order.items():
            x = _column(EVENTS.index(event))
            self._box(x - 6, self.y + 5, 162, 36, "#cfe3d8")
            self._text(x, self.y + 28, str(place), SANS, INK, 14, is_bold=True)
            sent = sent_by(vars(kind)[event])
            for line, text in enumerate(sent):
                self._text(x + 22, self.y + (20 if len(sent) > 1 else 27) + 15 * line, text, MONO, GREEN, 11)
        self.y += 52

    def chips(self, calls: Sequence[tuple[str, bool]]) -> None:
        """A chain of calls; those of every step in a frame."""
        x, every_step = 28, [place for place, (_, is_repeated) in enumerate(calls) if is_repeated]
        for place, (name, is_repeated) in enumerate(calls):
            width = 16 + 8 * len(name)
            if place == every_step[0]:
                whole = sum(16 + 8 * len(calls[each][0]) + 26 for each in every_step) - 10
                self._box(x - 8, self.y - 4, whole, 60, "#eef3f9")
                self._text(x, self.y + 48, "for every step", SANS, BLUE, 12)
            self._box(x, self.y + 2, width, 28, "#cfe3d8" if is_repeated else "#dde8f5")
            self._text(x + 8, self.y + 20, name, MONO, INK, 13)
            self._text(x + width + 7, self.y + 21, "\u2192" if place + 1 < len(calls) else "", SANS, PALE, 14)
            x += width + 26
        self.y += 58

    def bar(self, text: str) -> None:
        self._box(18, self.y + 4, WIDTH - 36, 28, "#f7e3c4")
        self._text(28, self.y + 23, text, SANS, AMBER, 13, is_bold=True)
        self.y += 42

    def part(self, name: str, what: str, file: str) -> None:
        self._text(28, self.y + 16, name, MONO, INK, 13, is_bold=True)
        self._text(300, self.y + 16, what, MONO, GREEN, 12)
        self._text(_column(2), self.y + 16, file, SANS, PALE, 12)
        self.y += 24

    def svg(self, title: str) -> str:
        body = "\n".join(self._parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.y + 16}" role="img">\n'
            f"<title>{escape(title)}</title>\n"
            f'<rect width="100%" height="100%" rx="8" fill="{PAPER}" stroke="{LINE}"/>\n{body}\n</svg>\n'
        )

    def _text(self, x: int, y: int, text: str, font: str, color: str, size: int, *, is_bold: bool = False) -> None:
        if not text:
            return
        weight = ' font-weight="bold"' if is_bold else ""
        style = f'font-family="{font}" font-size="{size}" fill="{color}"{weight}'
        self._parts.append(f'<text x="{x}" y="{y}" {style}>{escape(text)}</text>')

    def _box(self, x: int, y: int, width: int, height: int, color: str) -> None:
        self._parts.append(f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="5" fill="{color}"/>')

    def _line(self, x1: int, y1: int, x2: int, y2: int) -> None:
        self._parts.append(f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{LINE}" stroke-width="1.5"/>')


def _column(number: int) -> int:
    """Where the column of an event begins."""
    return 340 + 172 * number


PICTURES: dict[str, Callable[[], str]] = {
    "architecture-step.svg": step_picture,
    "architecture-run.svg": run_picture,
}

if __name__ == "__main__":
    main()
