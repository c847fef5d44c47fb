"""Every file of a checkpoint, damaged in every way: found before it is read, and the step before is used.

The same damage to what plain Orbax wrote, beside it, as a table:
python -m pytest -m reliability -s tests/run/test_damage.py
"""

import collections

import counting
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import states

from rlhf_jax.config import MeshConfig
from rlhf_jax.mesh import make_mesh
from rlhf_jax.run import checkpoint
from rlhf_jax.run.checkpoint import CheckpointError

FLIPS = 5  # places of a file where one bit is changed


def kinds(content):
    """What a file of this content may become: (what happened, new content or None for none at all)."""
    for place in range(FLIPS) if content else ():
        at = place * (len(content) - 1) // (FLIPS - 1)
        yield "one byte flipped", content[:at] + bytes([content[at] ^ 1 << place]) + content[at + 1 :]
    yield "truncated", content[: len(content) // 2]
    yield "emptied", b""
    yield "deleted", None


def damages(folder):
    """Does every damage to every file in turn, and undoes it: yields (file, what happened)."""
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = file.read_bytes()
        for kind, changed in kinds(content):
            if changed == content:
                continue  # an empty file cannot be emptied
            if changed is None:
                file.unlink()
            else:
                file.write_bytes(changed)
            yield file.relative_to(folder), kind
            file.write_bytes(content)


@pytest.fixture(scope="module")
def state():
    """Arrays large enough to stand in files of their own."""
    return states.make_state(make_mesh(MeshConfig(1, 2, 1)), rows=4096)


def ours(folder, state):
    """Counts of what `latest_step` makes of every damage to the newer of two steps."""
    states.save_steps(folder, state, 1, 2)
    found = collections.Counter()
    for file, kind in damages(folder / "2"):
        used = checkpoint.latest_step(folder)
        aside = folder / "2" / checkpoint.DAMAGED
        if aside.exists():  # what a manifest is renamed to
            aside.replace(folder / "2" / checkpoint.MANIFEST)
        found[kind, "found" if used == 1 else f"used {used} with {file} {kind}"] += 1
    assert checkpoint.latest_step(folder) == 2  # all is as it was
    return found


def orbaxs(folder, state):
    """The same of Orbax's own restore of the same arrays, without a manifest."""
    params, rest = state
    arrays = {"params": params, "rest": rest.replace(key=jax.random.key_data(rest.key))}
    like = states.abstract(arrays)
    with ocp.StandardCheckpointer() as orbax:
        for name, tree in arrays.items():
            orbax.save(folder / name, tree)
    found = collections.Counter()
    for _, kind in damages(folder):
        found[kind, _restored(folder, like, arrays)] += 1
    return found


def _restored(folder, like, arrays):
    try:
        with ocp.StandardCheckpointer() as orbax:
            stored = {name: orbax.restore(folder / name, tree) for name, tree in like.items()}
    except Exception:
        return "an error"
    same = jax.tree.map(lambda a, b: np.array_equal(a, b), stored, arrays)
    return "as written" if jax.tree.all(same) else "other numbers, no word"


def test_every_damage_to_every_file_is_found(tmp_path, state):
    found = ours(tmp_path, state)
    assert {said for _, said in found} == {"found"}
    assert found["one byte flipped", "found"] > 100 and found["deleted", "found"] > 20


def test_a_flipped_byte_in_a_name_of_the_manifest_is_found_whatever_is_read(tmp_path, state):
    states.save_steps(tmp_path, state, 1)
    file = tmp_path / "1" / checkpoint.MANIFEST
    whole, like = file.read_bytes(), states.abstract(state[0])
    names = [at for at in range(len(whole)) if whole[:at].rpartition(b"\n")[2].count(b'"') == 1]
    for at in names[:: max(len(names) // 40, 1)]:
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(CheckpointError, match="is damaged"):
            checkpoint.restore_params(tmp_path, 1, like)
    file.write_bytes(whole)
    checkpoint.restore_params(tmp_path, 1, like)


@pytest.mark.parametrize("part", ["params", "rest", "meta.json"])
def test_training_goes_on_from_the_step_before(tmp_path, part):
    counting.count(tmp_path, 20)
    file = tmp_path / "checkpoints" / "counter" / "20" / part
    states.flip_a_byte(states.largest(file) if file.is_dir() else file)
    again = []
    state = counting.count(tmp_path, 30, again.append)
    assert again == list(range(10, 30)) and state.params[0] == 30 and state.total == sum(range(30))
    assert counting.steps(tmp_path) == list(range(30))


@pytest.mark.reliability
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of Orbax's failed reads
def test_the_same_damage_to_plain_orbax(tmp_path, state):
    """What it makes of it is printed, not required."""
    columns = ("an error", "as written", "other numbers, no word")
    checked, plain = ours(tmp_path / "ours", state), orbaxs(tmp_path / "orbax", state)
    print(f"\n{'':<18}{'here: found':>18} | plain Orbax:", "  ".join(columns))
    for kind in ("one byte flipped", "truncated", "emptied", "deleted"):
        total = sum(count for (k, _), count in checked.items() if k == kind)
        line = f"{kind:<18}{checked[kind, 'found']:>10} of {total:>4} |"
        print(line, f"{'':<11}", *(f"{plain[kind, column]:>{len(column) + 1}}" for column in columns))
        assert checked[kind, "found"] == total
