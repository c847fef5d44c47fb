"""A run's folder on gs://, by gcsfs and TensorStore as they are, on a server that stands for Google's.

A whole run, and one of two processes, take minutes: python -m pytest -m slow tests/run/test_storage.py
"""

import json
import os
import signal
import subprocess
import sys

import object_store
import processes
import pytest
import services
import states
import tiny
from etils.epath import Path

from rlhf_jax.config import Config, DataConfig, MeshConfig
from rlhf_jax.data.comparisons import load_comparisons
from rlhf_jax.data.tasks.tldr import Tldr
from rlhf_jax.mesh import make_mesh
from rlhf_jax.run import checkpoint
from rlhf_jax.run import workdir as runs
from rlhf_jax.run.storage import StorageError
from rlhf_jax.run.workdir import WorkdirError
from rlhf_jax.training.metrics import MetricsLog, read_metrics

RUN = Path("gs://bucket/runs/a")


@pytest.fixture
def store(monkeypatch):
    pytest.importorskip("gcsfs")
    with object_store.served(monkeypatch) as store:
        yield store


def test_configuration_and_progress(store):
    assert runs.open_workdir(str(RUN), Config(seed=3)) == RUN
    assert "bucket/runs/a/config.json" in store.objects
    runs.record_stage(RUN, "sft", 2.0, done=True)
    with pytest.raises(WorkdirError, match="seed: 3 → 4"):
        runs.open_workdir(str(RUN), Config(seed=4))
    assert runs.stage_done(RUN, "sft") and runs.read_config(RUN).seed == 3


def test_posts_and_comparisons_are_read(store):
    info = {"id": "p", "subreddit": "a", "title": "t", "post": "x"}
    summaries = [{"text": "x", "policy": "a"}, {"text": "y", "policy": "b"}]
    choice = {"info": info, "summaries": summaries, "choice": 0}
    choice |= {"worker": "w", "batch": "1", "split": "train"}
    for split in ("train", "valid"):
        (Path("gs://bucket/posts") / f"{split}.jsonl").write_text(json.dumps(info | {"summary": "x"}) + "\n")
    Path("gs://bucket/comparisons/a.jsonl").write_text(json.dumps(choice) + "\n")
    posts = Tldr(DataConfig(posts="gs://bucket/posts")).records()
    assert {split: len(own) for split, own in posts.items()} == {"train": 1, "valid": 1}
    for place in ("gs://bucket/comparisons", "gs://bucket/comparisons/a.jsonl"):
        assert len(load_comparisons(DataConfig(comparisons=place))) == 1


def test_metrics_are_there_after_a_flush_and_a_resumed_run_goes_on(store):
    records = RUN / "metrics" / "sft.jsonl"
    with MetricsLog(RUN, "sft", 0, 9) as log:
        for step in range(3):
            log.log(step, {"loss": 1.0})
        assert not records.exists()
        log.flush()
        assert [record["step"] for record in read_metrics(records)] == [0, 1, 2]
    with MetricsLog(RUN, "sft", 2, 9) as log:
        log.log(2, {"loss": 2.0})
    assert [record["loss"] for record in read_metrics(records)] == [1.0, 1.0, 2.0]
    assert any("/tensorboard/sft/events" in name for name in store.objects)


def test_a_tracker_gets_steps_with_a_flush_and_a_resumed_run_goes_on(store, monkeypatch):
    package = services.Package("wandb")
    monkeypatch.setitem(sys.modules, "wandb", package)
    with MetricsLog(RUN, "sft", 0, 9, track="wandb") as log:
        for step in range(3):
            log.log(step, {"loss": 1.0})
        assert package.steps() == []
    assert package.steps() == [0, 1, 2]
    with MetricsLog(RUN, "sft", 2, 9, track="wandb") as log:  # step 2 was made behind the checkpoint
        for step in range(2, 5):
            log.log(step, {"loss": 1.0})
    assert package.steps() == list(range(5)) and len({run["id"] for run in package.runs}) == 1


def test_checkpoints_are_kept_found_whole_and_restored(store):
    """Written in place, the manifest of all files last; a half-written step is passed over and removed."""
    folder = RUN / "checkpoints" / "sft"
    state = states.make_state(make_mesh(MeshConfig(2, 2, 2)))
    store.put("bucket/runs/a/checkpoints/sft/1/params/part", b"of a step that was never finished")
    assert checkpoint.latest_step(folder) is None
    states.save_steps(folder, state, 2, 3, 4)
    assert sorted(path.name for path in folder.iterdir()) == ["3", "4"]
    written = {name: store.objects[name] for name in store.objects if "/4/" in name}
    *files, manifest = sorted(written, key=written.get)
    assert manifest.endswith("4/manifest.json")
    assert sorted(json.loads(written[manifest][1])) == sorted(name.split("/4/")[1] for name in files)
    like = states.make_state(make_mesh(MeshConfig(1, 8, 1)), seed=1)
    states.assert_same(checkpoint.restore(folder, 4, *map(states.abstract, like)), state)
    assert checkpoint.read_meta(folder, 4) == {"step": 4}
    store.put("bucket/runs/a/checkpoints/sft/5/params/part", b"of another one")
    assert checkpoint.latest_step(folder) == 4


def test_a_damaged_step_is_set_aside(store):
    folder = RUN / "checkpoints" / "sft"
    states.save_steps(folder, states.make_state(make_mesh(MeshConfig(2, 2, 2))), 3, 4)
    damaged = max(
        (name for name in store.objects if "/4/params/" in name), key=lambda n: len(store.objects[n][1])
    )
    store.put(damaged, store.objects[damaged][1][:-1] + b"?")
    assert checkpoint.latest_step(folder) == 3
    assert sorted(path.name for path in folder.glob("4/manifest*")) == [checkpoint.DAMAGED]
    assert checkpoint.latest_step(folder) == 3


def test_a_file_of_many_parts_is_what_was_written(store):
    """More than gcsfs sends or asks for at once."""
    content = bytes(range(256)) * 2**16
    (RUN / "params").write_bytes(content)
    assert (RUN / "params").read_bytes() == content == store.objects["bucket/runs/a/params"][1]


@pytest.mark.parametrize(
    "folder, refused, told",
    [
        ("gs://elsewhere/a", {}, "no such bucket: gcloud storage buckets create"),
        ("gs://bucket/a", dict.fromkeys(("GET", "POST"), 401), "may not be .* from here .*gcloud auth"),
        ("gs://bucket/a", {"POST": 403}, "may not be .* roles/storage.objectUser"),
    ],
)
def test_a_bucket_that_cannot_be_used_is_told_in_one_line(store, caplog, folder, refused, told):
    store.refused = refused
    with pytest.raises(StorageError, match=f"^{folder}: .*{told}") as error:
        runs.open_workdir(folder, Config())
    assert "\n" not in str(error.value) and not caplog.records and not store.objects


def test_without_gcsfs_it_is_named():
    program = (
        "import sys; sys.modules['gcsfs'] = None\n"
        "from rlhf_jax.run.workdir import read_config\n"
        "read_config('gs://bucket/a')"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    last = ended.stderr.strip().split("\n")[-1]
    assert last.endswith("gs://bucket/a: folders on gs:// need gcsfs: pip install -e '.[gs]'")


def test_shards_of_two_processes_are_one_checkpoint(store):
    ended = processes.outcomes(processes.start("save", 2, RUN))
    assert [status for status, _ in ended.values()] == [0, 0], ended
    assert [(RUN / f"latest.{i}").read_text() for i in (0, 1)] == ["1", "1"]
    state = states.make_state(make_mesh(MeshConfig(2, 2, 2)))
    states.assert_same(checkpoint.restore(RUN, 1, *map(states.abstract, state)), state)


def test_compiled_programs_outlive_their_machine(store):
    """Those of a run on gs:// lie in its work folder: a second process reads what a first one wrote."""
    program = (
        "import jax\n"
        "from rlhf_jax.run.compilation_cache import keep_compiled\n"
        f"keep_compiled('{RUN}/')\n"
        "jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)\n"
        "hits = []\n"
        "jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))\n"
        "jax.jit(lambda x: x + 1)(1.0)\n"
        "print(hits.count('/jax/compilation_cache/cache_hits'))"
    )
    variables = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "true"}
    told = [
        subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True)
        for _ in range(2)
    ]
    kept = [name for name in store.objects if name.startswith("bucket/runs/a/compiled/")]
    assert kept and [run.stdout for run in told] == ["0\n", f"{len(kept)}\n"], told


# Runs ----------------------------------------------------------------------------------------


def killed_and_resumed(count, place, *command):
    """Runs `command`, of which one process is killed at `place`, and once more."""
    last = count - 1
    options = {"together": count > 1}
    first = processes.start("main", count, *command, **options, signalled=(last, signal.SIGKILL, place))
    assert processes.outcomes(first, processes.WHOLE_RUN_SECONDS)[last][0] == -signal.SIGKILL
    again = processes.outcomes(
        processes.start("main", count, *command, **options), processes.WHOLE_RUN_SECONDS
    )
    assert {status for status, _ in again.values()} == {0}, again


@pytest.mark.slow
def test_a_run_killed_and_resumed_is_the_run_on_disk(store, tmp_path):
    config = tmp_path / "config.py"
    config.write_text(tiny.CONFIG_FILE.format(data=str(tmp_path / "data")))
    killed_and_resumed(1, "ppo:3", f"--config={config}", f"--workdir={RUN}")
    on_disk = processes.start(
        "main", 1, f"--config={config}", f"--workdir={tmp_path / 'run'}", together=False
    )
    assert processes.outcomes(on_disk, processes.WHOLE_RUN_SECONDS)[0][0] == 0
    (parameters, numbers), expected = processes.results(RUN), processes.results(Path(tmp_path / "run"))
    tiny.assert_same(parameters, expected[0])
    assert numbers == expected[1]

    def files(folder):
        return sorted(path.name for path in folder.iterdir())

    on_disk_alone = {"run.lock"}  # object stores have no locks
    assert files(RUN) == sorted(set(files(Path(tmp_path / "run"))) - on_disk_alone)
    assert "</html>" in (RUN / "report.html").read_text()
    assert len(files(RUN / "tensorboard" / "ppo")) == 2  # of both starts


@pytest.mark.slow
def test_two_processes_killed_and_resumed(store, tmp_path):
    config = tmp_path / "config.py"
    config.write_text(processes.CONFIG.format(data=str(tmp_path / "data")))
    killed_and_resumed(2, "sft:3", f"--config={config}", f"--workdir={RUN}", "--stage=sft")
    assert [record["step"] for record in read_metrics(RUN / "metrics" / "sft.jsonl")] == [0, 1, 2, 3]
    assert checkpoint.latest_step(RUN / "checkpoints" / "sft") == 4
