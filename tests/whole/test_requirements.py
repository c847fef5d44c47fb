"""Lists of requirements: each names what the code that it serves imports, and no two differ."""

import ast
import json
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
OURS = ("rlhf_jax", "configs", "benchmarks", "tests")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LISTS = [
    "requirements.txt",
    "tests/requirements-live.txt",
    "benchmarks/requirements.txt",
    "benchmarks/accelerator/requirements.txt",
]
DISTRIBUTIONS = packages_distributions()
# What the list of benchmarks/accelerator says that the machine has, and what comes with that.
MACHINE = "jax flax optax orbax-checkpoint transformers jinja2 matplotlib scikit-learn sentencepiece"
WITH_IT = (
    "absl-py etils huggingface-hub joblib markupsafe ml-dtypes numpy packaging protobuf pyyaml regex "
    "safetensors scipy tokenizers tqdm typing-extensions"
)


def named(file: str) -> dict[str, Requirement]:
    """The requirements of a list by their names, with those of the lists that it includes."""
    found: dict[str, Requirement] = {}
    for line in (ROOT / file).read_text(encoding="utf-8").splitlines():
        content = re.sub(r"(^|\s)#.*", "", line).strip()
        if content.startswith("-r "):
            found |= named((ROOT / file).parent.joinpath(content[3:]).resolve().relative_to(ROOT).as_posix())
        elif content:
            wanted = Requirement(content)
            found[canonicalize_name(wanted.name)] = wanted
    return found


def source(path: Path) -> str:
    """The Python of a file; of a notebook, that of its cells."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = [cell["source"] for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    return "".join(line for cell in cells for line in [*cell, "\n"] if not line.startswith(("%", "!")))


def modules(path: Path) -> set[str]:
    """Dotted names of what a file imports anywhere, and of that without which its tests are skipped."""
    found = set()
    for node in ast.walk(ast.parse(source(path))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.importorskip":
            found |= {word.value for word in node.args if isinstance(word, ast.Constant)}
    return found


def files(*patterns: str) -> list[Path]:
    return sorted(path for pattern in patterns for path in ROOT.glob(pattern))


def reached(begin: Iterable[Path]) -> list[Path]:
    """These files and all of ours that they import, directly or not."""
    found, new = set(), set(begin)
    while new:
        found |= new
        names = {name.replace(".", "/") for path in new for name in modules(path)}
        places = {ROOT / f"{name}{end}" for name in names for end in (".py", "/__init__.py")}
        new = {path for path in places if path.is_file() and path.relative_to(ROOT).parts[0] in OURS} - found
    return sorted(found)


def needed(paths: Iterable[Path]) -> Mapping[str, Path]:
    """Packages of others by the name that they are installed by, and a file that imports each."""
    local = {path.stem for path in ROOT.glob("tests/*")} | set(OURS) | set(sys.stdlib_module_names)
    found = {}
    for path in paths:
        for name in {module.partition(".")[0] for module in modules(path)} - local:
            found[canonicalize_name(DISTRIBUTIONS.get(name, [name])[0])] = path
    return found


LIVE = files("tests/live/*.py", "tests/fixtures/make_families.py")
TESTS = [path for path in files("tests/**/*.py") if path not in LIVE]
SERVED = {
    "pyproject.toml": files("rlhf_jax/**/*.py", "configs/*.py"),
    "requirements.txt": [
        *files("rlhf_jax/**/*.py", "configs/*.py", "docs/*.py", "notebooks/*.ipynb"),
        *TESTS,
        *(path for path in files("benchmarks/**/*.py") if not path.name.endswith("_peer.py")),
    ],
    "tests/requirements-live.txt": LIVE,
    "benchmarks/requirements.txt": reached(files("benchmarks/*_peer.py")),
    "benchmarks/accelerator/requirements.txt": reached(
        files("benchmarks/accelerator/*.py", "rlhf_jax/main.py", "rlhf_jax/data/tasks/mini.py")
    ),
}


@pytest.mark.parametrize("file", SERVED)
def test_a_list_names_what_its_code_imports(file):
    if file == "pyproject.toml":
        names = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    else:
        names = set(named(file))
    asked = dict(needed(SERVED[file]))
    if "accelerator" in file:  # installed without what the packages depend on
        for name in names:
            for wanted in map(Requirement, requires(name) or []):
                if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
                    asked[canonicalize_name(wanted.name)] = ROOT / name
        told = (ROOT / file).read_text(encoding="utf-8").partition("\n\n")[0]
        assert all(name.partition("-c")[0] in told for name in MACHINE.split())
        names |= set(f"{MACHINE} {WITH_IT}".split())
    assert {name: str(path) for name, path in asked.items() if name not in names} == {}


def test_lists_that_name_the_same_package_agree():
    pins: dict[str, set[str]] = {}
    for file in LISTS:
        for name, wanted in named(file).items():
            assert [bound.operator for bound in wanted.specifier] == ["=="], f"{file}: {name}"
            pins.setdefault(name, set()).add(str(wanted.specifier))
    texts = "".join(path.read_text(encoding="utf-8") for path in files("**/*.md", "tests/**/*.py", "*/*.txt"))
    for line in re.findall(r"pip install (.*)", texts):
        for name, version in re.findall(r"([\w-]+)(==[\w.]+)", line):
            pins.setdefault(canonicalize_name(name), set()).add(version)
    assert {name: versions for name, versions in pins.items() if len(versions) > 1} == {}


def test_every_list_is_known():
    found = files(
        "*requirements*.txt", *(f"{name}/**/*requirements*.txt" for name in (*OURS, "docs", "launch"))
    )
    assert sorted(path.relative_to(ROOT).as_posix() for path in found) == sorted(LISTS)


def test_what_ci_runs_is_what_the_package_asks_for():
    """Every dependency has a lower bound, and is pinned at it or above."""
    pinned = named("requirements.txt")
    for dependency in PROJECT["dependencies"]:
        wanted = Requirement(dependency)
        assert [bound.operator for bound in wanted.specifier] == [">="], dependency
        (pin,) = pinned[canonicalize_name(wanted.name)].specifier
        assert pin.version in wanted.specifier, dependency
