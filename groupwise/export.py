"""Exports a finished run as a model that plain transformers loads: a folder, or a repository on the Hub."""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from groupwise.errors import RunError
from groupwise.generate import load_trained, recorded_model
from groupwise.hub import why_unreachable
from groupwise.policy.save import read_in_float32, save_merged
from groupwise.report import model_card, write_report
from groupwise.report.about import origin, public
from groupwise.report.card import CardWords
from groupwise.runs.folder import RunFolder, open_run
from groupwise.waiting import within

_log = logging.getLogger(__name__)

CARD, CURVE = "README.md", "reward.png"

_EXPORTED = (
    "*config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*", "special_tokens_map.json", "*.jinja",
    "added_tokens.json", "vocab*", "merges.txt", CARD, CURVE,
)  # fmt: skip
"""Names of the files of an exported model."""

UPLOAD_S, MIN_BYTES_PER_S = 300.0, 128 * 1024
"""An upload that takes longer than this and its bytes at this rate hangs: it is given up."""


def export_run(
    run: str | Path,
    to: str | Path,
    *,
    merge: bool,
    dtype: torch.dtype | None = None,
    hub_name: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write what a run trained, with tokenizer, model card and curve, as plain transformers (or peft) loads it.

    `merge` multiplies the adapter into the weights, in `dtype`, by default float32. `hub_name` is the name
    that the card's example loads. `overwrite` writes over an earlier export.

    Raises:
        RunError: no run, none with a trained model, or a target with something else in it.
    """
    folder, target = open_run(run), Path(to).expanduser()
    earlier = _earlier_export(target) if overwrite else set()
    if target.is_file() or (target.is_dir() and set(target.iterdir()) - earlier):
        raise RunError(
            f'"{target}" is not an empty folder. Choose another place, so that nothing there is mixed up; --overwrite '
            "writes over an earlier export."
        )
    model, tokenizer = load_trained(str(folder.path), device=torch.device("cpu"))
    for file in earlier:
        file.unlink()
    if merge:
        read_in_float32(model, folder.final)
        save_merged(model, tokenizer, target, dtype)
    else:  # a loaded model no longer knows which weights were trained beside its adapter
        shutil.copytree(folder.final, target, dirs_exist_ok=True)
    _describe(folder, target, hub_name)
    return target


def _earlier_export(target: Path) -> set[Path]:
    """The files in a folder that have the name of one that an export writes."""
    return {file for pattern in _EXPORTED for file in target.glob(pattern) if file.is_file()}


def write_card_of_run(run_folder: Path, name: str, words: CardWords, *, is_adapter: bool) -> bool:
    """Write the card of a run as README.md into its own folder; False where no run has been started there.

    `name` is the Hub name that the card's example loads; `is_adapter`: what is published is an adapter.
    """
    folder = RunFolder(run_folder)
    if folder.recorded_start is None:
        return False
    curve = _curve(folder).relative_to(folder.path).as_posix() if _curve(folder).is_file() else None
    card = model_card(folder, curve=curve, name=name, is_adapter=is_adapter, words=words)
    (folder.path / CARD).write_text(card, encoding="utf-8")
    return True


def prepare_upload(run_folder: Path, target: Path) -> None:
    """Give a saved model what belongs to its upload: the card in the run's folder, its picture, the base's name."""
    folder = RunFolder(run_folder)
    _name_the_base(target, folder)
    (target / CARD).unlink(missing_ok=True)  # peft's own card names local paths
    if not (folder.path / CARD).is_file():
        return
    shutil.copyfile(folder.path / CARD, target / CARD)
    picture = folder.report / CURVE
    if picture.is_file():
        (target / picture.relative_to(folder.path)).parent.mkdir(exist_ok=True)
        shutil.copyfile(picture, target / picture.relative_to(folder.path))


def push_or_tell(push: Callable[[], object], record: Callable[..., None]) -> None:
    """Upload at the end of a run, which is complete without it: a failure is recorded and logged, not raised."""
    try:
        address = push()
    except RunError as error:
        record("upload_failed", error=str(error))
        _log.info(str(error))  # the warning is the program's, this line the screen's
        warnings.warn(str(error), stacklevel=2)
    else:
        record("uploaded", address=address)
        _log.info(f"Uploaded to {address}.")


def upload(
    folder: str | Path,
    name: str,
    *,
    private: bool | None = None,
    message: str = "Upload a model of groupwise",
    token: str | None = None,
    revision: str | None = None,
) -> str:
    """Create the Hub repository if there is none, and commit the files of `folder` to it; returns its address.

    `revision` is a branch, which is made where there is none; by default the main one.
    """
    from huggingface_hub import HfApi

    def send() -> str:
        api = HfApi(token=token)
        repository = api.create_repo(name, private=private, exist_ok=True)
        if revision is not None and not revision.startswith("refs/"):
            api.create_branch(repository.repo_id, branch=revision, exist_ok=True)
        api.upload_folder(folder_path=folder, repo_id=repository.repo_id, commit_message=message, revision=revision)
        return str(repository)

    try:
        if (why := why_unreachable()) is not None:
            raise ConnectionError(why)
        return within(_patience(Path(folder)), send, name="the upload")
    except Exception as error:  # each release of its client fails in other ways; for the user they are all this one
        raise RunError(
            f'The model could not be uploaded to the Hub as "{name}": {error}.\n'
            "Nothing is lost: the run folder has it. Log in with `hf auth login` (or set HF_TOKEN to a token that may "
            "write), then: groupwise export RUN --merge --push-to-hub NAME."
        ) from error


def _patience(folder: Path) -> float:
    """Seconds that the upload of a folder may take."""
    num_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return UPLOAD_S + num_bytes / MIN_BYTES_PER_S


def _describe(folder: RunFolder, target: Path, hub_name: str | None) -> None:
    """The base's name as the user gave it, where the files go to the Hub, and the card of the run."""
    if hub_name is not None:
        _name_the_base(target, folder)
    (target / CARD).unlink(missing_ok=True)  # peft's own card names local paths
    if folder.recorded_start is not None:
        _write_card(folder, target, hub_name)


def _curve(folder: RunFolder) -> Path:
    """The picture of the reward, drawn where there is none yet; a run without a finished step has none."""
    if not (curve := folder.report / CURVE).is_file():
        write_report(folder)
    return curve


def _write_card(folder: RunFolder, target: Path, hub_name: str | None) -> None:
    curve = _curve(folder)
    has_curve = curve.is_file()  # a run without a finished step has none
    if has_curve:
        shutil.copyfile(curve, target / CURVE)
    is_adapter = (target / "adapter_config.json").is_file()
    card = model_card(folder, curve=CURVE if has_curve else None, name=hub_name, is_adapter=is_adapter)
    (target / CARD).write_text(card, encoding="utf-8")


def _name_the_base(target: Path, folder: RunFolder) -> None:
    """An adapter names its base by the path it was loaded from; on the Hub it needs the name that the user gave."""
    path = target / "adapter_config.json"
    if not path.is_file() or folder.recorded_start is None:
        return
    content = json.loads(path.read_text(encoding="utf-8"))
    base, recorded = content.get("base_model_name_or_path"), recorded_model(folder)
    if base and recorded and Path(base).is_absolute():
        known = origin(recorded)
        content["base_model_name_or_path"] = known.hub_id if known else public(recorded)
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
