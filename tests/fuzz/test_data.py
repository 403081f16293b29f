"""Data rows and data files: broken values, broken bytes; up to token ids and the record of the completions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_tokenizer

from groupwise.data import load_problems, prepare
from groupwise.data.problems import Problems
from groupwise.runs import RunReader, RunWriter, create
from groupwise.types import Completion, StepGroup

from .harness import any_values, attempt, damage, fuzz, plain_values, texts

COLUMNS = st.one_of(st.sampled_from(["prompt", "answer", "completions", "prompts", "trainer_state"]), texts)
messages = st.lists(
    st.dictionaries(st.sampled_from(["role", "content", "name", "tool_calls"]), plain_values, max_size=3), max_size=3
)
chats = st.lists(
    st.fixed_dictionaries(
        {"role": st.one_of(st.sampled_from(["user", "system", "assistant"]), texts), "content": texts}
    ),
    min_size=1, max_size=3,
)  # fmt: skip
prompts = st.one_of(texts, chats, messages, plain_values)
rows = st.one_of(
    st.fixed_dictionaries({"prompt": prompts}, optional={"answer": any_values, "prompts": any_values}),
    st.dictionaries(COLUMNS, any_values, max_size=3),
    any_values,
)
TOKENIZERS = {is_chat: tiny_tokenizer(chat=is_chat) for is_chat in (False, True)}


def use(problems: Problems, is_chat: bool) -> list[StepGroup]:
    """Everything a run does with its data: encode every prompt, and make groups of it."""
    prepared = prepare(problems, TOKENIZERS[is_chat], max_prompt_length=64)
    completion = Completion((5, 1), (-0.5, -0.1), "stop", 0, "x\ud800")
    scores: dict[str, Any] = {"rewards": {"f": (None,)}, "reward": (None,), "has_signal": False}
    return [
        StepGroup(number, prepared[number].problem, prepared[number].prompt_ids, (completion,), **scores)
        for number in range(len(prepared))
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@fuzz
@given(st.one_of(st.lists(rows, max_size=4), any_values), st.booleans())
def test_rows_of_any_kind(folder: Path, data: Any, is_chat: bool) -> None:
    groups = attempt("data rows", lambda: use(load_problems(data), is_chat))
    if groups:
        with RunWriter(create(folder / "run", overwrite=True)) as writer:
            writer.completions(1, groups)
        recorded = RunReader(folder / "run").completions(1) if (folder / "run/run.json").exists() else []
        text = (folder / "run/completions/step-000001.jsonl").read_text()
        assert len(text.splitlines()) >= len(groups)
        assert all(json.loads(line)["completions"] for line in text.split("\n") if line)
        assert recorded == []


@fuzz
@given(
    st.lists(chats, min_size=1, max_size=3),
    st.one_of(st.none(), texts),
    st.dictionaries(texts, plain_values, max_size=2),
)
def test_chats_with_any_template_arguments(data: list[Any], system: str | None, arguments: dict[str, Any]) -> None:
    problems = attempt("chats", lambda: load_problems([{"prompt": prompt} for prompt in data]))
    if problems is not None:
        attempt(
            "chats through templates",
            lambda: prepare(problems, TOKENIZERS[True], system_prompt=system, chat_template_kwargs=arguments),
        )


@fuzz
@given(st.one_of(texts, st.none()), st.one_of(texts, st.none()), st.dictionaries(texts, texts, max_size=2))
def test_names_of_any_kind(name: str | None, split: str | None, columns: dict[str, str]) -> None:
    data = [{"prompt": "a", "x": 1}] if name is None else name
    attempt("data names", lambda: load_problems(data, split=split, columns=columns))


GOOD = [
    {"prompt": "say one", "answer": "one", "n": 1, "deep": {"a": [1, None]}},
    {"prompt": [{"role": "user", "content": "é"}], "answer": None, "n": 2.5, "deep": None},
]


def write_good(path: Path) -> None:
    """A small file of each format."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in GOOD))
    elif path.suffix == ".json":
        path.write_text(json.dumps({"rows": GOOD}))
    elif path.suffix == ".csv":
        path.write_text('prompt,answer\n"say ""one""",one\ntwo,2\n')
    else:
        import pyarrow
        import pyarrow.parquet

        table = pyarrow.Table.from_pylist([{"prompt": f"say {i}", "answer": [i]} for i in range(40)])
        pyarrow.parquet.write_table(table, path)


@fuzz
@given(st.sampled_from([".jsonl", ".json", ".csv", ".parquet"]), st.lists(damage(), min_size=1, max_size=3))
def test_files_with_broken_bytes(folder: Path, suffix: str, breaks: list[Any]) -> None:
    good, bad = folder / f"good{suffix}", folder / f"bad{suffix}"
    if not good.exists():
        write_good(good)
    content = good.read_bytes()
    for broken in breaks:
        content = broken(content)
    bad.write_bytes(content)
    attempt(f"data files, {suffix}", lambda: use(load_problems(str(bad)), True))
    assert bad.read_bytes() == content


@fuzz
@given(st.sampled_from([".jsonl", ".json"]), st.lists(plain_values, max_size=3))
def test_files_with_any_json(folder: Path, suffix: str, values: list[Any]) -> None:
    bad = folder / f"any{suffix}"
    text = "\n".join(json.dumps(value) for value in values) if suffix == ".jsonl" else json.dumps(values)
    bad.write_text(text)
    attempt(f"data files, any {suffix}", lambda: use(load_problems(str(bad)), True))
