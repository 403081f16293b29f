"""Signs of a policy that moves too far, too little, or away from the engine that samples for it."""

from __future__ import annotations

from statistics import fmean, median

from groupwise.config.guards import BY_NAME, FIRST_STEPS, SMALLEST_GAP
from groupwise.diagnose.diagnosis import Diagnosis, examples_of
from groupwise.diagnose.run_view import FEWEST_LATE, Place, RunView, has_signal, places, rewards_of
from groupwise.rounding import is_equal
from groupwise.runs.text import number

KL_FAR = 1.0
"""Nats a token beyond which a KL that still rises, while the reward does not, is one that runs away. The demo learns at
1.0 to 3.2."""
KL_STILL = 1e-4
"""Nats a token below which the policy has not moved: bfloat16 alone makes less."""
LOW_RATE = {True: 1e-6, False: 1e-7}
"""Learning rates of an adapter (of every weight) a tenth of the usual ones: below, a run of thousands of steps hardly
moves."""
STILL_STEPS, STILL_SHARE = 20, 0.25
"""Steps, and share of the planned ones, after which a policy that has not moved stays where it is."""
ENTROPY_LOW, ENTROPY_LEFT = 0.1, 0.25
"""Nats a token, and the share of the first steps' entropy, at or below which nothing is left to explore."""
NO_SIGNAL = 0.5
"""Share of groups without signal beside a low entropy: a sure policy whose groups still differ goes on learning."""
SPIKE, SPIKES, SPIKE_SHARE = 10.0, 2, 0.02
"""A gradient norm so many times its median is a spike; a run has spikes from the second one on, one step in fifty."""
CLIPPED = {True: 0.2, False: 0.5}
"""Share of tokens (of whole completions, where the ratio is theirs) above which the clip throws most of an update
away."""
CLIPPED_ON_POLICY = 0.01
"""The same with one update a rollout, whose ratio is 1 but for rounding."""
RATIO_STILL = 1.01
"""Largest ratio of a run of several updates a rollout that never needed its clip."""
EFFECTIVE = 0.3
"""Share of effective samples, as the metric `sampling/effective_share` has it."""


def kl_explodes(view: RunView) -> Diagnosis | None:
    """The distance to the reference runs away."""
    found, late, bound = view.change("kl"), view.late_mean("kl"), BY_NAME["kl"].default.threshold
    reward = view.change("reward")
    if found is None or late is None or reward is None:
        return None
    runs_away = found.is_up and late >= KL_FAR and not reward.is_up
    if late <= bound and not runs_away:
        return None
    series = view.series("kl")
    first = next(s for s, v in zip(series.steps, series.values, strict=True) if v >= min(late, KL_FAR))
    return Diagnosis(
        "kl_explodes",
        f"The policy runs away from its reference: KL {number(late)} nats a token, and the reward does not rise.",
        first,
        view.last_step,
        (f"KL: {found}, at most {number(max(series.values))}.", f"Reward: {reward}.", _rate(view)),
        examples_of([place for place, _ in places(view.late)]),
        ("The learning rate is too high.", "beta is too small to hold the policy.", "A few rare rewards are huge."),
        f"Go on from a checkpoint before step {first} with learning_rate: {number(_largest_rate(view) / 5)}.",
        "certain" if late > bound else "likely",
    )


def policy_stands_still(view: RunView) -> Diagnosis | None:
    """Groups carry signal, and the policy does not move."""
    planned = view.setting("max_steps")
    enough = max(STILL_STEPS, STILL_SHARE * planned if planned > 0 else 0)
    no_signal = view.series("frac_reward_zero_std").values
    if view.num_steps < enough or view.reward_is_up or not no_signal or fmean(no_signal) > NO_SIGNAL:
        return None
    kl, rate = view.series("kl").values, _largest_rate(view)
    low = LOW_RATE[bool(view.recipe.get("lora"))]
    if (kl and max(kl) >= KL_STILL) or (not kl and rate >= low):
        return None
    factor = 10.0 if rate else 0.0
    change = f"learning_rate: {number(rate * factor)}" if factor else "a learning_rate above 0"
    kind = "an adapter" if view.recipe.get("lora") else "every weight"
    return Diagnosis(
        "policy_stands_still",
        "The policy does not move, although groups carry signal.",
        int(view.records[0]["step"]),
        view.last_step,
        (
            f"KL to the reference at most {number(max(kl))} nats a token in {view.num_steps} steps."
            if kl
            else f"No KL was measured; the learning rate is below {low:g}, a tenth of what is usual for {kind}.",
            _rate(view),
            f"Reward: {view.change('reward')}.",
        ),
        (),
        ("The learning rate is too low.", "The gradient is scaled away (max_grad_norm, a huge beta)."),
        f"Set {change}.",
        "likely" if kl else "possible",
    )


def entropy_collapses(view: RunView) -> Diagnosis | None:
    """The policy has become sure of itself before the problems are solved, and groups differ no more."""
    found, flat = view.change("entropy"), view.late_mean("frac_reward_zero_std")
    if found is None or flat is None or not found.is_down or found.last > ENTROPY_LOW:
        return None
    if found.last > ENTROPY_LEFT * found.first or flat < NO_SIGNAL or _share_solved(view) >= NO_SIGNAL:
        return None
    return Diagnosis(
        "entropy_collapses",
        f"The policy has nothing left to explore: entropy {number(found.last)} nats a token, and "
        f"{flat:.0%} of the groups are without signal.",
        view.late_step,
        view.last_step,
        (f"Entropy: {found}.", f"Reward: {view.change('reward')}.", _rate(view)),
        examples_of(_unsolved(view)),
        (
            "The learning rate is too high for so few groups a step.",
            "The upper clip keeps rare tokens rare (epsilon_high).",
            "The temperature is below 1.",
        ),
        "Go on from an earlier checkpoint with half the learning_rate and epsilon_high: 0.28, or "
        "use_adaptive_entropy: true.",
        "likely",
    )


def gradient_spikes(view: RunView) -> Diagnosis | None:
    """Gradient norms far above their usual value, more than once."""
    found = view.series("grad_norm")
    norms = [(step, value) for step, value in zip(found.steps, found.values, strict=True) if value > 0]
    if len(norms) < STILL_STEPS:
        return None
    usual = median(value for _, value in norms)
    spikes = [(step, value) for step, value in norms if value > SPIKE * usual]
    if len(spikes) < max(SPIKES, SPIKE_SHARE * len(norms)):
        return None
    shown = ", ".join(f"step {step}: {number(value)}" for step, value in spikes[:5])
    return Diagnosis(
        "gradient_spikes",
        f"The gradient has {len(spikes)} spikes of more than {SPIKE:g} times its usual norm.",
        spikes[0][0],
        spikes[-1][0],
        (f"Usual norm (median) {number(usual)}; {shown}.", _rate(view)),
        (),
        (
            "A few completions have a huge advantage or ratio (a rare reward, several updates a rollout).",
            "The learning rate is too high.",
            "A step has very few tokens that count.",
        ),
        "Keep max_grad_norm at 1 or set it to 0.1, and lower learning_rate.",
        "certain",
    )


def clip_share_off(view: RunView) -> Diagnosis | None:
    """The clip of the ratio takes most of an update away, or acts where the ratio should be 1, or never acts."""
    share, several = view.late_mean("clip_ratio/region_mean"), _updates_a_step(view) > 1
    is_token = view.objective.get("level", "token") == "token"
    if (
        view.num_steps < FEWEST_LATE
        or share is None
        or view.setting("rollout_lag")
        or view.objective.get("anchor") == "rollout"
    ):
        return None
    bound = CLIPPED[is_token] if several else CLIPPED_ON_POLICY
    if share > bound:
        causes: tuple[str, ...] = (
            "Too many updates a rollout.",
            "The learning rate is too high.",
            "The clip is too tight.",
        )
        change = "Set num_iterations: 1, then a lower learning_rate."
        if not several:
            causes = ("Old and new log-probs are computed differently (dropout, a changed model).",)
            change = "Set lora_dropout: 0 and look at sampling/mismatch."
        what = f"The clip takes {share:.0%} of the {'tokens' if is_token else 'completions'} out of the update."
    elif several and view.num_steps >= STILL_STEPS and _never_clips(view) and not view.reward_is_up:
        what, causes = "Several updates a rollout never move a ratio.", ("The learning rate is too low.",)
        change = "Set num_iterations: 1 for the same in less time, or raise learning_rate."
    else:
        return None
    ratio = view.late_mean("ratio/max")
    evidence = f"clip_ratio/region_mean {number(share)} over steps {view.late_step} to {view.last_step}"
    return Diagnosis(
        "clip_share_off",
        what,
        view.late_step,
        view.last_step,
        (
            f"{evidence}, largest ratio {number(ratio)} in the mean; {_updates_a_step(view):g} updates a rollout.",
            _rate(view),
        ),
        (),
        causes,
        change,
        "likely",
    )


def engine_differs(view: RunView) -> Diagnosis | None:
    """Engine and learner give one token two probabilities, from the first steps on."""
    values = view.series("sampling/mismatch").values
    dtype = (view.reader.config.get("model") or {}).get("compute_dtype")
    guard = BY_NAME["agreement" if dtype == "float32" else "precision"]
    if not values or view.setting("rollout_lag") or median(values) <= guard.default.threshold:
        return None
    return Diagnosis(
        "engine_differs",
        f"Engine and learner disagree about the probabilities of tokens: mismatch {median(values):.4f}.",
        int(view.records[0]["step"]),
        view.last_step,
        (
            f"sampling/mismatch {min(values):.4f} to {max(values):.4f}; {guard.default.threshold:g} is the bound in "
            f"{dtype or 'low precision'}.",
        ),
        (),
        (
            "The precision is too low for this model.",
            "The engine samples from another distribution (temperature, top-k, an adapter that did not arrive).",
        ),
        "Set engine: transformers, and where the gap goes with it report it; else set dtype: float32, or "
        "mismatch: token_truncate.",
        "certain",
    )


def stale_weights(view: RunView) -> Diagnosis | None:
    """The engine samples from older weights than it should."""
    lag = view.setting("rollout_lag")
    oldest = max(view.series("staleness/max").values, default=0.0)
    growth = None if lag else _growth(view)
    effective = view.late_mean("sampling/effective_share") if lag else None
    is_old, grows = oldest > lag, growth is not None and growth > BY_NAME["mismatch"].default.threshold
    is_spent = effective is not None and effective < EFFECTIVE
    if not (is_old or grows or is_spent):
        return None
    evidence = [f"Completions are up to {oldest:g} versions old; rollout_lag is {lag}."]
    if grows:
        evidence.append(f"The gap between engine and learner is {number(growth)} times that of the first steps.")
    if is_spent:
        evidence.append(f"Of the samples {effective:.0%} are effective at the end.")
    return Diagnosis(
        "stale_weights",
        "The engine samples with weights that are older than those that are trained.",
        int(view.records[0]["step"]) if is_old else view.late_step,
        view.last_step,
        tuple(evidence),
        (),
        (
            "A server or the engine missed a version of the weights.",
            "rollout_lag is too large for this learning rate.",
        ),
        "Set rollout_lag: 0, or correct for the age with mismatch: token_truncate; where there is no lag please report "
        "it.",
        "certain" if is_old else "likely",
    )


def _rate(view: RunView) -> str:
    return f"Learning rate: {_largest_rate(view):g} at most."


def _largest_rate(view: RunView) -> float:
    return max(view.series("learning_rate").values, default=0.0)


def _updates_a_step(view: RunView) -> float:
    updates = view.series("updates").values
    return updates[-1] / view.last_step if updates and view.last_step else 1.0


def _never_clips(view: RunView) -> bool:
    shares, ratios = (view.series(key).values for key in ("clip_ratio/region_mean", "ratio/max"))
    return not any(shares) and bool(ratios) and max(ratios) < RATIO_STILL


def _growth(view: RunView) -> float | None:
    """The late gap between engine and learner as a multiple of that of the first steps."""
    values = view.series("sampling/mismatch").values
    if len(values) < 3 * FIRST_STEPS:
        return None
    usual = max(median(values[:FIRST_STEPS]) - 1, SMALLEST_GAP)
    return (median(values[-FIRST_STEPS:]) - 1) / usual


def _share_solved(view: RunView) -> float:
    """Of the late groups, those without signal in which everything gets the highest reward."""
    high = view.span[1] if view.span else 0.0
    solved = [not has_signal(g) and (r := rewards_of(g)) != [] and bool(is_equal(r[0], high)) for _, g in view.late]
    return fmean(solved) if solved else 0.0


def _unsolved(view: RunView) -> list[Place]:
    high = view.span[1] if view.span else 0.0
    return [place for place, c in places(view.late) if c["reward"] is not None and not is_equal(c["reward"], high)]
