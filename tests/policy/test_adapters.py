"""Under every adapter: the reference is the model handed in; what is saved and merged is the trained one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from packaging.version import Version
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.peft_types import PeftType
from tiny import random_rows, tiny_model, tiny_tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM

from groupwise import GRPOTrainer
from groupwise.config import Recipe
from groupwise.errors import ModelError
from groupwise.generate import load_trained
from groupwise.policy.adapter import require_trainable_adapter, starts_as_base, trained_parameters
from groupwise.policy.fused_model import FusedModel
from groupwise.policy.policy_model import PolicyModel, Scoring
from groupwise.policy.reference import Reference
from groupwise.policy.save import ModelWriter, read_in_float32, save_merged, save_policy, weights_beside
from groupwise.policy.trainable import trainable_model
from groupwise.policy.weight_sizes import WeightSizes

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:.*(tie|tied|rank|Careful|initial|merge|MiSS|Fourier|bias|AdaLora|Unsupported layer|Sparse).*"
    ),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]

IDS = torch.tensor([random_rows().prompt_ids[0]])
QV = ["q_proj", "v_proj"]
Make = Callable[[Any], Any]
"""From a base to the model that is handed to the trainer."""


def lora(**settings: Any) -> Make:
    return under(LoraConfig, r=4, **{"target_modules": QV, **settings})


def under(config: Any, **settings: Any) -> Make:
    return lambda base: get_peft_model(base, config(task_type="CAUSAL_LM", **{"target_modules": QV, **settings}))


def unfrozen(*words: str, make: Make | None = None) -> Make:
    """Weights whose name holds one of the words are trained beside the adapter."""

    def build(base: Any) -> Any:
        model = (make or lora())(base)
        for name, parameter in model.named_parameters():
            if any(word in name for word in words) and "lora_" not in name:
                parameter.requires_grad_(True)
        return model

    return build


def named(base: Any) -> Any:
    return get_peft_model(base, LoraConfig(r=4, target_modules=QV, task_type="CAUSAL_LM"), adapter_name="policy")


def second(base: Any) -> Any:
    model = named(base)
    model.add_adapter("model_b", LoraConfig(r=2, target_modules=["k_proj"], task_type="CAUSAL_LM"))
    move(model, seed=9)
    model.set_adapter("model_b")
    return model


def learnt(make: Make) -> Make:
    """An adapter that has been trained before."""

    def build(base: Any) -> Any:
        model = make(base)
        move(model, seed=7)
        return model

    return build


ADAPTERS: dict[str, Make] = {
    "none": lambda base: base,
    "half frozen": lambda base: base.requires_grad_(False) and base.model.layers[1].requires_grad_(True) and base,
    "lora": lora(),
    "lora, learnt": learnt(lora()),
    "lora, bias all": lora(bias="all"),
    "lora, bias lora_only": lora(bias="lora_only"),
    "lora, bias of its own": lora(lora_bias=True),
    "lora, rslora": lora(use_rslora=True, rank_pattern={"v_proj": 2}, alpha_pattern={"v_proj": 3}),
    "lora, gaussian": lora(init_lora_weights="gaussian"),
    "lora, random start": lora(init_lora_weights=False),
    "lora, pissa": lora(init_lora_weights="pissa"),
    "lora, olora": lora(init_lora_weights="olora"),
    "lora, orthogonal": lora(init_lora_weights="orthogonal"),
    "lora, mica": lora(init_lora_weights="mica"),
    "lora, dora": lora(use_dora=True),
    "lora, dora, learnt": learnt(lora(use_dora=True)),
    "lora on the head": lora(target_modules=[*QV, "lm_head"]),
    "lora on the embedding": lora(target_modules=[*QV, "embed_tokens"]),
    "lora on both": lora(target_modules=["lm_head", "embed_tokens"]),
    "dora on the head": lora(target_modules=["lm_head"], use_dora=True),
    "lora, head saved": lora(modules_to_save=["lm_head"]),
    "lora, embedding saved": lora(modules_to_save=["embed_tokens"]),
    "lora, both saved": lora(modules_to_save=["lm_head", "embed_tokens"]),
    "lora, both saved as one": lora(modules_to_save=["embed_tokens"], ensure_weight_tying=True),
    "lora, norms saved": lora(modules_to_save=["norm"]),
    "lora, tokens": lora(trainable_token_indices=[5, 9, 40]),
    "lora, named": named,
    "lora, second": second,
    "norms beside": unfrozen("norm"),
    "embedding beside": unfrozen("embed_tokens"),
    "head beside": unfrozen("lm_head"),
    "biases beside a head with an adapter": unfrozen("bias", make=lora(target_modules=["lm_head"])),
    "a layer under its adapter": unfrozen("layers.0.self_attn.q_proj.base_layer"),
    "norms beside, learnt": learnt(unfrozen("norm")),
    "norms beside a named one": unfrozen("norm", make=named),
    "ia3": under(peft.IA3Config, target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "ia3, learnt": learnt(under(peft.IA3Config, target_modules=["k_proj"], feedforward_modules=[])),
    "ia3 on the head": under(peft.IA3Config, target_modules=["lm_head"], feedforward_modules=[]),
    "vera": under(peft.VeraConfig, r=4, target_modules=["q_proj"]),
    "oft": under(peft.OFTConfig, r=0, oft_block_size=4),
    "loha": under(peft.LoHaConfig, r=4),
    "lokr": under(peft.LoKrConfig, r=4),
    "adalora": under(peft.AdaLoraConfig, total_step=10),
    "miss": under(peft.MissConfig, r=4),
    "hra": under(peft.HRAConfig, r=4),
    "randlora": under(peft.RandLoraConfig, r=4),
    "fourierft": under(peft.FourierFTConfig, n_frequency=10),
    "shira": under(peft.ShiraConfig, r=4, random_seed=3),
    "norm tuning": under(peft.LNTuningConfig, target_modules=["input_layernorm", "norm"]),
    "trainable tokens": under(peft.TrainableTokensConfig, token_indices=[5, 9], target_modules=["embed_tokens"]),
}  # fmt: skip
UNTRAINED = {"lora, second": "policy"}
"""Adapter beside the trained one, which nothing may take for it."""


def base_model(is_tied: bool, dtype: torch.dtype = torch.float32) -> Any:
    """Its padding token has a row like any other: DoRA divides by the norm of a row."""
    return tiny_model("llama-bias", tie_word_embeddings=is_tied, pad_token_id=None).to(dtype)


def move(model: Any, seed: int) -> None:
    """Move every trained parameter, as training does."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits.float()


def plain(model: Any) -> PolicyModel:
    return PolicyModel(model, torch.float32, None)


def policy_model(model: Any) -> PolicyModel:
    """On the fast path where the adapter can be taken apart."""
    try:
        return PolicyModel(model, torch.float32, FusedModel(model, torch.float32))
    except (NotImplementedError, AttributeError):
        return plain(model)


def logprobs(found: PolicyModel | Reference) -> Tensor:
    return found.score(random_rows(), Scoring()).logprob_NT


@pytest.fixture(params=[False, True], ids=["apart", "tied"])
def is_tied(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(params=ADAPTERS)
def handed_in(request: pytest.FixtureRequest, is_tied: bool) -> Any:
    torch.manual_seed(0)
    model = ADAPTERS[request.param](base_model(is_tied))
    return trainable_model(model, None, seed=0)


def test_the_reference_stays_the_model_that_was_handed_in(handed_in: Any) -> None:
    before = logprobs(policy_model(handed_in))
    policy = policy_model(handed_in)
    reference = Reference(policy, plain)
    move(handed_in, seed=1)
    policy.refresh()
    assert (logprobs(policy) - before).abs().max() > 1e-2
    torch.testing.assert_close(logprobs(reference), before, rtol=0, atol=3e-5)


def test_a_reference_that_is_a_copy_holds_no_second_base(handed_in: Any) -> None:
    reference = Reference(policy_model(handed_in), plain)
    mine = {p.data_ptr() for p in handed_in.parameters() if p.requires_grad}
    if reference._frozen is not None:
        frozen = [p for p in handed_in.parameters() if not p.requires_grad]
        theirs = {p.data_ptr() for p in reference._frozen.model.parameters()}
        assert theirs >= {p.data_ptr() for p in frozen if p.numel()}
        assert not theirs & mine


@pytest.mark.parametrize(
    "name", ["none", "lora", "lora, learnt", "norms beside", "lora on both", "lora, both saved", "lora, second", "ia3"]
)
def test_its_state_brings_a_reference_back_before_and_after_a_mix(name: str, is_tied: bool) -> None:
    model = ADAPTERS[name](base_model(is_tied))
    fresh = copy.deepcopy(model)
    reference = Reference(policy_model(model), plain)
    move(model, seed=1)
    for is_mixed in (False, True):
        if is_mixed:
            reference.mix(0.5)
        again = Reference(policy_model(fresh), plain)
        again.load_state_dict({name: t.clone() for name, t in reference.state_dict().items()})
        assert torch.equal(logprobs(again), logprobs(reference))


def test_what_is_saved_is_the_trained_model(handed_in: Any, is_tied: bool, tmp_path: Path) -> None:
    move(handed_in, seed=1)
    expected = logits(handed_in)
    ModelWriter(handed_in, tiny_tokenizer())
    final = save_policy(handed_in, tiny_tokenizer(), tmp_path / "final")
    merged = save_merged(handed_in, tiny_tokenizer(), tmp_path / "merged")
    torch.testing.assert_close(logits(handed_in), expected, rtol=0, atol=0)
    alone = AutoModelForCausalLM.from_pretrained(merged)
    torch.testing.assert_close(logits(alone), expected, rtol=0, atol=2e-4)
    if (final / "adapter_config.json").is_file():
        loaded: Any = PeftModel.from_pretrained(base_model(is_tied), final)
    else:
        loaded = AutoModelForCausalLM.from_pretrained(final)
    torch.testing.assert_close(logits(loaded), expected, rtol=0, atol=2e-5)


def test_every_trained_parameter_is_found(handed_in: Any) -> None:
    trained = trained_parameters(handed_in)
    names = {name for name, p in handed_in.named_parameters() if p.requires_grad}
    assert {*trained.inside, *trained.beside} == names
    if trained.adapter is not None and trained.inside:
        beside = dict(handed_in.named_parameters())
        with torch.no_grad(), handed_in.disable_adapter():
            off = logits(handed_in)
            for name in trained.inside:
                beside[name] += 0.3
            torch.testing.assert_close(logits(handed_in), off, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["norms beside", "lora, both saved", "lora on both", "lora, tokens", "lora, bias all"])
def test_an_export_of_a_small_update_on_a_bfloat16_base_loses_nothing(name: str, tmp_path: Path) -> None:
    base_model(True, torch.bfloat16).save_pretrained(tmp_path / "base")
    model = ADAPTERS[name](AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype="auto"))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float() + 1e-3
    save_policy(model, tiny_tokenizer(), tmp_path / "final")
    loaded, _ = load_trained(str(tmp_path / "final"), device=torch.device("cpu"))
    read_in_float32(loaded, tmp_path / "final")
    merged = save_merged(loaded, tiny_tokenizer(), tmp_path / "merged")
    alone = AutoModelForCausalLM.from_pretrained(merged)
    torch.testing.assert_close(logits(alone), logits(model.float()), rtol=0, atol=2e-5)


def refused() -> Iterator[Any]:
    virtual = {"num_virtual_tokens": 4, "task_type": "CAUSAL_LM"}
    yield peft.PromptTuningConfig(**virtual), "virtual tokens"
    yield peft.PrefixTuningConfig(**virtual), "virtual tokens"
    yield peft.PromptEncoderConfig(**virtual), "virtual tokens"
    yield peft.MultitaskPromptTuningConfig(**virtual), "virtual tokens"
    yield peft.AdaptionPromptConfig(adapter_layers=1, adapter_len=4, task_type="CAUSAL_LM"), "not supported"
    yield peft.XLoraConfig(task_type="CAUSAL_LM", hidden_size=32, adapters={}), "not supported"
    yield peft.PolyConfig(task_type="CAUSAL_LM"), "not supported"
    for init in ("pissa_niter_4", "pissa_niter_16", "corda", "lora_ga"):
        config = LoraConfig()
        config.init_lora_weights = init
        yield config, f'init_lora_weights "{init}"'
    yield LoraConfig(lora_alpha=0), "multiplies the adapter by 0"
    yield LoraConfig(alora_invocation_tokens=[3, 4], task_type="CAUSAL_LM"), "alora_invocation_tokens"


@pytest.mark.parametrize(
    ("config", "words"), list(refused()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_adapters_that_cannot_be_trained_exactly_are_refused_by_name(config: Any, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        require_trainable_adapter(config)
    model = tiny_model()
    model.peft_config = {"default": config}
    model.get_base_model = lambda: model
    model.active_adapters = ["default"]
    with pytest.raises(ModelError, match=words):
        trainable_model(model, None, seed=0)


def test_every_kind_of_virtual_tokens_is_refused() -> None:
    kinds = peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING
    virtual = [kind for kind, config in kinds.items() if issubclass(config, peft.PromptLearningConfig)]
    assert PeftType.PREFIX_TUNING in virtual
    for kind in virtual:
        config = object.__new__(kinds[kind])
        config.peft_type = kind
        with pytest.raises(ModelError, match="virtual tokens"):
            require_trainable_adapter(config)


def test_several_active_adapters_are_refused() -> None:
    model = second(tiny_model())
    model.base_model.set_adapter(["policy", "model_b"])
    with pytest.raises(ModelError, match=r"2 adapters are active at once \(policy, model_b\).*add_weighted_adapter"):
        trainable_model(model, None, seed=0)


def test_an_idle_adapter_with_gradients_is_refused() -> None:
    model = second(tiny_model())
    for name, parameter in model.named_parameters():
        if ".policy." in name:
            parameter.requires_grad_(True)
    with pytest.raises(
        ModelError, match='of the adapter "policy" have requires_grad, but the active adapter is "model'
    ):
        trainable_model(model, None, seed=0)


def test_a_frozen_adapter_beside_the_trained_one_is_left_alone() -> None:
    model = second(tiny_model())
    assert trained_parameters(model).adapter == "model_b"
    assert all(".model_b." in name for name in trained_parameters(model).inside)


def test_an_adapter_whose_weights_peft_would_drop_is_refused() -> None:
    model = get_peft_model(tiny_model(), LoraConfig(r=2, target_modules=QV, task_type="CAUSAL_LM"))
    model.add_adapter("self_attn", LoraConfig(r=2, target_modules=QV, task_type="CAUSAL_LM"))
    with pytest.raises(ModelError, match=r"peft would not save .*self_attn.* Rename the adapters"):
        ModelWriter(model, tiny_tokenizer())


def test_a_merged_adapter_is_refused_until_it_is_unmerged() -> None:
    model = lora()(tiny_model())
    model.merge_adapter()
    with pytest.raises(ModelError, match=r"merged into its base.*unmerge_adapter"):
        trainable_model(model, None, seed=0)
    model.unmerge_adapter()
    assert trainable_model(model, None, seed=0) is model


@pytest.mark.xfail(
    Version(transformers.__version__) >= Version("5.24") and Version(peft.__version__) < Version("0.22"),
    reason="add_adapter of transformers 5.24 needs peft 0.22",
    raises=ValueError,
    strict=True,
)
def test_an_adapter_inside_a_transformers_model_is_refused() -> None:
    model = tiny_model()
    model.add_adapter(LoraConfig(r=2, target_modules=QV))
    with pytest.raises(ModelError, match=r"holds its adapter inside.*get_peft_model"):
        trainable_model(model, None, seed=0)


def test_one_adapter_for_both_ends_of_a_tie_is_refused() -> None:
    model = lora(target_modules=["embed_tokens"], ensure_weight_tying=True)(base_model(True))
    with pytest.raises(ModelError, match=r"ensure_weight_tying.*modules_to_save"):
        trainable_model(model, None, seed=0)


def test_an_adapter_that_does_not_fit_is_told_as_such() -> None:
    with pytest.raises(ModelError, match="The adapter does not fit the model"):
        trainable_model(tiny_model(), LoraConfig(r=2, target_modules=QV, layers_to_transform=[99]), seed=0)


@pytest.mark.parametrize("init", [None, False, True, "gaussian", "pissa"])
def test_a_start_that_can_be_computed_again_is_taken(init: Any) -> None:
    config = LoraConfig(r=2, task_type="CAUSAL_LM", target_modules=QV, init_lora_weights=init)
    model = trainable_model(tiny_model(), config, seed=0)
    assert len(trained_parameters(model).inside) > 0
    assert starts_as_base(model) is (init in (True, "gaussian"))


def test_what_is_trained_beside_an_adapter_is_found_in_one_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    model, walks = ADAPTERS["norms beside"](base_model(False)), []
    walk = model.named_parameters
    monkeypatch.setattr(model, "named_parameters", lambda *args, **named: walks.append(1) or walk(*args, **named))
    assert weights_beside(model)
    assert len(walks) == 1


def test_a_module_to_save_that_is_not_there_is_refused() -> None:
    for name in ("lm_haed", "nope"):
        for lists in ({"modules_to_save": ["norm", name]}, {"target_modules": ["q_proj", name]}):
            config = LoraConfig(r=2, task_type="CAUSAL_LM", **{"target_modules": QV, **lists})
            with pytest.raises(ModelError, match=rf'names "{name}", which is no module.*It has, for example'):
                trainable_model(tiny_model(), config, seed=0)


def test_an_adapter_that_cannot_be_merged_is_saved_and_not_merged(tmp_path: Path) -> None:
    model = under(peft.LilyConfig, r=4)(tiny_model())
    move(model, seed=1)
    final = save_policy(model, tiny_tokenizer(), tmp_path / "final")
    torch.testing.assert_close(logits(PeftModel.from_pretrained(tiny_model(), final)), logits(model))
    with pytest.raises(ModelError, match="cannot be merged"):
        save_merged(model, tiny_tokenizer(), tmp_path / "merged")


def test_only_fresh_lora_starts_as_its_base() -> None:
    found = {name for name, make in ADAPTERS.items() if starts_as_base(make(base_model(False)))}
    known = {"lora", "lora, bias of its own", "lora, rslora", "lora, gaussian", "lora, dora", "lora, named"}
    assert found == known | {n for n in ADAPTERS if n.startswith(("lora on", "dora on"))}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"init_lora_weights": "pisa"}, r'init_lora_weights is "pisa"; expected .*olora.*Did you mean "pissa"\?'),
        ({"target_modules": ".*(q_proj"}, "a pattern that cannot be read: missing .*stand in a list"),
    ],
)
def test_what_is_wrong_with_an_adapter_by_itself_is_told_before_a_model_is_loaded(settings, said, tmp_path):
    """The recipe's model does not exist: whoever looks for it has come too far."""
    recipe = Recipe(
        model="nobody/nothing",
        data={"path": str(tmp_path / "rows.jsonl")},
        rewards=[{"name": "length", "target": 5}],
        output_dir=str(tmp_path / "run"),
        lora=settings,
    )
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a"}\n' * 8)
    with pytest.raises(ModelError, match=said):
        GRPOTrainer.from_recipe(recipe)


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        (r".*\.nothing", r"matches no module of the model\. It has to match a whole name, such as model\..*q_proj"),
        (r".*\.q_prj", r'matches no module of the model\..*Did you mean "q_proj"\?'),
        ("q_proj", r"one text is a pattern for whole names\. Put it in a list: \[q_proj\]"),
    ],
)
def test_a_pattern_of_modules_that_matches_none_is_refused_with_what_there_is(pattern, said):
    with pytest.raises(ModelError, match=said):
        trainable_model(tiny_model(), LoraConfig(target_modules=pattern, task_type="CAUSAL_LM"), 0)


def test_the_weights_of_every_kind_are_counted_for_the_plan(handed_in: Any) -> None:
    sizes = WeightSizes.of(handed_in)
    assert sizes.total == sum(p.numel() for p in handed_in.parameters())
    assert sizes.trained == sum(p.numel() for p in handed_in.parameters() if p.requires_grad)
    assert sizes.linear > 0
