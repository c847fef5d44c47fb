import hashlib
import json

import pytest
from etils.epath import Path

from rlhf_jax.run import steps


@pytest.fixture
def training(tmp_path):
    """Makes a training of steps with such meta.json files."""

    def make(metas):
        for step, meta in metas.items():
            path = tmp_path / str(step)
            path.mkdir()
            (path / "meta.json").write_text(meta if isinstance(meta, str) else json.dumps(meta))
            (path / "manifest.json").write_text("{}")
        (tmp_path / "400").mkdir()  # unfinished
        return Path(tmp_path)

    return make


def judged(value, by="score"):
    return {"best": by, "value": value}


@pytest.mark.parametrize(
    "metas, order",
    [
        ({}, []),
        ({9: {}, 10: {}, 100: {}}, [100, 10, 9]),
        ({1: judged(2.0), 2: judged(5.0), 3: judged(1.0)}, [2, 1, 3]),
        ({1: judged(2.0, "-loss"), 2: judged(5.0, "-loss"), 3: judged(1.0, "-loss")}, [3, 1, 2]),
        (
            {1: judged(2.0), 2: judged(2.0), 3: judged(None)},
            [2, 1, 3],
        ),  # of equals the newest; not finite last
        ({1: judged(2.0), 2: "{", 3: "7", 4: judged(1.0)}, [1, 4, 3, 2]),  # damaged ones: their hash tells
        ({1: {"value": 7.0}, 2: {"value": 1.0}}, [2, 1]),  # a value that nobody asked the best of
    ],
)
def test_the_order_in_which_later_stages_take_steps(training, metas, order):
    assert steps.by_preference(training(metas)) == order


def test_hashing_tells_every_byte(tmp_path, monkeypatch):
    monkeypatch.setattr(steps, "BLOCK", 1000)
    content = bytes(range(256)) * 10
    (tmp_path / "file").write_bytes(content)
    read = []
    assert steps.sha256(Path(tmp_path / "file"), read.append) == hashlib.sha256(content).hexdigest()
    assert read == [1000, 1000, 560]


def test_a_base_model_s_folder_holds_its_steps_directly(tmp_path):
    (tmp_path / "checkpoints" / "7").mkdir(parents=True)
    (tmp_path / "checkpoints" / "ppo" / "7").mkdir(parents=True)
    (tmp_path / "checkpoints" / "empty").mkdir()
    assert [path.name for path in steps.trainings(Path(tmp_path))] == ["checkpoints", "ppo"]


def test_a_file_that_leads_nowhere_is_missing_whatever_its_digest(tmp_path):
    for name in ("meta.json", "shapes.json"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "params").symlink_to(tmp_path / "nowhere")
    digests = {name: steps.sha256(Path(tmp_path / name)) for name in ("meta.json", "shapes.json")}
    for params in ({"params": "0"}, {"params": None}, {"gone": None}):
        (tmp_path / "manifest.json").write_text(json.dumps(digests | params))
        assert steps.fault(Path(tmp_path)) == f"{next(iter(params))} is missing"
