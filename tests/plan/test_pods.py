"""With the compilers of TPU and GPU, on a machine without either; about two minutes.

pip install -e '.[plan-tpu,plan-gpu]'
python -m pytest -m pod tests/plan/test_pods.py
"""

import importlib.util
import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.pod

FILE = """from rlhf_jax.config import *


def get_config():
    return Config(
        model=ModelConfig(width=128, layers=2, heads=8, context=256, dtype="bfloat16", rematerialize=True),
        data=DataConfig(vocabulary=512, query_tokens=64, query_buckets=(64,), response_tokens=16,
                        reward_response_tokens=16),
        sft=SftConfig(batch_size=16),
        reward=RewardConfig(batch_size=16),
        ppo=PpoConfig(batch_size=16, minibatches=2, microbatches=2),
    )
"""
COMPILERS = {"v5e:2x2": "libtpu", "gpu:1x1x4": "jax_cuda13_plugin", "l4": "jax_cuda13_plugin"}
MESHES = {"v5e:2x2": "1,4,1", "gpu:1x1x4": "1,2,2"}


def plan(folder, topology, *arguments):
    """The plans of a run in a process of its own, whose log holds what compilers complain of."""
    if not importlib.util.find_spec(COMPILERS[topology]):
        pytest.skip("needs the compilers: pip install -e '.[plan-tpu,plan-gpu]'")
    (folder / "tiny.py").write_text(FILE)
    command = [sys.executable, "-m", "rlhf_jax", "plan", f"--config={folder / 'tiny.py'}"]
    command += [f"--topology={topology}", f"--json={folder / 'plan.json'}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "plan.json").read_text())["plans"], done.stderr


@pytest.mark.parametrize("topology", MESHES)
def test_every_stage_compiles_and_replicates_no_activations(tmp_path, topology):
    plans, log = plan(tmp_path, topology, f"--mesh={MESHES[topology]}")
    assert [p["program"] for p in plans] == ["sft", "reward", "ppo", "eval.write", "eval.read"]
    assert all(p["fits"] and p["bound"]["seconds"] > 0 for p in plans)
    assert all(sum(p["collectives"].values()) > 0 for p in plans)
    assert "Involuntary full rematerialization" not in log


@pytest.mark.parametrize("topology", MESHES)
def test_what_is_too_large_does_not_fit(tmp_path, topology):
    """Two layers of width 65,536: 103e9 parameters, 412 GB of weights on four chips."""
    wide = ("--config.model.width=65536", "--config.model.heads=512", "--stage=sft")
    (found,), _ = plan(tmp_path, topology, *wide)
    assert found["fits"] is False
    assert found["reason"]


def test_a_batch_that_does_not_fit_is_computed_in_parts(tmp_path):
    """285 MiB do not fit a fifth of a GiB, of which JAX can take 95%; half of the activations do."""
    kept = ("--config.model.dtype=float32", "--config.model.rematerialize=false")
    rows = ("--config.sft.batch_size=64", "--config.sft.pack=false", "--stage=sft", "--memory=0.2")
    (found,), _ = plan(tmp_path, "l4", *kept, *rows)
    assert not found["fits"] and found["memory"]["peak"] > 0.19 * 2**30
    (trial,) = json.loads((tmp_path / "plan.json").read_text())["remedies"]
    assert trial["settings"] == {"sft.microbatches": 2} and trial["plan"]["fits"]
    assert trial["plan"]["memory"]["peak"] < 0.6 * found["memory"]["peak"]
