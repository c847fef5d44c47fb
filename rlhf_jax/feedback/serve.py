"""Starts the labelling site.

rlhf-jax serve --tasks=tasks.jsonl --store=feedback.sqlite

--tasks=FILE      what to label: OpenAI's comparison records without a choice, their axis records
                  without axes, or posts, one JSON object a line; tasks the store has stay as they are
--store=FILE      where answers are kept; a new file, or the one of an earlier start to go on with
--study=FILE      what is asked and of whom, a TOML file: rlhf_jax/feedback/study.py has every field
--samples=FILE    posts with every policy's summary, such as runs/mini/samples/test.jsonl, which
                  researchers and administrators can then read; labelers cannot
--port=NUMBER     (8000)
--host=ADDRESS    (127.0.0.1: this machine alone); another one needs --url
--url=ADDRESS     the address that people open, such as https://label.example.org, where it is not
                  http://HOST:PORT; links of invitations start with it
--new_link        makes a new link for the first administrator, whose old one is used or lost

The first start prints the administrator's link; everything else is done from there. It works once.
Beyond your own machine, put the site behind a proxy that speaks HTTPS.
"""

import contextlib
import re
from pathlib import Path
from urllib.parse import urlsplit

import uvicorn
from absl import flags

from rlhf_jax.command_line import command, listen, parse_flags
from rlhf_jax.data.records import Example
from rlhf_jax.feedback import people, viewer, work
from rlhf_jax.feedback.app import make_app
from rlhf_jax.feedback.pages import Site
from rlhf_jax.feedback.store import Store
from rlhf_jax.feedback.study import OF_RESPONSES, Study, StudyError, read_study
from rlhf_jax.feedback.tasks import Task, info_of, read_onboarding, read_tasks

LOCAL = ("127.0.0.1", "localhost")
PORTS = {"http": 80, "https": 443}  # which browsers leave out of an address


def main(argv: list[str]) -> int:
    return command(argv, lambda: serve(_parse(argv)))


def serve(options: flags.FlagValues) -> None:
    """Runs the site that the options describe, until Ctrl-C."""
    url, hosts = _address(options.host, options.port, options.url)
    study = read_study(Path(options.study)) if options.study else Study()
    found = read_tasks(options.tasks, study)
    if not options.study and all(info_of(task.record).words == Example.words for task in found):
        study = OF_RESPONSES
    onboarding = read_onboarding(study.onboarding.records) if study.onboarding else []
    samples = viewer_files(Path(options.samples)) if options.samples else {}
    listening = listen(options.host, options.port)
    site = Site(Store(options.store), study, url, samples)
    _prepare(site, found, onboarding, options.new_link)
    print(f"The site is at {url}; Ctrl-C ends it.", flush=True)
    app = make_app(site, hosts)
    # No access log: it would hold the tokens of links. Errors go to stderr, as Python's logging does unasked.
    config = uvicorn.Config(app, log_config=None, log_level="warning", access_log=False, server_header=False)
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])
    site.store.close()


def _parse(argv: list[str]) -> flags.FlagValues:
    options = flags.FlagValues()
    flags.DEFINE_string("tasks", None, "what to label", required=True, flag_values=options)
    flags.DEFINE_string("store", None, "where answers are kept", required=True, flag_values=options)
    flags.DEFINE_string("study", "", "settings", flag_values=options)
    flags.DEFINE_string("samples", "", "samples for the staff to read", flag_values=options)
    flags.DEFINE_integer("port", 8000, "port", 1, 65535, flag_values=options)
    flags.DEFINE_string("host", "127.0.0.1", "address to listen at", flag_values=options)
    flags.DEFINE_string("url", "", "the address that people open", flag_values=options)
    flags.DEFINE_bool("new_link", False, "a new link for the first administrator", flag_values=options)
    return parse_flags(argv, options)


def _address(host: str, port: int, url: str) -> tuple[str, list[str]]:
    """The site's address, as browsers write it, and the names of hosts that it answers to."""
    if not url and host not in LOCAL:
        raise StudyError(f"--host={host} needs --url=…, the address that people open")
    url = url or f"http://{host}:{port}"
    try:
        parts = urlsplit(url)
        name = (parts.hostname or "").encode("idna").decode()
        number = parts.port
    except ValueError as error:
        raise StudyError(f"--url: {url} is no address ({error})") from None
    if name and not re.fullmatch(r"[\w.:-]+", name):
        raise StudyError(f"--url: {url} is no address (its host is {name!r})")
    more = parts.path.strip("/") or parts.query or parts.fragment or parts.username is not None
    if parts.scheme not in PORTS or not name or more:
        raise StudyError(f"--url: {url} should be like https://label.example.org, without a path")
    name = f"[{name}]" if ":" in name else name
    suffix = "" if number in (None, PORTS[parts.scheme]) else f":{number}"
    return f"{parts.scheme}://{name}{suffix}", [name, *LOCAL]


def viewer_files(path: Path) -> dict[str, str]:
    """The files of a viewer of samples."""
    return viewer.files(*viewer.contents(viewer.read_samples(path), viewer.title_of(path), by_people=False))


def _prepare(site: Site, found: list[Task], onboarding: list[Task], new_link: bool) -> None:
    """Adds the new tasks, and prints the administrator's link where there is a new one."""
    with site.store.write() as db:
        added = work.add_tasks(db, found, onboarding, site.study)
        batches = work.batches(db, site.study)
        administrators = [p for p in people.everybody(db) if p.role == "administrator"]
        token = None
        if not administrators:
            _, token = people.add(db, "Administrator", "administrator")
        elif new_link:
            token = people.invite(db, administrators[0].id)
    print(f"{added} new tasks, {len(found) + len(onboarding) - added} known ones.")
    for name, labeler in site.study.labelers.items():
        for batch in sorted(set(labeler.batches) - batches):
            print(f"Field labelers.{name}.batches of the study: no task is of batch {batch}.")
    if token:
        print(f"The administrator's link, which works once: {site.url}/join/{token}")
