"""The measured parts of a page: what stands between `<!-- NAME -->` and `<!-- /NAME -->` is written by a script."""

from __future__ import annotations

import re


def replaced(page: str, name: str, text: str) -> str:
    """The page with `text` in the block of that name."""
    block = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    assert block.search(page), f"the page has no block {name}"
    return block.sub(lambda found: f"{found[1]}{text}\n{found[2]}", page)
