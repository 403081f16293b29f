"""What goes wrong between a learner and its servers: every fault that others met, against the engine and a fake server.

The number after "trap" is that of the list in docs/scale.md.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from tiny import EOS, tiny_model, with_lora

from groupwise.errors import ModelError, RolloutError
from groupwise.policy.packing import CompletionRows
from groupwise.policy.policy_model import Scoring
from groupwise.rollout.plain import PlainEngine
from groupwise.rollout.publish import require_servable, why_not_served
from groupwise.rollout.served.client import Client, ServerFailureError, ServerTimeoutError
from groupwise.rollout.served.served_engine import seed_of
from groupwise.types import Sampling
from rollout.served.fake import FakeServer
from rollout.served.served import (
    SAMPLING,
    make_engine,
    needs_of,
    policy_of,
    requests,
    sample,
    serving,
    smallest_model,
    train_a_little,
)

MODES = ("lora", "weights")


def refused(match):
    """The handshake ends with an error that matches."""
    return pytest.raises(RolloutError, match=match)


def expect_learners_logprobs(policy, found, asked):
    """Every log-prob of a completion is the learner's."""
    for request, completions in zip(asked, found, strict=True):
        rows = CompletionRows(
            [request.prompt_ids] * len(completions), [c.token_ids for c in completions], [0] * len(completions)
        )
        scores = policy.score(rows, Scoring(request.sampling.temperature)).logprob_NT
        for row, completion in zip(scores, completions, strict=True):
            expected = row[: len(completion.token_ids)]
            assert torch.allclose(expected, torch.tensor(completion.rollout_logprob), atol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_completions_are_sampled_from_the_learner_as_it_is(tmp_path, mode):
    with serving(tmp_path, mode, num=2) as (engine, policy, _):
        for version in range(3):
            if version:
                train_a_little(policy, seed=version)
                engine.load_weights(policy, version)
            asked = requests(step=version + 1)
            found = sample(engine, asked)
            expect_learners_logprobs(policy, found, asked)
            assert {c.policy_version for group in found for c in group} == {version}
        assert engine.num_repeats == 0
        assert engine.num_live == 2


def test_trap_1_no_adapter_is_loaded_twice_under_one_name(tmp_path):
    with serving(tmp_path) as (engine, policy, (fake,)):
        for version in (1, 2):
            train_a_little(policy, seed=version)
            engine.load_weights(policy, version)
        loads = fake.seen["/v1/load_lora_adapter"]
    assert len({body["lora_name"] for body in loads}) == len({body["lora_path"] for body in loads}) == 3
    assert not any("load_inplace" in body for body in loads)


@pytest.mark.parametrize("mode", MODES)
def test_trap_2_no_prefix_is_shared_between_versions(tmp_path, mode):
    with serving(tmp_path, mode) as (engine, policy, (fake,)):
        sample(engine, requests())
        train_a_little(policy)
        engine.load_weights(policy, 1)
        sample(engine, requests())
        salts = {body["cache_salt"] for body in fake.seen["/v1/completions"] if "cache_salt" in body}
        assert len(salts) == 2
        assert fake.calls["/reset_prefix_cache"] == (2 if mode == "weights" else 0)


def test_trap_3_raw_logprobs_are_found_by_behaviour(tmp_path):
    with (
        pytest.raises(RolloutError, match=r"multiplies their differences by 1\.00, expected 2.*processed_logprobs"),
        serving(tmp_path, is_processed=False),
    ):
        pass


def test_trap_3_a_temperature_beside_1_is_in_the_logprobs(tmp_path):
    asked = requests(sampling=replace(SAMPLING, temperature=0.7))
    with serving(tmp_path) as (engine, policy, _):
        expect_learners_logprobs(policy, sample(engine, asked), asked)


def test_trap_5_seeds_lie_far_apart_and_within_64_bits():
    seeds = [seed_of((42, step, draw)) for step in range(50) for draw in range(40)]
    assert min(b - a for a, b in pairwise(sorted(seeds))) > 1024
    assert all(0 <= seed < 2**62 for seed in seeds)
    assert seed_of((1, 23)) != seed_of((12, 3))


def test_trap_6_groups_differ_between_servers_and_between_draws(tmp_path):
    asked = [replace(request, prompt_ids=requests()[0].prompt_ids) for request in requests(6)]
    with serving(tmp_path, num=2) as (engine, _, fakes):
        found = sample(engine, asked)
        texts = [c.token_ids for group in found for c in group]
        assert all(any("seed" in body and "cache_salt" in body for body in f.seen["/v1/completions"]) for f in fakes)
    assert len(set(texts)) > len(texts) * 0.8


def test_the_number_of_the_draw_decides_the_server(tmp_path):
    with serving(tmp_path, num=2) as (engine, _, fakes):
        sample(engine, requests(4))
        for parity, fake in enumerate(fakes):
            asked = [b["seed"] for b in fake.seen["/v1/completions"] if "cache_salt" in b]
            assert sorted(asked) == sorted(seed_of((42, 1, n)) for n in range(4) if n % 2 == parity)


def test_trap_7_a_server_that_restarted_between_waves_never_samples_its_first_weights(tmp_path):
    with serving(tmp_path, "weights", num=2) as (engine, policy, fakes):
        train_a_little(policy)
        engine.load_weights(policy, 1)
        fakes[0].restart()
        asked = requests(step=2)
        expect_learners_logprobs(policy, sample(engine, asked), asked)
        wait_until(lambda: engine.num_live == 2)
        kinds = [kind for kind, _ in engine.events]
        assert kinds == ["server_left_out", "server_back"], engine.events
        expect_learners_logprobs(policy, sample(engine, asked), asked)


def test_trap_8_a_lost_adapter_is_loaded_again_and_the_request_repeated(tmp_path):
    with serving(tmp_path, is_learnt=True) as (engine, policy, (fake,)):
        fake.restart()
        asked = requests()
        expect_learners_logprobs(policy, sample(engine, asked), asked)
        assert engine.num_repeats == 0
        assert {kind for kind, _ in engine.events} == {"server_without_version"}


@pytest.mark.parametrize(("slots", "lag"), [(1, 0), (2, 1)])
def test_trap_9_too_few_adapters_are_refused(tmp_path, slots, lag):
    with (
        pytest.raises(RolloutError, match=rf"keeps {slots} adapter\(s\) and {lag + 2} are in use.*\n.*vllm serve"),
        serving(tmp_path, max_loras=slots, lag=lag),
    ):
        pass


def test_trap_10_a_folder_lives_longer_than_the_last_request_for_it(tmp_path):
    with serving(tmp_path) as (engine, policy, (fake,)):
        folders = [fake.seen["/v1/load_lora_adapter"][0]["lora_path"]]
        for version in range(1, 5):
            train_a_little(policy, seed=version)
            engine.load_weights(policy, version)
            folders.append(fake.seen["/v1/load_lora_adapter"][-1]["lora_path"])
        unloaded = [body["lora_name"] for body in fake.seen["/v1/unload_lora_adapter"]]
        assert [Path(f).name for f in folders[:3]] == unloaded
        assert [Path(f).exists() for f in folders] == [False, False, True, True, True]
    assert not list((tmp_path / "sync").iterdir())


def test_trap_10_a_version_that_is_held_stays(tmp_path):
    with serving(tmp_path) as (engine, policy, (fake,)):
        engine.hold(0)
        for version in range(1, 5):
            train_a_little(policy, seed=version)
            engine.load_weights(policy, version)
        with engine.pinned(0):
            assert {c.policy_version for group in sample(engine, requests()) for c in group} == {0}
        engine.release(0)
        engine.load_weights(policy, 5)
        assert any(name.endswith("-v0") for name in (b["lora_name"] for b in fake.seen["/v1/unload_lora_adapter"]))


def test_trap_11_a_server_never_sees_half_a_version(tmp_path):
    seen = []

    def watch(body):
        folder = Path(body["lora_path"])
        seen.append(sorted(path.name for path in folder.iterdir()))

    with serving(tmp_path) as (engine, policy, (fake,)):
        fake.on_load.append(watch)
        engine.load_weights(policy, 1)
        assert seen == [["adapter_config.json", "adapter_model.safetensors"]]
        assert not [path for path in (tmp_path / "sync").iterdir() if path.name.endswith(".tmp")]


def test_trap_11_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    policy = policy_of("lora")
    with FakeServer(smallest_model()) as fake:
        engine = make_engine([fake], policy, tmp_path / "file" / "sync")
        with pytest.raises(RolloutError, match=r"could not be written for the servers.*sync_dir"):
            engine.load_weights(policy, 0)


def test_trap_12_weights_of_the_whole_model_come_from_a_new_folder_each_time(tmp_path):
    with serving(tmp_path, "weights") as (engine, policy, (fake,)):
        for version in (1, 2, 3):
            train_a_little(policy, seed=version)
            engine.load_weights(policy, version)
        folders = [body["kwargs"]["weights_path"] for body in fake.seen["/collective_rpc"]]
        assert len(set(folders)) == 4


def test_trap_13_weights_of_the_whole_model_wait_for_what_samples(tmp_path):
    with serving(tmp_path, "weights") as (engine, policy, (fake,)):
        engine.hold(0)
        done = []

        def collect():
            with engine.pinned(0):
                for step in (1, 2):  # dynamic sampling draws twice
                    done.append(sample(engine, requests(step=step)))
            engine.release(0)

        thread = threading.Thread(target=collect)
        thread.start()
        train_a_little(policy)
        engine.load_weights(policy, 1)
        assert len(done) == 2
        thread.join()
        assert fake.most_running_at_reload == 0


def test_trap_14_a_load_that_timed_out_is_not_posted_again(tmp_path):
    with serving(tmp_path, server_timeout_s=2.0) as (engine, policy, (fake,)):
        fake.fault("/v1/load_lora_adapter", "late")
        train_a_little(policy)
        engine.load_weights(policy, 1)
        assert fake.calls["/v1/load_lora_adapter"] == 2
        assert engine.num_live == 1


@pytest.mark.parametrize("path", ["/v1/load_lora_adapter", "/collective_rpc"])
def test_trap_15_a_success_that_did_nothing_is_not_believed(tmp_path, path):
    mode = "lora" if "lora" in path else "weights"
    with serving(tmp_path, mode, num=2, server_timeout_s=4.0) as (engine, policy, fakes):
        fakes[0].fault(path, "ignored", 1000)
        train_a_little(policy)
        engine.load_weights(policy, 1)
        assert engine.num_live == 1
        asked = requests(step=2)
        expect_learners_logprobs(policy, sample(engine, asked), asked)
        fakes[0].heal()
        wait_until(lambda: engine.num_live == 2)
        expect_learners_logprobs(policy, sample(engine, asked), asked)


@pytest.mark.parametrize("size", [0.02, 3e-4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_trap_15_a_server_one_version_behind_fails_the_probe(tmp_path, size, dtype):
    """In bfloat16 a small step is far below the distance of the two precisions; the answer is the one before."""
    with serving(tmp_path, dtype=dtype, server_timeout_s=4.0, is_learnt=True) as (engine, policy, (fake,)):
        train_a_little(policy, size, seed=1)
        engine.load_weights(policy, 1)
        fake.fault("/v1/load_lora_adapter", "stale", 1000)
        train_a_little(policy, size, seed=2)
        with pytest.raises(RolloutError, match="as under version 1"):
            engine.load_weights(policy, 2)


def test_trap_15_a_policy_that_did_not_move_passes_the_probe(tmp_path):
    with serving(tmp_path, is_learnt=True) as (engine, policy, _):
        for version in (1, 2):
            engine.load_weights(policy, version)
        assert engine.num_live == 1


def test_trap_15_another_model_fails_at_the_handshake(tmp_path):
    policy = policy_of("lora")
    with FakeServer(smallest_model(5)) as fake, pytest.raises(RolloutError, match="it is another model"):
        make_engine([fake], policy, tmp_path).shake_hands()


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/load_lora_adapter"])
def test_trap_16_a_server_that_hangs_is_left_after_its_time(tmp_path, path):
    with serving(tmp_path, num=2, request_timeout_s=1.5, server_timeout_s=4.0) as (engine, policy, fakes):
        fakes[0].fault(path, "hang", 100)
        start = time.monotonic()
        train_a_little(policy)
        engine.load_weights(policy, 1)
        asked = requests()
        expect_learners_logprobs(policy, sample(engine, asked), asked)
        assert time.monotonic() - start < 25


def test_trap_17_an_idle_connection_is_dropped_before_the_server_drops_it(monkeypatch):
    monkeypatch.setattr("groupwise.rollout.served.client.IDLE_S", 0.05)
    with FakeServer(smallest_model()) as fake:
        client = Client(fake.url)
        client.call("GET", "/health", timeout_s=5, is_repeatable=True)
        (_, used) = client._idle[0]
        time.sleep(0.1)
        assert client._take_idle() is None
        assert used.sock is None


def test_trap_17_a_connection_that_the_server_closed_is_no_failure():
    with FakeServer(smallest_model()) as fake:
        client = Client(fake.url)
        client.call("GET", "/health", timeout_s=5, is_repeatable=True)
        fake.start(fake.stop())
        client.call("GET", "/health", timeout_s=5, is_repeatable=True)
        client.close()
        fake.fault("/health", "hang")
        with pytest.raises(ServerTimeoutError):
            client.call("GET", "/health", timeout_s=0.2)


WRONG_ANSWERS = {
    "empty": "an empty completion",  # trap 18
    "floor": "a log-prob that is none",  # trap 19
    "fewer": "completions of 2",
    "long": "tokens with",
    "stop_id": "no end token of this run|goes on after",  # trap 20
    "beyond": "of a vocabulary of 64",  # trap 23
    "prompt": "a completion of another prompt",
    "mismatch": "log-probs",  # trap 21
    "status": "the engine is dead",
    "drop": "RemoteDisconnected|Connection",
}


@pytest.mark.parametrize("fault", WRONG_ANSWERS)
def test_trap_18_19_20_21_a_wrong_answer_is_asked_for_again_and_never_used(tmp_path, fault):
    with serving(tmp_path, num=2) as (engine, policy, fakes):
        clean = sample(engine, requests())
        fakes[0].fault("/v1/completions", fault, 2)
        asked = requests()
        assert sample(engine, asked) == clean  # the same seed on another server: here the same text too
        assert engine.num_repeats == 2 or (fault == "drop" and engine.num_repeats < 2)  # an idle connection: no failure
        expect_learners_logprobs(policy, clean, asked)


@pytest.mark.parametrize("fault", WRONG_ANSWERS)
def test_trap_18_a_group_that_no_server_gives_whole_ends_the_rollout(tmp_path, fault, monkeypatch):
    monkeypatch.setattr("groupwise.rollout.served.served_engine.sleep", lambda seconds: None)
    with serving(tmp_path, server_timeout_s=1.0) as (engine, _, (fake,)):
        fake.fault("/v1/completions", fault, 1000)
        with pytest.raises(RolloutError, match=WRONG_ANSWERS[fault]):
            sample(engine, requests(1))


def test_trap_20_a_servers_own_end_tokens_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr("groupwise.rollout.served.served_engine.sleep", lambda seconds: None)
    asked = requests(6, 4, sampling=replace(SAMPLING, max_tokens=30))
    wanted = pytest.raises(RolloutError, match=r"ended with token 13 .*--generation-config vllm")
    with serving(tmp_path, extra_stop_id=13, server_timeout_s=1.0) as (engine, _, __), wanted:
        sample(engine, asked)


def test_trap_20_every_field_of_sampling_is_sent(tmp_path):
    with serving(tmp_path) as (engine, _, (fake,)):
        sample(engine, requests(1))
        body = fake.seen["/v1/completions"][-1]
    wanted = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "ignore_eos": True, "stop_token_ids": [EOS], "min_tokens": 0}
    assert wanted.items() <= body.items()
    assert {"temperature", "repetition_penalty", "frequency_penalty", "presence_penalty", "logprobs"} <= body.keys()


def test_trap_21_the_end_token_belongs_to_the_completion(tmp_path):
    asked = requests(8, 4, sampling=replace(SAMPLING, max_tokens=20))
    with serving(tmp_path) as (engine, _, __):
        found = [c for group in sample(engine, asked) for c in group]
    ended = [c for c in found if c.stop_reason == "stop"]
    assert ended
    assert all(c.token_ids[-1] == EOS and EOS not in c.token_ids[:-1] for c in ended)
    assert all(len(c.token_ids) == 20 for c in found if c.stop_reason == "length")


def test_stop_strings_end_a_completion_where_every_engine_ends_it(tmp_path):
    asked = requests(4, 4, sampling=Sampling(max_tokens=20, stop_ids=(EOS,), stop=("a", "7", "k")))
    with serving(tmp_path) as (engine, policy, _):
        served = sample(engine, asked)
        same = [replace(r, seed=(seed_of(r.seed),)) for r in asked]
        plain = dict(PlainEngine(policy.model, torch.float32).generate(same))
    found = [(c.token_ids, c.stop_reason) for group in served for c in group]
    assert found == [(c.token_ids, c.stop_reason) for n in range(4) for c in plain[n]]
    assert {reason for _, reason in found} >= {"stop_string"}


def test_trap_22_a_short_context_is_found_at_the_handshake(tmp_path):
    with (
        pytest.raises(RolloutError, match=r"have 40 tokens, and its context is 39.*\nvllm serve"),
        serving(tmp_path, max_model_len=39),
    ):
        pass


def test_trap_23_another_tokenizer_is_found_at_the_handshake(tmp_path):
    def other(text, add_special_tokens):
        return {"input_ids": [4, 5, 6]}

    with refused("its tokenizer is another one"), serving(tmp_path, tokenizer=other):
        pass


REFUSED = {
    "use_dora": {"use_dora": True},
    "bias": {"bias": "all"},
    "rank 513": {"r": 513},
    "modules_to_save": {"modules_to_save": ["lm_head"]},
    "lm_head": {"target_modules": ["lm_head", "q_proj"]},
    "embed_tokens": {"target_modules": ["embed_tokens"]},
    "init_lora_weights pissa": {"init_lora_weights": "pissa"},
    "alpha_pattern": {"alpha_pattern": {"q_proj": 3}},
    "rank_pattern": {"rank_pattern": {"q_proj": 3}},
}


@pytest.mark.parametrize("name", REFUSED)
def test_trap_24_an_adapter_that_the_server_refuses_or_cuts_is_refused_before_training(name):
    assert name in why_not_served(REFUSED[name])
    assert why_not_served({"r": 12, "target_modules": ["q_proj"], "bias": "none"}) is None


def test_trap_24_the_model_that_was_given_is_looked_at_too():
    model = with_lora(tiny_model(), target_modules=["q_proj", "lm_head"])
    with pytest.raises(ModelError, match=r"an adapter on lm_head.*sync: weights"):
        require_servable(model, "lora")
    require_servable(model, "weights")
    with pytest.raises(ModelError, match="no adapter"):
        require_servable(tiny_model(), "lora")


def test_trap_25_a_server_in_bfloat16_is_tolerated_and_known_as_one(tmp_path):
    with serving(tmp_path, dtype=torch.bfloat16) as (engine, policy, _):
        assert not engine.capabilities.is_float32
        train_a_little(policy)
        engine.load_weights(policy, 1)
        assert engine.num_live == 1
    with serving(tmp_path) as (engine, _, __):
        assert engine.capabilities.is_float32


def test_trap_26_a_server_without_the_path_for_new_weights_is_refused(tmp_path):
    """So is one with several API servers, which switches the path off."""
    with (
        pytest.raises(RolloutError, match=r"VLLM_ALLOW_RUNTIME_LORA_UPDATING=True.*\nvllm serve"),
        serving(tmp_path, paths=()),
    ):
        pass
    with (
        pytest.raises(RolloutError, match="VLLM_SERVER_DEV_MODE=1"),
        serving(tmp_path, "weights", paths=("/v1/load_lora_adapter",)),
    ):
        pass


def test_trap_27_a_server_on_a_gpu_of_the_run_is_refused(tmp_path):
    policy = policy_of("lora")
    with FakeServer(smallest_model(), gpu="GPU-1f") as fake:

        def meet(*gpus: str):
            engine = make_engine([fake], policy, tmp_path, needs=replace(needs_of(policy, "lora"), gpus=gpus))
            engine.shake_hands()
            return engine.servers[0]

        with pytest.raises(RolloutError, match=r"it runs on GPU-1f, and so does this run.*CUDA_VISIBLE_DEVICES"):
            meet("GPU-2e", "GPU-1f")
        server = meet("GPU-2e")
        assert (server.model, server.gpu) == ("base", "GPU-1f")


def test_trap_28_the_version_of_the_server_is_in_the_name_of_the_engine(tmp_path):
    with serving(tmp_path, version="0.27.1") as (engine, _, __):
        assert engine.capabilities.name == "vLLM 0.27.1"


def test_trap_29_a_key_is_sent_and_a_wrong_one_named(tmp_path):
    with serving(tmp_path, key="secret-of-test") as (engine, _, (fake,)):
        sample(engine, requests(1))
        policy = policy_of("lora")
        with pytest.raises(RolloutError, match="GROUPWISE_SERVER_KEY"):
            make_engine([fake], policy, tmp_path, key="wrong").shake_hands()


def test_trap_44_nothing_is_sampled_before_the_first_weights_are_published(tmp_path):
    policy = policy_of("lora")
    with FakeServer(smallest_model()) as fake:
        engine = make_engine([fake], policy, tmp_path)
        engine.shake_hands()
        with pytest.raises(KeyError):
            sample(engine, requests(1))
        assert not [b for b in fake.seen["/v1/completions"] if "cache_salt" in b]


def test_trap_43_44_a_resumed_process_publishes_its_version_under_a_name_of_its_own(tmp_path):
    policy = policy_of("lora", is_learnt=True)
    with FakeServer(smallest_model()) as fake:
        for size in (0.0, 0.02):  # the server still has what the process before published as version 5
            train_a_little(policy, size)
            engine = make_engine([fake], policy, tmp_path)
            engine.shake_hands()
            engine.load_weights(policy, 5)
            asked = requests()
            found = sample(engine, asked)
            expect_learners_logprobs(policy, found, asked)
            assert {c.policy_version for group in found for c in group} == {5}
            engine._held.clear()  # it is killed: nothing is unloaded
            engine.close()


def test_trap_47_an_answer_that_came_too_late_is_not_used(tmp_path):
    with serving(tmp_path, num=2, request_timeout_s=0.8) as (engine, _, fakes):
        fakes[0].fault("/v1/completions", "late")
        found = sample(engine, requests())
        assert [len(group) for group in found] == [2] * 4
        assert engine.num_repeats >= 1


def test_a_server_that_goes_down_and_comes_back_joins_again(tmp_path):
    with serving(tmp_path, num=2, is_learnt=True) as (engine, policy, fakes):
        port = fakes[0].stop()
        asked = requests()
        expect_learners_logprobs(policy, sample(engine, asked), asked)
        train_a_little(policy)
        engine.load_weights(policy, 1)
        assert engine.num_live == 1
        fakes[0].restart()
        fakes[0].start(port)
        wait_until(lambda: engine.num_live == 2)
        before = fakes[0].calls["/v1/completions"]
        expect_learners_logprobs(policy, sample(engine, asked), asked)
        assert fakes[0].calls["/v1/completions"] > before


def test_with_one_server_a_rollout_waits_for_it(tmp_path, monkeypatch):
    monkeypatch.setattr("groupwise.rollout.served.served_engine.sleep", lambda seconds: None)
    with serving(tmp_path, is_learnt=True) as (engine, policy, (fake,)):
        port = fake.stop()
        fake.restart()
        threading.Timer(0.5, fake.start, [port]).start()
        asked = requests()
        expect_learners_logprobs(policy, sample(engine, asked), asked)


def test_without_any_server_the_error_names_each(tmp_path, monkeypatch):
    monkeypatch.setattr("groupwise.rollout.served.served_engine.sleep", lambda seconds: None)
    with serving(tmp_path, num=2, server_timeout_s=0.5) as (engine, _, fakes):
        for fake in fakes:
            fake.stop()
        with pytest.raises(RolloutError, match=rf"none came back within 0.5 s.*{fakes[0].port}.*{fakes[1].port}"):
            sample(engine, requests())


def test_a_rollout_that_is_broken_off_waits_for_nobody(tmp_path):
    with serving(tmp_path) as (engine, _, (fake,)):
        fake.stop()
        threading.Timer(0.3, engine.close).start()
        with pytest.raises(RolloutError, match="was broken off"):
            sample(engine, requests(1))


def test_nobody_there_is_named_at_the_handshake(tmp_path):
    policy = policy_of("lora")
    with FakeServer(smallest_model()) as fake:
        engine = make_engine([fake], policy, tmp_path)
        fake.stop()
        with pytest.raises(RolloutError, match=r"cannot be asked: ConnectionRefusedError.*\nvllm serve"):
            engine.shake_hands()


def test_a_request_that_cannot_be_served_is_an_error_at_once(tmp_path):
    needs = replace(needs_of(policy_of("lora"), "lora"), num_tokens=1)
    asked = requests(1, sampling=replace(SAMPLING, max_tokens=500))
    with serving(tmp_path, needs=needs) as (engine, _, (fake,)):
        before = fake.calls["/v1/completions"]
        with pytest.raises(RolloutError, match="maximum context length"):
            sample(engine, asked)
        assert fake.calls["/v1/completions"] == before + 1


def test_a_closed_engine_is_usable_again_after_the_next_load(tmp_path):
    with serving(tmp_path) as (engine, policy, _):
        engine.close()
        engine.load_weights(policy, 1)
        asked = requests()
        expect_learners_logprobs(policy, sample(engine, asked), asked)


def test_the_client_has_a_time_for_everything():
    with FakeServer(smallest_model()) as fake:
        fake.fault("/health", "status")
        client = Client(fake.url)
        with pytest.raises(ServerFailureError, match="status 500: the engine is dead"):
            client.call("GET", "/health", timeout_s=1)
        client.close()
        with pytest.raises(TypeError, match="timeout_s"):
            client.call("GET", "/health")


def wait_until(holds, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
