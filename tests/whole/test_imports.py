"""Imports run one way, so that a reader can stop anywhere and have understood what stands before."""

import ast
import importlib
from pathlib import Path

import pytest

import rlhf_jax

ROOT = Path(__file__).parents[2] / "rlhf_jax"

# A module may import its own room and what stands before it. The modules of pipeline/ are rooms of their own:
# stages do not know each other, but for fine-tuning, which distillation repeats.
LAYERS = [
    {"config", "files", "command_line"},
    {"validation"},
    {"functional", "data"},
    {"feedback", "recipes", "mesh"},
    {"run", "model"},
    {"training"},
    {"inference"},
    {"writing"},
    {"evaluation"},
    {"report"},
    {"pipeline.rollout", "pipeline.ask", "pipeline.gates", "pipeline.teaching", "pipeline.ensemble"},
    {"pipeline.own_reward", "pipeline.update", "pipeline.sft"},
    {"a stage"},  # every other module of pipeline/
    {"pipeline.stages"},
    {"pipeline.export"},
    {"pipeline.rounds"},
    {"plan", "main"},
    {"experiments"},
]
LAYER = {name: i for i, names in enumerate(LAYERS) for name in names}
JAX = {"jax", "jaxlib", "flax", "optax", "orbax"}
NEVER = {"data": JAX, "feedback": JAX | {"config", "functional", "run", "training"}}
FILES = sorted(ROOT.rglob("*.py"))


def noun(module: str) -> str:
    """'rlhf_jax.model.heads' → 'model', the name a layer is listed by; 'jax.numpy' → 'jax'."""
    top, *rest = module.split(".")
    if top != "rlhf_jax":
        return top
    return ".".join(rest[: 2 if rest[:1] == ["pipeline"] else 1]) or top


def layer(name: str) -> int:
    """Which of LAYERS a noun is of; -1 for other packages."""
    return LAYER.get(name, LAYER["a stage"] if name.startswith("pipeline.") else -1)


def imports(source: str) -> set[str]:
    """Nouns imported anywhere in a file, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {noun(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            modules = [node.module]
            if node.module in ("rlhf_jax", "rlhf_jax.pipeline"):
                modules = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {noun(module) for module in modules}
    return found


def wrong_imports(own: str, found: set[str]) -> set[str]:
    """The imports of a module under noun `own` that break the order."""
    later = {other for other in found - {own} if layer(other) >= layer(own)}
    return later | found & NEVER.get(own, set())


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.relative_to(ROOT).as_posix())
def test_a_module_imports_only_what_stands_before_it(file):
    relative = file.relative_to(ROOT).with_suffix("")
    if relative.name in ("__init__", "__main__"):
        return
    own = noun(".".join(("rlhf_jax", *relative.parts)))
    assert layer(own) >= 0, f"{own} stands in no layer"
    assert wrong_imports(own, imports(file.read_text(encoding="utf-8"))) == set()


@pytest.mark.parametrize("file", sorted(ROOT.glob("*/**/__init__.py")), ids=lambda f: f.parent.name)
def test_packages_re_export_nothing(file):
    body = ast.parse(file.read_text(encoding="utf-8")).body
    assert all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body)


def test_the_root_holds_few_modules():
    assert len([file for file in ROOT.glob("*.py") if file.name != "__init__.py"]) <= 9


@pytest.mark.parametrize("name", sorted(rlhf_jax._MOVED))
def test_an_old_name_is_answered_with_the_new_one(name):
    with pytest.raises(ImportError, match=f"{name} is now {rlhf_jax._MOVED[name]}"):
        importlib.import_module(name)
    importlib.import_module(rlhf_jax._MOVED[name])


@pytest.mark.parametrize(
    "own, source, wrong",
    [
        ("data", "import jax.numpy as jnp", {"jax"}),
        ("feedback", "def f():\n    from jax import random", {"jax"}),
        ("feedback", "from rlhf_jax.data.mini import judge", set()),
        ("feedback", "from rlhf_jax.training import metrics", {"training"}),
        ("data", "from rlhf_jax.feedback import tasks", {"feedback"}),
        ("functional", "from rlhf_jax.model.heads import x", {"model"}),
        ("pipeline.ppo", "from rlhf_jax.pipeline import rollout, reward", {"pipeline.reward"}),
        ("pipeline.reward", "import rlhf_jax.pipeline.ppo", {"pipeline.ppo"}),
        ("run", "import rlhf_jax.training.state", {"training"}),
        ("model", "from rlhf_jax.model.params import ParamSpec\nimport numpy", set()),
    ],
)
def test_the_rule_finds_a_planted_import(own, source, wrong):
    assert wrong_imports(own, imports(source)) == wrong
