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
--url=ADDRESS     the address that people open, such as https://label.example.org or, where a proxy gives
                  the site a part of one, https://example.org/label; without it http://HOST:PORT. Links of
                  invitations start with it, and cookies and forms are of this address alone
--new_link        makes a new link for the first administrator who is not paused

The first start prints the administrator's link; everything else is done from there. It works once.
Beyond your own machine, put the site behind a proxy that speaks HTTPS.
"""

import contextlib
from pathlib import Path

import uvicorn
from absl import flags

from rlhf_jax.command_line import command, listen, parse_flags
from rlhf_jax.data.records import Example
from rlhf_jax.feedback import people, viewer, work
from rlhf_jax.feedback.address import LOCAL, Address, hosts_of, parse_address
from rlhf_jax.feedback.app import make_app
from rlhf_jax.feedback.connections import Patient
from rlhf_jax.feedback.pages import Site
from rlhf_jax.feedback.store import Store
from rlhf_jax.feedback.study import OF_RESPONSES, Study, StudyError, read_study
from rlhf_jax.feedback.tasks import Task, info_of, read_onboarding, read_tasks


def main(argv: list[str]) -> int:
    return command(argv, lambda: serve(_parse(argv)))


def serve(options: flags.FlagValues) -> None:
    """Runs the site that the options describe, until Ctrl-C."""
    address = _address(options)
    study = read_study(Path(options.study)) if options.study else Study()
    found = read_tasks(options.tasks, study)
    if not options.study and all(info_of(task.record).words == Example.words for task in found):
        study = OF_RESPONSES
    onboarding = read_onboarding(study.onboarding.records) if study.onboarding else []
    samples = viewer_files(Path(options.samples)) if options.samples else {}
    listening = listen(options.host, options.port)
    site = Site(Store(options.store), study, address.url, samples)
    _prepare(site, found, onboarding, options.new_link)
    print(f"The site is at {address.url}; Ctrl-C ends it.", flush=True)
    app = make_app(site, hosts_of(address, named=bool(options.url)))
    # No access log: it would hold the tokens of links. Errors go to stderr, as Python's logging does unasked.
    config = uvicorn.Config(
        app, http=Patient, log_config=None, log_level="warning", access_log=False, server_header=False
    )
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


def _address(options: flags.FlagValues) -> Address:
    if not options.url and options.host not in LOCAL:
        raise StudyError(f"--host={options.host} needs --url=…, the address that people open")
    return parse_address(options.url or f"http://{options.host}:{options.port}")


def viewer_files(path: Path) -> dict[str, str]:
    """The files of a viewer of samples."""
    return viewer.files(*viewer.contents(viewer.read_samples(path), viewer.title_of(path), by_people=False))


def _prepare(site: Site, found: list[Task], onboarding: list[Task], new_link: bool) -> None:
    """Adds the new tasks, and prints the administrator's link where there is a new one."""
    with site.store.write() as db:
        added = work.add_tasks(db, found, onboarding, site.study)
        batches = work.batches(db, site.study)
        known = [person for person in people.everybody(db) if person.role == "administrator"]
        administrators = [person for person in known if not person.paused]  # whose links work
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
