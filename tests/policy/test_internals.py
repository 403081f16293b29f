"""Private names of torch and transformers: each stands in one file, and a test fails in a sentence when one is gone."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from tiny import tiny_model
from torch import nn

from groupwise import torch_internals, transformers_internals
from groupwise.policy.load_model import checkpoint_layers

ROOT = Path(torch_internals.__file__).parent
FILES = {"torch": torch_internals, "transformers": transformers_internals}


def linear_inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in ((4, 32), (64, 32), (64,)))
    return x, weight, bias


def multiplies(product: Callable[..., torch.Tensor], *others: torch.Tensor) -> None:
    x, weight, _ = linear_inputs()
    packed = torch_internals.reorder_linear_weight(weight, 4)
    expected = nn.functional.linear(x, weight) + sum(others)
    torch.testing.assert_close(product(x, packed), expected, rtol=1e-4, atol=1e-4)


def onednn_linear() -> None:
    bias = linear_inputs()[2]
    multiplies(lambda x, packed: torch_internals.onednn_linear(x, packed, bias), bias)


def onednn_linear_add() -> None:
    other = torch.randn(4, 64, generator=torch.Generator().manual_seed(1))
    multiplies(lambda x, packed: torch_internals.onednn_linear_add(x, other.clone(), packed), other)


def flash() -> tuple[list[torch.Tensor], tuple[torch.Tensor, torch.Tensor, int, int]]:
    """Parts and runs of tokens where no numbers are: a CPU has none of these kernels."""
    first = torch.tensor([0, 3, 8], dtype=torch.int32, device="meta")
    return [torch.empty(8, n, 16, dtype=torch.bfloat16, device="meta") for n in (4, 2, 2)], (first, first, 5, 5)


def flash_attention() -> None:
    parts, runs = flash()
    output, lse, *_ = torch_internals.flash_attention(*parts, *runs, is_causal=True, scale=0.25)
    assert (output.shape, lse.shape) == ((8, 4, 16), (4, 8))


def flash_attention_backward() -> None:
    parts, runs = flash()
    output, lse, *state = torch_internals.flash_attention(*parts, *runs, is_causal=True, scale=0.25)
    found = torch_internals.flash_attention_backward(output, *parts, output, lse, *runs, state[:2], True, 0.25)
    assert [x.shape for x in found] == [x.shape for x in parts]


def version_of() -> None:
    tensor = torch.zeros(2)
    before = torch_internals.version_of(tensor)
    tensor.add_(1)
    assert torch_internals.version_of(tensor) > before


def with_submodules() -> None:
    layers = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    with torch_internals.with_submodules(layers, {"0": layers[0]}):
        assert len(list(layers)) == 1
    assert len(list(layers)) == 2


def set_last_lr() -> None:
    scheduler = torch.optim.lr_scheduler.LambdaLR(torch.optim.SGD([torch.zeros(1)]), lambda _: 1.0)
    assert hasattr(scheduler, "_last_lr"), "_last_lr"
    torch_internals.set_last_lr(scheduler, [0.25])
    assert scheduler.get_last_lr() == [0.25]


def store_of_process_group() -> None:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        torch_internals.store_of_process_group().set("key", "value")
    finally:
        torch.distributed.destroy_process_group()


def is_bool(name: str) -> Callable[[], None]:
    return lambda: isinstance(getattr(torch_internals, name)(), bool) or pytest.fail(name)


def openmp_library() -> None:
    library = torch_internals.openmp_library()
    assert library.is_file() or not torch.__version__.endswith("+cpu"), str(library)


def layer() -> Any:
    return tiny_model().model.layers[0]


def decoder_modules() -> None:
    found = transformers_internals.decoder_modules(layer())
    assert isinstance(found.down, nn.Linear)
    assert 0 < found.eps < 1e-3


def is_decoder_layer() -> None:
    assert [type(m) for m in tiny_model().modules() if transformers_internals.is_decoder_layer(m)] == [
        type(layer())
    ] * 2


def decoder_layers() -> None:
    assert len(transformers_internals.decoder_layers(tiny_model().base_model)) == 2


def call_decoder_layer() -> None:
    """With what the layer is given by its model: position embeddings reach it as a keyword of that name."""
    model, seen = tiny_model(), []
    rotary = transformers_internals.rotary_embedding(model)
    model.model.layers[0].register_forward_pre_hook(lambda _, args, keywords: seen.append(keywords), with_kwargs=True)
    model(input_ids=torch.tensor([[3, 4, 5]]))
    cos, sin = transformers_internals.position_embeddings(seen[0])
    assert rotary is not None
    found = transformers_internals.call_decoder_layer(layer(), torch.zeros(1, 3, 32), torch.arange(3)[None], (cos, sin))
    assert found.shape[:2] == (1, 3)


def layer_index() -> None:
    assert transformers_internals.layer_index(layer().self_attn) == 0


def set_attention() -> None:
    config = tiny_model().config
    assert hasattr(config, "_attn_implementation"), "_attn_implementation"
    transformers_internals.set_attention(config, "sdpa")
    assert config._attn_implementation == "sdpa"


def is_checkpointing_layer() -> None:
    assert transformers_internals.is_checkpointing_layer(layer())


def is_set_to_checkpoint() -> None:
    model = tiny_model()
    checkpoint_layers(model)
    assert any(transformers_internals.is_set_to_checkpoint(module) for module in model.modules())


def rescale_interval() -> None:
    config = transformers.RwkvConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=4, attention_hidden_size=16, rescale_every=2
    )
    model = transformers.RwkvForCausalLM(config)
    assert [n for m in model.modules() if (n := transformers_internals.rescale_interval(m))] == [2]


def has_causal_class() -> None:
    assert transformers_internals.has_causal_class(transformers.LlamaConfig)
    assert not transformers_internals.has_causal_class(transformers.ViTConfig)


def quantization_method() -> None:
    from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer

    model = tiny_model()
    assert transformers_internals.quantization_method(model) is None
    model.hf_quantizer = object.__new__(Bnb4BitHfQuantizer)
    model.hf_quantizer.quantization_config = transformers.BitsAndBytesConfig(load_in_4bit=True)
    assert transformers_internals.quantization_method(model) == "bitsandbytes"


def forget_quantization() -> None:
    model = SimpleNamespace(hf_quantizer=1, is_quantized=True, config=SimpleNamespace(quantization_config={}))
    transformers_internals.forget_quantization(model)
    assert not hasattr(model, "hf_quantizer")
    assert not hasattr(model.config, "quantization_config")
    assert hasattr(transformers.PreTrainedModel, "save_pretrained")


def without_gguf_bars() -> None:
    from transformers import modeling_gguf_pytorch_utils as gguf

    before = gguf.tqdm
    with transformers_internals.without_gguf_bars():
        assert gguf.tqdm is not before
        assert list(gguf.tqdm(range(3))) == [0, 1, 2]
    assert gguf.tqdm is before


USES: dict[str, dict[str, Callable[[], None]]] = {
    "torch": {
        "has_avx512_bf16": is_bool("has_avx512_bf16"),
        "has_amx": is_bool("has_amx"),
        "has_onednn_bf16": is_bool("has_onednn_bf16"),
        "reorder_linear_weight": onednn_linear,
        "onednn_linear": onednn_linear,
        "onednn_linear_add": onednn_linear_add,
        "flash_attention": flash_attention,
        "flash_attention_backward": flash_attention_backward,
        "version_of": version_of,
        "with_submodules": with_submodules,
        "set_last_lr": set_last_lr,
        "store_of_process_group": store_of_process_group,
        "openmp_library": openmp_library,
    },
    "transformers": {
        "decoder_modules": decoder_modules,
        "is_decoder_layer": is_decoder_layer,
        "decoder_layers": decoder_layers,
        "rotary_embedding": call_decoder_layer,
        "position_embeddings": call_decoder_layer,
        "call_decoder_layer": call_decoder_layer,
        "layer_index": layer_index,
        "set_attention": set_attention,
        "is_checkpointing_layer": is_checkpointing_layer,
        "is_set_to_checkpoint": is_set_to_checkpoint,
        "rescale_interval": rescale_interval,
        "has_causal_class": has_causal_class,
        "quantization_method": quantization_method,
        "forget_quantization": forget_quantization,
        "without_gguf_bars": without_gguf_bars,
    },
}
"""A use of every function of the two files."""


def functions(module: ModuleType) -> dict[str, Any]:
    own = inspect.getmembers(module, inspect.isfunction)
    return {name: f for name, f in own if f.__module__ == module.__name__ and name[0] != "_"}


def require(package: str, name: str, use: Callable[[], None]) -> None:
    """Fail in a sentence where what the function uses of the package is gone, or is another thing now."""
    module = FILES[package]
    symbols = " or ".join(re.findall(r"`([^`]+)`", functions(module)[name].__doc__.split(":")[0]))
    version = {"torch": torch, "transformers": transformers}[package].__version__
    try:
        use()
    except (AttributeError, ImportError, TypeError, KeyError, RuntimeError, AssertionError) as error:
        pytest.fail(
            f"{package} {version} no longer has {symbols} as groupwise uses it ({type(error).__name__}: {error}). "
            f"Mend {name} in groupwise/{Path(module.__file__ or '').name}."
        )


@pytest.mark.parametrize(("package", "name"), [(package, name) for package, uses in USES.items() for name in uses])
def test_the_package_still_has_the_symbol(package: str, name: str) -> None:
    if "linear" in name and package == "torch" and not torch.backends.mkldnn.is_available():
        pytest.skip("this build of torch has no oneDNN")
    require(package, name, USES[package][name])


@pytest.mark.parametrize("package", FILES)
def test_every_function_is_used_here_and_begins_with_its_symbol(package: str) -> None:
    found = functions(FILES[package])
    assert found.keys() == USES[package].keys()
    for name, function in found.items():
        assert (function.__doc__ or "").startswith("`"), f"{name}: begin the docstring with the symbol in backticks"


def test_a_symbol_that_is_gone_is_named_with_the_file_to_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    expected = (
        r"torch \S+ no longer has torch.cpu._is_amx_tile_supported .* Mend has_amx in groupwise/torch_internals.py"
    )
    with pytest.raises(pytest.fail.Exception, match=expected):
        require("torch", "has_amx", USES["torch"]["has_amx"])


LAYOUT = {
    *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "self_attn", "input_layernorm"),
    *("post_attention_layernorm", "variance_epsilon", "rotary_emb", "layer_idx", "position_embeddings", "hf_quantizer"),
    *("layers_are_rescaled", "rescale_every"),
}
"""Names of transformers' modules that no other file may read or call."""


def private_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of what reads a private name that this file does not define, or a name of the module layout."""
    nodes = list(ast.walk(tree))
    own = [n.attr for n in nodes if isinstance(n, ast.Attribute) and ast.unparse(n.value) in ("self", "cls")]
    defined = {*own, *(n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef))}
    for node in nodes:
        if isinstance(node, ast.Attribute) and is_hidden(node.attr) and node.attr not in defined:
            yield node.lineno, ast.unparse(node)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FILES:
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            yield from ((node.lineno, name) for name in names if is_hidden(name))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr", "setattr"):
            names = [arg.value for arg in node.args[1:2] if isinstance(arg, ast.Constant)]
            yield from ((node.lineno, ast.unparse(node)) for name in names if is_hidden(name))


def is_hidden(name: str) -> bool:
    return name in LAYOUT or (name[0] == "_" and not name.startswith("__"))


ELSEWHERE = {
    "heartbeat.py": {"os._exit"},
    "kernels/structs.py": {"struct._fields_"},
    "rewards/interrupt.py": {"os._exit"},
    "rollout/served/keeper.py": {"os._exit"},
    "rewards/sandbox/inside/parent.py": {"os._exit"},
    "trainer.py": {"trainer._recipe", "trainer._recipe_folder"},
    "trainer_members.py": {"trainer._follow"},
}
"""Private names of others than torch and transformers."""


def test_no_private_name_of_torch_or_transformers_is_used_elsewhere() -> None:
    own = {Path(module.__file__ or "") for module in FILES.values()}
    for file in sorted(set(ROOT.rglob("*.py")) - own):
        place = str(file.relative_to(ROOT))
        found = dict(private_names(ast.parse(file.read_text(encoding="utf-8"))))
        wrong = {line: text for line, text in found.items() if text not in ELSEWHERE.get(place, ())}
        assert not wrong, (
            f"groupwise/{place}: {wrong}; reach it through torch_internals.py or transformers_internals.py"
        )


@pytest.mark.parametrize(
    "line",
    [
        "x = tensor._version",
        "from torch._dynamo import config",
        "layer.self_attn",
        "getattr(config, '_attn_implementation')",
    ],
)
def test_the_search_finds_one(line: str) -> None:
    assert list(private_names(ast.parse(line)))
