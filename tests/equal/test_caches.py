"""Models of every kind of cache are sampled by their own code, or refused in a sentence before anything is sampled."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from api_helpers import trainer
from packaging.version import Version
from tiny import EOS, PAD, VOCABULARY, random_rows, tiny_model, with_lora
from torch.nn.utils.rnn import pad_sequence

from groupwise.errors import ModelError
from groupwise.policy.packing import CompletionRows
from groupwise.policy.policy_model import PolicyModel, Scoring
from groupwise.rollout.plain import PlainEngine
from groupwise.runs.reader import RunReader
from groupwise.types import Request, Sampling

_COMMON = {"vocab_size": VOCABULARY, "pad_token_id": PAD, "eos_token_id": EOS, "bos_token_id": 2}
_SIZES = {"hidden_size": 32, "num_hidden_layers": 2}
_HEADS = {**_SIZES, "num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 48}
_MIXED = {"layer_types": ["linear_attention", "full_attention"]}
_MAMBA2 = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_chunk_size": 4, "mamba_n_groups": 1}
_JAMBA = {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8, "mamba_dt_rank": 4, "num_experts": 2}
_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}

CONFIGS: dict[str, dict[str, Any]] = {
    "mamba": {**_SIZES, "state_size": 8},
    "mamba2": {**_SIZES, "state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 4},
    "falcon_mamba": {**_SIZES, "state_size": 8},
    "recurrent_gemma": {**_HEADS, "num_hidden_layers": 3, "num_key_value_heads": 1, "lru_width": 32},
    "xlstm": {**_SIZES, "num_heads": 4, "chunk_size": 16, "mode": "inference"},
    "rwkv": {**_SIZES, "attention_hidden_size": 32},
    "bamba": {**_HEADS, **_MAMBA2, "attn_layer_indices": [1]},
    "jamba": {**_HEADS, **_JAMBA, "use_mamba_kernels": False},
    "minimax": {**_HEADS, **_MIXED, "num_local_experts": 2, "head_dim": 8, "block_size": 4},
    "bailing_hybrid": {**_HEADS, **_MIXED},
    "openai-gpt": _GPT,
    "ctrl": {**_GPT, "dff": 48},
}


def random_model(name: str, **changes: Any) -> Any:
    config = transformers.AutoConfig.for_model(name, **_COMMON, **{**CONFIGS.get(name, {}), **changes})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, 0.0, 0.15)
    return model


UNKNOWN_OR_BROKEN = pytest.mark.xfail(
    Version(transformers.__version__) < Version("5.23"),
    reason="transformers 5.0 lacks bailing_hybrid, and recurrent_gemma and xlstm fail in its own code",
)


def architectures(*names: str) -> list[Any]:
    """Parameters of a test; those that the lowest transformers lacks or breaks may fail there."""
    late = ("bailing_hybrid", "recurrent_gemma", "xlstm")
    return [pytest.param(name, marks=UNKNOWN_OR_BROKEN if name in late else ()) for name in names]


REQUESTS = [
    Request(prompt, count, Sampling(max_tokens=length), seed=(number,))
    for number, (prompt, count, length) in enumerate(
        zip((random_rows().prompt_ids[3], (50,), random_rows().prompt_ids[0]), (3, 2, 1), (12, 5, 1), strict=True)
    )
]


def gap(model: Any) -> float:
    """Largest difference between what sampling and scoring say of a token."""
    pairs = [(n, c) for n, group in PlainEngine(model, torch.float32).generate(REQUESTS) for c in group]
    rows = CompletionRows(
        [REQUESTS[n].prompt_ids for n, _ in pairs], [c.token_ids for _, c in pairs], [n for n, _ in pairs]
    )
    rollout_NT = pad_sequence([torch.tensor(c.rollout_logprob) for _, c in pairs], batch_first=True)
    return float((PolicyModel(model, torch.float32, None).score(rows, Scoring()).logprob_NT - rollout_NT).abs().max())


@pytest.mark.parametrize("name", architectures(*CONFIGS))
def test_sampling_and_scoring_agree_and_greedy_tokens_are_the_likeliest(name: str) -> None:
    model = random_model(name)
    assert gap(model) <= 1e-4
    greedy = Sampling(temperature=0.0, max_tokens=9)
    for _, (completion,) in PlainEngine(model, torch.float32).generate([Request(REQUESTS[0].prompt_ids, 1, greedy)]):
        text = torch.tensor([REQUESTS[0].prompt_ids + completion.token_ids])
        with torch.no_grad():
            logits_TV = model(text, use_cache=False).logits[0, len(REQUESTS[0].prompt_ids) - 1 : -1]
        assert completion.token_ids == tuple(logits_TV.argmax(-1).tolist())


@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("name", architectures("mamba", "mamba2", "recurrent_gemma", "xlstm", "rwkv", "bamba"))
def test_runs_start_without_a_gap(name: str, adapter: bool, tmp_path: Path) -> None:
    model = random_model(name)
    if adapter:
        names = {n.rpartition(".")[2] for n, m in model.named_modules() if type(m) is torch.nn.Linear}
        model = with_lora(
            model,
            target_modules=sorted(names - {"lm_head", "head", *({"out_proj"} if "mamba" in name else ())}),
            is_learnt=False,
        )
    trainer(tmp_path, model=model.train(), beta=0.04, guards={"no_signal": "off"}).train()
    first, second = RunReader(tmp_path).metrics()
    assert first["kl"] == pytest.approx(0, abs=1e-7)
    for record in (first, second):
        assert record["sampling/mismatch"] == pytest.approx(1, abs=1e-4)


def test_a_model_that_keeps_its_state_in_its_modules_can_be_copied_after_a_pass(tmp_path: Path) -> None:
    """A reference that follows the policy is a copy."""
    model = random_model("recurrent_gemma").train()
    settings = {"beta": 0.04, "sync_ref_model": True, "ref_model_sync_steps": 1, "max_steps": 2}
    trainer(tmp_path, model=model, **settings).train()
    assert len(RunReader(tmp_path).metrics()) == 2
    copy.deepcopy(model)


def test_a_cache_that_gives_other_numbers_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    assert PlainEngine(model, torch.float32).mode.has_cache
    forward = type(model).forward

    def wrong(self: Any, *arguments: Any, past_key_values: Any = None, **named: Any) -> Any:
        output = forward(self, *arguments, past_key_values=past_key_values, **named)
        output.logits = output.logits + torch.linspace(0, 1, VOCABULARY) * (past_key_values is not None)
        return output

    monkeypatch.setattr(type(model), "forward", wrong)
    assert not PlainEngine(model, torch.float32).mode.has_cache
    assert gap(model) <= 1e-4


class NotDeterministic(torch.nn.Module):
    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.dropout(self.layer(x), 0.3)


def _random() -> Any:
    model = tiny_model()
    model.model.layers[0].mlp.down_proj = NotDeterministic(model.model.layers[0].mlp.down_proj)
    return model


_REFORMER = {
    "is_decoder": True, "num_attention_heads": 4, "attention_head_size": 8, "feed_forward_size": 48,
    "attn_layers": ["local"],
    "axial_pos_shape": [8, 8], "axial_pos_embds_dim": [16, 16], "local_attn_chunk_length": 8,
    "max_position_embeddings": 64,
}  # fmt: skip
REFUSED: dict[str, tuple[Any, str]] = {
    "bidirectional": (
        lambda: random_model("bert", **_HEADS),
        "BertLMHeadModel is no causal language model: .* is_decoder",
    ),
    "trained in its own mode": (
        lambda: random_model("reformer", **_SIZES, **_REFORMER),
        "cannot be trained: .* AssertionError",
    ),
    "scaled in place": (lambda: random_model("rwkv", num_hidden_layers=3, rescale_every=2), "rescale_every"),
    "random": (_random, "Two passes of LlamaForCausalLM over the same tokens differ"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_sampled_exactly_is_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    make, sentence = REFUSED[name]
    model = make()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    with pytest.raises(ModelError, match=sentence):
        trainer(tmp_path, model=model)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_model_that_looks_ahead_has_no_engine() -> None:
    permuted = random_model("xlnet", d_model=32, n_head=4, n_layer=2, d_inner=48)
    with pytest.raises(ModelError, match="XLNetLMHeadModel is no causal language model"):
        PlainEngine(permuted, torch.float32)


def test_rwkv_without_scaling_keeps_its_weights_as_they_are() -> None:
    model = random_model("rwkv", num_hidden_layers=3, rescale_every=0)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    assert gap(model.train()) <= 1e-4
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
