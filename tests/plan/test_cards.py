import pytest

from rlhf_jax.plan import topologies
from rlhf_jax.plan.cards import CARDS
from rlhf_jax.plan.topologies import PlanError, find


@pytest.fixture
def described(monkeypatch):
    """What the compiler of GPUs is told, in its place."""
    told = []

    def get_topology_desc(platform, target_config, topology):
        told.append((target_config, topology))
        return type("Described", (), {"devices": [None]})

    monkeypatch.setattr(topologies.topologies, "get_topology_desc", get_topology_desc)
    monkeypatch.setattr(topologies, "version_of", lambda *_: "1.0")
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return told


def test_a_card_is_told_to_the_compiler_by_its_capability_and_memory(described):
    found = find("rtx4090")
    ((target, shape),) = described
    assert shape == "1x1x1"
    assert "cuda_compute_capability { major: 8 minor: 9 }" in target and "core_count: 128 " in target
    assert f"device_memory_size: {found.chip.memory} " in target and "$" not in target
    assert 23.6 < found.chip.memory / 2**30 < 23.7
    assert (found.platform, found.chip.taken, found.chip.usable) == ("cuda", 0.75, 0.95)


def test_memory_can_be_said_and_gpu_means_h100(described):
    found = find("gpu:1x1x1", 24)
    assert found.chip.memory == 24 * 2**30 and found.chip.flops == CARDS["h100"].flops
    assert found.name == "gpu:1x1x1 of 24 GiB"
    assert find("a100-40").chip.memory < find("a100-80").chip.memory < find("h200").chip.memory
    find("h100:1x4x8")
    assert [shape for _, shape in described] == ["1x1x1"] * 4 + ["1x4x8"]


def test_figures_are_those_of_products_in_bfloat16_without_sparsity():
    """In a cycle a multiprocessor's tensor cores do 512 multiplications and additions on Ada, of which a
    GeForce has half, and 1,024, 2,048 and 4,096 on the generations of data centers."""
    each = {(8, 9): 512, (8, 0): 1024, (9, 0): 2048, (10, 0): 4096}
    for name, card in CARDS.items():
        share = 0.5 if name == "rtx4090" else 1.0
        at_the_clock = 2 * share * card.cores * each[card.capability] * card.clock * 1e9
        assert 0.9 < card.flops / at_the_clock < 1.01, name


@pytest.mark.parametrize(
    ("name", "memory", "part"),
    [
        ("v5e:2x2", 24, "v5e:2x2"),
        ("cpu:8", 24, "--memory"),
        ("l4", 0, "positive"),
        ("l4", float("nan"), "positive"),
        ("l4:2", None, "l4:1x4x8"),
        ("rtx5090", None, "rtx4090"),
    ],
)
def test_what_is_no_card_is_told_in_one_line(described, name, memory, part):
    with pytest.raises(PlanError) as error:
        find(name, memory)
    assert part in str(error.value) and "\n" not in str(error.value)
