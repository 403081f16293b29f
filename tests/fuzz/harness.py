"""What all fuzzing shares: how many inputs, what counts as an answer, and how files and values are broken.

Every input ends in one of two ways: it is `handled`, or `refused` with an error of ours that says something. Anything
else (an exception from the depths, an assert) fails the test, with the input shrunk by hypothesis.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from groupwise.errors import GroupwiseError

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "25"))
"""Inputs for each target; `make fuzz` asks for many more, and for others each time."""

COUNTS: dict[str, Counter[str]] = defaultdict(Counter)
"""Target -> outcome -> inputs."""

fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
)

LONGEST_MESSAGE = 20_000


def attempt(target: str, call: Callable[[], Any]) -> Any:
    """Make `call`; its value, or None where it was refused."""
    try:
        value = call()
    except GroupwiseError as error:
        COUNTS[target]["refused"] += 1
        text = str(error)
        assert 10 < len(text) < LONGEST_MESSAGE, text[:500]
        assert "Traceback" not in text
        text.encode("utf-8", "backslashreplace")
        return None
    COUNTS[target]["handled"] += 1
    return value


# --- values ---

NASTY_TEXT = [
    "", " ", "\x00", "a\x00b", "\ud800", "x\udfffy", "\u202e", "\ufeff", "é" * 3, "🙂", "null", "true", "1e5", "-",
    "..", "../../x", "/etc/passwd", "<|im_end|>", "{{ 1 }}", "{% for %}", "a" * 5000, "\r\n", "${HOME}", "%s",
    "💥" * 200, "nan", "!!python/object:os.system", "&a [*a]", "*a", "? :", "'", '"',
]  # fmt: skip
NASTY_NUMBERS = [
    0,
    -1,
    1,
    2**31,
    2**63,
    2**64,
    10**400,
    -(10**40),
    0.0,
    -0.0,
    1e-320,
    1e308,
    math.nan,
    math.inf,
    -math.inf,
]

texts = st.one_of(st.sampled_from(NASTY_TEXT), st.text(max_size=12), st.text(st.characters(), max_size=4))
scalars = st.one_of(st.none(), st.booleans(), st.sampled_from(NASTY_NUMBERS), st.integers(), st.floats(), texts)
plain_values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=8,
)
"""What JSON or YAML can hold, and a little more."""

objects = st.sampled_from(
    [b"bytes", b"\xff", (1, 2), {1, 2}, object(), int, len, lambda: None, Exception("x"), 1j, range(3), Path("x"), ...]
)
any_values = st.one_of(plain_values, objects)


def json_values() -> st.SearchStrategy[Any]:
    """What `json.dumps` writes without complaint. Small numbers: a model of a billion layers is no broken file."""
    leaf = st.one_of(
        st.none(), st.booleans(), st.integers(-300, 300), st.floats(allow_nan=False, allow_infinity=False), texts
    )
    return st.recursive(
        leaf, lambda i: st.one_of(st.lists(i, max_size=3), st.dictionaries(texts, i, max_size=3)), max_leaves=6
    )


# --- files ---


@st.composite
def damage(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """One way in which a file breaks: cut short, a bit turned over, a span lost, doubled or overwritten."""
    kind = draw(st.sampled_from(["cut", "flip", "lose", "double", "overwrite", "insert", "empty", "zeros"]))
    where, length = draw(st.floats(0, 1)), draw(st.integers(1, 40))
    bit, filling = draw(st.integers(0, 7)), draw(st.binary(min_size=1, max_size=12))

    def broken(content: bytes) -> bytes:
        at = min(int(where * len(content)), max(len(content) - 1, 0))
        if kind == "empty" or not content:
            return b""
        if kind == "cut":
            return content[:at]
        if kind == "flip":
            return content[:at] + bytes([content[at] ^ (1 << bit)]) + content[at + 1 :]
        if kind == "lose":
            return content[:at] + content[at + length :]
        if kind == "double":
            return content[: at + length] + content[at:]
        if kind == "insert":
            return content[:at] + filling + content[at:]
        return content[:at] + (filling if kind == "overwrite" else bytes(length)) + content[at + length :]

    return broken


@st.composite
def retyped(draw: st.DrawFn, value: Any) -> Any:
    """A JSON value of which one part, anywhere, has become something else, or is gone, or stands under another key."""
    path = draw(st.sampled_from(list(_paths(value))))
    if not path:
        return draw(json_values())
    action = draw(st.sampled_from(["replace", "replace", "replace", "remove", "rename"]))
    copy = json.loads(json.dumps(value))
    place = copy
    for part in path[:-1]:
        place = place[part]
    if action == "replace":
        place[path[-1]] = draw(json_values())
    else:
        kept = place.pop(path[-1])
        if action == "rename" and isinstance(place, dict):
            place[draw(texts)] = kept
    return copy


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Any:
    yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in parts:
        yield from _paths(part, (*path, name))


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder by its hash: equal before and after means that nothing was overwritten."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def shuffled(seed: int, items: list[Any]) -> list[Any]:
    return random.Random(seed).sample(items, len(items))
