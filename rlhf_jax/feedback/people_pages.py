"""The administrator's pages about people: whom the site lets in, and what becomes of them and their answers.

Whatever is done to somebody leaves a trace: when, by whom, and why, if the administrator says so.
"""

import sqlalchemy as sa
from sqlalchemy import func
from starlette.exceptions import HTTPException
from starlette.responses import Response

from rlhf_jax.feedback import erasing, onboarding, people, trace, work
from rlhf_jax.feedback.pages import ADMINISTRATORS, Visit, route
from rlhf_jax.feedback.people import ROLES, Person
from rlhf_jax.feedback.schema import answers, assignments, tasks
from rlhf_jax.feedback.text import clean, seen

LONGEST_NAME = 80  # characters
LONGEST_REASON = 1_000
LET_PASS = "let pass"


def show_people(visit: Visit) -> Response:
    study = visit.site.study
    with visit.site.store.read() as db:
        rows = []
        last = sa.select(assignments.c.person, func.max(assignments.c.seen)).group_by(assignments.c.person)
        seen = dict(db.execute(last).all())
        waivers = trace.last(db, LET_PASS)
        there = work.sizes(db)
        for person in people.everybody(db):
            results = onboarding.results(db, person) if study.onboarding else []
            score = onboarding.score(results) if results else None
            waiver = waivers.get(person.id)
            progress = work.progress(db, person, study, there)
            rows.append((person, progress, score, seen.get(person.id), waiver))
        count = func.count(tasks.c.id.distinct()), func.count(answers.c.id)
        query = sa.select(tasks.c.kind, tasks.c.part, *count).outerjoin(answers)
        grouped = query.group_by(tasks.c.kind, tasks.c.part).order_by(tasks.c.part.desc(), tasks.c.kind)
        counts = db.execute(grouped).all()
    link = visit.site.links.pop(visit.person.id, None)
    labelers = {person.name for person, *_ in rows if person.role == "labeler"}
    strangers = sorted(study.labelers.keys() - labelers)
    return visit.page("people.jinja", rows=rows, counts=counts, link=link, roles=ROLES, strangers=strangers)


def show_person(visit: Visit) -> Response:
    """What can be done about somebody, and what was."""
    with visit.site.store.read() as db:
        other = _person(db, visit)
        events = trace.of(db, other)
        results = onboarding.results(db, other)
    return visit.page("person.jinja", other=other, events=events, tried=bool(results), roles=ROLES)


def add_person(visit: Visit) -> Response:
    name, role = _name(visit), _role(visit)
    training = role == "labeler" and visit.site.study.onboarding
    with visit.site.store.write() as db:
        _check_free(db, name)
        person, token = people.add(db, name, role, "training" if training else "passed")
        trace.log(db, visit.person, person, f"invited as {role}")
    return _show_link(visit, person, token)


def new_link(visit: Visit) -> Response:
    with visit.site.store.write() as db:
        person = _person(db, visit)
        token = people.invite(db, person.id)
        trace.log(db, visit.person, person, "new link")
    return _show_link(visit, person, token)


def set_paused(visit: Visit) -> Response:
    paused = _yes(visit, "paused", "Pause or resume?")
    return _done(visit, "paused" if paused else "resumed", other=paused, paused=paused)


def set_excluded(visit: Visit) -> Response:
    """Whether exports leave out what somebody answers."""
    excluded = _yes(visit, "excluded", "Leave out or take in?")
    return _done(visit, "left out of exports" if excluded else "taken into exports", excluded=excluded)


def rename(visit: Visit) -> Response:
    name = _name(visit)
    with visit.site.store.write() as db:
        person = _person(db, visit)
        if _shown(name) != _shown(person.name):
            _check_free(db, name)
        people.change(db, person.id, name=name)
        trace.log(db, visit.person, person, "renamed", _why(visit))  # the old name may be one to forget
    return visit.go("/admin")


def set_role(visit: Visit) -> Response:
    return _done(visit, f"made {_role(visit)}", other=True, role=_role(visit))


def let_pass(visit: Visit) -> Response:
    """Somebody may do real tasks whatever the onboarding said."""
    return _done(visit, LET_PASS, standing="waived")


def try_again(visit: Visit) -> Response:
    """Somebody does the training once more."""
    with visit.site.store.write() as db:
        person = _person(db, visit)
        onboarding.again(db, person)
        trace.log(db, visit.person, person, "another try at the training", _why(visit))
    return visit.go("/admin")


def sign_out(visit: Visit) -> Response:
    with visit.site.store.write() as db:
        person = _person(db, visit)
        people.sign_out(db, person.id)
        trace.log(db, visit.person, person, "signed out", _why(visit))
    return visit.go("/admin")


def ask_delete(visit: Visit) -> Response:
    with visit.site.store.read() as db:
        other = _person(db, visit)
        given = db.scalar(sa.select(func.count()).where(answers.c.person == other.id))
    return visit.page("delete.jinja", other=other, given=given)


def delete(visit: Visit) -> Response:
    answers_too = _yes(visit, "answers", "What becomes of the answers?")
    with visit.site.store.write() as db:
        person = _another(db, visit)
        if answers_too:
            erasing.erase(db, person)
        people.remove(db, person)
        what = "deleted with all answers" if answers_too else "deleted, the answers kept"
        trace.log(db, visit.person, person, what, _why(visit))
    visit.site.store.forget()
    return visit.go("/admin")


def _done(visit: Visit, what: str, other: bool = False, **values) -> Response:
    """Changes somebody, with a trace; `other`: not oneself, so that nobody locks everybody out."""
    with visit.site.store.write() as db:
        person = _another(db, visit) if other else _person(db, visit)
        people.change(db, person.id, **values)
        trace.log(db, visit.person, person, what, _why(visit))
    return visit.go("/admin")


def _name(visit: Visit) -> str:
    name = " ".join(clean(visit.text("name")).split())
    if not name:
        raise HTTPException(400, "Give a name.")
    if len(name) > LONGEST_NAME:
        raise HTTPException(400, f"A name has at most {LONGEST_NAME} characters; these are {len(name)}.")
    return name


def _role(visit: Visit) -> str:
    if visit.text("role") not in ROLES:
        raise HTTPException(400, "Give a role.")
    return visit.text("role")


def _why(visit: Visit) -> str:
    why = clean(visit.text("why"))
    if len(why) > LONGEST_REASON:
        raise HTTPException(
            400, f"A reason has at most {LONGEST_REASON:,} characters; these are {len(why):,}."
        )
    return why


def _yes(visit: Visit, name: str, question: str) -> bool:
    if visit.text(name) not in ("yes", "no"):
        raise HTTPException(400, question)
    return visit.text(name) == "yes"


def _check_free(db: sa.Connection, name: str) -> None:
    if _shown(name) in {_shown(person.name) for person in people.everybody(db)}:
        raise HTTPException(400, f"There is a {name} already; add something to the name.")


def _shown(name: str) -> str:
    return seen(name)[0].strip()


def _person(db: sa.Connection, visit: Visit) -> Person:
    person = people.find(db, visit.request.path_params["worker"])
    if person is None:
        raise HTTPException(404)
    return person


def _another(db: sa.Connection, visit: Visit) -> Person:
    person = _person(db, visit)
    if person.id == visit.person.id:
        raise HTTPException(400, "You cannot do that to yourself.")
    return person


def _show_link(visit: Visit, person: Person, token: str) -> Response:
    visit.site.links[visit.person.id] = (person.name, f"{visit.site.address.url}/join/{token}")
    return visit.go("/admin")


ACTS = {
    "link": new_link,
    "pause": set_paused,
    "leave": sign_out,
    "pass": let_pass,
    "again": try_again,
    "name": rename,
    "role": set_role,
    "exclude": set_excluded,
    "delete": delete,
}
ROUTES = [
    route("/admin", show_people, roles=ADMINISTRATORS),
    route("/admin/people", add_person, "POST", ADMINISTRATORS),
    route("/admin/people/{worker}", show_person, roles=ADMINISTRATORS),
    route("/admin/people/{worker}/delete", ask_delete, roles=ADMINISTRATORS),
    *(route(f"/admin/people/{{worker}}/{act}", do, "POST", ADMINISTRATORS) for act, do in ACTS.items()),
]
