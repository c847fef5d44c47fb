"""The life of a TPU slice, and of a worker on it, against stand-ins."""

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from launching import LIST, POD, ROOT, STATUS, World, until, verbs


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


# --- the life of a TPU slice ---


def test_create(world):
    create = ["gcloud", "compute", "tpus", "queued-resources", "create"]
    place = ["--project=my project", "--zone=us-east5-a"]
    for variables, rest in [
        ({}, ["--accelerator-type=v5p-128", "--runtime-version=v2-alpha-tpuv5", "--spot"]),
        (
            {"CAPACITY": "on-demand", "TPU": "v6e-16"},
            ["--accelerator-type=v6e-16", "--runtime-version=v2-alpha-tpuv6e"],
        ),
        (
            {"CAPACITY": "reserved", "TPU": "v9-8", "RUNTIME": "my-image"},
            ["--accelerator-type=v9-8", "--runtime-version=my-image", "--reserved"],
        ),
    ]:
        ran = world.run("tpu_pod.sh", "create", **(POD | {"NAME": "mine"} | variables))
        assert ran.status == 0
        assert ran.calls[-1] == [*create, "mine", "--node-id=mine", *place, *rest]
    unknown = world.run("tpu_pod.sh", "create", **(POD | {"TPU": "v9-8"}))
    assert unknown.status == 2 and "v9-8" in unknown.err and "RUNTIME" in unknown.err
    assert "CAPACITY is 'free'" in world.run("tpu_pod.sh", "create", **(POD | {"CAPACITY": "free"})).err


def test_wait_is_patient(world):
    world.answer({LIST: ["WAITING_FOR_RESOURCES\n", "WAITING_FOR_RESOURCES\n", "PROVISIONING\n", "ACTIVE\n"]})
    ran = world.run("tpu_pod.sh", "wait", **POD)
    assert ran.status == 0 and verbs(ran.calls) == ["list"] * 4
    assert "rlhf-jax is WAITING_FOR_RESOURCES; looking again" in ran.out and "billed" in ran.out


@pytest.mark.parametrize("state", ["FAILED", "SUSPENDED", ""])
def test_wait_ends_where_nothing_will_come(world, state):
    world.answer({LIST: [state]})
    ran = world.run("tpu_pod.sh", "wait", **POD)
    assert ran.status == 2 and verbs(ran.calls) == ["list"]
    assert (state or "no queued resource rlhf-jax") in ran.err


def test_all_from_nothing_to_the_end(world):
    world.answer(
        {
            LIST: ["", "WAITING_FOR_RESOURCES", "ACTIVE"],
            STATUS: ["", "rlhf_jax: running\nrlhf_jax: running\n", "rlhf_jax: exit 0\nrlhf_jax: exit 0\n"],
        }
    )
    ran = world.run("tpu_pod.sh", "all", "--", "--config=x", **POD)
    assert ran.status == 0, ran.err
    up = ["list", "create", "list", "list", "status", "scp", "install", "start"]
    assert verbs(ran.calls) == [*up, "list", "status", "list", "status", "cat", "delete"]
    assert not ran.err


def test_all_restarts_after_a_preemption(world):
    world.answer(
        {
            LIST: ["ACTIVE", "ACTIVE", "SUSPENDING", "SUSPENDED", "", "WAITING_FOR_RESOURCES", "ACTIVE"],
            STATUS: ["", "rlhf_jax: running\n", "", "rlhf_jax: exit 0\n"],
        }
    )
    ran = world.run("tpu_pod.sh", "all", "--", "--config=x", **POD)
    assert ran.status == 0, ran.err
    doings = [verb for verb in verbs(ran.calls) if verb in ("create", "start", "delete")]
    assert doings == ["start", "delete", "create", "start", "delete"]
    starts = [call for call in ran.calls if "worker.sh start" in " ".join(call)]
    assert starts[0] == starts[1] and starts[0][-1] == "--command=rlhf_jax/launch/worker.sh start --config=x"


def test_all_restarts_on_the_same_slice_when_a_machine_was_lost(world):
    lost = "rlhf_jax: exit 3\nrlhf_jax: gone\nrlhf_jax: exit 3\n"
    world.answer({LIST: ["ACTIVE"], STATUS: ["", lost, "rlhf_jax: exit 0\n"]})
    ran = world.run("tpu_pod.sh", "all", "--", "--config=x", **POD)
    assert ran.status == 0
    assert [verb for verb in verbs(ran.calls) if verb in ("create", "start", "delete")] == [
        "start",
        "start",
        "delete",
    ]


def test_all_restarts_a_run_that_was_told_to_end(world):
    """By machines that shut down for maintenance, say, and come back."""
    world.answer(
        {LIST: ["ACTIVE"], STATUS: ["", "rlhf_jax: exit 143\nrlhf_jax: gone\n", "rlhf_jax: exit 0\n"]}
    )
    ran = world.run("tpu_pod.sh", "all", "--", "--config=x", **POD)
    assert ran.status == 0 and verbs(ran.calls).count("start") == 2


def test_all_gives_up_when_machines_are_lost_again_and_again(world):
    world.answer({LIST: ["ACTIVE"], STATUS: ["", "rlhf_jax: exit 3\n"]})
    ran = world.run("tpu_pod.sh", "all", "--", "--config=x", **POD)
    assert ran.status == 2 and "lost a machine 5 times" in ran.err
    assert verbs(ran.calls).count("start") == 5 and verbs(ran.calls)[-2:] == ["cat", "delete"]


def test_all_ends_with_a_failed_run_and_keeps_its_logs(world):
    failed = "rlhf_jax: exit 3\nrlhf_jax: exit 1\nrlhf_jax: exit 3\n"
    world.answer({LIST: ["ACTIVE"], STATUS: ["", failed]})
    ran = world.run("tpu_pod.sh", "all", "--", "--config=x", **POD)
    assert (ran.status, ran.err) == (2, "tpu_pod.sh: the run failed; the logs are in runs/rlhf-jax\n")
    assert verbs(ran.calls)[-2:] == ["cat", "delete"]
    assert ran.calls[-2][-1] == "--output-directory=runs/rlhf-jax"


@pytest.mark.parametrize("left", ["rlhf_jax: exit 0\n", "rlhf_jax: exit 1\n", "rlhf_jax: none\n"])
def test_all_runs_again_where_an_earlier_run_has_ended(world, left):
    world.answer({LIST: ["ACTIVE"], STATUS: [left, "rlhf_jax: exit 0\n"]})
    ran = world.run("tpu_pod.sh", "all", "--", "--config=x", **POD)
    assert ran.status == 0 and verbs(ran.calls).count("start") == 1


def test_all_watches_a_run_that_goes_on(world):
    world.answer({LIST: ["ACTIVE"], STATUS: ["rlhf_jax: running\nrlhf_jax: exit 0\n", "rlhf_jax: exit 0\n"]})
    ran = world.run("tpu_pod.sh", "all", "--", "--config=x", **POD)
    assert ran.status == 0
    assert verbs(ran.calls) == ["list", "status", "list", "status", "cat", "delete"]


def test_all_outlasts_a_network_that_is_away(world):
    world.answer(
        {
            LIST: ["ACTIVE", ("", 1), ("", 1), "ACTIVE"],
            STATUS: ["rlhf_jax: running\n", ("", 255), "rlhf_jax: exit 0\n"],
        }
    )
    ran = world.run("tpu_pod.sh", "all", "--", "--config=x", **POD)
    assert ran.status == 0 and "rlhf-jax is UNKNOWN" in ran.out
    assert "start" not in verbs(ran.calls)


def test_all_says_that_the_slice_is_billed_when_it_dies(world):
    world.answer({LIST: ["ACTIVE"], STATUS: [""], "scp": [("", 1)]})
    ran = world.run("tpu_pod.sh", "all", "--", "--config=x", **POD)
    assert ran.status == 1 and verbs(ran.calls)[-1] == "scp"
    assert re.fullmatch("not watching rlhf-jax any more; .* billed: .* delete ends it\n", ran.err)
    world.answer({LIST: [("", 4)]})
    assert (
        "gcloud does not tell the state of rlhf-jax" in world.run("tpu_pod.sh", "all", "--", "a", **POD).err
    )


def test_uncommitted_changes_are_copied(world):
    world.answer({"git stash create": ["1234abcd\n"]})
    calls = world.run("tpu_pod.sh", "install", **POD).calls
    assert ["git", "archive", "--format=tar.gz", "--output=runs/rlhf-jax.tar.gz", "1234abcd"] in calls
    assert verbs(calls) == ["scp", "install"]


# --- a worker ---


@pytest.fixture
def patient_world(world):
    """main runs until the file `end` holds an exit status."""
    text = 'import os, sys, time\nwhile not os.path.exists("{home}/end"): time.sleep(0.01)\n'
    world.stand_in(
        world.repository / ".venv/bin/rlhf-jax",
        text + 'print("bye"); sys.exit(int(open("{home}/end").read()))\n',
    )
    yield world
    (world.home / "end").write_text("0")


def test_a_run_outlives_the_session_that_started_it(patient_world):
    world = patient_world
    status = lambda: world.run("worker.sh", "status").out  # noqa: E731
    assert status() == "rlhf_jax: none\n"
    session = subprocess.Popen(
        ["bash", world.repository / "launch/worker.sh", "start"],
        env=world.environment(),
        start_new_session=True,
    )
    assert session.wait(timeout=20) == 0  # it does not wait for the run
    runs = world.repository / "runs"
    process = int((runs / "worker.pid").read_text())
    until(lambda: os.getsid(process) == process)  # no hang-up of that session reaches it
    assert status() == "rlhf_jax: running\n"
    again = world.run("worker.sh", "start")
    assert again.status == 2 and "a run goes on here" in again.err
    (world.home / "end").write_text("3")
    until((runs / "worker.exit").exists)
    until(lambda: status() == "rlhf_jax: exit 3\n")
    assert (runs / "worker.log").read_text() == "bye\n"


def test_a_run_that_vanished_is_gone(patient_world):
    world = patient_world
    world.run("worker.sh", "start")
    process = int((world.repository / "runs/worker.pid").read_text())
    until(lambda: os.getsid(process) == process)
    os.killpg(process, signal.SIGKILL)
    until(lambda: world.run("worker.sh", "status").out == "rlhf_jax: gone\n")


def test_stop_asks_the_run_to_end_and_keeps_its_status(world):
    world.stand_in(
        world.repository / ".venv/bin/rlhf-jax",
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "os.mkdir('{home}/ready')\ntime.sleep(60)\n",
    )
    (world.home / "bin/pkill").symlink_to(shutil.which("pkill") or "pkill")
    assert world.run("worker.sh", "stop").status == 0  # there is nothing to stop
    world.run("worker.sh", "start")
    until((world.home / "ready").exists)
    assert world.run("worker.sh", "stop").status == 0
    until(lambda: world.run("worker.sh", "status").out == "rlhf_jax: exit 143\n")


def test_commands_of_the_documentation(world):
    """Each is taken, and calls for what it says, in a dry run."""
    text = (ROOT / "docs/pods.md").read_text()
    assignments = re.findall(r"^(?:export|run=).*$", text, flags=re.M)
    commands = re.findall(r"^\./(launch/tpu_pod\.sh .*?) *(?:#.*)?$", text, flags=re.M)
    assert len(assignments) == 2 and len(commands) == 8
    for line in commands:
        command = f"bash {line.replace('tpu_pod.sh', 'tpu_pod.sh --dry-run', 1)}"
        done = subprocess.run(
            ["bash", "-c", "\n".join([*assignments, command])],
            env=world.environment(),
            cwd=world.repository,
            capture_output=True,
            text=True,
            timeout=20,
        )
        assert done.returncode == 0 and done.stdout.startswith(("gcloud ", "mkdir ")), (line, done.stderr)
