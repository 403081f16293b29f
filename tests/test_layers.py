"""Who may import whom, never in a circle, and how large a function may grow.

The table is the architecture. A row names a module or a file of the package, the modules of ours that it may import,
and the packages of others: those after the bar only inside functions (or for type checkers), so importing is cheap.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "groupwise"

TABLE = """
module               ours                                                    others | lazily
rounding             -                                                       -
types                rounding                                                -
redact               -                                                       -
ways_out             -                                                       -
notes                redact                                                  -
waiting              -                                                       -
forks                -                                                       -
streams              -                                                       -
json_values          -                                                       -
quiet                transformers_internals                                  | transformers
torch_internals      -                                                       torch
transformers_internals  -                                                    | transformers
hub                  errors redact waiting                                   | huggingface_hub
errors               redact                                                  -
torch_settings       -                                                       torch
algo/axes.py         -                                                       -
algo/objective.py    errors algo                                             -
algo/presets.py      algo                                                    -
algo/rules.py        errors algo                                             -
algo/__init__.py     algo                                                    -
algo                 errors rounding algo                                    torch
config               types errors config algo.axes algo.objective algo.presets \
    rewards.spec_rules rewards.shaping_rules rewards.call_limits \
    rollout.served.adapter_rules                                             pydantic pydantic_core ruamel
launch               errors                                                  -
world                torch_internals launch                                  torch
heartbeat            waiting                                                 -
ranks                errors launch world heartbeat torch_internals           torch
config/compat/attributes.py  world                                           | transformers accelerate
pip                  errors                                                  -
sources              types errors hub quiet pip transformers_internals \
    | transformers tokenizers safetensors gguf filelock
chat                 types errors                                            | transformers jinja2
bridge               types errors chat                                       -
tool_calls           types errors chat                                       -
rewards/model.py     types errors chat rewards world sources hub quiet      torch | transformers
rewards/shipped/math_check.py  -                                                     math_verify
rewards/llm/reply_cache.py  errors sources                                       -
rewards              types errors rounding chat waiting forks rewards             | httpx tenacity
environments/load.py  types errors rewards.import_function environments             -
environments/describe.py  errors environments                                | transformers
environments         types errors chat tool_calls waiting rewards.sandbox environments              -
data                 types errors rounding json_values chat data hub         | datasets pyarrow reasoning_gym
tasks                types errors chat data rewards tasks config.task_spec   -
kernels/triton_kernels.py  -                                                 triton
kernels              errors sources torch_internals kernels                  torch
policy               types errors world sources algo kernels policy hub quiet torch_internals transformers_internals \
    torch transformers safetensors | peft
rollout/served/keeper.py  -                                                  -
rollout/served       types errors rollout.engine rollout.stop_strings rollout.served    -
rollout/stop_strings.py  types                                               -
rollout              types errors world kernels policy quiet transformers_internals rollout    torch numpy
runs/completion_table.py  types runs                                             rich
runs/screen.py       types errors forks streams config runs                  rich
runs/notebook.py     -                                                       rich | IPython
runs/folder.py       errors ways_out runs.schema_1                           filelock
runs/token_record.py  errors runs.folder                                     numpy safetensors
runs                 types errors redact waiting streams json_values config runs   | wandb tensorboard trackio
diagnose             types errors redact rounding config runs diagnose       -
report/comparison_figure.py  report                                          matplotlib
report/figures.py    types errors runs report                                matplotlib
report/style.py      types errors runs report                                matplotlib
report/render.py     -                                                       jinja2
report               types errors redact runs diagnose report                -
watch/app.py         errors report watch                                     starlette
watch/page_server.py errors watch                                            | uvicorn
watch/token_values.py  errors runs watch                                     | tokenizers
watch                errors redact runs report diagnose watch                -
train                types errors rounding config algo world chat bridge environments rewards data policy rollout \
    torch_settings \
    runs.trackers train                                                      torch | transformers bitsandbytes torchao
checkpoint           types errors ways_out json_values config world data policy runs train checkpoint \
    torch safetensors
guards               types errors config rewards.extract rewards.gold_answers data policy rollout runs train guards \
    torch
lifecycle            types errors ways_out rounding forks launch json_values config algo world ranks sources chat \
    bridge environments rewards data tasks policy rollout runs diagnose train torch_settings torch_internals \
    checkpoint guards lifecycle                                                        torch transformers
check/check_screen.py  runs check                                            rich
check                types errors rounding redact json_values config algo world sources chat rewards data tasks policy \
    rollout runs diagnose report train lifecycle guards torch_settings check  torch | transformers peft
offline              *                                                       -
serving              config errors sources rollout.served                    -
testing              types errors chat rewards                               -
replay               *                                                       -
generate             *                                                       torch | transformers peft
export               *                                                       torch | huggingface_hub
trainer              *                                                       torch | transformers peft
trl/parser.py        errors config.yaml_file                                 transformers
trl/trainers.py      trainer trl
trl                  errors config rewards trl                               | transformers peft torch trl
trainer_members      *                                                       torch | transformers peft
cli                  *                                                       typer | rich torch transformers
__main__             cli                                                     -
__init__             -                                                       -
"""
"""A file's own row goes before its folder's; `*` is anything of ours. The package's version may be read by all.

Less obvious: `config` reads the names of the presets and the rules of a reward's settings, `chat` needs jinja2's
errors, `sources` the readers of the file formats it converts, `lifecycle` the ecosystem's callbacks; `runs` and
`report` are split so that what is heavy stands in one file; `generate` and `export` are commands, as `cli` is; errors
quote what others say, so they `redact` it.
"""


@dataclass(frozen=True)
class Rule:
    """One row of the table."""

    place: str
    ours: frozenset[str]
    others: frozenset[str]
    lazily: frozenset[str]

    @classmethod
    def of(cls, line: str) -> Rule:
        place, rest = line.split(maxsplit=1)
        words, _, lazily = rest.partition("|")
        ours, others = set(), set()
        for word in words.split():
            (ours if word == "*" or word.split(".")[0] in PLACES else others).add(word)
        return cls(place, frozenset(ours), frozenset(others), frozenset(lazily.split()))


MODULES = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or path.is_dir()}
PLACES = MODULES | {"check", "tasks", "diagnose"}
"""With those that are still to come."""
RULES = [Rule.of(line) for line in TABLE.replace("\\\n", "").strip().splitlines()[1:]]
FILES = sorted(ROOT.rglob("*.py"))


def rule_of(file: Path) -> Rule:
    path = file.relative_to(ROOT)
    folders = [str(folder) for folder in path.parents if folder != Path(".")]
    names = (str(path), *folders[:-1], path.parts[0].removesuffix(".py"))
    return next(rule for name in names for rule in RULES if rule.place == name)


@dataclass(frozen=True)
class Import:
    """One imported module, by its dotted name."""

    name: str
    is_lazy: bool
    line: int
    is_for_types: bool = False


def imports(file: Path) -> Iterator[Import]:
    """Every import statement of a file; one inside a function or for type checkers only is lazy."""
    package = ["groupwise", *file.relative_to(ROOT).parts[:-1]]

    def walk(node: ast.AST, is_lazy: bool, is_for_types: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                names = [alias.name for alias in child.names]
            elif isinstance(child, ast.ImportFrom):
                base = package[: len(package) - child.level + 1] if child.level else []
                module = ".".join([*base, *([child.module] if child.module else [])])
                names = [f"{module}.{alias.name}" for alias in child.names] if module in PACKAGES else [module]
            else:
                is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
                is_typing = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
                yield from walk(child, is_lazy or is_function or is_typing, is_for_types or is_typing)
                continue
            yield from (Import(name, is_lazy, child.lineno, is_for_types) for name in names)

    return walk(ast.parse(file.read_text(encoding="utf-8")), False, False)


PACKAGES = {".".join(["groupwise", *f.relative_to(ROOT).parts[:-1]]) for f in FILES if f.name == "__init__.py"}


def is_allowed(found: Import, rule: Rule) -> bool:
    top, *rest = found.name.split(".")
    if top != "groupwise":
        standard = top in sys.stdlib_module_names
        return standard or top in rule.others or (found.is_lazy and top in rule.lazily)
    if not rest or rest[0] == "__version__" or "*" in rule.ours:
        return True
    return any(".".join(rest[: word.count(".") + 1]) == word for word in rule.ours)


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


def test_every_module_has_a_row_and_every_row_a_module():
    for file in FILES:
        assert rule_of(file), f"{name_of(file)} has no row"
    assert {r.place.split("/")[0] for r in RULES} <= PLACES
    for rule in RULES:
        assert "/" not in rule.place or (ROOT / rule.place).exists(), f"{rule.place} is gone: delete its row"


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_imports_follow_the_table(file):
    rule = rule_of(file)
    wrong = [f"line {found.line}: {found.name}" for found in imports(file) if not is_allowed(found, rule)]
    assert not wrong, f"groupwise/{name_of(file)} may not import (at this place): {', '.join(wrong)}"


def test_the_table_has_teeth():
    algo, config = (next(r for r in RULES if r.place == name) for name in ("algo", "config"))
    data = next(r for r in RULES if r.place == "data")
    assert not is_allowed(Import("groupwise.policy.head", True, 1), algo)
    assert not is_allowed(Import("torch", False, 1), config)
    assert not is_allowed(Import("groupwise.algo.loss", False, 1), config)
    assert is_allowed(Import("groupwise.algo.objective", False, 1), config)
    assert not is_allowed(Import("datasets", False, 1), data)
    assert is_allowed(Import("datasets", True, 1), data)


def module_of(file: Path) -> str:
    return ".".join(["groupwise", *file.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")


def import_graph() -> dict[str, set[str]]:
    """Module -> modules of ours that it imports, in functions too; imports for type checkers alone do not count."""
    graph: dict[str, set[str]] = {module_of(file): set() for file in FILES}
    for file in FILES:
        for name in (found.name for found in imports(file) if not found.is_for_types):
            imported = name if name in graph else name.rpartition(".")[0]  # a class or function of a package
            graph[module_of(file)] |= {imported} & graph.keys() - {module_of(file)}
    return graph


def test_no_import_leads_back():
    graph = import_graph()
    assert {"groupwise.algo.rules", "groupwise.algo.axes"} <= graph["groupwise.algo.objective"]
    TopologicalSorter(graph).prepare()  # a CycleError names the modules of a circle


def test_algo_and_config_need_no_import_for_types():
    """One would hide a circle: of what a type checker reads, and of what a reader has to know first."""
    for file in FILES:
        if file.relative_to(ROOT).parts[0] in {"algo", "config"}:
            assert not [found for found in imports(file) if found.is_for_types], name_of(file)


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_functions_stay_small(file):
    text = file.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 80, f"{node.name}: no function over 80 lines"


def test_the_train_loop_stays_readable():
    assert (ROOT / "train" / "loop.py").read_text().count("\n") <= 150


def test_few_names_are_used_twice():
    """Say the noun, type the path: a file and a public class are found by their name."""
    files = Counter(file.name for file in FILES if file.name != "__init__.py")
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in FILES]
    classes = Counter(
        node.name for tree in trees for node in tree.body if isinstance(node, ast.ClassDef) and node.name[0] != "_"
    )
    assert len(twice := sorted(name for name, count in files.items() if count > 1)) <= 10, twice
    assert len(twice := sorted(name for name, count in classes.items() if count > 1)) <= 3, twice
