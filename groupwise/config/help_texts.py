"""What each key of the configuration means, in one sentence: the documentation of our fields, the tables of the others.

The source is read on first use, so that importing the configuration does not pay for it.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from functools import cache

from pydantic import BaseModel

from groupwise.config.compat.translate import FOREIGN
from groupwise.config.fields import SECTIONS

_OBJECTIVE = "The algorithm by name, or a mapping of its axes (docs/config.md)."
_AXIS = "An axis of the objective (docs/config.md)."


@cache
def help_text(key: str) -> str:
    """The meaning of a key; of another library's, what becomes of it."""
    for section in SECTIONS:
        if key in section.model_fields:
            return meanings(section)[key]
    if key in FOREIGN:
        entry = FOREIGN[key]
        return f"TRL's or transformers', {entry.kind} here: {entry.sentence}." if entry.sentence else _AXIS
    return _OBJECTIVE if key == "objective" else _AXIS


@cache
def meanings(model: type[BaseModel]) -> dict[str, str]:
    """Field -> the string below it in the source."""
    texts: dict[str, str] = {}
    for section in reversed(model.__mro__[: model.__mro__.index(BaseModel)]):
        tree = ast.parse(textwrap.dedent(inspect.getsource(section))).body[0]
        assert isinstance(tree, ast.ClassDef)
        for field, below in itertools.pairwise(tree.body):
            if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
                texts[ast.unparse(field.target)] = " ".join(ast.literal_eval(below.value).split())
    return texts
