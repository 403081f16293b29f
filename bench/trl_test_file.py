"""How many cases of TRL's own tests of its GRPO trainer pass when their import is `groupwise.trl`.

    python bench/trl_test_file.py FILE

FILE is tests/test_grpo_trainer.py of https://github.com/huggingface/trl, which is only read. Models and data of the Hub
are replaced by tiny ones of the same architectures made here, and Liger counts as installed. A case passes, or it is
refused: what ends it is an error of groupwise with what to do instead. Everything else is neither. Cases of tools,
environments, pictures, vLLM and rollout functions, and those of transformers alone, are left out.
results/trl_test_file.json has the counts.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import common
import pytest
import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from tiny import _SHAPE, CONFIGS, EOS, tiny_model, tiny_tokenizer

OUT = common.RESULTS / "trl_test_file.json"
HUB = "trl-internal-testing"
LEFT_OUT = re.compile("vlm|vllm|slow|tool|(?<!without_)environment|rollout|continuousbatching", re.IGNORECASE)
LANGUAGE_MODELS = {
    "tiny-Qwen2ForCausalLM-2.5": "qwen2",
    "tiny-Qwen3ForCausalLM": "qwen3",
    "tiny-Qwen3MoeForCausalLM": "qwen3-moe",
    "tiny-LlamaForCausalLM-3.2": "llama",
    "tiny-MistralForCausalLM-0.2": "mistral",
    "tiny-GptOssForCausalLM": "gpt-oss",
    "tiny-Gemma2ForCausalLM": "gemma2",
}
REWARD_MODELS = {
    "tiny-Qwen2ForSequenceClassification-2.5": "qwen2",
    "tiny-Qwen3ForSequenceClassification": "qwen3",
    "tiny-LlamaForSequenceClassification-3.2": "llama",
}
CLASSES = {
    "evaluation": "eval|iterable",
    "loss, masks and entropy": "loss|entropy|off_policy|delta|truncated|sequence|correction|scale|beta|sync_ref",
    "models, adapters and kernels": "peft|liger|test_train\\[|remote|moe|lm_head",
    "rewards": "reward|aggregation",
    "the rest": "",
}
"""Class of a case -> the words of which its name has one; the first class that fits."""
LONG = {"max_position_embeddings": 1024}
HELPERS = """import pytest


class TrlTestCase:
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.tmp_dir = str(tmp_path)


def __getattr__(name):
    if name.startswith("require_"):
        return pytest.mark.filterwarnings('default')
    if name.startswith("is_"):
        return lambda **options: False
    raise AttributeError(name)
"""
REMOTE = """from transformers import LlamaConfig, LlamaForCausalLM


class RemoteConfig(LlamaConfig):
    model_type = "remote_tiny"


class RemoteForCausalLM(LlamaForCausalLM):
    config_class = RemoteConfig
"""


def other_configs() -> Iterator[tuple[str, Any]]:
    """Architectures that the tests of this project have no tiny model of."""
    kinds = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}
    experts = {
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "n_group": 1,
        "topk_group": 1,
    }
    one_dense = {"n_shared_experts": 1, "first_k_dense_replace": 1}
    mamba = {"mamba_num_heads": 4, "mamba_head_dim": 16, "ssm_state_size": 8, "n_groups": 1}
    hybrid = {"layers_block_type": ["mamba", "attention", "moe"], "moe_shared_expert_intermediate_size": 16}
    shape = {name: value for name, value in {**_SHAPE, **LONG}.items() if name != "num_hidden_layers"}
    yield "tiny-Cohere2ForCausalLM", transformers.Cohere2Config(**_SHAPE | LONG | kinds)
    yield "tiny-Glm4MoeForCausalLM", transformers.Glm4MoeConfig(**_SHAPE | LONG | experts | one_dense)
    yield "tiny-NemotronHForCausalLM-nano", transformers.NemotronHConfig(**shape | experts | mamba | hybrid)


def write(model: Any, folder: Path) -> None:
    model.save_pretrained(folder)
    tiny_tokenizer(chat=True).save_pretrained(folder)


def make_models(place: Path) -> None:
    """Every model that the tests name, and in the folder `endless` those of a case whose completions never end."""
    hub = place / HUB
    for name, kind in LANGUAGE_MODELS.items():
        write(tiny_model(kind, **LONG), hub / name)
    for name, config in other_configs():
        torch.manual_seed(0)
        write(transformers.AutoModelForCausalLM.from_config(config).float(), hub / name)
    for name, kind in REWARD_MODELS.items():
        torch.manual_seed(1)
        config = CONFIGS[kind](num_labels=1, **LONG)
        write(transformers.AutoModelForSequenceClassification.from_config(config).float(), hub / name)
    make_remote(hub / "tiny-RemoteForCausalLM")
    endless = place / "endless" / HUB
    write(without_end(tiny_model("qwen2", **LONG)), endless / "tiny-Qwen2ForCausalLM-2.5")
    shutil.copytree(
        hub / "tiny-Qwen2ForSequenceClassification-2.5", endless / "tiny-Qwen2ForSequenceClassification-2.5"
    )


def make_remote(folder: Path) -> None:
    """A model with code of its own."""
    write(tiny_model("llama", **LONG), folder)
    (folder / "modeling_remote.py").write_text(REMOTE)
    classes = {"AutoConfig": "RemoteConfig", "AutoModelForCausalLM": "RemoteForCausalLM"}
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "remote_tiny", "architectures": ["RemoteForCausalLM"]}
    config["auto_map"] = {name: f"modeling_remote.{found}" for name, found in classes.items()}
    (folder / "config.json").write_text(json.dumps(config))


@torch.no_grad()
def without_end(model: Any) -> Any:
    """The model, which samples its end token no more: with a large vocabulary, as TRL's has, it hardly ever does."""
    model.get_input_embeddings().weight[:, 0] += 4.0
    model.get_output_embeddings().weight[EOS] = 0.0
    model.get_output_embeddings().weight[EOS, 0] = -60.0
    return model


def make_data(place: Path) -> None:
    """The data set that the tests name: rows in two formats and two splits."""
    folder = place / HUB / "zen"
    folder.mkdir()
    texts = [f"line {number} of a poem is about" for number in range(19)]
    page = ["---", "configs:"]
    for name, wrap in (("standard", str), ("conversational", lambda text: [{"role": "user", "content": text}])):
        page += [f"- config_name: {name}_prompt_only", "  data_files:"]
        for split, part in (("train", texts[:17]), ("test", texts[17:])):
            rows = [json.dumps({"prompt": wrap(text)}) + "\n" for text in part]
            (folder / f"{name}-{split}.jsonl").write_text("".join(rows))
            page += [f"  - split: {split}", f"    path: {name}-{split}.jsonl"]
    (folder / "README.md").write_text("\n".join([*page, "---", ""]))


def make_tests(file: Path, folder: Path) -> None:
    """The file with another import, and its helpers."""
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "testing_utils.py").write_text(HELPERS)
    text = file.read_text()
    for old, new in (
        ("from trl import GRPO", "from groupwise.trl import GRPO"),
        (
            "from trl.import_utils import is_liger_kernel_available",
            "is_liger_kernel_available = lambda **options: True",
        ),
        ("from accelerate.utils.memory import release_memory", "release_memory = print"),
        ("trl.trainer.grpo_trainer", "groupwise"),
    ):
        assert old in text, old
        text = text.replace(old, new)
    (folder / "test_grpo_trainer.py").write_text(text)


class Counting:
    """A plugin of pytest that leaves cases out, and sorts the outcomes of the others."""

    def __init__(self, hub: Path, words: str) -> None:
        self.hub, self.words = hub, words
        self.outcomes: dict[str, str] = {}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = [i for i in items if not LEFT_OUT.search(i.nodeid.partition("::")[2]) and self.words in i.name]

    def pytest_runtest_setup(self, item: Any) -> None:
        os.chdir(self.hub / "endless" if item.name.endswith("all_masked") else self.hub)

    def pytest_runtest_makereport(self, item: Any, call: Any) -> None:
        error = None if call.excinfo is None else call.excinfo.value
        if call.when == "call":
            self.outcomes[item.nodeid.partition("::")[2]] = outcome(error)


def outcome(error: BaseException | None) -> str:
    """`passed`, `refused` or `neither`."""
    from groupwise.errors import GroupwiseError

    if error is None:
        return "passed"
    while error is not None:
        if isinstance(error, GroupwiseError) or re.match(r"GRPO(Trainer|Config) has no \w+: ", str(error)):
            return "refused"
        error = error.__cause__ or error.__context__
    return "neither"


def summary(outcomes: dict[str, str]) -> dict[str, Any]:
    """The counts, over all cases and by class, and the names of those that do not pass."""
    kinds = {case: next(name for name, words in CLASSES.items() if re.search(words, case)) for case in outcomes}
    by_class = {name: dict(Counter(o for case, o in outcomes.items() if kinds[case] == name)) for name in CLASSES}
    named = {how: sorted(case for case, o in outcomes.items() if o == how) for how in ("refused", "neither")}
    return {"cases": len(outcomes), **Counter(outcomes.values()), "by_class": by_class, "names": named}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--select", default="", help="a part of the names of the cases; nothing is written then")
    given = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1"}
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        hub = Path(place)
        make_models(hub)
        make_data(hub)
        shutil.copytree(hub / HUB / "zen", hub / "endless" / HUB / "zen")
        make_tests(given.file, hub / "tests")
        counting = Counting(hub, given.select)
        pytest.main(
            [str(hub / "tests"), "-q", "--tb=line", "-p", "no:cacheprovider", f"--rootdir={hub}"], plugins=[counting]
        )
        os.chdir(common.ROOT)
    found = summary(counting.outcomes)
    print(json.dumps(found, indent=1))
    if not given.select:
        text = {"trl": common.versions().get("trl"), "transformers": common.versions()["transformers"], **found}
        OUT.write_text(json.dumps(text, indent=1) + "\n")


if __name__ == "__main__":
    main()
