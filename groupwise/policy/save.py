"""Writes what was trained as plain transformers or peft files."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from groupwise.errors import ModelError, words_of
from groupwise.hub import offline_if_unreachable
from groupwise.policy.adapter import active_adapter, base_of, has_adapter, named_trained, trained_parameters
from groupwise.policy.reference import effective_model
from groupwise.quiet import without_bars

ADAPTER_WEIGHTS = "adapter_model.safetensors"


class ModelWriter:
    """The model files of a run's checkpoints: adapter or model, and the tokenizer, as `from_pretrained` reads them.

    Made before a step is paid for: what cannot be saved is an error then.
    """

    def __init__(self, model: nn.Module, tokenizer: Any) -> None:
        """Save everything but the weights of the base to a scratch folder, and keep the files of the tokenizer.

        Raises:
            ModelError: model, generation config, adapter or tokenizer cannot be saved, with the reason.
        """
        self.model = model
        self._files = _save_but_weights(model, tokenizer)
        self._adapter_keys: dict[str, str] = {}
        """Trained parameter -> its key in peft's file, once peft has written one that holds exactly these."""

    @property
    def tokenizer_file(self) -> bytes | None:
        """What the `tokenizers` library reads; None where the tokenizer is of another kind."""
        return self._files.get("tokenizer.json")

    @property
    def num_bytes(self) -> int:
        """Of the weights; the other files are small."""
        weights = named_trained(self.model) if has_adapter(self.model) else dict(self.model.named_parameters())
        sizes = [p.numel() * (4 if p.requires_grad else p.element_size()) for p in weights.values()]
        return sum(sizes) + sum(map(len, self._files.values()))

    def write(self, folder: Path) -> dict[str, str]:
        """Write them; returns trained parameter -> its key, of all whose exact values the weight files hold.

        peft writes the first file of an adapter. It looks at every module of the model, which takes longer than the
        weights, so later files of the same parameters are written with the keys of the first.
        """
        trained = named_trained(self.model)
        if self._adapter_keys and self._adapter_keys.keys() == trained.keys():
            keys = self._adapter_keys
            weights = {keys[name]: p.detach().cpu().contiguous() for name, p in trained.items()}
            save_file(weights, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
        else:
            keys = self._write_whole(folder, trained)
        for name, content in self._files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        return keys

    def _write_whole(self, folder: Path, trained: Mapping[str, nn.Parameter]) -> dict[str, str]:
        save_model(self.model, folder)
        keys = _keys_in_files(self.model, trained, folder)
        holds_exactly = has_adapter(self.model) and {*keys.values()} == _keys_of(folder / ADAPTER_WEIGHTS)
        if holds_exactly and keys.keys() == trained.keys():
            self._adapter_keys = keys
            self._files["adapter_config.json"] = (folder / "adapter_config.json").read_bytes()
        return keys


def _keys_of(file: Path) -> set[str]:
    with safe_open(file, "pt") as opened:
        return set(opened.keys())


def _keys_in_files(model: nn.Module, trained: Mapping[str, nn.Parameter], folder: Path) -> dict[str, str]:
    """Values are compared, not names alone: transformers converts some weights when it saves them."""
    keys = _peft_keys(model)
    wanted = {keys.get(p.data_ptr(), name): name for name, p in trained.items()}
    found = {}
    for key, tensor in stored_tensors(folder, wanted):
        own = trained[wanted[key]].detach().cpu()
        if own.dtype == tensor.dtype and torch.equal(own, tensor):
            found[wanted[key]] = key
    return found


def _peft_keys(model: nn.Module) -> dict[int, str]:
    """Address of a weight -> its key in peft's file of the active adapter; empty without an adapter."""
    from peft import get_peft_model_state_dict

    if (name := active_adapter(model)) is None:
        return {}
    in_file = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    return {tensor.data_ptr(): key for key, tensor in in_file.items()}


def stored_tensors(folder: Path, wanted: Collection[str]) -> Iterator[tuple[str, Tensor]]:
    """Those of the `wanted` keys that the weight files at the top of `folder` hold, with their tensors."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            for key in opened.keys():  # noqa: SIM118 (no mapping)
                if key in wanted:
                    yield key, opened.get_tensor(key)


def save_policy(model: nn.Module, tokenizer: Any, folder: str | Path) -> Path:
    """The adapter (or the whole model) with its tokenizer, as `from_pretrained` reads them.

    Of several adapters it is the active one, at the top of the folder. Weights that are trained beside the adapter
    stand in its file under their own names, where peft puts them back into the base.
    """
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    save_model(model, path)
    tokenizer.save_pretrained(path)
    return path


def save_model(model: nn.Module, folder: Path) -> None:
    """The adapter (or the whole model) without the tokenizer."""
    with without_bars(), offline_if_unreachable(base_on_hub(model)):
        if has_adapter(model):
            _save_adapter(model, folder)
        else:
            model.save_pretrained(folder)  # type: ignore[operator]


def save_merged(model: nn.Module, tokenizer: Any, folder: str | Path, dtype: torch.dtype | None = None) -> Path:
    """A plain model with the adapter multiplied into its weights; the model in hand stays as it is.

    The sum is made in float32 and stays there unless `dtype` is given: rounding it to bfloat16 drops most of a
    small update (at learning rate 2e-5, 73% of fifty steps' was lost).
    """
    merged = effective_model(model)
    return save_policy(merged if dtype is None else merged.to(dtype), tokenizer, folder)


def _save_but_weights(model: nn.Module, tokenizer: Any) -> dict[str, bytes]:
    """Name of each file of the tokenizer -> its content; the rest is saved to see that it can be."""
    adapters: Any = getattr(model, "peft_config", {})
    with TemporaryDirectory() as scratch, without_bars():
        own = Path(scratch) / "tokenizer"
        try:
            base_of(model).save_pretrained(scratch, state_dict={})
            tokenizer.save_pretrained(own)
            if has_adapter(model):
                adapters[active_adapter(model)].save_pretrained(scratch)
        except Exception as error:  # each part refuses in its own way
            raise ModelError(
                f"The model could not be saved after training, so it is not trained: {type(error).__name__}: "
                f"{words_of(error)}\nMend what is named (model.generation_config, model.config, the tokenizer); "
                "model.save_pretrained(folder) shows whether it is mended."
            ) from error
        files = {str(file.relative_to(own)): file.read_bytes() for file in own.rglob("*") if file.is_file()}
    weights_beside(model)
    return files


def read_in_float32(model: nn.Module, folder: str | Path) -> None:
    """Raise a loaded peft model to float32 and read its adapter once more, from the folder that it was loaded from.

    Weights that were trained in float32 beside a base of 16 bits (saved modules, biases, norms) are rounded to the
    base's dtype when peft loads them.
    """
    from peft import set_peft_model_state_dict

    if has_adapter(model):
        weights = load_file(Path(folder) / ADAPTER_WEIGHTS)
        set_peft_model_state_dict(model.float(), weights, adapter_name=active_adapter(model))


def base_on_hub(model: nn.Module) -> str | None:
    """The Hub id of an adapter's base, whose vocabulary peft compares with the Hub's when it saves."""
    configs = getattr(model, "peft_config", None) or {}
    names = [str(config.base_model_name_or_path or "") for config in configs.values()]
    return next((name for name in names if name and not Path(name).exists()), None)


def weights_beside(model: nn.Module) -> dict[str, Tensor]:
    """Trained weights of a peft model that peft's own file of the active adapter lacks, under their own names.

    Raises:
        ModelError: peft would leave out a weight of the adapter itself, which has no other place.
    """
    name = active_adapter(model)
    if name is None:
        return {}
    held = _peft_keys(model)
    trained = trained_parameters(model)
    left_out = [n for n, p in trained.inside.items() if p.data_ptr() not in held]
    if left_out:
        raise ModelError(
            f'peft would not save {left_out[0]} (and {len(left_out) - 1} more) of the adapter "{name}". Another '
            "adapter's name is also the name of a module, and peft tells adapters apart by their names: "
            f"{', '.join(map(str, model.peft_config))}. Rename the adapters."  # type: ignore[arg-type]
        )
    return {n: p.detach() for n, p in trained.beside.items() if p.data_ptr() not in held}


@contextmanager
def _without_pefts_card(card: Path) -> Iterator[None]:
    """Inside, peft writes its card or edits the one that is there; afterwards the folder has what it had before.

    peft's card is an empty form that names the local path of the base.
    """
    before = card.read_bytes() if card.is_file() else None
    yield
    if before is None:
        card.unlink(missing_ok=True)
    else:
        card.write_bytes(before)


def _save_adapter(model: Any, path: Path) -> None:
    name = active_adapter(model)
    beside = weights_beside(model)
    with warnings.catch_warnings():
        # peft keeps a copy of embeddings that an adapter covers, which is larger and harmless
        warnings.filterwarnings("ignore", message="Setting `save_embedding_layers` to `True`")
        with _without_pefts_card(path / "README.md"):
            model.save_pretrained(path, selected_adapters=[name])
    if name != "default":
        _move_up(path / str(name), path)
    if beside:
        weights = load_file(path / ADAPTER_WEIGHTS)
        own = {n: tensor.contiguous().cpu().clone() for n, tensor in beside.items()}
        save_file(weights | own, path / ADAPTER_WEIGHTS, metadata={"format": "pt"})


def _move_up(folder: Path, target: Path) -> None:
    """Move an adapter up from the folder of its name, where peft writes it unless the name is "default"."""
    for file in folder.iterdir():
        file.replace(target / file.name)
    shutil.rmtree(folder)
