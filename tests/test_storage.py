"""A run's folder on gs://: configuration, progress, metrics and checkpoints on a store of objects."""

import object_store
import pytest
import test_checkpoint
from etils.epath import Path

from rlhf_jax import checkpoint
from rlhf_jax import workdir as runs
from rlhf_jax.config import Config, MeshConfig
from rlhf_jax.mesh import make_mesh
from rlhf_jax.metrics import MetricsLog, read_metrics
from rlhf_jax.workdir import WorkdirError

RUN = Path("gs://bucket/runs/a")


@pytest.fixture
def store(monkeypatch):
    with object_store.served(monkeypatch) as store:
        yield store


def test_configuration_and_progress(store):
    assert runs.open_workdir(str(RUN), Config(seed=3)) == RUN
    assert "bucket/runs/a/config.json" in store.objects
    with pytest.raises(WorkdirError, match="seed: 3 → 4"):
        runs.open_workdir(str(RUN), Config(seed=4))
    runs.record_seconds(RUN, "sft", 2.0)
    runs.mark_done(RUN, "sft")
    assert runs.stage_done(RUN, "sft") and runs.read_config(RUN).seed == 3


def test_metrics_are_there_after_a_flush_and_a_resumed_run_goes_on(store):
    records = RUN / "metrics" / "sft.jsonl"
    with MetricsLog(RUN, "sft", 0, 9, "sft") as log:
        for step in range(3):
            log.log(step, {"loss": 1.0})
        assert not records.exists()
        log.flush()
        assert [record["step"] for record in read_metrics(records)] == [0, 1, 2]
    with MetricsLog(RUN, "sft", 2, 9, "sft") as log:
        log.log(2, {"loss": 2.0})
    assert [record["loss"] for record in read_metrics(records)] == [1.0, 1.0, 2.0]
    assert any("/tensorboard/sft/events" in name for name in store.objects)


def test_checkpoints_are_kept_found_whole_and_restored(store):
    """Written in place, the manifest last; a damaged step is set aside and a half-written one removed."""
    folder = RUN / "checkpoints" / "sft"
    state = test_checkpoint.make_state(make_mesh(MeshConfig(2, 2, 2)))
    store.put("bucket/runs/a/checkpoints/sft/1/params/part", b"of a step that was never finished")
    test_checkpoint.save_steps(folder, state, 2, 3, 4)
    assert sorted(path.name for path in folder.iterdir()) == ["3", "4"]
    generations = {name: generation for name, (generation, _) in store.objects.items() if "/4/" in name}
    assert max(generations, key=generations.get).endswith("4/manifest.json")
    like = test_checkpoint.make_state(make_mesh(MeshConfig(1, 8, 1)), seed=1)
    *stored, meta = checkpoint.restore(folder, 4, *map(test_checkpoint.abstract, like))
    test_checkpoint.assert_same(tuple(stored), state)
    assert meta == {"step": 4}
    damaged = max(
        (name for name in store.objects if "/4/params/" in name), key=lambda n: len(store.objects[n][1])
    )
    store.put(damaged, store.objects[damaged][1][:-1] + b"?")
    assert checkpoint.latest_step(folder) == 3
