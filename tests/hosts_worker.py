"""One process of several on simulated devices: `python hosts_worker.py TASK DEVICES ARGUMENTS…`.

Of process 1 and later, stdout goes nowhere: what a task finds out is written to files.
"""

import json
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import compiling

os.environ["JAX_PLATFORMS"] = "cpu"
compiling.compile_fast()

import jax  # noqa: E402

from rlhf_jax.run import hosts  # noqa: E402


def main(*arguments: str) -> int:
    """rlhf_jax.main; with SIGNAL in the environment, such as 9:ppo:3, signalled once that step is logged."""
    from rlhf_jax.main import main
    from rlhf_jax.training import loop
    from rlhf_jax.training.metrics import MetricsLog

    class Signalled(MetricsLog):
        def __init__(self, workdir, stage, *rest):
            super().__init__(workdir, stage, *rest)
            self.stage = stage

        def log(self, step, *scalars, **read):
            super().log(step, *scalars, **read)
            number, _, place = os.environ.get("SIGNAL", "").partition(":")
            if place == f"{self.stage}:{step}":
                os.kill(os.getpid(), int(number))

    loop.MetricsLog = Signalled
    return main(["rlhf-jax run", *arguments])


def gather(folder: str) -> int:
    """Tells its number, and something else in a thread at another time; then process 1 does not come."""
    hosts.start(60)

    def behind():
        time.sleep(jax.process_index())
        return hosts.gather("something else", f"behind {jax.process_index()}")

    thread = ThreadPoolExecutor(1, thread_name_prefix="behind").submit(behind)
    time.sleep(1 - jax.process_index())
    found = [hosts.gather("the numbers", 10 * jax.process_index()), hosts.from_first("a word", lambda: "yes")]
    found.append(thread.result())
    Path(folder, f"{jax.process_index()}.json").write_text(json.dumps(found))
    if jax.process_index() == 0:
        try:
            hosts.gather("the tea", timeout=1)
        except hosts.HostsError as error:
            hosts.leave(2, str(error))
    time.sleep(60)
    return 0


def killed(index: str) -> int:
    """Process `index` is killed while the others wait for it."""
    hosts.start(60)
    hosts.gather("all are there")
    if jax.process_index() == int(index):
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)
    return 0


def save(folder: str) -> int:
    """Two steps of a checkpoint from a 2×2×2 mesh, of which one byte is changed in the second."""
    import states
    from etils.epath import Path

    from rlhf_jax.config import MeshConfig
    from rlhf_jax.mesh import make_mesh
    from rlhf_jax.run import checkpoint

    hosts.start(60)
    state = states.make_state(make_mesh(MeshConfig(2, 2, 2)))
    states.save_steps(Path(folder), state, 1, 2)
    if hosts.is_first():
        states.flip_a_byte(Path(folder, "2", "rest", "manifest.ocdbt"))
    hosts.gather("the damage")
    latest = checkpoint.latest_step(Path(folder))
    Path(folder, f"latest.{jax.process_index()}").write_text(str(latest))
    hosts.finish()
    return 0


def stop(workdir: str) -> int:
    """Trains a counter; process 1 gets SIGTERM in the third of a hundred steps."""
    import counting

    from rlhf_jax.command_line import Stopped
    from rlhf_jax.mesh import make_mesh

    hosts.start(60)

    def signalled(i: int) -> None:
        if i == 2 and jax.process_index() == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        with jax.set_mesh(make_mesh()):
            counting.count(Path(workdir), 100, signalled)
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return stopped.status
    return 0


def rewards(folder: str, breaks: str) -> int:
    """A counter whose every step asks a reward of one's own, which breaks at the call of that number."""
    import counting
    import tiny

    from rlhf_jax.config import DataConfig, PpoConfig
    from rlhf_jax.data.tasks.tldr import Tldr
    from rlhf_jax.mesh import make_mesh
    from rlhf_jax.pipeline.own_reward import OwnReward, RewardError

    hosts.start(60)
    options, posts, given = PpoConfig(reward=f"{folder}/mine.py:counted"), tiny.posts(3, 0), []

    def ask(i: int) -> None:
        each = own.of(posts, [breaks, "b", "cc"], None, seed=str(i))
        given.append(own.total(each).tolist())

    try:
        with jax.set_mesh(make_mesh()), OwnReward(options, Tldr(DataConfig())) as own:
            counting.count(Path(folder), 5, ask, rescued=RewardError)
    except RewardError as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        Path(folder, f"{jax.process_index()}.json").write_text(json.dumps(given))
    return 0


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", int(sys.argv[2]))
    task = {task.__name__: task for task in (main, gather, killed, save, stop, rewards)}[sys.argv[1]]
    sys.exit(task(*sys.argv[3:]))
