"""What every page is made with: who visits, the templates, and the way errors look."""

import datetime
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from importlib import resources

import jinja2
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from rlhf_jax.feedback import guard, people
from rlhf_jax.feedback.people import ROLES, Person, Session
from rlhf_jax.feedback.store import Store
from rlhf_jax.feedback.study import Study

COOKIE = "session"
STAFF = ("researcher", "administrator")
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
    bad_links: guard.Limiter = field(default_factory=lambda: guard.Limiter(10, 60))
    posts: guard.Limiter = field(default_factory=lambda: guard.Limiter(300, 60))


@dataclass(frozen=True)
class Visit:
    """A request of somebody who is signed in, with the cleaned fields of the form it posts."""

    site: Site
    request: Request
    person: Person
    csrf: str
    fields: dict[str, str]

    def text(self, name: str) -> str:
        return self.fields.get(name, "")

    def key(self) -> str:
        """The id that the form's page has made, by which a form sent twice counts once."""
        key = self.text("key")
        if not re.fullmatch("[A-Za-z0-9_-]{16,64}", key):
            raise HTTPException(400, "The form has no proper key. Load the page again.")
        return key

    def go(self, path: str) -> Response:
        """The way on after a form: a redirect, or its address for the page's own script."""
        wants_json = self.request.headers.get("accept") == "application/json"
        return JSONResponse({"next": path}) if wants_json else RedirectResponse(path, 303)

    def page(self, template: str, status: int = 200, **values) -> Response:
        values |= {"person": self.person, "csrf": self.csrf, "study": self.site.study}
        values["samples"] = bool(self.site.samples)
        return render(template, status, **values)


def route(path: str, handler: Callable[[Visit], Response], method="GET", roles=ROLES) -> Route:
    """A page for people of some roles; forms are checked before `handler` runs, in a thread."""

    async def endpoint(request: Request) -> Response:
        site: Site = request.app.state.site
        session = await run_in_threadpool(session_of, request)
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
            guard.check_origin(request, site.url)
            fields = await guard.read_form(request)
            guard.check_csrf(fields, session.csrf)
        return await run_in_threadpool(handler, Visit(site, request, person, session.csrf, fields))

    return Route(path, endpoint, methods=[method])


def session_of(request: Request) -> Session | None:
    """That of who is signed in."""
    with request.app.state.site.store.read() as db:
        return people.session(db, request.cookies.get(COOKIE, ""))


def render(template: str, status: int = 200, **values) -> HTMLResponse:
    return HTMLResponse(TEMPLATES.get_template(template).render(**values), status)


def static(path: str, name: str, media_type: str) -> Route:
    """One file of the package, held in memory: the site opens no file that an address names."""
    content = resources.files("rlhf_jax.feedback").joinpath("static", name).read_bytes()
    headers = {"Cache-Control": "max-age=300"}

    async def endpoint(request: Request) -> Response:
        return Response(content, media_type=media_type, headers=headers)

    return Route(path, endpoint)


async def on_error(request: Request, error: Exception) -> Response:
    """The page of an error; of an unforeseen one it tells nothing."""
    if not isinstance(error, HTTPException):
        error = HTTPException(500, "It is written down; whoever runs the site can see it.")
    status, headers = error.status_code, error.headers
    detail = "" if error.detail == HTTPStatus(status).phrase else error.detail
    title = TITLES.get(status, "That did not work")
    if request.headers.get("accept") == "application/json":
        return JSONResponse({"error": detail or title}, status, headers)
    response = render("message.jinja", status, title=title, detail=detail)
    response.headers.update(headers or {})
    return response


def _when(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds).strftime("%d %b, %H:%M")


def _duration(seconds: float | None) -> str:
    """Seconds as people say them: 48 s, 3 min 20 s."""
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
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
