"""Real processes on one machine, on simulated devices that are eight in all."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from states import CLOCK

from rlhf_jax.config import MeshConfig
from rlhf_jax.data.tokenizer import load_tokenizer
from rlhf_jax.mesh import make_mesh
from rlhf_jax.model import heads, params, transformer
from rlhf_jax.run import checkpoint, hosts
from rlhf_jax.run import workdir as runs
from rlhf_jax.training.metrics import read_metrics

TESTS = Path(__file__).parent


CONFIG = """
from pathlib import Path

import tiny
from rlhf_jax.config import MeshConfig


def get_config():
    config = tiny.run_config(tiny.write_data(Path({data!r})))
    config.mesh = MeshConfig(2, 2, 2)
    return config
"""


def start(task, processes, *arguments, absent=(), signalled=None, together=True):
    """{index: process} of `task` in tests/hosts_worker.py; `signalled` is (index, signal, "log:step")."""
    with socket.socket() as free:
        free.bind(("", 0))
        address = f"localhost:{free.getsockname()[1]}"
    running = {}
    for i in range(processes):
        if i in absent:
            continue
        variables = dict(zip(hosts.VARIABLES, (address, str(processes), str(i)), strict=True))
        variables = variables if together else {}
        variables["PYTHONPATH"] = f"{TESTS.parent}:{TESTS}"
        if signalled and signalled[0] == i:
            variables["SIGNAL"] = f"{signalled[1]:d}:{signalled[2]}"
        running[i] = subprocess.Popen(
            [sys.executable, str(TESTS / "hosts_worker.py"), task, str(8 // processes), *map(str, arguments)],
            env=os.environ | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    return running


def outcomes(running, timeout=180):
    """{index: (exit status, last line of stderr)}; none of them outlives the test."""
    found = {}
    try:
        for i, process in running.items():
            _, stderr = process.communicate(timeout=timeout)
            found[i] = process.returncode, stderr.strip().split("\n")[-1]
    finally:
        for process in running.values():
            process.kill()
    return found


LOGS = {"sft": transformer, "reward_seed0": heads, "ppo": transformer}  # the specs of what each trains


WHOLE_RUN_SECONDS = 900  # four processes compile everything four times


def results(workdir):
    """Parameters and metrics of every training of a run, times left out."""
    model, vocabulary = runs.read_config(workdir).model, load_tokenizer(workdir).vocab_size
    parameters, numbers = {}, {}
    for log, network in LOGS.items():
        folder = workdir / "checkpoints" / log
        like = params.abstract(network.specs(model, vocabulary), make_mesh(MeshConfig(1, 8, 1)))
        parameters[log] = checkpoint.restore_params(folder, checkpoint.latest_step(folder), like)
        records = read_metrics(workdir / "metrics" / f"{log}.jsonl")
        numbers[log] = [{k: v for k, v in record.items() if k not in CLOCK} for record in records]
    return parameters, numbers
