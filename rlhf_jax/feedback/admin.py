"""The pages of those who run a study: people, progress, agreement, samples, export."""

import io
import tempfile
import zipfile
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import func
from starlette.exceptions import HTTPException
from starlette.responses import Response

from rlhf_jax.feedback import people, work
from rlhf_jax.feedback.answers import collected, export
from rlhf_jax.feedback.pages import STAFF, Visit, route
from rlhf_jax.feedback.people import ROLES, Person
from rlhf_jax.feedback.store import answers, assignments
from rlhf_jax.feedback.store import tasks as task_table
from rlhf_jax.feedback.text import clean, seen

ADMINISTRATORS = ("administrator",)
LONGEST_NAME = 80  # characters
MEDIA_TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css"}
RESAMPLES = 200  # of the agreement's intervals, which somebody waits for


def show_people(visit: Visit) -> Response:
    study = visit.site.study
    with visit.site.store.read() as db:
        rows = []
        last = sa.select(assignments.c.person, func.max(assignments.c.seen)).group_by(assignments.c.person)
        seen = dict(db.execute(last).all())
        for person in people.everybody(db):
            results = work.onboarding_results(db, person)
            score = work.score(results) if results else None
            rows.append((person, work.progress(db, person, study), score, seen.get(person.id)))
        kind, part = task_table.c.kind, task_table.c.part
        count = func.count(task_table.c.id.distinct()), func.count(answers.c.id)
        query = sa.select(kind, part, *count).outerjoin(answers).group_by(kind, part)
        counts = db.execute(query.order_by(part.desc(), kind)).all()
    link = visit.site.links.pop(visit.person.id, None)
    labelers = {person.name for person, *_ in rows if person.role == "labeler"}
    strangers = sorted(study.labelers.keys() - labelers)
    return visit.page("people.jinja", rows=rows, counts=counts, link=link, roles=ROLES, strangers=strangers)


def add_person(visit: Visit) -> Response:
    name, role = " ".join(clean(visit.text("name")).split()), visit.text("role")
    if not name or role not in ROLES:
        raise HTTPException(400, "Give a name and a role.")
    if len(name) > LONGEST_NAME:
        raise HTTPException(400, f"A name has at most {LONGEST_NAME} characters; these are {len(name)}.")
    training = role == "labeler" and visit.site.study.onboarding
    with visit.site.store.write() as db:
        if _shown(name) in {_shown(person.name) for person in people.everybody(db)}:
            raise HTTPException(400, f"There is a {name} already; add something to the name.")
        person, token = people.add(db, name, role, "training" if training else "passed")
    return _show_link(visit, person, token)


def _shown(name: str) -> str:
    return seen(name)[0].strip()


def new_link(visit: Visit) -> Response:
    with visit.site.store.write() as db:
        person = _person(db, visit)
        token = people.invite(db, person.id)
    return _show_link(visit, person, token)


def _show_link(visit: Visit, person: Person, token: str) -> Response:
    visit.site.links[visit.person.id] = (person.name, f"{visit.site.url}/join/{token}")
    return visit.go("/admin")


def set_paused(visit: Visit) -> Response:
    paused = visit.text("paused")
    if paused not in ("yes", "no"):
        raise HTTPException(400, "Pause or resume?")
    with visit.site.store.write() as db:
        person = _person(db, visit)
        if person.id == visit.person.id:
            raise HTTPException(400, "You cannot pause yourself.")
        people.change(db, person.id, paused=paused == "yes")
    return visit.go("/admin")


def sign_out(visit: Visit) -> Response:
    with visit.site.store.write() as db:
        people.sign_out(db, _person(db, visit).id)
    return visit.go("/admin")


def let_pass(visit: Visit) -> Response:
    """Somebody may do real tasks whatever the onboarding said."""
    with visit.site.store.write() as db:
        people.change(db, _person(db, visit).id, standing="passed")
    return visit.go("/admin")


def _person(db: sa.Connection, visit: Visit) -> Person:
    person = people.find(db, visit.request.path_params["worker"])
    if person is None:
        raise HTTPException(404)
    return person


def show_agreement(visit: Visit) -> Response:
    """Of the real comparisons; administrators count as researchers."""
    # Here, since its libraries take seconds to load and a server that starts again should be back at once.
    from rlhf_jax.feedback import agreement

    with visit.site.store.read() as db:
        names = {person.worker: person.name for person in people.everybody(db)}
    found = [
        agreement.Answer(
            given.task,
            names[given.worker],
            "labeler" if given.role == "labeler" else "researcher",
            given.answer["confidence"],
            given.created,
            given.seconds,
        )
        for given in collected(visit.site.store)
        if given.kind == "comparison" and given.part != "onboarding"
    ]
    return visit.page("agreement.jinja", figures=agreement.summary(found, resamples=RESAMPLES))


def download(visit: Visit) -> Response:
    """The export, as a zip file."""
    packed = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "export"
        export(visit.site.store, out, visit.site.study.batch)
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(out.rglob("*.jsonl")):
                archive.write(file, file.relative_to(out.parent))
    headers = {"Content-Disposition": 'attachment; filename="export.zip"'}
    return Response(packed.getvalue(), media_type="application/zip", headers=headers)


def show_samples(visit: Visit) -> Response:
    """A file of the viewer of samples, which tells who wrote a summary: nothing for labelers."""
    name = visit.request.path_params["name"] or "index.html"
    text = visit.site.samples.get(name)
    if text is None:
        raise HTTPException(404)
    return Response(text, media_type=MEDIA_TYPES[name.rpartition(".")[2]])


ROUTES = [
    route("/admin", show_people, roles=ADMINISTRATORS),
    route("/admin/agreement", show_agreement, roles=STAFF),
    route("/samples/{name:path}", show_samples, roles=STAFF),
    route("/admin/export", download, roles=ADMINISTRATORS),
    route("/admin/people", add_person, "POST", ADMINISTRATORS),
    route("/admin/people/{worker}/link", new_link, "POST", ADMINISTRATORS),
    route("/admin/people/{worker}/pause", set_paused, "POST", ADMINISTRATORS),
    route("/admin/people/{worker}/leave", sign_out, "POST", ADMINISTRATORS),
    route("/admin/people/{worker}/pass", let_pass, "POST", ADMINISTRATORS),
]
