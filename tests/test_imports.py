"""Imports run one way, so that a reader can stop anywhere and have understood what stands before."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "rlhf_jax"

# A module may import its own package and the layers before its own: siblings do not know each other.
LAYERS = [
    {"config", "hosts", "files", "storage", "command_line"},
    {"validation"},
    {"functional", "data", "workdir", "config_flags"},
    {"metrics", "manifest"},
    {"listing"},
    {"feedback", "recipes"},
    {"mesh"},
    {"stopping", "profiling"},
    {"model"},
    {"state", "checkpoint"},
    {"loop", "health"},
    {"rollout"},
    {"inference"},
    {"tasks"},
    {"collect"},
    {"pretrain", "sft", "reward", "ppo", "evaluation"},
    {"fork"},
    {"rounds"},
    {"plan", "export", "main"},
    {"experiments"},
]
LAYER = {name: i for i, names in enumerate(LAYERS) for name in names}
JAX = {"jax", "jaxlib", "flax", "optax", "orbax"}
NEVER = {"data": JAX, "feedback": JAX | {"config", "functional", "metrics", "workdir"}}
FILES = sorted(ROOT.rglob("*.py"))


def noun(module: str) -> str:
    """'rlhf_jax.model.heads' → 'model', the name a layer is listed by; 'jax.numpy' → 'jax'."""
    parts = module.split(".")
    return parts[min(1, len(parts) - 1)] if parts[0] == "rlhf_jax" else parts[0]


def imports(source: str) -> set[str]:
    """Nouns imported anywhere in a file, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {noun(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            modules = [node.module]
            if node.module == "rlhf_jax":
                modules = [f"rlhf_jax.{alias.name}" for alias in node.names]
            found |= {noun(module) for module in modules}
    return found


def wrong_imports(own: str, found: set[str]) -> set[str]:
    """The imports of a module under noun `own` that break the order."""
    later = {other for other in found - {own} if LAYER.get(other, -1) >= LAYER[own]}
    return later | found & NEVER.get(own, set())


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.relative_to(ROOT).as_posix())
def test_a_module_imports_only_what_stands_before_it(file):
    relative = file.relative_to(ROOT).with_suffix("")
    own = relative.parts[0]
    if own == "__init__":
        assert imports(file.read_text(encoding="utf-8")) == set()
        return
    assert own in LAYER, f"{own} stands in no layer"
    assert wrong_imports(own, imports(file.read_text(encoding="utf-8"))) == set()


@pytest.mark.parametrize("file", sorted(ROOT.rglob("__init__.py")), ids=lambda f: f.parent.name)
def test_packages_re_export_nothing(file):
    body = ast.parse(file.read_text(encoding="utf-8")).body
    assert all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body)


@pytest.mark.parametrize(
    "own, source, wrong",
    [
        ("data", "import jax.numpy as jnp", {"jax"}),
        ("feedback", "def f():\n    from jax import random", {"jax"}),
        ("feedback", "from rlhf_jax.data.mini import judge", set()),
        ("feedback", "from rlhf_jax import metrics", {"metrics"}),
        ("data", "from rlhf_jax.feedback import simulated", {"feedback"}),
        ("functional", "from rlhf_jax.model.heads import x", {"model"}),
        ("ppo", "from rlhf_jax import rollout, sft", {"sft"}),
        ("reward", "import rlhf_jax.ppo", {"ppo"}),
        ("checkpoint", "import rlhf_jax.state", {"state"}),
        ("model", "from rlhf_jax.model.params import ParamSpec\nimport numpy", set()),
    ],
)
def test_the_rule_finds_a_planted_import(own, source, wrong):
    assert wrong_imports(own, imports(source)) == wrong
