"""Writes versions of the policy to a folder that servers read: the adapter, or the weights of the whole model.

A version appears under its name complete or not at all, and is never changed. Names hold a mark of this process, since
a server may still hold what an earlier one published under the same number.
"""

from __future__ import annotations

import os
import secrets
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from groupwise.errors import ModelError, RolloutError
from groupwise.policy.adapter import active_config, has_adapter, named_trained, trained_parameters
from groupwise.policy.packing import CompletionRows
from groupwise.policy.policy_model import PolicyModel, Scoring
from groupwise.policy.reference import effective_model
from groupwise.policy.save import ModelWriter
from groupwise.quiet import without_bars
from groupwise.rollout.served.adapter_rules import why_not_served
from groupwise.rollout.served.published import Published


class VersionWriter:
    """Publishes versions of one policy as `folder/<name>`."""

    def __init__(self, policy: PolicyModel, folder: Path, name: str, *, mode: str, probe_ids: Sequence[int]) -> None:
        """`mode` is lora or weights; a weights version is in the policy's compute dtype."""
        self._folder, self._mode, self._probe = folder, mode, tuple(probe_ids)
        self._name = f"{name}-{secrets.token_hex(4)}"
        self._writer = ModelWriter(policy.model, _NoTokenizer()) if mode == "lora" else None

    def publish(self, policy: PolicyModel, version: int) -> Published:
        """Write the policy as it is now, after what the learner derives from its weights is made anew.

        Raises:
            RolloutError: the folder cannot be written.
        """
        policy.refresh()
        name = f"{self._name}-v{version}"
        final, scratch = self._folder / name, self._folder / f".{name}.tmp"
        try:
            shutil.rmtree(scratch, ignore_errors=True)
            shutil.rmtree(
                final, ignore_errors=True
            )  # of the same version, after a run that was resumed in this process
            scratch.mkdir(parents=True)
            self._write(policy, scratch)
            _to_disk(scratch)
            scratch.rename(final)
        except OSError as error:
            raise RolloutError(
                f"The weights of version {version} could not be written for the servers: {error}. sync_dir is "
                f'"{self._folder}"; it needs room, and every server has to see it.'
            ) from error
        is_base = self._mode == "lora" and _is_zero(policy.model)
        marks = tuple(_mark(tensor) for tensor in named_trained(policy.model).values())
        return Published(version, name, str(final), expected_logprobs(policy, self._probe), marks, is_base)

    def discard(self, published: Published) -> None:
        shutil.rmtree(published.folder, ignore_errors=True)

    @torch.no_grad()
    def _write(self, policy: PolicyModel, folder: Path) -> None:
        if self._writer is not None:
            self._writer.write(folder)
            return
        model: Any = effective_model(policy.model) if has_adapter(policy.model) else policy.model
        held = {name: t.to(policy.dtype) if t.is_floating_point() else t for name, t in model.state_dict().items()}
        with without_bars():
            model.save_pretrained(folder, state_dict=held)


class _NoTokenizer:
    """Versions are published without one: token ids go to servers."""

    def save_pretrained(self, folder: Any) -> None:
        """Write nothing."""


@torch.no_grad()
def expected_logprobs(policy: PolicyModel, ids: Sequence[int]) -> tuple[float, ...]:
    """The learner's log-probs of every token but the first, at temperature 1."""
    rows = CompletionRows([tuple(ids[:1])], [tuple(ids[1:])], [0])
    return tuple(policy.score(rows, Scoring(with_entropy=False)).logprob_NT[0].tolist())


def why_not_lora(model: nn.Module) -> str | None:
    """Why the adapter of the model cannot travel as it is, in words; None where it can."""
    config = active_config(model)
    if config is None:
        return "the model has no adapter"
    if beside := trained_parameters(model).beside:
        return f"{next(iter(beside))} is trained beside the adapter"
    return why_not_served(config.to_dict())


def require_servable(model: nn.Module, mode: str) -> None:
    """Refuse a model whose adapter the servers would refuse, or take in part, before anything is paid for.

    Raises:
        ModelError: with the setting, and what to do.
    """
    if mode == "lora" and (why := why_not_lora(model)):
        raise ModelError(
            f"The adapter cannot travel to vLLM: {why}. Change it, or set sync: weights, which sends merged weights."
        )


def _is_zero(model: nn.Module) -> bool:
    """Whether one factor of every pair is 0, so that the adapter changes nothing."""
    return not any(
        bool(p.detach().count_nonzero()) for name, p in model.named_parameters() if "lora_B" in name and p.requires_grad
    )


def _mark(tensor: Tensor) -> int:
    """A checksum of the values as bfloat16 holds them."""
    rounded = tensor.detach().to(torch.bfloat16).cpu().contiguous().view(torch.int16)
    return zlib.crc32(rounded.numpy().data)


def _to_disk(folder: Path) -> None:
    """Let the disk hold every file before the folder gets its name."""
    for path in (*(p for p in folder.rglob("*") if p.is_file()), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
