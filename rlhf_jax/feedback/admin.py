"""The pages of those who run a study: agreement, samples, export."""

import io
import tempfile
import zipfile
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.responses import Response

from rlhf_jax.feedback import people
from rlhf_jax.feedback.answers import collected, export
from rlhf_jax.feedback.pages import ADMINISTRATORS, STAFF, Visit, route

MEDIA_TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css"}
RESAMPLES = 200  # of the agreement's intervals, which somebody waits for


def show_agreement(visit: Visit) -> Response:
    """Of the real comparisons; administrators count as researchers."""
    # Here, since its libraries take seconds to load and a server that starts again should be back at once.
    from rlhf_jax.feedback import agreement

    with visit.site.store.read() as db:
        names = {person.worker: person.name for person in people.everybody(db)}
    found = [
        agreement.Answer(
            given.task,
            names.get(given.worker, f"deleted {given.worker}"),
            "labeler" if given.role == "labeler" else "researcher",
            given.answer["confidence"],
            given.created,
            given.seconds,
            given.flipped,
            _longer(given.record),
        )
        for given in collected(visit.site.store)
        if given.kind == "comparison" and given.part != "onboarding"
    ]
    return visit.page("agreement.jinja", figures=agreement.summary(found, resamples=RESAMPLES))


def _longer(record: dict) -> int | None:
    """Which of two summaries is the longer, 0 or 1."""
    first, second = (len(summary["text"]) for summary in record["summaries"])
    return None if first == second else int(second > first)


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
    route("/admin/agreement", show_agreement, roles=STAFF),
    route("/samples/{name:path}", show_samples, roles=STAFF),
    route("/admin/export", download, roles=ADMINISTRATORS, writes=True),
]
