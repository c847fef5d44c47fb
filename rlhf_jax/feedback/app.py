"""The labelling site: the way in and out, questions, and the application that holds all pages."""

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from rlhf_jax.feedback import (
    admin,
    discussion,
    guard,
    onboarding,
    people,
    people_pages,
    review,
    task_pages,
    work,
)
from rlhf_jax.feedback.pages import STAFF, Site, Threads, Visit, on_error, render, route, session_of, static
from rlhf_jax.feedback.people import Person
from rlhf_jax.feedback.store import StoreError


def make_app(site: Site, hosts: list[str]) -> ASGIApp:
    """The application; it answers to the names of `hosts` alone ("*.example.org" covers many)."""
    app = Starlette(
        routes=[
            static("/static/site.css", "site.css", "text/css"),
            static("/static/site.js", "site.js", "text/javascript"),
            static("/favicon.ico", "icon.svg", "image/svg+xml"),
            Route("/join/{token}", show_invitation),
            Route("/join/{token}", join, methods=["POST"]),
            route("/", home),
            route("/leave", ask_leave),
            route("/leave", leave, "POST"),
            route("/questions", show_questions),
            route("/questions", ask, "POST"),
            route("/questions/{id}", reply, "POST", STAFF),
            *task_pages.ROUTES,
            *review.ROUTES,
            *people_pages.ROUTES,
            *admin.ROUTES,
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts)],
        exception_handlers={HTTPException: on_error, StoreError: on_error, Exception: on_error},
    )
    app.router.redirect_slashes = False
    app.state.site, app.state.threads = site, Threads()
    # Headers are outside of everything, so that error pages have them too.
    return guard.Headers(guard.Below(app, site.address.root), site.address.headers)


async def show_invitation(request: Request) -> Response:
    return await request.app.state.threads.run(_show_invitation, request)


def _show_invitation(request: Request) -> Response:
    """Asks before it signs in, so that programs which preview links do not use them up.

    Who signed in by this link, and follows it again in the mail that has it, is led to the start.
    """
    site, session = request.app.state.site, session_of(request)
    with site.store.read() as db:
        came = people.came_by(db, request.path_params["token"])
    if session and session.person == came:
        return RedirectResponse(f"{site.address.root}/", 303)
    return render(site, "join.jinja", person=_invited(request), study=site.study)


async def join(request: Request) -> Response:
    return await request.app.state.threads.run(_join, request, writes=True)


def _join(request: Request) -> Response:
    site: Site = request.app.state.site
    guard.check_origin(request, site.address.origin)
    _invited(request)
    with site.store.write() as db:
        cookie = people.join(db, request.path_params["token"])
    if cookie is None:  # used by somebody else a moment ago
        raise HTTPException(404, "This link does not work any more; ask for a new one.")
    response = RedirectResponse(f"{site.address.root}/", 303)
    # Lax and not strict: who follows a link of a mail is signed in. Forms of other sites come without it.
    response.set_cookie(
        site.address.cookie,
        cookie,
        people.SESSION_SECONDS,
        path=site.address.path,
        httponly=True,
        samesite="lax",
        secure=site.address.secure or request.url.scheme == "https",
    )
    return response


def _invited(request: Request) -> Person:
    """Whom the link invites.

    Guesses are not counted: nobody finds one of 256 bits, and a limit would shut out whoever shares the
    address, as all do behind some proxies.
    """
    with request.app.state.site.store.read() as db:
        person = people.invited(db, request.path_params["token"])
    if person is None or person.paused:
        raise HTTPException(404, "This link does not work (any more). Each works once; ask for a new one.")
    return person


def ask_leave(visit: Visit) -> Response:
    """Asks first, since coming back needs a new link."""
    return visit.page("leave.jinja")


def leave(visit: Visit) -> Response:
    with visit.site.store.write() as db:
        people.leave(db, visit.request.cookies[visit.site.address.cookie])
    detail = "To come back, ask for a new link."
    response = render(visit.site, "message.jinja", title="You are signed out", detail=detail)
    address = visit.site.address
    response.delete_cookie(address.cookie, address.path, secure=address.secure, httponly=True)
    return response


def home(visit: Visit) -> Response:
    with visit.site.store.read() as db:
        progress = work.progress(db, visit.person, visit.site.study, work.sizes(db))
        results = onboarding.results(db, visit.person)
    score = onboarding.score(results) if results else None
    none_left = "none" in visit.request.query_params
    return visit.page("home.jinja", progress=progress, score=score, none_left=none_left)


def show_questions(visit: Visit) -> Response:
    with visit.site.store.read() as db:
        return visit.page(
            "discussion.jinja", questions=discussion.newest(db), staff=visit.person.role in STAFF
        )


def ask(visit: Visit) -> Response:
    task = visit.text("task") or None
    text = visit.message()
    with visit.site.store.write() as db:
        if not discussion.ask(db, visit.person, visit.key(), text, task):
            raise HTTPException(404)
    return visit.go(f"/task/{task}?asked" if task else "/questions")


def reply(visit: Visit) -> Response:
    text = visit.message()
    with visit.site.store.write() as db:
        if not discussion.reply(db, visit.person, visit.key(), text, visit.request.path_params["id"]):
            raise HTTPException(404)
    return visit.go("/questions")
