"""Several real processes on one machine, on simulated devices that are eight in all.

Whole runs take a quarter of an hour: python -m pytest -m slow tests/whole/test_hosts.py
"""

import functools
import json
import signal
import socket
import time

import jax
import pytest
import states
import tiny
from processes import CONFIG, WHOLE_RUN_SECONDS, outcomes, results, start

from rlhf_jax.config import MeshConfig
from rlhf_jax.mesh import make_mesh
from rlhf_jax.run import checkpoint, hosts
from rlhf_jax.run.hosts import HostsError


def test_a_lone_process_is_left_alone(monkeypatch):
    for variable in hosts.VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    hosts.start(1)
    assert not jax.distributed.is_initialized() and hosts.is_first() and hosts.prefix() == ""
    assert hosts.gather("itself", 5) == [5] and hosts.from_first("itself", lambda: 6) == 6
    hosts.leave(1, "")  # returns


def test_a_variable_that_is_missing_is_named(monkeypatch):
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    monkeypatch.setenv("JAX_PROCESS_ID", "0")
    with pytest.raises(HostsError, match="^JAX_COORDINATOR_ADDRESS: not set"):
        hosts.start(1)
    monkeypatch.setenv("JAX_PROCESS_ID", "first")
    with pytest.raises(HostsError, match="JAX_PROCESS_ID=first"):
        hosts.start(1)


@pytest.fixture
def command(tmp_path):
    """Arguments of rlhf-jax run for a tiny run in a folder of its own."""
    config = tmp_path / "config.py"
    config.write_text(CONFIG.format(data=str(tmp_path / "data")))
    return [f"--config={config}", f"--workdir={tmp_path / 'run'}"]


def test_processes_that_do_not_come_are_told_to_all_that_did(command):
    running = start("main", 4, *command, "--start_timeout=4", absent=(1, 3))
    line = (
        f"process 0 ({socket.gethostname()}) waited 4 s; 2 of 4 processes came; missing: 1, 3; "
        "start the same command on every worker"
    )
    assert outcomes(running) == {0: (2, f"rlhf-jax run: {line}"), 2: (2, f"rlhf-jax run: {line}")}


def test_without_the_first_process_the_others_say_where_they_looked(command):
    ((status, line),) = outcomes(start("main", 2, *command, "--start_timeout=1", absent=(0,))).values()
    assert status == 2 and "process 1" in line and "waited 1 s for process 0 at localhost:" in line


def test_values_are_gathered_and_who_does_not_come_is_named(tmp_path):
    ended = outcomes(start("gather", 2, tmp_path))
    first, second = (json.loads((tmp_path / f"{i}.json").read_text()) for i in (0, 1))
    assert first == second == [[0, 10], "yes", ["behind 0", "behind 1"]]
    assert [status for status, _ in ended.values()] == [2, hosts.ENDED]
    assert f"the tea: waited 1 s for process 1 ({socket.gethostname()})" in ended[1][1]


@pytest.mark.parametrize("index", [0, 1])
def test_the_end_of_one_process_ends_the_others(index):
    began = time.monotonic()
    ended = outcomes(start("killed", 2, index))
    other, host = 1 - index, socket.gethostname()
    assert ended[index][0] == -signal.SIGKILL
    assert ended[other] == (
        hosts.ENDED,
        f"rlhf-jax run: process {other} ({host}) stops, because process {index} ({host}) ended; "
        "the same command resumes",
    )
    assert time.monotonic() - began < 40


def test_shards_of_two_processes_are_one_checkpoint(tmp_path):
    """Read here, by one process of eight devices; both used the step before the damaged one."""
    ended = outcomes(start("save", 2, tmp_path))
    assert [status for status, _ in ended.values()] == [0, 0], ended
    assert [(tmp_path / f"latest.{i}").read_text() for i in (0, 1)] == ["1", "1"]
    assert (tmp_path / "1" / "params" / "ocdbt.process_1").is_dir()
    ours = states.make_state(make_mesh(MeshConfig(2, 2, 2)))
    other = states.make_state(make_mesh(MeshConfig(1, 8, 1)), seed=1)
    states.assert_same(checkpoint.restore(tmp_path, 1, *map(states.abstract, other)), ours)
    assert checkpoint.read_meta(tmp_path, 1) == {"step": 1}


def test_sigterm_to_one_process_ends_both_after_the_same_saved_step(tmp_path):
    ended = outcomes(start("stop", 2, tmp_path))
    assert [status for status, _ in ended.values()] == [143, 143], ended
    assert len({line for _, line in ended.values()}) == 1
    step = checkpoint.latest_step(tmp_path / "checkpoints" / "counter")
    assert 3 <= step < 100 and f"stopped by SIGTERM after step {step} of 100 of counter" in ended[0][1]


COUNTED = """
calls = 0


def counted(prompts, responses, rows):
    global calls
    calls += 1
    if responses[0] == str(calls):
        raise RuntimeError("out of words")
    return [calls + len(text) / 10 for text in responses]
"""


def test_one_process_asks_a_reward_and_its_error_ends_both_after_the_same_saved_step(tmp_path):
    (tmp_path / "mine.py").write_text(COUNTED)
    ended = outcomes(start("rewards", 2, tmp_path, 4))
    line = (
        f"{tmp_path}/mine.py:counted: RuntimeError: out of words (mine.py, line 9); 3 of 5 steps of counter"
    )
    assert ended == dict.fromkeys([0, 1], (2, f"{line} are saved; the same command resumes"))
    given = [json.loads((tmp_path / f"{i}.json").read_text()) for i in (0, 1)]
    assert given[0] == given[1] and [batch[1] for batch in given[0]] == pytest.approx([1.1, 2.1, 3.1])
    assert checkpoint.latest_step(tmp_path / "checkpoints" / "counter") == 3


# Whole runs ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """Runs all stages with so many processes, once; the folder."""
    config = tmp_path_factory.mktemp("runs") / "config.py"
    config.write_text(CONFIG.format(data=str(config.parent / "data")))

    @functools.cache
    def run(processes, together=True, signalled=None, then=None):
        """`signalled` ends the run in its midst; `then` so many processes resume it, else as many."""
        workdir = config.parent / f"{processes}{together}{signalled}{then}"
        command = ("main", processes, f"--config={config}", f"--workdir={workdir}")
        if signalled:
            ended = outcomes(start(*command, signalled=signalled), WHOLE_RUN_SECONDS)
            if signalled[1] == signal.SIGTERM:
                assert {status for status, _ in ended.values()} == {128 + signal.SIGTERM}, ended
            else:
                assert ended[signalled[0]][0] == -signal.SIGKILL
                assert {s for i, (s, _) in ended.items() if i != signalled[0]} == {hosts.ENDED}
        command = (command[0], then or processes, *command[2:])
        ended = outcomes(start(*command, together=together), WHOLE_RUN_SECONDS)
        assert {status for status, _ in ended.values()} == {0}, ended
        return workdir

    return run


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_the_number_of_processes_changes_no_bit(whole_run, processes):
    parameters, numbers = results(whole_run(processes))
    expected, expected_numbers = results(whole_run(1))
    tiny.assert_same(parameters, expected)
    assert numbers == expected_numbers
    assert (whole_run(processes) / "report.html").exists()


@pytest.mark.slow
def test_an_ordinary_process_gets_the_same_to_rounding(whole_run):
    """Whose collectives are not gloo's: they may add in another order."""
    parameters, _ = results(whole_run(2))
    expected, _ = results(whole_run(1, together=False))
    tiny.assert_close_to_a_step(parameters, expected, tiny.run_config(None).ppo.optimizer)


@pytest.mark.slow
@pytest.mark.parametrize(
    "signalled", [(0, signal.SIGKILL, "sft:3"), (1, signal.SIGKILL, "ppo:3"), (1, signal.SIGTERM, "sft:2")]
)
def test_signalled_and_resumed_is_the_undisturbed_run(whole_run, signalled):
    """Killed one step after a checkpoint, or asked to end between two; the next start goes on from there."""
    parameters, numbers = results(whole_run(2, signalled=signalled))
    expected, expected_numbers = results(whole_run(2))
    tiny.assert_same(parameters, expected)
    assert numbers == expected_numbers


@pytest.mark.slow
def test_another_number_of_processes_resumes_in_the_midst_of_an_epoch(whole_run):
    """Asked to end in the first of four steps, which both processes know in the second."""
    parameters, numbers = results(whole_run(2, signalled=(0, signal.SIGTERM, "sft:0"), then=1))
    expected, expected_numbers = results(whole_run(2))
    tiny.assert_same(parameters, expected)
    assert numbers == expected_numbers


def test_a_line_is_read_alone_and_whole():
    ours, theirs = socket.socketpair()
    theirs.sendall(b"[1]\n[2]\n7")
    theirs.close()
    with ours:
        assert hosts._read_line(ours) == [1] and hosts._read_line(ours) == [2]
        with pytest.raises(ValueError, match="ended"):
            hosts._read_line(ours)
