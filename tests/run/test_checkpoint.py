import ast
import json
import math
import pickle
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from states import Rest, abstract, assert_same, flip_a_byte, largest, make_state, save_steps

from rlhf_jax.config import MeshConfig
from rlhf_jax.mesh import make_mesh
from rlhf_jax.run import checkpoint
from rlhf_jax.run.checkpoint import CheckpointError

P = jax.P


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshConfig(2, 2, 2))


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 8, 1), (1, 2, 4)])
def test_every_bit_survives_a_change_of_mesh(tmp_path, mesh, shape):
    params, rest = make_state(mesh)
    checkpoint.save(tmp_path, 7, params=params, rest=rest, meta={"shift": 0.25})
    devices = jax.devices()[: math.prod(shape)]
    other = abstract(make_state(make_mesh(MeshConfig(*shape), devices), seed=1))
    restored_params, restored_rest = checkpoint.restore(tmp_path, 7, *other)
    assert_same(restored_params, params)
    assert_same(restored_rest, rest)
    assert type(restored_rest) is Rest and type(restored_rest.optimizer) is type(rest.optimizer)
    assert restored_params["embed"].sharding == other[0]["embed"].sharding
    assert checkpoint.read_meta(tmp_path, 7) == {"shift": 0.25}


def test_restored_key_draws_the_same_numbers(tmp_path, mesh):
    state = make_state(mesh)
    save_steps(tmp_path, state, 1)
    _, rest = checkpoint.restore(tmp_path, 1, *abstract(state))
    np.testing.assert_array_equal(jax.random.normal(rest.key, 3), jax.random.normal(state[1].key, 3))


def test_parameters_alone_do_not_read_the_optimizer(tmp_path, mesh):
    state = make_state(mesh)
    save_steps(tmp_path, state, 1)
    flip_a_byte(largest(tmp_path / "1" / "rest"))
    assert_same(checkpoint.restore_params(tmp_path, 1, abstract(state[0])), state[0])
    assert checkpoint.read_meta(tmp_path, 1) == {"step": 1}


def test_newest_two_steps_are_kept(tmp_path, mesh):
    save_steps(tmp_path, make_state(mesh), 9, 10, 100)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["10", "100"]
    assert checkpoint.latest_step(tmp_path) == 100


def test_saving_a_step_again_replaces_it(tmp_path, mesh):
    save_steps(tmp_path, make_state(mesh, seed=0), 3)
    again = make_state(mesh, seed=1)
    save_steps(tmp_path, again, 3)
    assert [p.name for p in tmp_path.iterdir()] == ["3"]
    assert_same(checkpoint.restore_params(tmp_path, 3, abstract(again[0])), again[0])


def test_half_written_step_is_ignored(tmp_path, mesh):
    save_steps(tmp_path, make_state(mesh), 1, 2)
    (tmp_path / "2" / checkpoint.MANIFEST).unlink()
    (tmp_path / "3" / "params").mkdir(parents=True)
    assert checkpoint.latest_step(tmp_path) == 1
    save_steps(tmp_path, make_state(mesh), 4)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "4"]


@pytest.mark.parametrize("name", ["params", "rest", "meta.json", "manifest.json"])
def test_flipped_byte_is_named_and_the_step_before_is_used(tmp_path, mesh, name, caplog):
    state = make_state(mesh)
    save_steps(tmp_path, state, 1, 2)
    file = tmp_path / "2" / name
    flip_a_byte(largest(file) if file.is_dir() else file)
    with pytest.raises(CheckpointError, match="2 is damaged"):
        checkpoint.restore(tmp_path, 2, *abstract(state))
    assert checkpoint.latest_step(tmp_path) == 1
    assert f"{tmp_path}/2 is damaged" in caplog.text
    assert (tmp_path / "2" / checkpoint.DAMAGED).exists()  # kept, without being a step
    assert_same(checkpoint.restore(tmp_path, 1, *abstract(state))[0], state[0])


def test_missing_file_is_named(tmp_path, mesh, caplog):
    save_steps(tmp_path, make_state(mesh), 1)
    gone = largest(tmp_path / "1" / "params")
    gone.unlink()
    assert checkpoint.latest_step(tmp_path) is None
    assert f"{gone.relative_to(tmp_path / '1')} is missing" in caplog.text


def test_what_is_missing_is_named_with_the_command_that_makes_it(tmp_path):
    for name in ("reward", "sft_10x"):
        message = rf"no whole checkpoint in .*{name} \(there are: none\): .* rlhf-jax run --stage=…$"
        with pytest.raises(CheckpointError, match=message):
            checkpoint.require(tmp_path, name)


def test_required_stage_is_found(tmp_path, mesh):
    folder = tmp_path / "checkpoints" / "sft"
    save_steps(folder, make_state(mesh), 40)
    assert checkpoint.require(tmp_path, "sft") == (folder, 40)


def test_another_model_is_named_by_its_first_array(tmp_path, mesh):
    params, rest = make_state(mesh)
    save_steps(tmp_path, (params, rest), 1)
    wider = abstract(params) | {"embed": jax.ShapeDtypeStruct((16, 32), jnp.float32)}
    with pytest.raises(CheckpointError, match=r"params\['embed'\] is \[16, 8\] there and \[16, 32\] here"):
        checkpoint.restore_params(tmp_path, 1, wider)
    with pytest.raises(CheckpointError, match=r"params\['head'\]\['bias'\] is \[8\] there and nothing here"):
        checkpoint.restore_params(tmp_path, 1, {"embed": abstract(params["embed"])})


def test_relative_folders_work(tmp_path, mesh, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path.relative_to(tmp_path) / "runs"
    state = make_state(mesh)
    save_steps(folder, state, 1)
    assert checkpoint.latest_step(folder) == 1
    assert_same(checkpoint.restore_params(folder, 1, abstract(state[0])), state[0])


def test_manifest_lists_every_other_file(tmp_path, mesh):
    save_steps(tmp_path, make_state(mesh), 1)
    files = {p.relative_to(tmp_path / "1").as_posix() for p in (tmp_path / "1").rglob("*") if p.is_file()}
    assert json.loads((tmp_path / "1" / checkpoint.MANIFEST).read_text()).keys() == files - {
        checkpoint.MANIFEST
    }


def test_a_checkpoint_is_read_without_pickle(tmp_path, mesh, monkeypatch):
    """One from a stranger runs no code: nothing that could is called, and no file is such a stream."""
    state = make_state(mesh)
    save_steps(tmp_path, state, 1)

    def refused(*arguments, **named):
        raise AssertionError("a pickle was read")

    for name in ("load", "loads", "Unpickler", "_Unpickler"):
        monkeypatch.setattr(pickle, name, refused)
    assert_same(checkpoint.restore(tmp_path, 1, *abstract(state)), state)
    assert checkpoint.read_meta(tmp_path, 1) == {"step": 1}
    for file in (path for path in tmp_path.rglob("*") if path.is_file()):
        assert not (file.read_bytes()[:1] == b"\x80" and file.read_bytes()[-1:] == b"."), file


def test_no_source_names_pickle_or_what_reads_it():
    """numpy reads pickles only where it is told to; a config file is code that the user names."""
    for file in (Path(__file__).parents[2] / "rlhf_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [getattr(node, "id", None), getattr(node, "attr", None), getattr(node, "arg", None)]
            names += [
                alias.name.partition(".")[0] for alias in getattr(node, "names", []) if hasattr(alias, "name")
            ]
            banned = {
                "pickle",
                "cPickle",
                "dill",
                "cloudpickle",
                "joblib",
                "marshal",
                "shelve",
                "allow_pickle",
            }
            assert not banned & set(names), f"{file}: {banned & set(names)}"


@pytest.mark.parametrize("content", [b"[]", b"{}", b"7", b'{"params": 3}', b"\xff\xfe", b""])
def test_a_manifest_of_anything_else_is_damage(tmp_path, mesh, content):
    save_steps(tmp_path, make_state(mesh), 1, 2)
    (tmp_path / "2" / checkpoint.MANIFEST).write_bytes(content)
    assert checkpoint.latest_step(tmp_path) == 1
