"""
What every surface needs of HTTP: bounded JSON bodies, answers, tokens, conditions.
"""

import asyncio
import hashlib
import hmac
from typing import Any

import msgspec
from aiohttp import web

from p2pchain.api.errors import (
    BodyTooLarge,
    InvalidParams,
    Overloaded,
    RequestRefused,
    Timeout,
    Unauthorized,
)

MAX_BODY_BYTES = 1024 * 1024
"""A batch of the longest transactions, or a prompt of 250,000 words."""
BODY_TIMEOUT_S = 30.0
"""A megabyte at 300 kbit/s; who sends slower holds one of the places below."""
MAX_REQUESTS = 256
"""Requests in work at a time: more only wait for the one trio thread, and a client
that is told so at once can go elsewhere."""


async def read_json(request: web.Request) -> Any:
    """Return the JSON value in the body.

    Raises:
        BodyTooLarge: More than MAX_BODY_BYTES.
        InvalidParams: Not JSON in UTF-8.
        Timeout: It did not all come.
    """
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            body = await request.read()
    except TimeoutError:
        raise Timeout(f"the body did not come within {BODY_TIMEOUT_S:g} s") from None
    except web.HTTPRequestEntityTooLarge:
        raise BodyTooLarge(f"a request body has at most {MAX_BODY_BYTES} bytes") from (
            None
        )
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidParams(f"the body is not JSON: {error}") from error


def read_query(request: web.Request) -> dict[str, str]:
    """Return the query string's values; an empty one is one that was not given."""
    return {name: value for name, value in request.query.items() if value}


def respond_json(
    value: Any, status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    """Return `value` as a JSON answer."""
    return web.Response(
        body=msgspec.json.encode(value),
        status=status,
        content_type="application/json",
        headers=headers,
    )


def respond_cached(request: web.Request, value: Any, *, final: bool) -> web.Response:
    """Return `value` with an ETag, or 304 when the caller has it already.

    Args:
        request: Whose If-None-Match is honoured.
        value: What to encode.
        final: It never changes again, so caches may keep it for ever.
    """
    body = msgspec.json.encode(value)
    tag = hashlib.blake2b(body, digest_size=16).hexdigest()
    response = web.Response(body=body, content_type="application/json")
    response.etag = tag
    response.headers["Cache-Control"] = (
        "public, max-age=31536000, immutable" if final else "no-cache"
    )
    given = request.if_none_match or ()
    if any(etag.value in (tag, "*") for etag in given):
        not_modified = web.Response(status=304)
        not_modified.etag = tag
        not_modified.headers["Cache-Control"] = response.headers["Cache-Control"]
        return not_modified
    return response


class TokenGate:
    """Checks the bearer token of requests that spend."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()

    def is_open(self, request: web.Request) -> bool:
        """True when the request carries our token."""
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        # Compared in constant time, so that the answer's delay tells nothing.
        # Headers are bytes; aiohttp keeps those that are no UTF-8 as surrogates.
        given_bytes = given.strip().encode(errors="surrogateescape")
        matches = hmac.compare_digest(given_bytes, self._token)
        return scheme.lower() == "bearer" and matches

    def require(self, request: web.Request) -> None:
        """Let the request pass.

        Raises:
            Unauthorized: No token, or not ours.
        """
        if not self.is_open(request):
            given = "Authorization" in request.headers
            raise Unauthorized(
                ("the token is wrong" if given else "a token is needed")
                + ": send `Authorization: Bearer` with the content of api_token in"
                " the node's home"
            )


class RequestLimit:
    """Counts requests in work; asyncio side only."""

    def __init__(self, most: int = MAX_REQUESTS) -> None:
        self._left = most

    def __enter__(self) -> None:
        if self._left == 0:
            raise Overloaded("too many requests at a time; try again in a moment")
        self._left -= 1

    def __exit__(self, *_: object) -> None:
        self._left += 1


def refuse_http(error: web.HTTPException) -> RequestRefused:
    """Return aiohttp's own refusal (no such path, wrong verb) as one of ours."""
    refused = RequestRefused(f"{error.status}: {error.reason}")
    if isinstance(error, web.HTTPNotFound):
        refused = RequestRefused("no such path")
    elif isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        refused = RequestRefused(f"{error.method} is not allowed here, only {allowed}")
    elif isinstance(error, web.HTTPRequestEntityTooLarge):
        return BodyTooLarge(f"a request body has at most {MAX_BODY_BYTES} bytes")
    return refused
