"""What `pip install .` brings: every module, every file that the code reads, the configurations."""

import re
import runpy
import tomllib
from pathlib import Path

import pytest

setuptools = pytest.importorskip("setuptools")

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture
def setup(monkeypatch) -> dict:
    """The arguments that setup.py gives."""
    given: dict = {}
    monkeypatch.setattr(setuptools, "setup", given.update)
    monkeypatch.chdir(ROOT)
    runpy.run_path("setup.py")
    return given


def test_every_file_is_installed(setup):
    data = PROJECT["tool"]["setuptools"]["package-data"]
    installed = set()
    for package in setup["packages"]:
        folder = ROOT / setup["package_dir"].get(package, package.replace(".", "/"))
        for pattern in ["*.py", *data.get(package, [])]:
            installed |= {path for path in folder.glob(pattern) if path.is_file()}
    there = [path for name in ("rlhf_jax", "configs") for path in (ROOT / name).rglob("*")]
    files = {path for path in there if path.is_file() and "__pycache__" not in path.parts}
    assert sorted(files - installed) == []


def test_the_configurations_lie_in_the_package(setup):
    names = {"rlhf_jax.configs": "configs", "rlhf_jax.configs.rewards": "configs/rewards"}
    assert setup["package_dir"] == names
    assert not (ROOT / "rlhf_jax" / "configs").exists()


def test_the_version_is_one():
    version = PROJECT["project"]["version"]
    assert f"version: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(
        rf"^## \[{re.escape(version)}\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M
    )
