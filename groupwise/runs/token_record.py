"""The per-token record of a step: log-probs, log-ratios to the reference and advantages of the sampled tokens.

`completions/step-000123.tokens.safetensors`: arrays in the order of the lines of `step-000123.jsonl`, of the
completions in a line, and of the sampled tokens of a completion. Read without torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from groupwise.errors import RunError
from groupwise.runs.folder import RunFolder

LARGEST = float(np.finfo(np.float16).max)
"""Numbers beyond it are recorded as this one."""


@dataclass(frozen=True, slots=True, eq=False)
class TokenRecord:
    """The sampled tokens of a step, one completion after another; natural logarithms. NaN: not scored."""

    lengths: NDArray[np.int32]
    """Sampled tokens of each completion."""
    logprob: NDArray[np.float16]
    """Log-prob of each token under the distribution that it was sampled from, as the engine recorded it."""
    ref_log_ratio: NDArray[np.float16] | None = None
    """Log-prob under the policy at the start of the step, minus that under the reference; None where none scored."""
    advantage: NDArray[np.float16] | None = None
    """None where the tokens of a completion share one."""

    @classmethod
    def of(cls, lengths: Sequence[int], logprob: Any, ref_log_ratio: Any = None, advantage: Any = None) -> TokenRecord:
        """From numbers of any precision, sequences or arrays."""
        halves = [None if values is None else _half(values) for values in (logprob, ref_log_ratio, advantage)]
        assert halves[0] is not None
        return cls(np.asarray(lengths, np.int32), halves[0], *halves[1:])

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """Name -> array, of those that there are."""
        every = {name: getattr(self, name) for name in self.__slots__}
        return {name: array for name, array in every.items() if array is not None}

    def of_completion(self, number: int) -> dict[str, NDArray[np.float16]]:
        """Name -> values of the sampled tokens of one completion of the step, counted from 0."""
        end = int(self.lengths[: number + 1].sum())
        start = end - int(self.lengths[number])
        return {name: array[start:end] for name, array in self.arrays.items() if name != "lengths"}

    def as_bytes(self) -> bytes:
        """The content of the file."""
        content: bytes = save(self.arrays)
        return content


def read_token_record(folder: RunFolder, step: int) -> TokenRecord | None:
    """The record of a step; None where the run has none of it.

    Raises:
        RunError: the file is damaged.
    """
    path = folder.tokens_of(step)
    try:
        arrays = load(path.read_bytes())
    except FileNotFoundError:
        return None
    except SafetensorError as error:
        raise RunError(f'"{path}" is damaged: {error}. Restore the file from a backup, or delete it.') from error
    if (wrong := _wrong(arrays)) is not None:
        raise RunError(f'"{path}" is damaged: {wrong}. Restore the file from a backup, or delete it.')
    return TokenRecord(**{name: array for name, array in arrays.items() if name in TokenRecord.__slots__})


def num_bytes(num_completions: int, num_tokens: int, *, num_arrays: int) -> int:
    """Bytes of a record with so many arrays of tokens, without its header of a few hundred."""
    return 4 * num_completions + 2 * num_arrays * num_tokens


def _half(values: Any) -> NDArray[np.float16]:
    return np.clip(np.asarray(values, np.float32), -LARGEST, LARGEST).astype(np.float16)


def _wrong(arrays: Mapping[str, NDArray[Any]]) -> str | None:
    """What arrays of a file cannot be a record for, or None."""
    if not {"lengths", "logprob"} <= arrays.keys():
        return "it has no lengths or no log-probs"
    tokens = [array for name, array in arrays.items() if name in TokenRecord.__slots__ and name != "lengths"]
    if any(array.shape != (int(arrays["lengths"].sum()),) for array in tokens):
        return "its arrays are not as long as its lengths add up to"
    return None
