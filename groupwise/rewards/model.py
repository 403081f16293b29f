"""A reward model: a sequence-classification model whose first logit is the reward.

Shapes: N texts, P tokens of the longest one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from groupwise.chat import CompletionValue, apply_template
from groupwise.errors import ConfigError, ModelError
from groupwise.hub import Why, hub_or_cache
from groupwise.quiet import without_bars
from groupwise.types import Prompt


class RewardModel:
    """Scores prompt and completion with `logits[:, 0]` of a model.

    `model`: a Hub id or folder (loaded at the first call, with one label), or any module that returns `.logits`.
    `tokenizer`: its own tokenizer or where to load it from; without one, that of the model's name. Chats go through its
    chat template, plain text is prompt + completion; no special tokens are added. `batch_size` bounds the rows of one
    pass, which holds texts of similar length.

    Models that classify the last token find it by the padding id, so a trailing token that is also the padding token
    does not count.
    """

    def __init__(
        self,
        model: nn.Module | str,
        tokenizer: Any = None,
        *,
        device: torch.device | str | None = None,
        batch_size: int = 16,
    ) -> None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ConfigError(f"batch_size of a reward model is {batch_size!r}; give a whole number, 1 or more.")
        if isinstance(model, str) and Path(model).is_dir() and not (Path(model) / "config.json").is_file():
            raise ModelError(f"The folder {model} is not a reward model: it has no config.json.")
        self._given = model
        self._given_tokenizer = tokenizer
        self._device = device
        self._batch_size = batch_size
        self._loaded: tuple[nn.Module, Any] | None = None
        self.name = _short_name(model)

    def load(self) -> None:
        """Load model and tokenizer unless they are there."""
        if self._loaded is None:
            model = _load_model(self._given, self._device) if isinstance(self._given, str) else self._given
            self._loaded = model, _load_tokenizer(self._given_tokenizer or self._given)

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[CompletionValue]) -> list[float | None]:
        """One float32 score a completion; None where prompt and completion have no token at all."""
        self.load()
        assert self._loaded is not None
        model, tokenizer = self._loaded
        texts = [_text(tokenizer, prompt, answer) for prompt, answer in zip(prompts, completions, strict=True)]
        ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
        scores: list[float | None] = [None] * len(ids)
        longest_first = sorted((row for row in range(len(ids)) if ids[row]), key=lambda row: -len(ids[row]))
        with torch.inference_mode(), _prepared(model, _pad_id(tokenizer)) as pad_id:
            for start in range(0, len(longest_first), self._batch_size):
                rows = longest_first[start : start + self._batch_size]
                found = _first_logits(model, [ids[row] for row in rows], pad_id).tolist()
                for row, score in zip(rows, found, strict=True):
                    scores[row] = score
        return scores

    @property
    def model(self) -> nn.Module:
        """The model itself, loaded."""
        self.load()
        assert self._loaded is not None
        return self._loaded[0]

    @property
    def tokenizer(self) -> Any:
        """Its tokenizer, loaded."""
        self.load()
        assert self._loaded is not None
        return self._loaded[1]

    def logits(self, prompts: Sequence[Prompt], completions: Sequence[CompletionValue]) -> Tensor:
        """The same scores with their gradient, N, in one pass without dropout: for training the reward model."""
        self.load()
        assert self._loaded is not None
        model, tokenizer = self._loaded
        texts = [_text(tokenizer, prompt, answer) for prompt, answer in zip(prompts, completions, strict=True)]
        with _prepared(model, _pad_id(tokenizer)) as pad_id:
            return _first_logits(model, tokenizer(texts, add_special_tokens=False)["input_ids"], pad_id)


def _first_logits(model: nn.Module, ids: Sequence[Sequence[int]], pad_id: int) -> Tensor:
    """The first logit of each text, padded on the right to the longest; N in float32."""
    tensors = [torch.tensor(row, dtype=torch.long) for row in ids]
    input_ids_NP = nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=pad_id)
    lengths_N = torch.tensor([len(row) for row in ids])
    mask_NP = (torch.arange(input_ids_NP.shape[1]) < lengths_N[:, None]).long()
    device = _device(model)
    logits: Tensor = model(input_ids=input_ids_NP.to(device), attention_mask=mask_NP.to(device)).logits
    return logits[:, 0].float()


@contextmanager
def _prepared(model: nn.Module, pad_id: int) -> Iterator[int]:
    """The model in evaluation mode and knowing the padding id; afterwards every module as it was."""
    was_training = {module: module.training for module in model.modules()}
    config = getattr(model, "config", None)
    previous = getattr(config, "pad_token_id", None)
    try:
        model.eval()
        if config is not None:
            config.pad_token_id = pad_id
        yield pad_id
    finally:
        for module, training in was_training.items():
            module.training = training
        if config is not None:
            config.pad_token_id = previous


def _text(tokenizer: Any, prompt: Prompt, completion: CompletionValue) -> str:
    if isinstance(prompt, str):
        assert isinstance(completion, str), "a plain prompt has a plain completion"
        return prompt + completion
    assert not isinstance(completion, str), "a chat prompt has a message list as its completion"
    if not getattr(tokenizer, "chat_template", None):
        raise ModelError(
            "The prompts are chats, and the tokenizer of the reward model has no chat template. Give one that has in "
            "reward_processing_classes, or plain prompts."
        )
    return apply_template(tokenizer, [*prompt, *completion], {})


def _pad_id(tokenizer: Any) -> int:
    """The padding id; a tokenizer without one pads with its end token, which the attention mask hides."""
    for token_id in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token_id is not None:
            return int(token_id)
    raise ModelError("The tokenizer of the reward model has neither a padding nor an end token. Set its pad_token.")


def _load_model(source: str, device: torch.device | str | None) -> nn.Module:
    from transformers import AutoModelForSequenceClassification

    kwargs = {"num_labels": 1, "use_safetensors": True, "trust_remote_code": False}
    with without_bars(), _reaching(source) as why:
        try:
            model: nn.Module = AutoModelForSequenceClassification.from_pretrained(source, **kwargs)
        except Exception as error:  # a damaged folder fails in as many ways as it has bytes
            raise ModelError(
                f'The reward model "{source}" cannot be loaded: {why(error)} Give the Hub id or folder of a '
                "sequence-classification model with safetensors weights."
            ) from error
    return model if device is None else model.to(device)


def _load_tokenizer(given: Any) -> Any:
    """The tokenizer itself, or the one of a name, a folder or a model."""
    if isinstance(given, nn.Module):
        given = getattr(getattr(given, "config", None), "name_or_path", "")
    if not isinstance(given, str):
        return given
    if not given:
        raise ModelError("A reward model given as an object needs its tokenizer in reward_processing_classes.")
    from transformers import AutoTokenizer

    with _reaching(given) as why:
        try:
            return AutoTokenizer.from_pretrained(given, trust_remote_code=False)
        except Exception as error:  # as above
            raise ModelError(
                f'The tokenizer of the reward model cannot be loaded from "{given}": {why(error)} Give it in '
                "reward_processing_classes."
            ) from error


def _reaching(source: str) -> AbstractContextManager[Why]:
    """Inside, a model may be loaded without a long wait for the Hub; gives what words the error of a load."""
    return nullcontext(str) if Path(source).is_dir() else hub_or_cache(source)


def _short_name(model: nn.Module | str) -> str:
    """The last part of the model's name or path; the class of a model that has none."""
    source = model if isinstance(model, str) else str(getattr(getattr(model, "config", None), "name_or_path", ""))
    return Path(source).name or type(model).__name__


def _device(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
