"""The handshake: what a server must be before a run begins, each refusal with the command that starts a right one.

What would be wrong in silence is refused here: raw log-probs, another tokenizer, a short context, too few adapters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from groupwise.errors import RolloutError
from groupwise.rollout.served.client import ServerFailureError, ServerRefusalError
from groupwise.rollout.served.flags import ON_GPU
from groupwise.rollout.served.server_pool import Server
from groupwise.rollout.served.version_probe import LARGEST_GAP, gap

_NEEDED_PATHS = {"lora": ("/v1/load_lora_adapter",), "weights": ("/collective_rpc",)}
_MAX_LORAS = re.compile(r'vllm:lora_requests_info\{[^}]*max_lora="(\d+)"')
_SLACK = 0.2
"""Of the ratio between two gaps of log-probs, for bfloat16."""


@dataclass(frozen=True)
class Needs:
    """What a run needs of its servers."""

    command: str
    """The command that starts one, for messages."""
    mode: str
    """How weights travel: lora or weights."""
    num_tokens: int
    """The longest prompt and its completion."""
    slots: int
    """Adapters that are in use at one time."""
    probe_text: str
    probe_ids: tuple[int, ...]
    """The same, as the run's tokenizer cuts it."""
    base_expected: tuple[float, ...] | None
    """The learner's log-probs of the probe under the model without its adapter; None where there is none."""
    gpus: tuple[str, ...] = ()
    """UUIDs of the GPUs that the ranks of the run compute on."""


def shake_hands(server: Server, needs: Needs) -> None:
    """Learn the server's version and model, and find out whether it can serve the run.

    Raises:
        RolloutError: it cannot, or nobody answers, with the command that starts a right one.
    """
    dialect = server.dialect
    try:
        dialect.is_healthy()
        server.version = dialect.version()
        cards = dialect.models()
        server.model, card = _base_model(cards)
        server.gpu = next((name.removeprefix(ON_GPU) for name in cards if name.startswith(ON_GPU)), None)
        if (problem := _context(card, needs) or _gpu(server, needs)) is not None:
            raise refusal(server, problem, needs)
        for check in (_paths, _tokenizer, _processed, _base):
            if (problem := check(server, needs)) is not None:
                raise refusal(server, problem, needs)
    except ServerRefusalError as error:
        hint = " The key is read from the variable GROUPWISE_SERVER_KEY." if error.status in (401, 403) else ""
        raise refusal(server, f"it refuses: {error}.{hint}", needs) from None
    except ServerFailureError as error:
        raise refusal(server, f"it cannot be asked: {error}.", needs) from None


def refusal(server: Server, problem: str, needs: Needs) -> RolloutError:
    """The error for a server that cannot serve the run."""
    return RolloutError(
        f"The server {server.url} cannot sample for this run: {problem} Start it with:\n{needs.command}"
    )


def _base_model(cards: Mapping[str, Mapping[str, Any]]) -> tuple[str, Mapping[str, Any]]:
    """The model that was started: the one that is no adapter of another."""
    found = [(n, card) for n, card in cards.items() if not card.get("parent") and not n.startswith(ON_GPU)]
    if not found:
        raise ServerFailureError("it lists no model")
    return found[0]


def _paths(server: Server, needs: Needs) -> str | None:
    paths = server.dialect.paths()
    missing = [path for path in _NEEDED_PATHS[needs.mode] if paths and path not in paths]
    if not missing:
        return None
    variable = "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True" if needs.mode == "lora" else "VLLM_SERVER_DEV_MODE=1"
    return f"it has no {missing[0]}, by which new weights arrive ({variable} switches it on)."


def _context(card: Mapping[str, Any], needs: Needs) -> str | None:
    context = card.get("max_model_len")
    if context is None or needs.num_tokens <= int(context):
        return None
    return f"the longest prompt and its completion have {needs.num_tokens} tokens, and its context is {context}."


def _gpu(server: Server, needs: Needs) -> str | None:
    if server.gpu not in needs.gpus:
        return None
    return (
        f"it runs on {server.gpu}, and so does this run, which needs the memory of its GPU for itself. Give each its "
        "own by CUDA_VISIBLE_DEVICES (groupwise serve: --gpus)."
    )


def _tokenizer(server: Server, needs: Needs) -> str | None:
    try:
        ids = server.dialect.tokenize(server.model, needs.probe_text)
    except ServerRefusalError:  # a server without a tokenizer
        return None
    if ids == needs.probe_ids:
        return None
    return f"its tokenizer is another one ({list(ids[:6])}..., expected {list(needs.probe_ids[:6])}...)."


def _processed(server: Server, needs: Needs) -> str | None:
    """Halving the temperature doubles every difference between two log-probs of the distribution that is sampled.

    The setting alone proves nothing: a version of vLLM had it and left the temperature out.
    """
    ids = needs.probe_ids
    at_one, at_half = (server.dialect.top_logprobs(server.model, ids, t, 5) for t in (1.0, 0.5))
    spread, halved = at_one[0] - at_one[-1], at_half[0] - at_half[-1]
    if spread < 1e-3:
        return None  # a uniform distribution is one at every temperature
    if abs(halved / spread - 2) <= 2 * _SLACK:
        return None
    return (
        f"its log-probs are not of the distribution that it samples from (half the temperature multiplies their "
        f"differences by {halved / spread:.2f}, expected 2): it needs --logprobs-mode processed_logprobs."
    )


def _base(server: Server, needs: Needs) -> str | None:
    """Its own model against the learner's without the adapter; and whether one question has one answer."""
    once, twice = (server.dialect.prompt_logprobs(server.model, needs.probe_ids, 60.0) for _ in range(2))
    server.is_repeatable = once == twice
    if needs.base_expected is None or gap(once, needs.base_expected) <= LARGEST_GAP:
        return None
    return (
        f'its model "{server.model}" gives the probe other log-probs than the learner\'s (mean exp |difference| '
        f"{gap(once, needs.base_expected):.3g}, up to {LARGEST_GAP} is precision): it is another model."
    )


def check_slots(server: Server, needs: Needs) -> str | None:
    """Whether as many adapters fit as are in use at one time; asked after a request under an adapter, since servers
    report it only then, and passed over where they do not."""
    try:
        found = [int(number) for number in _MAX_LORAS.findall(server.dialect.metrics())]
    except (ServerFailureError, ServerRefusalError):
        return None
    if not found or max(found) >= needs.slots:
        return None
    return f"it keeps {max(found)} adapter(s) and {needs.slots} are in use at one time (--max-loras {needs.slots})."
