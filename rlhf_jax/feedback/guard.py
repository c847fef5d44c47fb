"""What stands between the site and strangers: headers, paths, sizes, rates, forms.

Posts are forms of one content type, small, from this site's own pages: the browser says where a
request comes from, and a session's forms carry its CSRF token.
"""

import hmac
from collections import OrderedDict
from collections.abc import Mapping
from time import monotonic
from urllib.parse import parse_qsl

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rlhf_jax.feedback.tasks import LONGEST

# Bytes of a request's body: the longest form has four texts, an emoji is 12 bytes in it, and some are tokens.
LARGEST = 4 * LONGEST * 12 + 16 * 1024
FORM = "application/x-www-form-urlencoded"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not no-referrer: browsers would then call the origin of our own forms null.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}


class Headers:
    """Adds HEADERS, and `more` of them, to every response that does not set them itself."""

    def __init__(self, app: ASGIApp, more: Mapping[str, str] | None = None):
        self.app, self.headers = app, HEADERS | dict(more or {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self.headers.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, with_headers)


class Below:
    """An application whose paths begin with `root`, whether or not the proxy before it takes that off."""

    def __init__(self, app: ASGIApp, root: str):
        self.app, self.root = app, root

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if self.root and f"{path}/".startswith(f"{self.root}/"):
            scope = {**scope, "path": path[len(self.root) :] or "/"}
        await self.app(scope, receive, send)


class Limiter:
    """At most `count` events in `seconds` for each key, by a bucket that refills steadily."""

    KEYS = 10_000  # the longest unseen go first

    def __init__(self, count: int, seconds: float):
        self.count, self.rate = count, count / seconds
        self._buckets: OrderedDict[object, tuple[float, float]] = OrderedDict()

    def left(self, key: object) -> float:
        now = monotonic()
        level, then = self._buckets.get(key, (float(self.count), now))
        return min(self.count, level + (now - then) * self.rate)

    def take(self, key: object) -> None:
        """Counts one event. Raises HTTPException 429 where there have been too many."""
        level = self.left(key)
        if level < 1:
            wait = str(int((1 - level) / self.rate) + 1)
            raise HTTPException(429, f"Too many requests; try again in {wait} s.", {"Retry-After": wait})
        self._buckets[key] = level - 1, monotonic()
        self._buckets.move_to_end(key)
        if len(self._buckets) > self.KEYS:
            self._buckets.popitem(last=False)


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a posted form, read no further than LARGEST bytes."""
    if content_type(request) != FORM:
        raise HTTPException(415, "The site takes forms only.")
    body = await read_body(request, LARGEST)
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=100)
    except ValueError:
        raise HTTPException(400, "The form cannot be read.") from None
    if len(dict(pairs)) < len(pairs):
        raise HTTPException(400, "The form holds a field twice.")
    return dict(pairs)


def content_type(request: Request) -> str:
    return request.headers.get("content-type", "").split(";")[0].strip().lower()


async def read_body(request: Request, most: int) -> bytes:
    """What is sent, read no further than `most` bytes."""
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > most:
                raise HTTPException(413, f"At most {most:,} bytes can be sent at once.")
    except ClientDisconnect:  # nobody hears the answer, but without one the log would have a traceback
        raise HTTPException(400, "The request has broken off.") from None
    return bytes(body)


def check_origin(request: Request, ours: str) -> None:
    """Refuses a form that another site's page has sent. Programs, which send neither header, may post.

    Ours are the pages at `ours`, the site's origin, whatever Host a proxy names, and those at the Host that
    is asked, as on the machine that the site runs on.
    """
    site = request.headers.get("sec-fetch-site", "same-origin")
    origin = request.headers.get("origin", ours)
    here = origin.partition("://")[2] == request.url.netloc
    if site not in ("same-origin", "none") or not (origin == ours or here):
        raise HTTPException(403, f"The form was not sent from this site, whose address is {ours}.")


def check_csrf(fields: dict[str, str], token: str) -> None:
    if not hmac.compare_digest(fields.get("csrf", "").encode(), token.encode()):
        raise HTTPException(403, "The form is no longer valid. Load the page again.")
