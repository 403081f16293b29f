"""The keys of served rollouts: how they are read, and what is refused before anything is loaded."""

from __future__ import annotations

import pytest

from groupwise import GRPOConfig
from groupwise.config import Recipe
from groupwise.config.changes import changes
from groupwise.errors import ConfigError

HERE = "http://localhost:8000"
RECIPE = {"data": "python-docs", "rewards": [{"name": "length", "target": 5}]}


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (HERE, [HERE]),
        (f"{HERE}/", [HERE]),
        ("http://a:8000-8002", ["http://a:8000", "http://a:8001", "http://a:8002"]),
        (f"{HERE}, http://a:1", [HERE, "http://a:1"]),
        ([HERE, "https://b/path"], [HERE, "https://b/path"]),
        ([], []),
    ],
)
def test_addresses(written, expected):
    assert GRPOConfig(servers=written).servers == expected


def test_addresses_of_a_file(tmp_path):
    (tmp_path / "servers.txt").write_text(f"{HERE}\nhttp://a:8000-8001\n")
    config = GRPOConfig(servers=f"@{tmp_path}/servers.txt")
    assert config.servers == [HERE, "http://a:8000", "http://a:8001"]
    assert GRPOConfig(**config.settings.resolved()) == config
    with pytest.raises(ConfigError, match="the file cannot be read"):
        GRPOConfig(servers=f"@{tmp_path}/none.txt")


@pytest.mark.parametrize("wrong", ["localhost:8000", "ftp://a:1", "http://", "http://a:0", "http://a:99999"])
def test_no_address(wrong):
    with pytest.raises(ConfigError, match="expected an address such as"):
        GRPOConfig(servers=[wrong])


def test_an_address_counts_once():
    with pytest.raises(ConfigError, match="twice"):
        GRPOConfig(servers=[HERE, HERE + "/"])


@pytest.mark.parametrize("key", [{"top_k": 20}, {"top_p": 0.9}, {"min_p": 0.1}])
def test_trap_4_kept_sets_do_not_travel(key):
    with pytest.raises(ConfigError, match=f"{next(iter(key))} cannot be used with servers"):
        GRPOConfig(servers=HERE, **key)
    GRPOConfig(**key)


def test_trap_46_lag_needs_servers_a_correction_and_no_curriculum():
    fine = {"servers": HERE, "rollout_lag": 1, "mismatch": "token_truncate"}
    assert GRPOConfig(**fine).rollout_lag == 1
    with pytest.raises(ConfigError, match="mismatch is none"):
        GRPOConfig(**{**fine, "mismatch": "none"})
    with pytest.raises(ConfigError, match="needs servers"):
        GRPOConfig(**{**fine, "servers": []})
    with pytest.raises(ConfigError, match="a curriculum draws by their results"):
        GRPOConfig(**fine, curriculum="pools")


@pytest.mark.parametrize("lora", [{"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"r": 1024}, {"bias": "all"}])
def test_trap_24_an_adapter_that_vllm_refuses_is_refused_with_the_recipe(lora):
    with pytest.raises(ConfigError, match=r"lora: vLLM does not take it with .*sync: weights"):
        Recipe(**RECIPE, lora=lora, servers=HERE)
    Recipe(**RECIPE, lora=lora, servers=HERE, sync="weights")
    Recipe(**RECIPE, lora=lora)


def test_sync_lora_needs_an_adapter():
    with pytest.raises(ConfigError, match="there is no lora"):
        Recipe(**RECIPE, servers=HERE, sync="lora")


def test_keys_of_servers_without_servers_are_noted():
    (note,) = [n for n in GRPOConfig(sync="weights", request_timeout=5).notes if "without effect" in n]
    assert note == "sync, request_timeout without effect: there are no servers."


def test_other_servers_are_the_same_experiment_and_another_lag_is_not():
    old = GRPOConfig(servers=HERE).resolved()
    (change,) = changes(old, GRPOConfig(servers="http://a:1").resolved())
    assert change.is_rounding
    new = GRPOConfig(servers=HERE, rollout_lag=1, mismatch="token_truncate").resolved()
    assert any(c.key == "rollout_lag" and c.is_another_experiment for c in changes(old, new))


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({"vllm_server_base_url": "http://a:9"}, "http://a:9"),
        ({"vllm_server_host": "0.0.0.0", "vllm_server_port": 8001}, "http://localhost:8001"),
        ({"vllm_server_port": 8000}, HERE),
        ({"vllm_mode": "server", "vllm_server_host": "b"}, "http://b:8000"),
    ],
)
def test_an_address_in_trls_words_means_servers(written, expected):
    config = GRPOConfig(use_vllm=True, vllm_server_timeout=77, **written)
    assert config.servers == [expected]
    assert config.server_timeout == 77
    assert not [note for note in config.notes if "ignored" in note]


def test_an_address_without_use_vllm_means_nothing():
    config = GRPOConfig(vllm_server_port=8001)
    assert config.servers == []
    assert any("vllm_server_port is ignored" in note for note in config.notes)
