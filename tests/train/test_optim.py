"""Optimizers and schedules by name, and what weight decay touches."""

from __future__ import annotations

import pytest
import torch
import transformers
from api_helpers import trainer
from histories import of_steps
from tiny import tiny_model, with_lora

from groupwise.config import GRPOConfig
from groupwise.config.names import SCHEDULERS
from groupwise.errors import ConfigError
from groupwise.notes import shown_by
from groupwise.policy.policy_model import PolicyModel
from groupwise.train.optim import check_own_optimizer, check_schedule, make_optimizer, make_scheduler


def make(model=None, notes=None, **settings):
    notes = [] if notes is None else notes
    with shown_by(notes.append):
        return make_optimizer(GRPOConfig(**settings).settings, PolicyModel(model or tiny_model(), torch.float32, None))


@pytest.mark.parametrize(
    ("written", "kind", "used"),
    [
        ("adamw", torch.optim.AdamW, "adamw"),
        ("adamw_torch", torch.optim.AdamW, "adamw"),
        ("AdamW_Torch_Fused", torch.optim.AdamW, "adamw_fused"),
        ("SGD", torch.optim.SGD, "sgd"),
        ("adafactor", transformers.optimization.Adafactor, "adafactor"),
    ],
)
def test_an_optimizer_by_its_name(written, kind, used):
    optimizer, name = make(optim=written, learning_rate=3e-3)
    assert type(optimizer) is kind
    assert name == used
    assert all(group["lr"] == 3e-3 for group in optimizer.param_groups)


@pytest.mark.parametrize("written", ["adamw_8bit", "adamW_8bit", "paged_adamw_8bit", "adamw_bnb_8bit"])
def test_eight_bits_fall_back_to_float32_with_one_note(monkeypatch, written):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    notes: list[str] = []
    optimizer, name = make(notes=notes, optim=written)
    assert type(optimizer) is torch.optim.AdamW
    assert name == "adamw"
    assert len(notes) == 1
    assert "float32 AdamW is used instead" in notes[0]


def test_adam_gets_the_configured_numbers():
    optimizer, _ = make(adam_beta1=0.8, adam_beta2=0.95, adam_epsilon=1e-6, weight_decay=0.1)
    for group in optimizer.param_groups:
        assert (group["betas"], group["eps"]) == ((0.8, 0.95), 1e-6)


def test_weight_decay_acts_on_matrices_and_everything_trained_is_in_one_group():
    model = with_lora(tiny_model("llama-bias"))
    model.base_model.model.model.norm.weight.requires_grad_(True)
    optimizer, _ = make(model, weight_decay=0.1)
    for group in optimizer.param_groups:
        assert all((p.dim() >= 2) == (group["weight_decay"] > 0) for p in group["params"])
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {p for p in model.parameters() if p.requires_grad}


def test_the_learning_rate_defaults_by_what_is_trained():
    assert make()[0].param_groups[0]["lr"] == 1e-6
    assert make(with_lora(tiny_model()))[0].param_groups[0]["lr"] == 1e-5
    assert make(learning_rate=0.0)[0].param_groups[0]["lr"] == 0.0, "0 is a choice, not the default"


@pytest.mark.parametrize("name", ["linear", "cosine", "constant", "constant_with_warmup", "polynomial"])
@pytest.mark.parametrize("warmup", [{}, {"warmup_steps": 3}, {"warmup_ratio": 0.3}])
def test_a_schedule_is_that_of_transformers(name, warmup):
    config = GRPOConfig(lr_scheduler_type=name, learning_rate=1.0, **warmup).settings
    found = make_scheduler(config, torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0), 10)
    expected = transformers.get_scheduler(
        name, torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0), 3 if warmup else 0, 10
    )
    rates = []
    for scheduler in (found, expected):
        rates.append([])
        for _ in range(10):
            rates[-1].append(scheduler.get_last_lr()[0])
            scheduler.optimizer.step()
            scheduler.step()
    assert rates[0] == rates[1]


def test_a_schedule_takes_its_own_arguments():
    config = GRPOConfig(
        lr_scheduler_type="cosine_with_min_lr", learning_rate=1.0, lr_scheduler_kwargs={"min_lr_rate": 0.25}
    ).settings
    scheduler = make_scheduler(config, torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0), 4)
    for _ in range(4):
        scheduler.optimizer.step()
        scheduler.step()
    assert scheduler.get_last_lr()[0] == pytest.approx(0.25)


def test_an_optimizer_of_another_model_is_refused(tmp_path):
    other = torch.optim.AdamW(tiny_model(seed=1).parameters())
    run = trainer(tmp_path / "run", model=tiny_model(), rest={"optimizers": (other, None)})
    with pytest.raises(ConfigError, match="AdamW given in optimizers holds 0 of the model's 21 trained parameters"):
        run.train()
    before_the_adapter = tiny_model()
    own = torch.optim.AdamW(before_the_adapter.parameters())
    with pytest.raises(ConfigError, match="holds 0 of the model's"):
        check_own_optimizer(own, with_lora(before_the_adapter))


def test_an_optimizer_over_a_part_of_what_is_trained_is_noted():
    model, notes = tiny_model(), []
    with shown_by(notes.append):
        check_own_optimizer(torch.optim.SGD(model.lm_head.parameters(), lr=0.1), model)
    assert "holds 1 of the model's 21 trained parameters; the others" in notes[0]
    with shown_by(notes.append):
        check_own_optimizer(torch.optim.SGD(model.parameters(), lr=0.1), model)
    assert len(notes) == 1


def test_an_optimizer_never_moves_what_is_frozen(tmp_path):
    model = tiny_model()
    model.model.layers[0].requires_grad_(False)
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    own = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    trainer(tmp_path / "run", model=model, rest={"optimizers": (own, None)}).train()
    moved = dict(model.named_parameters())
    assert all(torch.equal(moved[n], p) for n, p in frozen.items())
    assert not torch.equal(moved["lm_head.weight"], tiny_model().lm_head.weight)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycle": 2}}, "unexpected keyword argument"),
        ({"lr_scheduler_type": "polynomial", "learning_rate": 1e-8}, "must be smaller than initial lr"),
        ({"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"power": "two"}}, "'two'"),
        ({"lr_scheduler_type": "inverse_sqrt", "lr_scheduler_kwargs": {"timescale": 0}}, "division by zero"),
        ({"lr_scheduler_type": "polynomial", "learning_rate": 1e-3, "warmup_steps": 2}, "division by zero"),  # 2 of 2
        ({"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": {"num_decay_steps": 2, "x": 1}}, "'x'"),
    ],
)
def test_a_schedule_that_cannot_be_set_up_is_refused_before_anything_is_loaded(settings, said, tmp_path):
    with pytest.raises(ConfigError, match=f"lr_scheduler_type {settings['lr_scheduler_type']} .*{said}"):
        trainer(tmp_path, model="no-such-owner/no-such-model", **settings)
    assert not list(tmp_path.iterdir())


def test_every_schedule_can_be_set_up(tmp_path):
    needed = {"warmup_stable_decay": {"num_decay_steps": 2}}
    for name in SCHEDULERS:
        kwargs = needed.get(name, {"min_lr": 1e-7} if "min_lr" in name else {})
        for warmup in (0, 3, 6, 9):
            config = GRPOConfig(lr_scheduler_type=name, lr_scheduler_kwargs=kwargs, warmup_steps=warmup).settings
            check_schedule(config, 7)


@pytest.mark.parametrize(
    ("settings", "note"),
    [
        ({"warmup_steps": 100}, "warm-up takes 100 optimizer steps and the run has 4"),
        ({"warmup_steps": 4}, "warm-up takes 4 optimizer steps and the run has 4"),
        ({"warmup_steps": 3}, None),
        ({"warmup_ratio": 0.99}, "warm-up takes 4 optimizer steps and the run has 4"),
        ({"warmup_steps": 100, "lr_scheduler_type": "constant"}, "warmup_steps without effect"),
        ({"warmup_ratio": 0.1, "lr_scheduler_type": "constant"}, "warmup_ratio without effect"),
        ({"lr_scheduler_kwargs": {"power": 2}, "lr_scheduler_type": "constant"}, "lr_scheduler_kwargs without effect"),
        ({"warmup_steps": 2, "lr_scheduler_type": "constant_with_warmup"}, None),
    ],
)
def test_a_warm_up_that_does_not_end_or_begin_is_noted(settings, note, tmp_path, capsys):
    run = trainer(tmp_path, num_iterations=2, max_steps=2, **settings)
    run.train()
    printed = capsys.readouterr().out
    assert ("warm-up takes" in printed or "without effect" in printed) == (note is not None)
    assert note is None or note in printed
    if "warm-up takes" in printed:
        peak = max(entry["learning_rate"] for entry in of_steps(run.state.log_history))
        assert peak < run.args.learning_rate
