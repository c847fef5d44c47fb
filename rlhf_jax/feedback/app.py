"""The labelling site: the pages of those who label, and the application that holds all pages."""

from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from rlhf_jax.feedback import admin, discussion, guard, people, tasks, work
from rlhf_jax.feedback.pages import COOKIE, STAFF, Site, Visit, on_error, render, route, session_of, static
from rlhf_jax.feedback.people import Person
from rlhf_jax.feedback.text import clean
from rlhf_jax.feedback.work import Work


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
            route("/task", begin),
            route("/task/{id}", show_task),
            route("/task/{id}", finish_step, "POST"),
            route("/task/{id}/draft", save_draft, "POST"),
            route("/learned/{id}", show_lesson),
            route("/questions", show_questions),
            route("/questions", ask, "POST"),
            route("/questions/{id}", reply, "POST", STAFF),
            *admin.ROUTES,
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts)],
        exception_handlers={HTTPException: on_error, Exception: on_error},
    )
    app.router.redirect_slashes = False
    app.state.site = site
    return guard.Headers(app)  # outside of everything, so that error pages have them too


def show_invitation(request: Request) -> Response:
    """Asks before it signs in, so that programs which preview links do not use them up.

    Who signed in by this link, and follows it again in the mail that has it, is led to the start.
    """
    site, session = request.app.state.site, session_of(request)
    with site.store.read() as db:
        came = people.came_by(db, request.path_params["token"])
    if session and session.person == came:
        return RedirectResponse("/", 303)
    return render("join.jinja", person=_invited(request), study=site.study)


def join(request: Request) -> Response:
    site: Site = request.app.state.site
    guard.check_origin(request, site.url)
    _invited(request)
    with site.store.write() as db:
        cookie = people.join(db, request.path_params["token"])
    if cookie is None:  # used by somebody else a moment ago
        raise HTTPException(404, "This link does not work any more; ask for a new one.")
    response = RedirectResponse("/", 303)
    secure = "https" in (request.url.scheme, urlsplit(site.url).scheme)  # not every proxy tells the first
    age = people.SESSION_SECONDS
    # Lax and not strict: who follows a link of a mail is signed in. Forms of other sites come without it.
    response.set_cookie(COOKIE, cookie, age, httponly=True, samesite="lax", secure=secure)
    return response


def _invited(request: Request) -> Person:
    site: Site = request.app.state.site
    address = request.client.host if request.client else ""
    if site.bad_links.left(address) < 1:
        site.bad_links.take(address)
    with site.store.read() as db:
        person = people.invited(db, request.path_params["token"])
    if person is None or person.paused:
        site.bad_links.take(address)
        raise HTTPException(404, "This link does not work (any more). Each works once; ask for a new one.")
    return person


def ask_leave(visit: Visit) -> Response:
    """Asks first, since coming back needs a new link."""
    return visit.page("leave.jinja")


def leave(visit: Visit) -> Response:
    with visit.site.store.write() as db:
        people.leave(db, visit.request.cookies[COOKIE])
    response = render("message.jinja", title="You are signed out", detail="To come back, ask for a new link.")
    response.delete_cookie(COOKIE)
    return response


def home(visit: Visit) -> Response:
    with visit.site.store.read() as db:
        progress = work.progress(db, visit.person, visit.site.study)
        results = work.onboarding_results(db, visit.person)
    score = work.score(results) if results else None
    none_left = "none" in visit.request.query_params
    return visit.page("home.jinja", progress=progress, score=score, none_left=none_left)


def begin(visit: Visit) -> Response:
    with visit.site.store.write() as db:
        task = work.next_task(db, visit.person, visit.site.study)
    return RedirectResponse(f"/task/{task}" if task else "/?none", 303)


def show_task(visit: Visit) -> Response:
    with visit.site.store.write() as db:
        own = _own_task(db, visit)
        if not own.done:
            work.save(db, visit.person, own, {})
    if own.done:
        return RedirectResponse("/task", 303)
    return _task_page(visit, own, own.fields, {})


def finish_step(visit: Visit) -> Response:
    """Keeps what is typed; ends the step, and after the last the task, where nothing is missing."""
    site, person, axes = visit.site, visit.person, visit.site.study.axes
    key = visit.key()
    with site.store.write() as db:
        own = _own_task(db, visit)
        steps, place = _place(visit, own)
        if own.done or visit.text("step") != steps[place]:
            return visit.go(_after(own))  # it was sent before, and the answer to that was lost
        typed = _typed(visit, own)
        problems = tasks.problems(own.task, steps[place], typed, axes)
        if not problems:
            work.save(db, person, own, typed, place + 1)
            if place + 1 < len(steps):
                return visit.go(f"/task/{own.task.id}")
            if not work.submit(db, person, own, key, site.study):
                raise HTTPException(409, "This form has answered another task. Load the page again.")
            return visit.go(_after(own._replace(done=True)))
    return _task_page(visit, own, own.fields | typed, problems)


def save_draft(visit: Visit) -> Response:
    """What is typed, kept at every pause; a draft that comes after its step's end changes nothing."""
    with visit.site.store.write() as db:
        own = _own_task(db, visit)
        steps, place = _place(visit, own)
        current = not own.done and visit.text("step") == steps[place]
        if current:
            typed = _typed(visit, own)
            if any(len(text) > tasks.LONGEST for text in typed.values()):
                raise HTTPException(400, f"At most {tasks.LONGEST:,} characters in a field.")
            work.save(db, visit.person, own, typed)
    return JSONResponse({"saved": current})


def _place(visit: Visit, own: Work) -> tuple[tuple[str, ...], int]:
    """A task's steps, and the index of the one to do; the study may have fewer than when it was begun."""
    steps = tasks.steps(own.task.kind, visit.site.study)
    return steps, min(own.step, len(steps) - 1)


def _typed(visit: Visit, own: Work) -> dict[str, str]:
    """The step's fields, each as sent or else as kept."""
    steps, place = _place(visit, own)
    names = tasks.field_names(steps[place], visit.site.study.axes)
    sent = {name: clean(visit.fields[name]) for name in names if name in visit.fields}
    return {name: own.fields[name] for name in names if name in own.fields} | sent


def _after(own: Work) -> str:
    if not own.done:
        return f"/task/{own.task.id}"
    return f"/learned/{own.task.id}" if own.part == "onboarding" else "/task"


def _own_task(db, visit: Visit) -> Work:
    own = work.open_task(db, visit.person, visit.request.path_params["id"])
    if own is None:
        raise HTTPException(404)
    return own


def _task_page(visit: Visit, own: Work, fields: dict[str, str], problems: dict[str, str]) -> Response:
    study = visit.site.study
    with visit.site.store.read() as db:
        progress = work.progress(db, visit.person, study)
    steps, place = _place(visit, own)
    return visit.page(
        "task.jinja",
        422 if problems else 200,
        work=own,
        place=place,
        step=steps[place],
        steps=steps,
        texts=tasks.texts(own.task, own.flipped),
        fields=fields,
        problems=problems,
        progress=progress,
        asked="asked" in visit.request.query_params,
    )


def show_lesson(visit: Visit) -> Response:
    """After an onboarding task: what the researchers chose, and why."""
    with visit.site.store.read() as db:
        own = _own_task(db, visit)
        progress = work.progress(db, visit.person, visit.site.study)
        given = work.given(db, visit.person, own)
    if given is None or own.part != "onboarding":
        raise HTTPException(404)
    record = own.task.record
    theirs = record["choice"]
    confidence = given["confidence"]
    return visit.page(
        "learned.jinja",
        texts=tasks.texts(own.task, own.flipped),
        theirs=1 - theirs if own.flipped else theirs,
        chosen=10 - confidence if own.flipped else confidence,
        reason=(record.get("extra") or {}).get("reason", ""),
        progress=progress,
    )


def show_questions(visit: Visit) -> Response:
    with visit.site.store.read() as db:
        return visit.page(
            "discussion.jinja", questions=discussion.newest(db), staff=visit.person.role in STAFF
        )


def ask(visit: Visit) -> Response:
    task = visit.text("task") or None
    text = _message(visit)
    with visit.site.store.write() as db:
        if not discussion.ask(db, visit.person, visit.key(), text, task):
            raise HTTPException(404)
    return visit.go(f"/task/{task}?asked" if task else "/questions")


def reply(visit: Visit) -> Response:
    text = _message(visit)
    with visit.site.store.write() as db:
        if not discussion.reply(db, visit.person, visit.key(), text, visit.request.path_params["id"]):
            raise HTTPException(404)
    return visit.go("/questions")


def _message(visit: Visit) -> str:
    text = clean(visit.text("text"))
    if not text or len(text) > tasks.LONGEST:
        raise HTTPException(
            400, f"Write something, of at most {tasks.LONGEST:,} characters; these are {len(text):,}."
        )
    return text
