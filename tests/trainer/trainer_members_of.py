"""What a trainer class of the ecosystem has: its arguments, its methods with their parameters, its attributes."""

from __future__ import annotations

import ast
import inspect
import textwrap
from typing import Any


def members(kind: type) -> dict[str, Any]:
    """Constructor arguments, `method -> parameters`, and the attributes that its code assigns to `self`."""
    methods, attributes = {}, set()
    for name in dir(kind):
        if name.startswith("__"):
            continue
        found = inspect.getattr_static(kind, name)
        if callable(found) or isinstance(found, staticmethod | classmethod):
            methods[name] = [
                p for p in inspect.signature(getattr(kind, name)).parameters if p not in ("self", "kwargs")
            ]
        else:
            attributes.add(name)
    for base in kind.__mro__[:-1]:
        tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        attributes |= {node.attr for node in ast.walk(tree) if _is_own(node)}
    arguments = [name for name in inspect.signature(kind).parameters if name != "self"]
    return {"arguments": arguments, "methods": methods, "attributes": sorted(attributes - methods.keys())}


def _is_own(node: ast.AST) -> bool:
    """Whether the code is `self.NAME = ...`."""
    is_assigned = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    return is_assigned and isinstance(node.value, ast.Name) and node.value.id == "self"
