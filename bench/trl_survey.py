"""How many public GRPO programs get through when their imports say `groupwise.trl` instead of `trl`.

    python bench/trl_survey.py FOLDER [--trl-python PYTHON]

FOLDER holds the programs, one file each, `owner+name@@path@to@file.py`; nothing of them is run. A file is read as a
syntax tree: the names it imports from trl, the literal arguments of GRPOConfig, which make a configuration here, the
arguments of GRPOTrainer, and what is called and read on the trainer and on the configuration. results/trl_survey.json
has, for each program, what stops it and whether an error says what to do. PYTHON is that of an environment with
TRL 1.16, which is asked the same, as many programs were written for other versions: those are counted apart.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import logging
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import common

BATCH = {
    *("per_device_train_batch_size", "gradient_accumulation_steps", "generation_batch_size", "steps_per_generation"),
    *("num_generations", "num_iterations"),
}
"""Settings that are checked together: where one of them is no literal, none of them is checked."""

UNKNOWN = object()


@dataclass
class Program:
    """What a file does with TRL."""

    imports: set[tuple[str, str]] = field(default_factory=set)
    settings: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)
    calls: set[tuple[str, frozenset[str]]] = field(default_factory=set)
    """Methods called on the trainer, with their keywords."""
    reads: set[str] = field(default_factory=set)
    """Attributes of the trainer."""
    of_config: set[str] = field(default_factory=set)
    """Attributes of the configuration."""
    overrides: set[str] = field(default_factory=set)


def programs(folder: Path) -> Iterator[tuple[str, Program]]:
    """Repository and path of each program that makes a trainer of TRL's."""
    for path in sorted(folder.glob("*.py")):
        program = read(ast.parse(path.read_text()))
        if program is not None:
            repository, file = path.name.removesuffix(".py").split("@@", 1)
            yield f"{repository.replace('+', '/', 1)}: {file.replace('@', '/')}", program


def stopped_by_trl(program: Program) -> str:
    """Why TRL itself does not take the program, read by TRL's own Python; empty where it does."""
    import trl

    for module, name in sorted(program.imports):
        try:
            if name != "*":
                getattr(__import__(module, fromlist=[name]), name)
        except (ImportError, AttributeError):
            return f"from {module} import {name}"
    known = inspect.signature(trl.GRPOConfig).parameters
    if strange := sorted(set(program.settings) - set(known)):
        return f"GRPOConfig({strange[0]})"
    if strange := sorted(set(program.arguments) - set(inspect.signature(trl.GRPOTrainer).parameters)):
        return f"GRPOTrainer({strange[0]})"
    try:
        trl.GRPOConfig(**_literals(program) | {"use_cpu": True, "use_vllm": False})
    except Exception as error:
        return str(error).splitlines()[0]
    return ""


def _literals(program: Program) -> dict[str, Any]:
    """The settings whose values are known; those of the batch only all together."""
    unknown = {name for name, value in program.settings.items() if value is UNKNOWN}
    left_out = unknown | (BATCH if unknown & BATCH else set())
    return {name: value for name, value in program.settings.items() if name not in left_out}


def read(tree: ast.Module) -> Program | None:
    """What the program does; None where it makes no trainer of TRL's."""
    program, constants = Program(), _constants(tree)
    trl_names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "trl":
            program.imports.update((str(node.module), name.name) for name in node.names)
            trl_names.update(name.asname or name.name for name in node.names)
    if not any(name in {"GRPOTrainer", "GRPOConfig"} for _, name in program.imports):
        return None
    trainers, configs = {"GRPOTrainer"}, {"GRPOConfig"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            bases = {_last(base) for base in node.bases}
            if bases & trainers:
                trainers.add(node.name)
                defined = {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
                program.overrides |= defined - {"__init__"}
            if bases & configs:
                configs.add(node.name)
    is_made = False
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _last(node.func) in configs:
            program.settings.update(_keywords(node, constants))
        elif isinstance(node, ast.Call) and _last(node.func) in trainers:
            is_made = True
            program.arguments.update(_keywords(node, constants))
    _follow(tree, program, trainers, configs)
    return program if is_made else None


def _follow(tree: ast.Module, program: Program, trainers: set[str], configs: set[str]) -> None:
    """What is done with the variables that hold a trainer or a configuration."""
    held = {"trainer": set(_held(tree, trainers)), "config": set(_held(tree, configs))}
    called = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        if ast.unparse(node.value) in held["config"] and isinstance(node.ctx, ast.Load):
            program.of_config.add(node.attr)
        if ast.unparse(node.value) in held["trainer"] and isinstance(node.ctx, ast.Load):
            call = called.get(id(node))
            if call is None:
                program.reads.add(node.attr)
            else:
                program.calls.add((node.attr, frozenset(word.arg for word in call.keywords if word.arg)))


def _held(tree: ast.Module, classes: set[str]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and _last(node.value.func) in classes:
            yield from map(ast.unparse, node.targets)


def _last(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _constants(tree: ast.Module) -> dict[str, Any]:
    """Names that are assigned one literal."""
    assigned = Counter(
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    )
    values = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if assigned[name] == 1 and (value := _literal(node.value, {})) is not UNKNOWN:
                values[name] = value
    return values


def _keywords(call: ast.Call, constants: Mapping[str, Any]) -> dict[str, Any]:
    return {word.arg: _literal(word.value, constants) for word in call.keywords if word.arg}


def _literal(node: ast.expr, constants: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Name) and node.id in constants:
        return constants[node.id]
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        return UNKNOWN


def stops(program: Program) -> dict[str, str]:
    """What stops the program -> the sentence of the error, or FAULT and Python's own."""
    return {
        **_imports(program),
        **_config(program),
        **_arguments(program),
        **_overrides(program),
        **_members(program),
    }


def _imports(program: Program) -> dict[str, str]:
    found = {}
    for module, name in sorted(program.imports):
        try:
            home = __import__(f"groupwise.{module}", fromlist=[name])
            if name != "*":
                getattr(home, name)
        except ImportError as error:
            found[f"from {module} import {name}"] = _sentence(error)
        except AttributeError as error:
            found[f"from {module} import {name}"] = f"FAULT {error}"
    return found


def _config(program: Program) -> dict[str, str]:
    from groupwise.trl import GRPOConfig

    literals = _literals(program)
    names = [name for name, value in program.settings.items() if value is UNKNOWN]
    found = {}
    for settings in (literals, *({name: None} for name in names)):
        try:
            config = GRPOConfig(**settings)
        except Exception as error:
            first = str(error).strip().splitlines()
            key = f"GRPOConfig({', '.join(settings)})" if len(settings) < 2 else "GRPOConfig"
            if settings is literals or "unknown" in str(error):
                found[key] = _sentence(error) if first else "FAULT"
            continue
        if settings is literals:
            found.update(_read(config, program.of_config))
    return found


def _read(config: Any, names: set[str]) -> dict[str, str]:
    found = {}
    for name in sorted(names):
        try:
            getattr(config, name)
        except AttributeError as error:
            found[f"args.{name}"] = _sentence(error)
    return found


def _arguments(program: Program) -> dict[str, str]:
    from groupwise.config.compat.trainer_names import ARGUMENTS, check_argument
    from groupwise.errors import ConfigError

    same = {entry.name for entry in ARGUMENTS if entry.kind == "same"}
    found = {}
    for name, value in program.arguments.items():
        try:
            if name not in same:
                check_argument(name, "something" if value is UNKNOWN else value, same)
        except ConfigError as error:
            found[f"GRPOTrainer({name})"] = str(error)
    return found


def _overrides(program: Program) -> dict[str, str]:
    from groupwise.config.compat.trainer_names import check_override
    from groupwise.errors import ConfigError

    found = {}
    for name in sorted(program.overrides):
        try:
            check_override("Subclass", name)
        except ConfigError as error:
            found[f"def {name}"] = str(error)
    return found


def _members(program: Program) -> dict[str, str]:
    from groupwise.config.compat.trainer_names import MEMBERS, METHODS, why_no_member
    from groupwise.trl import GRPOTrainer

    keywords = {entry.name for entry in METHODS}
    found = {}
    for name in sorted(program.reads | {name for name, _ in program.calls}):
        entry = MEMBERS.get(name)
        is_there = hasattr(GRPOTrainer, name) or (entry is not None and entry.kind != "refused")
        if not is_there and name not in program.overrides:
            found[f"trainer.{name}"] = why_no_member(name) or f"FAULT no attribute {name}"
    for name, words in sorted(program.calls, key=str):
        for word in sorted(words):
            known = f"{name}({word})" in keywords or name in {"evaluate", "push_to_hub", "create_model_card", "log"}
            if f"trainer.{name}" not in found and not known and _takes_no(getattr(GRPOTrainer, name, None), word):
                found[f"trainer.{name}({word})"] = f"FAULT unexpected keyword {word}"
    return found


def _takes_no(method: Any, word: str) -> bool:
    if not callable(method):
        return False
    parameters = inspect.signature(method).parameters
    return word not in parameters and all(p.kind is not p.VAR_KEYWORD for p in parameters.values())


def _sentence(error: BaseException) -> str:
    """The error's own words; those of Python alone are a fault."""
    from groupwise.errors import GroupwiseError

    text = " ".join(str(error).split())
    bare = text.startswith(("No module named", "cannot import name", "'GRPOConfig' object has no"))
    is_told = isinstance(error, GroupwiseError | ImportError | AttributeError) and not bare
    return text if is_told else f"FAULT {type(error).__name__}: {text}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trl-python", help="of an environment with TRL 1.16")
    parser.add_argument("--of-trl", action="store_true", help="print what TRL itself refuses")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/trl_survey.json")
    words = parser.parse_args()
    logging.disable(logging.WARNING)
    if words.of_trl:
        print(json.dumps({name: stopped_by_trl(program) for name, program in programs(words.folder)}))
        return
    common.measure_this_checkout()
    by_trl: dict[str, str] = {}
    if words.trl_python:
        command = [words.trl_python, __file__, str(words.folder), "--of-trl"]
        by_trl = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    result = summary({name: stops(program) for name, program in programs(words.folder)}, by_trl)
    words.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["counts"]))


def summary(found: Mapping[str, Mapping[str, str]], by_trl: Mapping[str, str]) -> dict[str, Any]:
    """Counts, reasons by how often they stop a program, and each program."""
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    listed = {}
    for name, stopped in found.items():
        verdict = "stopped_and_not_told" if any(t.startswith("FAULT") for t in stopped.values()) else "stopped_and_told"
        verdict = verdict if stopped else "get_through"
        if by_trl.get(name):
            verdict = f"not_for_trl_1.16: {verdict}"
        else:
            reasons.update(stopped.keys())
        counts[verdict] += 1
        listed[name] = {"verdict": verdict, "stops": stopped, "trl": by_trl.get(name, "")}
    return {
        "counts": {"programs": len(found), **dict(sorted(counts.items()))},
        "reasons": dict(reasons.most_common()),
        "programs": listed,
    }


if __name__ == "__main__":
    main()
