"""Generates text from a run, an adapter or a model, through plain transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from groupwise.chat import beyond_embedding, completion_decoder, encode_prompt, pad_id, stop_ids
from groupwise.errors import ConfigError, DataError, ModelError, RunError, can_name_file, shortened, words_of
from groupwise.policy.bounds import context_length, num_embeddings
from groupwise.policy.load_model import load_model, load_tokenizer
from groupwise.runs.folder import RunFolder
from groupwise.runs.reader import RunReader
from groupwise.types import Prompt, Sampling

_ADAPTER = "adapter_config.json"


def load_trained(name: str, *, device: torch.device, trust_remote_code: bool = False) -> tuple[Any, Any]:
    """Model and tokenizer of a run (what it trained, on its base), an adapter folder, or anything `model:` takes."""
    path = Path(name).expanduser()
    options: dict[str, Any] = {"device": device, "trust_remote_code": trust_remote_code}
    folder = RunFolder(path)
    if folder.events.is_file() or folder.has_trained:
        return _with_ends_of(folder, *_load_run(folder, options))
    if (path / _ADAPTER).is_file():
        return _load_adapter(path, None, options)
    return _load_plain(name, options)


def recorded_model(folder: RunFolder) -> str | None:
    """The model that a run started from, as its recipe names it."""
    model = RunReader(folder).config.get("model") or {}
    return model.get("name")


def recorded_sampling(name: str) -> tuple[str | None, int | None]:
    """System prompt and token limit of the run that a name stands for: a run folder, or a folder inside one.

    None where there is no such run, or its recipe has none.
    """
    path = Path(name).expanduser()
    places = (path, path.parent) if path.is_dir() else ()
    folder = next((found for found in map(RunFolder, places) if found.recorded_start is not None), None)
    recipe = {} if folder is None else RunReader(folder).config.get("recipe") or {}
    system, limit = recipe.get("system_prompt"), recipe.get("max_completion_length")
    return system if isinstance(system, str) else None, limit if type(limit) is int else None


def _load_plain(name: str, options: dict[str, Any]) -> tuple[Any, Any]:
    model = load_model(name, full=False, **options)
    rest = {key: options[key] for key in ("trust_remote_code",)}
    return model, load_tokenizer(name, **rest)


def _load_run(folder: RunFolder, options: dict[str, Any]) -> tuple[Any, Any]:
    recipe = RunReader(folder).config.get("recipe") or {}
    options["trust_remote_code"] |= bool(recipe.get("trust_remote_code"))
    if (folder.final / _ADAPTER).is_file():
        return _load_adapter(folder.final, recorded_model(folder), options)
    if (folder.final / "config.json").is_file():
        return _load_plain(str(folder.final), options)
    checkpoint = folder.latest_checkpoint
    way_out = (
        f"Its last checkpoint is {checkpoint.name}: give {checkpoint} itself, or go on with groupwise train RECIPE "
        "--resume."
        if checkpoint
        else "Let it train to its end, or stop it with one Ctrl-C."
    )
    raise RunError(f'The run "{folder.path}" has no trained model yet: {folder.final} is missing. {way_out}')


def _with_ends_of(folder: RunFolder, model: Any, tokenizer: Any) -> tuple[Any, Any]:
    """The same; the model ends where the run's completions did, whose recipe may name more end tokens."""
    recorded = (RunReader(folder).config.get("used") or {}).get("stop_ids") or ()
    ends = [token_id for token_id in recorded if type(token_id) is int]
    if {*ends} - {*stop_ids(tokenizer, model.generation_config)}:
        model.generation_config.eos_token_id = ends
    return model, tokenizer


def _load_adapter(path: Path, recorded: str | None, options: dict[str, Any]) -> tuple[Any, Any]:
    """The adapter on its base: the one it names, or where that is gone the one that the run recorded."""
    from peft import PeftConfig, PeftModel

    if not (path / "adapter_model.safetensors").is_file():
        raise RunError(
            f'The adapter "{path}" has no adapter_model.safetensors; groupwise reads no pickles (.bin). Save it again '
            "with a present-day peft, or train it anew."
        )
    with _readable(path):
        base = PeftConfig.from_pretrained(str(path)).base_model_name_or_path or ""
    if not isinstance(base, str) or not can_name_file(base):
        raise ConfigError(f"{path / _ADAPTER} names {shortened(repr(base))} as its base, which is no model.")
    if recorded and (base == "" or (Path(base).is_absolute() and not Path(base).exists())):
        base = recorded
    if not base:
        raise ConfigError(f"{path / _ADAPTER} names no base model, so the adapter cannot be used alone.")
    model = load_model(base, full=False, **options)
    has_tokenizer = (path / "tokenizer_config.json").is_file()
    tokenizer = (
        _tokenizer_of(path) if has_tokenizer else load_tokenizer(base, trust_remote_code=options["trust_remote_code"])
    )
    with _readable(path):
        return PeftModel.from_pretrained(model, str(path)), tokenizer


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Inside, files of an adapter are read."""
    try:
        yield
    except Exception as error:  # a damaged folder fails in as many ways as it has bytes
        raise ModelError(f'The adapter "{path}" could not be read: {words_of(error)}') from error


def _tokenizer_of(path: Path) -> Any:
    from transformers import AutoTokenizer

    with _readable(path):
        return AutoTokenizer.from_pretrained(str(path), trust_remote_code=False)


def make_prompt(text: str, system: str | None, tokenizer: Any, *, is_plain: bool) -> Prompt:
    """A chat where the tokenizer has a template, unless plain text is asked for."""
    if is_plain or not tokenizer.chat_template:
        if system is not None:
            raise ConfigError(
                "A system message needs a chat: this tokenizer has no chat template, or --plain was given."
            )
        return text
    messages = [{"role": "system", "content": system}] if system is not None else []
    return [*messages, {"role": "user", "content": text}]


def make_streamer(model: Any, tokenizer: Any) -> Any:
    """A streamer of transformers that prints the text of a completion as it grows."""
    from transformers import TextStreamer

    return TextStreamer(_Decoder(_text_of(model, tokenizer)), skip_prompt=True)


@dataclass(frozen=True)
class _Decoder:
    """The part of a tokenizer that a streamer uses."""

    decode: Callable[[Sequence[int]], str]


def _text_of(model: Any, tokenizer: Any) -> Callable[[Sequence[int]], str]:
    """Ids of a completion of this model -> its text."""
    return completion_decoder(tokenizer, Sampling(stop_ids=stop_ids(tokenizer, model.generation_config)))


@torch.no_grad()
def generate(
    model: Any,
    tokenizer: Any,
    prompt: Prompt,
    sampling: Sampling,
    *,
    num: int = 1,
    seed: int | None = None,
    streamer: Any = None,
) -> list[str]:
    """`num` completions of one prompt. A `streamer` of transformers sees a single one as it grows."""
    from transformers import GenerationConfig, set_seed

    ids, size = encode_prompt(tokenizer, prompt), num_embeddings(model)
    if max(ids, default=0) >= size:
        raise DataError(f"In the prompt, {beyond_embedding(tokenizer, max(ids), size)}")
    _check_fits(len(ids), sampling.max_tokens, model)
    if seed is not None:
        set_seed(seed)
    drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p, "min_p": sampling.min_p, "top_k": 0}
    is_greedy = sampling.temperature == 0
    settings = GenerationConfig(
        do_sample=not is_greedy,
        max_new_tokens=sampling.max_tokens,
        num_return_sequences=num,
        eos_token_id=list(stop_ids(tokenizer, model.generation_config)),
        pad_token_id=min(pad_id(tokenizer), size - 1),  # what is filled is masked, and read all the same
        **({} if is_greedy else drawn),
    )
    input_ids = torch.tensor([ids], device=model.device)
    output = model.eval().generate(
        input_ids=input_ids,
        attention_mask=torch.ones_like(input_ids),
        generation_config=settings,
        streamer=streamer if num == 1 else None,
    )
    return list(map(_text_of(model, tokenizer), output[:, len(ids) :].tolist()))


def _check_fits(num_prompt_tokens: int, max_tokens: int, model: Any) -> None:
    context = context_length(model.config)
    if context is not None and num_prompt_tokens + max_tokens > context:
        raise ConfigError(
            f"The prompt has {num_prompt_tokens} tokens and up to {max_tokens} are to follow, but the model's context "
            f"is {context}. Shorten the prompt, or ask for {max(context - num_prompt_tokens, 0)} tokens or fewer."
        )
