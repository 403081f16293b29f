"""Makes a site of the pages as they are on a code host: links to files, formulas, and the details of the public API.

MkDocs calls `on_files` and `on_page_markdown` (mkdocs.yml). A link that leaves docs/ leads to a copy of the file in the
site, a link to a folder becomes text. Formulas become MathML, which a browser draws without a script or a network.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "README.zh.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
"""Pages beside docs/ that the site has too, under project/."""
LINK = re.compile(r"(?<!`)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s:]+)\)")
API = re.compile(r"<!-- ::: ([\w. ]+) -->")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages beside docs/ and every file of the repository that a page links to."""
    for name in PAGES:
        files.append(File.generated(config, f"project/{name}", content=(ROOT / name).read_text(encoding="utf-8")))
    for page in files.documentation_pages():
        for _, target in LINK.findall(page.content_string):
            path = in_repository(page.src_uri, target)
            if (ROOT / path).is_file() and (uri := in_site(path)) not in files.src_uris:
                files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """The page with its links leading to where the site has their targets, and its API directives opened."""
    own = page.file.src_uri

    def link(found: re.Match[str]) -> str:
        text, (name, hash_sign, anchor) = found[1], found[2].partition("#")
        if not name:
            return found[0]
        path = in_repository(own, name)
        if not (ROOT / path).is_file():
            return text
        return f"[{text}]({posixpath.relpath(in_site(path), posixpath.dirname(own) or '.')}{hash_sign}{anchor})"

    return API.sub(lambda found: "\n\n".join(f"::: {name}" for name in found[1].split()), LINK.sub(link, markdown))


def in_repository(page: str, target: str) -> str:
    """The path, from the root of the repository, that a page of the site links to."""
    folder = "" if page.startswith("project/") else posixpath.join("docs", posixpath.dirname(page))
    return posixpath.normpath(posixpath.join(folder, target.partition("#")[0].replace("\\", "")))


def in_site(path: str) -> str:
    """Where the site has a file of the repository."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"project/{path}" if path in PAGES else f"repository/{path}"


def math(source: str, language: str, css_class: str, options: Any, md: Any, **rest: Any) -> str:
    """A fenced block of LaTeX as MathML."""
    return str(convert(re.sub(r"\\Big(?=\\[{}])", "", source), display="block"))  # the converter knows no larger braces
