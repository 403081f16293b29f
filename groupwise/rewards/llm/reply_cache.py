"""On-disk cache of replies of language models, one JSON file each, so that no request is paid for twice."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from groupwise.errors import RewardError
from groupwise.sources import default_cache_dir

_FORMAT = 1  # of the entries; raise it when they change


class ReplyCache:
    """One small file a reply, named by the hash of the request: address and whole body, never a key."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder if folder is not None else default_cache_dir() / "replies"

    def get(self, request: Mapping[str, Any]) -> dict[str, Any] | None:
        """The reply to this request; None where there is none or its file is damaged, which is then written anew."""
        try:
            kept = json.loads(self._path(request).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return kept if isinstance(kept, dict) else None

    def put(self, request: Mapping[str, Any], reply: Mapping[str, Any]) -> None:
        """Keep a reply: whole or not at all, readable by its owner only."""
        path = self._path(request)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, part = tempfile.mkstemp(dir=path.parent, suffix=".part")  # mode 0600
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(dict(reply), file)
            os.replace(part, path)
        except OSError as error:
            raise RewardError(
                f"The replies of the LLM judge cannot be kept in {self._folder}: {error.strerror}. Make room there, "
                "set GROUPWISE_CACHE to another folder, or set cache: false at the reward."
            ) from error

    def _path(self, request: Mapping[str, Any]) -> Path:
        text = json.dumps([_FORMAT, request], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        return self._folder / digest[:2] / f"{digest}.json"
