"""Each token is shown with its own text and with what was recorded of it, turns and half characters included."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from groupwise.runs import RunFolder, open_run
from groupwise.watch import token_values
from groupwise.watch.step_file import StepFile


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(["the cat sat"], trainers.BpeTrainer(vocab_size=270, initial_alphabet=alphabet))
    return made


@pytest.mark.parametrize("text", ["the cat sat", "日本 🙂 é", " leading and  double spaces\n"])
def test_the_texts_of_the_tokens_are_the_text(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text).ids
    texts = token_values.token_texts(tokenizer, ids)
    assert "".join(texts) == text
    assert len(texts) == len(ids)


def record(run: Path, step: int, monkeypatch: pytest.MonkeyPatch, *, has_reference: bool = True) -> np.ndarray:
    """A token record of a step as its reader returns it: log-prob n for token n of the step."""
    lengths = [
        len(c["ids"])
        for _, group in StepFile(open_run(run), "completions", step).groups()
        for c in group["completions"]
    ]
    values = -np.arange(sum(lengths), dtype=np.float16) / 16
    found = SimpleNamespace(
        lengths=np.array(lengths, dtype=np.int32),
        logprob=values,
        ref_log_ratio=values if has_reference else None,
        advantage=None,
    )
    monkeypatch.setattr(token_values, "record_of", lambda folder, wanted: found if wanted == step else None)
    return values


def test_tokens_have_the_values_of_their_place(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values, folder = record(run, 2, monkeypatch), open_run(run)
    file = StepFile(folder, "completions", 2)
    (_, first), (place, second) = file.groups()
    before = sum(len(completion["ids"]) for completion in first["completions"]) + len(second["completions"][0]["ids"])
    (tokens,) = token_values.tokens_of(file, folder, place, 1, 1)
    length = len(second["completions"][1]["ids"])
    assert tokens["logprob"] == pytest.approx([float(v) for v in values[before : before + length]])
    assert tokens["is_sampled"] == [True] * length
    assert tokens["texts"] == []  # no tokenizer in the folder
    assert "advantage" not in tokens


def test_a_given_token_has_no_value(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = {"completions": [{"ids": [5, 6, 7, 8], "turns": [{"start": 0, "end": 1}, {"start": 3, "end": 4}]}]}
    monkeypatch.setattr(StepFile, "group_at", lambda self, place: group)
    monkeypatch.setattr(token_values, "_recorded", lambda *_: [{"logprob": [-1.0, -2.0]}])
    folder = open_run(run)
    (tokens,) = token_values.tokens_of(StepFile(folder, "completions", 1), folder, 0, 0, 9)
    assert tokens["is_sampled"] == [True, False, False, True]
    assert tokens["logprob"] == [-1.0, None, None, -2.0]


def test_a_record_of_other_lengths_is_left_out(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_values, "_recorded", lambda *_: [{"logprob": [-1.0]}])
    folder = open_run(run)
    (tokens, *_) = token_values.tokens_of(StepFile(folder, "completions", 1), folder, 0, 0, 9)
    assert "logprob" not in tokens


def test_the_mean_log_ratio_of_each_completion(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(run, 2, monkeypatch)
    found = token_values.mean_log_ratios(open_run(run), 2)
    assert len(found) == 8
    assert found == sorted(found, reverse=True)
    record(run, 3, monkeypatch, has_reference=False)
    assert token_values.mean_log_ratios(open_run(run), 3) == []


def test_the_tokenizer_comes_from_the_run_folder_alone(run: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    folder: RunFolder = open_run(run)
    assert token_values.tokenizer_in(folder) is None
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    folder.final.mkdir()
    (folder.final / "tokenizer.json").symlink_to(tmp_path / "tokenizer.json")
    assert token_values.tokenizer_in(folder) is None
    (folder.final / "tokenizer.json").unlink()
    tokenizer.save(str(folder.final / "tokenizer.json"))
    assert token_values.tokenizer_in(folder) is not None
    (folder.final / "tokenizer.json").write_text("{}")
    assert token_values.tokenizer_in(folder) is None
    tokenizer.save(str(folder.completions / "tokenizer.json"))
    assert token_values.tokenizer_in(folder) is not None
