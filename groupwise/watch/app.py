"""The page's server: read-only, behind a path that nobody can guess, and for this machine's own names alone."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from groupwise import __version__
from groupwise.errors import GroupwiseError
from groupwise.report.render import environment
from groupwise.watch import views
from groupwise.watch.chart_files import chart_file
from groupwise.watch.findings import Findings
from groupwise.watch.watched_run import WatchedRun

LOOK_EVERY_S = 0.5
STAY_AWAKE_EVERY_S = 15.0
MAX_PATH = 300

LOCAL_NAMES = ("127.0.0.1", "localhost")
"""What the Host header may be: a page of another site that points its own name at this machine is refused."""

_HEADERS = {
    # Nothing but this server's own files, no script inside the page, in no frame of another page.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",  # the address holds the token
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}

_OWN_FILES = {"page.js": "text/javascript", "charts.js": "text/javascript", "watch.css": "text/css"}
_CHART_FILES = {"uPlot.iife.js": "text/javascript", "uPlot.min.css": "text/css"}


def make_app(runs: Sequence[Path], token: str, names: Sequence[str] = LOCAL_NAMES) -> ASGIApp:
    """The application that shows these run folders under `/TOKEN/` to whoever addresses it by one of these names."""
    watched = [WatchedRun(path) for path in runs]
    app = Starlette(
        routes=[
            Mount(
                f"/{token}",
                routes=[
                    Route("/", _page),
                    Route("/static/{name}", _static),
                    Route("/api/events", _events),
                    Route("/api/runs", _answer(views.runs)),
                    Route("/api/differences", _answer(views.differences)),
                    Route("/api/runs/{run:int}", _answer(views.run)),
                    Route("/api/runs/{run:int}/curves", _answer(views.curves)),
                    Route("/api/runs/{run:int}/search", _answer(views.search)),
                    Route("/api/runs/{run:int}/recipe", _answer(views.recipe)),
                    Route("/api/runs/{run:int}/problems/{problem:int}", _answer(views.problem)),
                    Route("/api/runs/{run:int}/{kind}/{step:int}", _answer(views.step)),
                    Route("/api/runs/{run:int}/{kind}/{step:int}/{at:int}", _answer(views.group)),
                    Route("/api/runs/{run:int}/{kind}/{step:int}/{at:int}/tokens", _answer(views.tokens)),
                ],
            )
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(names), www_redirect=False)],
        exception_handlers={HTTPException: _refusal},
    )
    app.state.runs, app.state.findings = watched, [Findings(run) for run in watched]
    return _Guard(app, token)


class _Guard:
    """Passes on what reads under the path of the token, and puts the safe headers on every answer."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(key.encode(), value.encode()) for key, value in _HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", ()), *added]}
            await send(message)

        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        first = scope["path"].encode().split(b"/")[1:2]
        is_right = len(scope["path"]) <= MAX_PATH and secrets.compare_digest(b"".join(first), self._token)
        if not is_right:
            await PlainTextResponse("Not found.", 404)(scope, receive, with_headers)
        elif scope["method"] not in ("GET", "HEAD"):
            await PlainTextResponse("This page only reads.", 405)(scope, receive, with_headers)
        else:
            await self._app(scope, receive, with_headers)


def _refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _Json({"error": error.detail}, error.status_code)


_PAGES = environment(str)


def _page(request: Request) -> Response:
    shown = _PAGES.get_template("watch/watch.html").render(version=__version__)
    return Response(shown, media_type="text/html")


def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name in _OWN_FILES:
        return Response(files("groupwise.watch").joinpath(name).read_bytes(), media_type=_OWN_FILES[name])
    if name in _CHART_FILES:
        return Response(chart_file(name).read_bytes(), media_type=_CHART_FILES[name])
    raise HTTPException(404, "There is no such file.")


class _Json(Response):
    """Plain data as JSON. What a hand put into a record and JSON has not (NaN) becomes null."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        try:
            text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        except ValueError:
            return self.render(json.loads(json.dumps(content), parse_constant=lambda _: None))
        return text.encode("utf-8", "backslashreplace")


View = Callable[[views.PageRequest], Any]


def _answer(view: View) -> Callable[[Request], Response]:
    """The JSON of a view; it runs in a thread of its own, so that a slow disk holds up nobody else."""

    def answer(request: Request) -> Response:
        state = request.app.state
        try:
            found = view(views.PageRequest(state.runs, state.findings, request.path_params, request.query_params))
        except GroupwiseError as error:
            raise HTTPException(400, str(error)) from error
        except LookupError as error:
            raise HTTPException(404, str(error.args[0]) if error.args else "Not found.") from error
        return _Json(found)

    return answer


async def _events(request: Request) -> Response:
    return StreamingResponse(_news(request), media_type="text/event-stream")


async def _news(request: Request) -> AsyncIterator[str]:
    """The versions of all runs as server-sent events, whenever one has changed."""
    runs: Sequence[WatchedRun] = request.app.state.runs
    sent, silent_s = None, 0.0
    while not await request.is_disconnected():
        versions = [await run_in_threadpool(run.version) for run in runs]
        if versions != sent:
            sent, silent_s = versions, 0.0
            yield f"data: {json.dumps(versions)}\n\n"
        elif silent_s >= STAY_AWAKE_EVERY_S:
            silent_s = 0.0
            yield ": still here\n\n"
        await asyncio.sleep(LOOK_EVERY_S)
        silent_s += LOOK_EVERY_S
