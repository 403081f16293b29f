"""Keys and values of texts that grow from one request to the next, so that a turn is not prefilled with its history.

A request's `session` names a text; the text of `(a, b, c)` may go on from that of `(a, b)`, as the completions of a
group go on from its prompt. What is kept depends on the requests since the last change of the weights alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from groupwise.policy.attention import AttentionLayer, causal_mask, dot_product_attention
from groupwise.rollout.native.kv_cache import PromptCache
from groupwise.types import Request

KEPT_TOKENS = 32768
"""Tokens whose keys and values are kept at most; the texts that were used longest ago go first."""


@dataclass(frozen=True)
class Prefix:
    """A text that has been prefilled."""

    token_ids: tuple[int, ...]
    cache: PromptCache


class Sessions:
    """The texts of the current weights."""

    def __init__(self, kept_tokens: int = KEPT_TOKENS) -> None:
        self.kept_tokens = kept_tokens
        self._texts: dict[tuple[int, ...], Prefix] = {}
        """The one that was used last stands last."""

    def clear(self) -> None:
        """Forget everything: the weights have changed."""
        self._texts.clear()

    def find(self, request: Request) -> Prefix | None:
        """What a request's text begins with: of its own session, or of the one that this goes on from."""
        if request.session is None:
            return None
        for key in (request.session, request.session[:-1]):
            found = self._texts.get(key)
            if found is not None and _goes_on(request.prompt_ids, found.token_ids):
                self._texts[key] = self._texts.pop(key)
                return found
        return None

    def keep(self, request: Request, cache: PromptCache) -> None:
        """Keep a request's text in the place of the one that its session had."""
        if request.session is None:
            return
        self._texts.pop(request.session, None)
        self._texts[request.session] = Prefix(request.prompt_ids, cache)
        while sum(len(text.token_ids) for text in self._texts.values()) > self.kept_tokens:
            del self._texts[next(iter(self._texts))]


def _goes_on(ids: tuple[int, ...], before: tuple[int, ...]) -> bool:
    return len(before) < len(ids) and ids[: len(before)] == before


class ExtendPlan:
    """Causal attention of new tokens of several texts, each to its own prefix and itself; the rest is padding.

    Shapes: as in `kv_cache.py`.
    """

    def __init__(self, prefixes: Sequence[PromptCache], lengths: Sequence[int]) -> None:
        self.prefixes, self.lengths = list(prefixes), list(lengths)
        self._kept: list[list[tuple[Tensor, Tensor]]] = [[] for _ in lengths]

    def attend(self, layer: AttentionLayer, q_HTD: Tensor, k_KTD: Tensor, v_KTD: Tensor) -> Tensor:
        padding = q_HTD.shape[1] - sum(self.lengths)
        parts = zip(*(x.split([*self.lengths, padding], dim=1) for x in (q_HTD, k_KTD, v_KTD)), strict=True)
        outputs = []
        for prefix, kept, (q, k, v) in zip(self.prefixes, self._kept, parts, strict=False):
            old_k, old_v = prefix.layers[len(kept)]
            whole_k, whole_v = torch.cat([old_k, k.to(old_k.dtype)], 1), torch.cat([old_v, v.to(old_v.dtype)], 1)
            kept.append((whole_k, whole_v))
            mask = causal_mask(q.shape[1], whole_k.shape[1], layer.window, q.device)
            keys, values = whole_k[None].to(q.dtype), whole_v[None].to(q.dtype)
            outputs.append(dot_product_attention(layer, q[None], keys, values, mask)[0])
        outputs.append(q_HTD.new_zeros(q_HTD.shape[0], padding, v_KTD.shape[-1]))
        return torch.cat(outputs, dim=1)

    def caches(self) -> list[PromptCache]:
        pairs = zip(self.prefixes, self.lengths, self._kept, strict=True)
        return [PromptCache(prefix.length + length, kept) for prefix, length, kept in pairs]
