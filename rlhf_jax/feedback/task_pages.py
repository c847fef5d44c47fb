"""The pages of those who label: a task step by step, drafts, skipping, and one's own answers.

A form says which version of the task its page has shown. Where another page has changed the task since, as
in a second tab or on a phone, nothing is saved over that: the person sees both, and decides.
"""

import re

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from rlhf_jax.feedback import answering, history, tasks, work
from rlhf_jax.feedback.answering import Work
from rlhf_jax.feedback.pages import Visit, route
from rlhf_jax.feedback.text import clean

SKIPS = {  # reasons, as labelers read them
    "unusable": "It is empty, cut off or cannot be read.",
    "language": "It is in a language that I do not read well.",
    "distressing": "I would rather not read it.",
    "other": "Something else.",
}
ELSEWHERE = "You have changed this task in another window since. Load the page again to see it."


def begin(visit: Visit) -> Response:
    with visit.site.store.write() as db:
        task = work.next_task(db, visit.person, visit.site.study)
    return visit.redirect(f"/task/{task}" if task else "/?none")


def show_task(visit: Visit) -> Response:
    """The step to do; of a task that is done the last, for a change."""
    with visit.site.store.write() as db:
        own = _own_task(db, visit)
        if own.done and not answering.may_change(db, visit.person, own):
            return visit.redirect(f"/learned/{own.task.id}" if own.part == "onboarding" else "/answers")
        if not own.done:
            answering.seen(db, visit.person, own)
    return _task_page(visit, own, own.fields, {})


def finish_step(visit: Visit) -> Response:
    """Keeps what is typed; ends the step, and after the last the task, where nothing is missing."""
    person, study, key = visit.person, visit.site.study, visit.key()
    with visit.site.store.write() as db:
        own = _own_task(db, visit)
        steps, place = _place(visit, own)
        answered = answering.answered_by(db, person, key)
        if answered not in (None, own.task.id):
            raise HTTPException(409, "This form has answered another task. Load the page again.")
        if answered or _is_over(visit, own):  # it was sent before, and the answer to that was lost
            return visit.go(_after(own))
        if visit.text("step") != steps[place]:
            raise HTTPException(409, ELSEWHERE)
        if own.done and not answering.may_change(db, person, own):
            raise HTTPException(409, "Your answer is exported by now and can no longer be changed.")
        typed = _typed(visit, own)
        if own.changed_since(_version(visit), key):
            return _task_page(visit, own, own.fields | typed, {}, conflict=True)
        problems = tasks.problems(own.task, steps[place], typed, study.axes)
        if not problems:
            saved = answering.save(db, person, own, typed, key, place + 1)
            if place + 1 == len(steps):
                answering.submit(db, person, saved, key, study)
                saved = saved._replace(done=True)
            return visit.go(_after(saved))
    return _task_page(visit, own, own.fields | typed, problems)


def save_draft(visit: Visit) -> Response:
    """What is typed, kept at every pause, unless the step is over or another page has changed the task."""
    key = visit.key() if visit.text("key") else ""  # a program's, which no page stands behind
    with visit.site.store.write() as db:
        own = _own_task(db, visit)
        steps, place = _place(visit, own)
        over = visit.text("step") != steps[place] or answering.answered_by(db, visit.person, key)
        if over or _is_over(visit, own) or own.changed_since(_version(visit), key):
            return JSONResponse({"saved": False, "error": ELSEWHERE}, 409)
        typed = _typed(visit, own)
        if any(len(text) > tasks.LONGEST for text in typed.values()):
            raise HTTPException(400, f"At most {tasks.LONGEST:,} characters in a field.")
        saved = answering.save(db, visit.person, own, typed, key)
    return JSONResponse({"saved": True, "version": f"v{saved.version}"})


def skip(visit: Visit) -> Response:
    """Lays a task aside, with a reason that researchers read."""
    reason, note = visit.text("reason"), clean(visit.text("note"))
    if reason not in SKIPS or len(note) > tasks.LONGEST:
        raise HTTPException(400, f"Choose a reason, and say no more than {tasks.LONGEST:,} characters.")
    with visit.site.store.write() as db:
        own = _own_task(db, visit)
        if not own.done:
            answering.skip(db, visit.person, own, visit.site.study, reason, note)
    return visit.go("/task")


def show_answers(visit: Visit) -> Response:
    with visit.site.store.read() as db:
        mine = history.of(db, visit.person)
    return visit.page("answers.jinja", mine=mine, skips=SKIPS)


def _version(visit: Visit) -> int | None:
    """The version that the form's page has shown; None where a program sends none."""
    found = re.fullmatch("v([0-9]{1,9})", visit.text("version"))
    return int(found[1]) if found else None


def _is_over(visit: Visit, own: Work) -> bool:
    """Whether the form is of a step that its own page, or a program that names no version, has finished."""
    steps, place = _place(visit, own)
    other_step = visit.text("step") != steps[place]
    if _version(visit) is None:
        return own.done or other_step
    return own.writer == visit.text("key") and other_step


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
    own = answering.open_task(db, visit.person, visit.request.path_params["id"])
    if own is None:
        raise HTTPException(404)
    return own


def _task_page(
    visit: Visit, own: Work, fields: dict[str, str], problems: dict[str, str], conflict: bool = False
) -> Response:
    """`conflict`: another page has kept other words than `fields`, which stand in the form."""
    study = visit.site.study
    with visit.site.store.read() as db:
        progress = work.progress(db, visit.person, study, work.sizes(db))
    steps, place = _place(visit, own)
    return visit.page(
        "task.jinja",
        409 if conflict else 422 if problems else 200,
        work=own,
        place=place,
        step=steps[place],
        steps=steps,
        texts=tasks.texts(own.task, own.flipped),
        fields=fields,
        problems=problems,
        progress=progress,
        conflict=conflict,
        skips=SKIPS,
        asked="asked" in visit.request.query_params,
    )


def show_lesson(visit: Visit) -> Response:
    """After an onboarding task: what the researchers chose, and why."""
    with visit.site.store.read() as db:
        own = _own_task(db, visit)
        progress = work.progress(db, visit.person, visit.site.study, work.sizes(db))
        given = answering.given(db, visit.person, own)
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


ROUTES = [
    route("/task", begin, writes=True),
    route("/task/{id}", show_task, writes=True),
    route("/task/{id}", finish_step, "POST"),
    route("/task/{id}/draft", save_draft, "POST"),
    route("/task/{id}/skip", skip, "POST"),
    route("/answers", show_answers),
    route("/learned/{id}", show_lesson),
]
