"""No pass is left to chance: every rate that a configuration names is at one half here, and no bit depends on it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from api_helpers import trainer
from tiny import PAD, VOCABULARY, random_rows, tiny_model, with_lora
from torch import Tensor, nn

from groupwise.notes import shown_by
from groupwise.policy.deterministic import deterministic
from groupwise.policy.fused_model import FusedModel
from groupwise.policy.load_model import checkpoint_layers, warn_of_dropout
from groupwise.policy.policy_model import PolicyModel, Scoring
from groupwise.rollout.fastpath import why_not_fast
from groupwise.runs.reader import RunReader

ROWS = random_rows()
HALF = 0.5
_SIZES = {"vocab_size": VOCABULARY, "pad_token_id": PAD}
_LAYERS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_LLAMA = {**_LAYERS, "intermediate_size": 48, "num_key_value_heads": 2}
_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
_OPT = {**_LAYERS, "ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 64}
_BART = {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 48}
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_XGLM = {"d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 48, "max_position_embeddings": 64}

CONFIGS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "opt": (transformers.OPTConfig, _OPT),
    "gpt2": (transformers.GPT2Config, _GPT2),
    "gpt-neo": (
        transformers.GPTNeoConfig,
        {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global"], 2]]},
    ),
    "gpt-neox": (transformers.GPTNeoXConfig, {**_LAYERS, "intermediate_size": 48}),
    "gptj": (transformers.GPTJConfig, {**_GPT2, "rotary_dim": 4}),
    "codegen": (transformers.CodeGenConfig, {**_GPT2, "rotary_dim": 4}),
    "bloom": (transformers.BloomConfig, {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "falcon": (transformers.FalconConfig, _LAYERS),
    "biogpt": (transformers.BioGptConfig, {**_LAYERS, "intermediate_size": 48, "max_position_embeddings": 64}),
    "xglm": (transformers.XGLMConfig, _XGLM),
    "bart": (transformers.BartConfig, {**_BART, "is_decoder": True, "is_encoder_decoder": False}),
    "phi": (transformers.PhiConfig, {**_LAYERS, "intermediate_size": 48}),
    "phi3": (transformers.Phi3Config, _LLAMA),
    "phimoe": (transformers.PhimoeConfig, {**_LLAMA, **_EXPERTS, "sliding_window": None}),
    "mixtral": (transformers.MixtralConfig, {**_LLAMA, **_EXPERTS}),
    "starcoder2": (transformers.Starcoder2Config, _LLAMA),
    "persimmon": (transformers.PersimmonConfig, {**_LAYERS, "intermediate_size": 48}),
    "stablelm": (transformers.StableLmConfig, _LLAMA),
    "olmoe": (transformers.OlmoeConfig, {**_LLAMA, "num_experts": 4, "num_experts_per_tok": 2}),
    "llama": (transformers.LlamaConfig, _LLAMA),
}


def random_model(name: str) -> Any:
    """A random model of that architecture with every rate of dropout, layer dropping and jitter at one half."""
    make, sizes = CONFIGS[name]
    usual = make(**_SIZES, **sizes)
    rates = {key for key, value in usual.to_dict().items() if isinstance(value, int | float) and _is_rate(key)}
    assert rates
    config = make(**_SIZES, **sizes, **dict.fromkeys(rates, HALF))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()


def _is_rate(key: str) -> bool:
    is_named = "drop" in key or "jitter" in key or key.endswith("layerdrop")
    return is_named and not key.startswith(("classifier", "summary"))


class Stochastic(nn.Module):
    """A layer of somebody's own that drops by every means torch has."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.rate = HALF
        self.drops = nn.ModuleList(
            [nn.Dropout(HALF), nn.Dropout1d(HALF), nn.AlphaDropout(HALF), nn.FeatureAlphaDropout(HALF)]
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        for drop in self.drops:
            x = drop(x)
        x = nn.functional.dropout(x, self.rate, self.training)
        return x * (1 + torch.rand(1)) if self.training else x


def learner_pass(policy_model: PolicyModel) -> tuple[Tensor, dict[str, Tensor]]:
    """Log-probs and the gradient of their weighted sum."""
    policy_model.model.zero_grad()
    with policy_model.pass_over(ROWS, Scoring()) as scores:
        weight_NT = torch.randn(scores.logprob_NT.shape, generator=torch.Generator().manual_seed(1))
        (weight_NT * scores.logprob_NT).sum().backward()
    gradients = {n: p.grad.clone() for n, p in policy_model.model.named_parameters() if p.grad is not None}
    return scores.logprob_NT.detach(), gradients


def runs_of_layers(model: nn.Module, do: Callable[[], Any]) -> int:
    """How often a feed-forward or attention module computes while `do` runs."""
    kinds = ("Attention", "MLP", "Mlp")
    inner = [m for m in model.modules() if type(m).__name__.endswith(kinds)]
    assert inner
    count = 0

    def one_more(*_: Any) -> None:
        nonlocal count
        count += 1

    hooks = [module.register_forward_hook(one_more) for module in inner]
    do()
    for hook in hooks:
        hook.remove()
    return count


def assert_same(found: tuple[Tensor, dict[str, Tensor]], expected: tuple[Tensor, dict[str, Tensor]]) -> None:
    assert torch.equal(found[0], expected[0])
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", CONFIGS)
def test_passes_of_the_models_own_code_are_the_same_with_and_without_checkpointing(name: str) -> None:
    model = random_model(name).train()
    policy_model = PolicyModel(model, torch.float32, None)
    expected = learner_pass(policy_model)
    assert expected[1]
    assert torch.equal(policy_model.score(ROWS, Scoring()).logprob_NT, expected[0])
    once = runs_of_layers(model, lambda: learner_pass(policy_model))
    checkpoint_layers(model)
    state = [(m.training, set(vars(m))) for m in model.modules()]
    for _ in range(2):
        assert_same(learner_pass(policy_model), expected)
    assert [(m.training, set(vars(m))) for m in model.modules()] == state
    assert runs_of_layers(model, lambda: learner_pass(policy_model)) >= 1.5 * once, "layers are computed again"


@pytest.mark.parametrize("name", ["starcoder2", "phimoe", "mixtral", "olmoe", "phi3", "stablelm", "llama"])
def test_passes_of_the_fast_path_are_the_same_with_and_without_checkpointing(name: str) -> None:
    model = random_model(name)
    assert why_not_fast(model) is None
    expected = learner_pass(PolicyModel(model, torch.float32, None))
    for checkpoints in (False, True):
        fused = FusedModel(model, torch.float32, gradient_checkpointing=checkpoints)
        policy_model = PolicyModel(model, torch.float32, fused)
        first, second = learner_pass(policy_model), learner_pass(policy_model)
        assert torch.equal(first[0], second[0])
        torch.testing.assert_close(first[0], expected[0], rtol=0, atol=2e-5)
        for parameter, gradient in expected[1].items():
            torch.testing.assert_close(first[1][parameter], gradient, rtol=1e-4, atol=1e-5)


def test_neither_adapters_nor_modules_of_ones_own_drop() -> None:
    plain, dropping = with_lora(tiny_model()), with_lora(tiny_model(), lora_dropout=HALF)
    expected = learner_pass(PolicyModel(plain, torch.float32, None))
    checkpoint_layers(dropping)
    assert_same(learner_pass(PolicyModel(dropping.train(), torch.float32, None)), expected)

    own, without = tiny_model(), learner_pass(PolicyModel(tiny_model(), torch.float32, None))
    for layer in own.model.layers:
        layer.mlp.down_proj = Stochastic(layer.mlp.down_proj)
    checkpoint_layers(own)
    found = learner_pass(PolicyModel(own.train(), torch.float32, None))
    renamed = {name.replace("down_proj.layer", "down_proj"): gradient for name, gradient in found[1].items()}
    assert_same((found[0], renamed), without)


class OldStack(nn.Module):
    """Layers as older and remote code checkpoints them: the stack does it, in training mode only."""

    def __init__(self) -> None:
        super().__init__()
        self.gradient_checkpointing = True
        self.layers = nn.ModuleList([Stochastic(nn.Linear(8, 8)) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.dropout(x, HALF, self.training)
        for layer in self.layers:
            if self.gradient_checkpointing and self.training:
                x = torch.utils.checkpoint.checkpoint(layer.__call__, x, use_reentrant=False)
            else:
                x = layer(x)
        return x


def test_stacks_that_checkpoint_their_layers_themselves_go_on_doing_so() -> None:
    stack, x = OldStack(), torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    saved: list[int] = []
    outputs = []
    for checkpoints in (False, True):
        stack.gradient_checkpointing = checkpoints
        count: list[Tensor] = []
        keep = torch.autograd.graph.saved_tensors_hooks(lambda t, count=count: (count.append(t), t)[1], lambda t: t)
        with deterministic(stack), keep:
            output = stack(x.requires_grad_())
            output.sum().backward()
        outputs.append((output.detach(), x.grad.clone()))
        saved.append(len(count))
        x.grad = None
    assert torch.equal(outputs[0][0], outputs[1][0])
    assert torch.equal(outputs[0][1], outputs[1][1])
    assert saved[1] < saved[0]


@pytest.mark.parametrize("name", ["opt", "starcoder2"])
def test_a_run_with_checkpointing_starts_at_no_gap_and_no_kl(name: str, tmp_path: Path) -> None:
    settings = {"gradient_checkpointing": True, "beta": 0.04, "max_steps": 1}
    trainer(tmp_path, model=random_model(name).train(), **settings).train()
    (record,) = RunReader(tmp_path).metrics()
    assert record["sampling/mismatch"] == pytest.approx(1, abs=1e-5)
    assert record["kl"] == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize("name", CONFIGS)
def test_rates_that_are_not_used_are_named_in_one_sentence(name: str) -> None:
    notes: list[str] = []
    with shown_by(notes.append):
        warn_of_dropout(random_model(name))
    assert len(notes) == 1
    assert re.search(r"\([\w, ]*(drop|jitter)[\w, ]* > 0\)", notes[0])
