"""What every page is made with: who visits, the templates, and the way errors look."""

import datetime
import re
import secrets
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from http import HTTPStatus
from importlib import resources
from typing import TypeVar

import jinja2
from anyio import CapacityLimiter, to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from rlhf_jax.feedback import guard, people
from rlhf_jax.feedback.address import Address, parse_address
from rlhf_jax.feedback.people import ROLES, Person, Session
from rlhf_jax.feedback.store import Store, StoreBusy, StoreError
from rlhf_jax.feedback.study import Study
from rlhf_jax.feedback.tasks import LONGEST
from rlhf_jax.feedback.text import clean

T = TypeVar("T")
STAFF = ("researcher", "administrator")
ADMINISTRATORS = ("administrator",)
TITLES = {
    400: "That was not understood",
    403: "Not for you",
    404: "There is no such page",
    405: "That cannot be done here",
    409: "Already used",
    413: "Too much at once",
    415: "That is not a form",
    429: "Too fast",
    500: "Something went wrong",
    503: "Not at the moment",
}


@dataclass(frozen=True)
class Site:
    """A running site. `url` is the address that people open; `samples` the files of a viewer of samples
    for the staff, if there is one; `links` new invitations, by administrator, until shown once."""

    store: Store
    study: Study
    url: str
    samples: Mapping[str, str] = field(default_factory=dict)
    links: dict[int, tuple[str, str]] = field(default_factory=dict)
    posts: guard.Limiter = field(default_factory=lambda: guard.Limiter(300, 60))

    @cached_property
    def address(self) -> Address:
        return parse_address(self.url)


class Threads:
    """Where pages are made: those that may wait for others who write have few, so that reading goes on."""

    def __init__(self) -> None:
        self.reading, self.writing = CapacityLimiter(16), CapacityLimiter(8)

    async def run(self, make: Callable[..., T], *given, writes: bool = False) -> T:
        return await to_thread.run_sync(
            partial(make, *given), limiter=self.writing if writes else self.reading
        )


@dataclass(frozen=True)
class Visit:
    """A request of somebody who is signed in, with the cleaned fields of the form it posts."""

    site: Site
    request: Request
    person: Person
    csrf: str
    fields: dict[str, str]
    unread: int = 0  # messages of researchers to the person

    def text(self, name: str) -> str:
        return self.fields.get(name, "")

    def key(self) -> str:
        """The id that the form's page has made, by which a form sent twice counts once."""
        key = self.text("key")
        if not re.fullmatch("[A-Za-z0-9_-]{16,64}", key):
            raise HTTPException(400, "The form has no proper key. Load the page again.")
        return key

    def message(self) -> str:
        """What somebody says to others."""
        text = clean(self.text("text"))
        if not text or len(text) > LONGEST:
            raise HTTPException(
                400, f"Write something, of at most {LONGEST:,} characters; these are {len(text):,}."
            )
        return text

    def go(self, path: str) -> Response:
        """The way on after a form: a redirect, or its address for the page's own script."""
        if wants_json(self.request):
            return JSONResponse({"next": self.site.address.root + path})
        return self.redirect(path)

    def redirect(self, path: str) -> Response:
        return RedirectResponse(self.site.address.root + path, 303)

    def page(self, template: str, status: int = 200, **values) -> Response:
        values |= {"person": self.person, "csrf": self.csrf, "study": self.site.study}
        values |= {
            "samples": bool(self.site.samples),
            "here": self.request.scope["path"],
            "unread": self.unread,
        }
        return render(self.site, template, status, **values)


def wants_json(request: Request) -> bool:
    """Whether the page's own script asks."""
    return request.headers.get("accept") == "application/json"


def route(
    path: str, handler: Callable[[Visit], Response], method="GET", roles=ROLES, writes: bool = False
) -> Route:
    """A page for people of some roles; forms are checked before `handler` runs, in a thread.

    Whatever `writes` to the store, as forms do, waits in threads of its own.
    """

    async def endpoint(request: Request) -> Response:
        site: Site = request.app.state.site
        threads: Threads = request.app.state.threads
        session = await threads.run(session_of, request)
        if session is None:
            raise HTTPException(403, "Open the link of your invitation to sign in.")
        person = session.person
        if person.paused:
            raise HTTPException(
                403, "Your account is paused. Nothing you did is lost; ask whoever invited you."
            )
        if person.role not in roles:
            raise HTTPException(404)
        fields: dict[str, str] = {}
        if method == "POST":
            site.posts.take(person.id)
            guard.check_origin(request, site.address.origin)
            fields = await guard.read_form(request)
            guard.check_csrf(fields, session.csrf)
        visit = Visit(site, request, person, session.csrf, fields, session.unread)
        return await threads.run(handler, visit, writes=writes or method == "POST")

    return Route(path, endpoint, methods=[method])


def session_of(request: Request) -> Session | None:
    """That of who is signed in."""
    site: Site = request.app.state.site
    with site.store.read() as db:
        return people.session(db, request.cookies.get(site.address.cookie, ""))


def render(site: Site, template: str, status: int = 200, **values) -> HTMLResponse:
    return HTMLResponse(TEMPLATES.get_template(template).render(root=site.address.root, **values), status)


def static(path: str, name: str, media_type: str) -> Route:
    """One file of the package, held in memory: the site opens no file that an address names."""
    content = resources.files("rlhf_jax.feedback").joinpath("static", name).read_bytes()
    headers = {"Cache-Control": "max-age=300"}

    async def endpoint(request: Request) -> Response:
        return Response(content, media_type=media_type, headers=headers)

    return Route(path, endpoint)


async def on_error(request: Request, error: Exception) -> Response:
    """The page of an error; of an unforeseen one it tells nothing."""
    if isinstance(error, StoreBusy):
        error = HTTPException(503, "The site is busy. Try again in a moment.", {"Retry-After": "5"})
    elif isinstance(error, StoreError):
        print(error, file=sys.stderr, flush=True)
        error = HTTPException(503, "What is kept here cannot be reached. Whoever runs the site can see why.")
    elif not isinstance(error, HTTPException):
        error = HTTPException(500, "It is written down; whoever runs the site can see it.")
    status, headers = error.status_code, error.headers
    detail = "" if error.detail == HTTPStatus(status).phrase else error.detail
    title = TITLES.get(status, "That did not work")
    if wants_json(request):
        return JSONResponse({"error": detail or title}, status, headers)
    response = render(request.app.state.site, "message.jinja", status, title=title, detail=detail)
    response.headers.update(headers or {})
    return response


def _when(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds).strftime("%d %b, %H:%M")


def _duration(seconds: float | None) -> str:
    """Seconds as people say them: 48 s, 3 min 20 s, 7 h 5 min."""
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return " ".join([f"{minutes} min"] * (minutes > 0) + [f"{rest} s"] * (rest > 0 or not minutes))


TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("rlhf_jax.feedback"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters |= {"when": _when, "duration": _duration}
TEMPLATES.globals["new_key"] = lambda: secrets.token_urlsafe(18)
