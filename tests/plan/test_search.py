import dataclasses

from rlhf_jax.config import Config, ConfigError, MeshConfig, PpoConfig
from rlhf_jax.plan import search as module
from rlhf_jax.plan.compiled import Compiled
from rlhf_jax.plan.topologies import Topology

EIGHT = Topology("cpu:8", [None] * 8, "cpu", None, "none")
CONFIG = Config(ppo=PpoConfig(batch_size=12))


def plan(config, model, fits, seconds):
    mesh = dataclasses.asdict(config.mesh)
    found = Compiled(
        "ppo", "cpu:8", 8, "", mesh, config.ppo.microbatches, model.rematerialize, 1, 1, 1, 1.0, 1, fits
    )
    found.bound, found.memory = {"seconds": seconds}, {"total": 64 // config.ppo.microbatches}
    return found


def test_meshes_use_every_device():
    shapes = [(m.replica, m.fsdp, m.tensor) for m in module.meshes(8)]
    assert len(shapes) == len(set(shapes)) == 10  # 2^a · 2^b · 2^c = 2^3
    assert all(r * f * t == 8 for r, f, t in shapes)
    assert [(m.replica, m.fsdp, m.tensor) for m in module.meshes(6)] == [(1, 6, 1), (2, 3, 1), (1, 3, 2)]


def test_microbatches_double_until_the_program_fits(monkeypatch):
    tried = []

    def compile_program(program, config, model, vocabulary, topology):
        if config.mesh.tensor > 1:
            raise ConfigError("the vocabulary does not divide")
        tried.append((config.mesh.replica, model.rematerialize, config.ppo.microbatches))
        needed = 1 if model.rematerialize else 4
        return plan(config, model, config.ppo.microbatches >= needed, 2.0 if model.rematerialize else 1.0)

    monkeypatch.setattr(module, "compile_program", compile_program)
    plans = list(module.search("ppo", CONFIG, CONFIG.model, 8, EIGHT))
    assert tried[:4] == [(1, False, 1), (1, False, 2), (1, False, 4), (1, True, 1)]
    assert len(tried) == 4 * 4  # replica 1, 2, 4, 8
    best = module.best_first(plans)
    assert len(best) == 8
    assert [p.rematerialize for p in best] == [False] * 4 + [True] * 4


def test_microbatches_that_save_nothing_are_not_doubled(monkeypatch):
    """Compilers that give up tell no memory: then the next one is tried."""
    needed = {1: None, 2: 90, 4: 70, 8: 70, 16: 70}
    tried = []

    def compile_program(program, config, model, vocabulary, topology):
        found = plan(config, model, False, 1.0)
        parts = config.ppo.microbatches
        found.memory = {} if needed[parts] is None else {"total": needed[parts]}
        tried.append(parts)
        return found

    monkeypatch.setattr(module, "compile_program", compile_program)
    monkeypatch.setattr(module, "meshes", lambda devices: [MeshConfig(1, 8, 1)])
    config = dataclasses.replace(CONFIG, ppo=PpoConfig(batch_size=16))
    list(module.search("ppo", config, config.model, 8, EIGHT))
    assert tried == [1, 2, 4, 8] * 2  # activations kept and recomputed
