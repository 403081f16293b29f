"""The per-token record: what is written is what is read, whole or not at all, and cut with its step."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from groupwise.errors import RunError
from groupwise.runs import RunReader, RunWriter, create
from groupwise.runs.token_record import LARGEST, TokenRecord, num_bytes, read_token_record

from .synthetic import make_groups, write_run


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    ratios, advantages = [0.25, -0.5, float("nan"), float("nan")], [1.0, -1.0, 2.0, float("nan")]
    record = TokenRecord.of([2, 0, 2], [-0.5, -1e9, -2.0, 0.0], ratios, advantages)
    with RunWriter(create(tmp_path)) as writer:
        writer.completions(3, make_groups(3), record)
        writer.completions(4, make_groups(4), TokenRecord.of([1], [-1.0]))
        writer.completions(5, make_groups(5))
        folder = writer.folder
    found = read_token_record(folder, 3)
    assert found is not None
    assert found.lengths.tolist() == [2, 0, 2]
    assert found.logprob.tolist() == [-0.5, -LARGEST, -2.0, 0.0]
    for array, wanted in ((found.ref_log_ratio, ratios), (found.advantage, advantages)):
        assert array is not None
        np.testing.assert_array_equal(array, np.array(wanted, np.float16))
    assert {name: part.tolist() for name, part in found.of_completion(0).items()} == {
        "logprob": [-0.5, -LARGEST],
        "ref_log_ratio": [0.25, -0.5],
        "advantage": [1.0, -1.0],
    }
    assert found.of_completion(1)["logprob"].tolist() == []
    assert found.of_completion(2)["logprob"].tolist() == [-2.0, 0.0]
    without = read_token_record(folder, 4)
    assert without is not None
    assert without.arrays.keys() == {"lengths", "logprob"}
    assert read_token_record(folder, 5) is None
    assert folder.token_steps() == [3, 4]
    assert folder.completion_steps() == [3, 4, 5], "a record of tokens is no record of groups"
    header = folder.tokens_of(3).stat().st_size - num_bytes(3, 4, num_arrays=3)
    assert 0 < header < 400


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path, num_steps=1)
    whole = TokenRecord.of([2], [-1.0, -2.0]).as_bytes()
    for content, what in (
        (whole[:-1], "is damaged"),
        (b"", "is damaged"),
        (TokenRecord.of([3], [-1.0, -2.0]).as_bytes(), "not as long as its lengths add up to"),
        (TokenRecord.of([2], [-1.0, -2.0], [0.0]).as_bytes(), "not as long"),
    ):
        folder.tokens_of(1).write_bytes(content)
        with pytest.raises(RunError, match=rf"tokens\.safetensors.*{what}"):
            read_token_record(folder, 1)


def test_it_is_cut_with_its_step_also_where_a_crash_left_it_alone(tmp_path: Path) -> None:
    folder = write_run(tmp_path, num_steps=3)
    for step in (1, 2, 3, 4):  # step 4 has no groups: the writer was killed between the two files
        folder.tokens_of(step).write_bytes(TokenRecord.of([1], [-1.0]).as_bytes())
    folder.evaluations.mkdir()
    for step in (0, 1, 3):
        folder.evaluations_of(step).write_text("")
    RunReader(folder).cut_after(1)
    assert (folder.token_steps(), folder.completion_steps(), folder.evaluation_steps()) == ([1], [1], [0, 1])
    create(tmp_path, overwrite=True)
    assert (folder.token_steps(), folder.evaluation_steps()) == ([], [])


def test_it_is_read_without_torch() -> None:
    program = "import sys, groupwise.runs.token_record; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
