import counting
import jax
import jax.numpy as jnp
import pytest
from etils.epath import Path

from rlhf_jax.training import profiling
from rlhf_jax.training.metrics import read_metrics
from rlhf_jax.training.profiling import WARM_UP, covered, phases_of


def test_overlapping_spans_are_counted_once():
    assert covered([]) == 0.0
    assert covered([(5, 6), (0, 2), (1, 3), (1.5, 2.5)]) == 3 + 1


@jax.jit
def two_phases(x):
    with jax.named_scope("sample"):
        x = jax.lax.fori_loop(0, 2, lambda i, x: jnp.tanh(x @ x), x)
    with jax.named_scope("update"), jax.named_scope("gradients"):
        x = jax.lax.fori_loop(0, 200, lambda i, x: jnp.cos(x @ x), x)
    return x


@jax.jit
def other_way_round(x):
    """The same operations, by the same names, in the other's phase."""
    with jax.named_scope("update"):
        x = jax.lax.fori_loop(0, 2, lambda i, x: jnp.tanh(x @ x), x)
    with jax.named_scope("sample"):
        x = jax.lax.fori_loop(0, 200, lambda i, x: jnp.cos(x @ x), x)
    return x


def test_an_operation_belongs_to_its_outermost_phase():
    found = phases_of(two_phases.lower(jnp.eye(8)).compile().as_text())
    assert {"sample", "update"} <= set(found.values()) <= {"sample", "update", "other"}


def test_the_longer_phase_of_a_step_takes_longer(tmp_path, capsys, monkeypatch):
    """One whose second phase does a hundred times what the first does, beside a program that misleads."""
    x = jnp.eye(256)
    jax.block_until_ready([two_phases(x), other_way_round(x)])
    programs = sorted(profiling.programs(), key=lambda text: "HloModule jit_other_way_round" in text)
    monkeypatch.setattr(profiling, "programs", lambda: programs)
    profiler = profiling.Profiler(Path(tmp_path / "profile"), 5, 5 + WARM_UP + profiling.STEPS)
    found = {}
    for i in range(5, 5 + WARM_UP + profiling.STEPS):
        profiler.before(i, x)
        x = two_phases(x)
        found |= profiler.after(i, x)
    assert found["seconds/update"] > found["seconds/sample"] > 0 <= found["seconds/host"]
    assert list(tmp_path.glob("profile/plugins/profile/*/*.xplane.pb"))
    assert "profile of a step: sample " in capsys.readouterr().out


def test_a_training_with_too_few_steps_says_so(tmp_path, capsys):
    profiler = profiling.Profiler(Path(tmp_path / "sft"), 0, 3)
    for i in range(3):
        profiler.before(i, None)
        assert profiler.after(i, None) == {}
    assert "no profile of sft: 3 steps are left, of 4 needed" in capsys.readouterr().out


@pytest.mark.parametrize("profile", [True, False])
def test_the_loop_logs_what_the_profile_says(tmp_path, profile):
    counting.count(tmp_path, 6, profile=profile)
    logged = [
        i for i, r in enumerate(read_metrics(tmp_path / "metrics/counter.jsonl")) if "seconds/host" in r
    ]
    assert logged == ([3] if profile else [])
    assert (tmp_path / "profile").exists() is profile
