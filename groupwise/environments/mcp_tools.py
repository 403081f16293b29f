"""Tools of an MCP server, called over one session that lasts as long as the program."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import shlex
from collections.abc import Callable
from typing import Any

from groupwise.environments.crew import event_loop
from groupwise.environments.tools import Tool
from groupwise.errors import ConfigError, words_of

MCP = "mcp:"
"""Before the address of a server, or the command that starts one, among the tools of a recipe."""
START_S = 60.0
"""Seconds for a server to start and to list its tools."""


class McpError(Exception):
    """What a server said instead of a result."""


def mcp_tools(client: Any, *, start_s: float = START_S) -> list[Tool]:
    """The tools of a server.

    `client` is not open yet: an object with `list_tools()` and `call_tool(name, arguments)` that is entered with
    `async with`, such as `mcp.Client("http://...")`. All environments share its session: a server that keeps a state
    for each session keeps one for all completions.

    Raises:
        ConfigError: the server does not answer.
    """
    return asyncio.run_coroutine_threadsafe(_listed(client, start_s), event_loop()).result()


def tools_at(server: str) -> list[Tool]:
    """The tools of a server by its address, `http://...`, or by the command that starts it.

    Raises:
        ConfigError: the package mcp is missing, or the server does not answer.
    """
    try:
        mcp = importlib.import_module("mcp")
        is_address = server.startswith(("http://", "https://"))
        client = mcp.Client(server if is_address else mcp.StdioServerParameters(**_program(server)))
    except (ImportError, AttributeError) as error:  # an older release has no Client
        raise ConfigError(
            f'The tools of the MCP server "{server}" need the package mcp in its version 2.3 or later ({error}): '
            'pip install "groupwise[mcp]".'
        ) from error
    try:
        return mcp_tools(client)
    except ConfigError as error:
        raise ConfigError(f"tools: {MCP}{server}: {error}") from error


def _program(command: str) -> dict[str, Any]:
    try:
        name, *arguments = shlex.split(command)
    except ValueError as error:
        raise ConfigError(f"tools: {MCP}{command}: {error}. Close the quotation.") from error
    return {"command": name, "args": arguments}


async def _listed(client: Any, start_s: float) -> list[Tool]:
    ready: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    keeper = asyncio.create_task(_keep(client, ready))
    _KEPT.add(keeper)  # a task that nothing holds may be collected
    try:
        session = await asyncio.wait_for(asyncio.shield(ready), start_s)
        found = await asyncio.wait_for(session.list_tools(), start_s)
    except Exception as error:
        keeper.cancel()
        raise ConfigError(f"The MCP server does not answer: {type(error).__name__}: {words_of(error)}") from error
    return [_tool(each, session) for each in getattr(found, "tools", found)]


_KEPT: set[asyncio.Task[None]] = set()


async def _keep(client: Any, ready: asyncio.Future[Any]) -> None:
    """Hold the session open: it has to be entered and left by one task."""
    try:
        async with client as session:
            ready.set_result(session)
            await asyncio.Event().wait()
    except Exception as error:
        if not ready.done():
            ready.set_exception(error)


def _tool(listed: Any, session: Any) -> Tool:
    parameters = _first(listed, "input_schema", "inputSchema") or {}
    call: Callable[..., Any] = functools.partial(_call, session, listed.name)
    return Tool(listed.name, call, listed.description or "", parameters)


async def _call(session: Any, name: str, /, **arguments: Any) -> str:
    """The texts of a result; one that is an error is raised, so that the policy reads it as such."""
    result = await session.call_tool(name, arguments)
    texts = [part.text for part in result.content if getattr(part, "text", None) is not None]
    text = "\n".join(texts) or str(_first(result, "structured_content", "structuredContent") or "")
    if _first(result, "is_error", "isError"):
        raise McpError(text)
    return text


def _first(value: Any, *names: str) -> Any:
    """The attribute under the first of its names: the SDK has changed them."""
    for name in names:
        with contextlib.suppress(AttributeError):
            return getattr(value, name)
    return None
