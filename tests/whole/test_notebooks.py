"""The notebooks run: what they claim they assert themselves, so that to execute one is to test it.

At small sizes here. With those that a person runs, in the repository:

    jupyter execute notebooks/*.ipynb
"""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
# The miniature, of which less is compiled: one layer instead of four, one length of prompts instead of two.
MODEL = 'ModelConfig(pretrained="mini/small")'
ONE_LAYER = 'ModelConfig(pretrained="mini/small", layer_loop="scan")'
COMPILED_FAST = """
from configs.mini import get_config as mini


def get_config():
    config = mini()
    config.model.layer_loop = "scan"
    config.data.query_buckets = (48,)
    return config
"""


@pytest.fixture
def compiled_fast(tmp_path):
    """The path of that configuration."""
    path = tmp_path / "compiled_fast.py"
    path.write_text(COMPILED_FAST)
    return str(path)


def parameters(notebook):
    """The first cell of code, which holds the sizes."""
    cell = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert cell.metadata == {"tags": ["parameters"]}
    return cell


def execute(name, folder, monkeypatch, **values):
    """Runs a notebook in `folder` with other values of its parameters, by the Python that runs the tests."""
    for variable in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(folder / "jupyter"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    cell = parameters(notebook)
    for parameter, value in values.items():
        cell.source, found = re.subn(rf"(?m)^{parameter} = .*", f"{parameter} = {value!r}", cell.source)
        assert found == 1, parameter
    for cell in notebook.cells:
        cell.source = cell.source.replace(MODEL, ONE_LAYER)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_committed_without_what_a_run_leaves(path):
    notebook = nbformat.read(path, as_version=4)
    parameters(notebook)
    assert notebook.metadata == METADATA
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"tags"}
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
    assert path.read_text() == nbformat.writes(notebook) + "\n"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_imported_is_there(path):
    """Of the notebook that runs with the slow tests alone, too."""
    notebook = nbformat.read(path, as_version=4)
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    imports = re.findall(r"(?m)^from rlhf_jax.* import .*", code)
    assert imports
    exec("\n".join(imports), {})


def test_ppo_step(tmp_path, monkeypatch):
    execute("ppo_step", tmp_path, monkeypatch, RUN="none", EPISODES=16, WARM_UP=2)


def test_own_reward(compiled_fast, tmp_path, monkeypatch):
    sizes = {"POSTS": 128, "EPISODES": 128, "KL_COEFS": (0.2,), "CONFIG": compiled_fast}
    execute("own_reward", tmp_path, monkeypatch, WORKDIR=str(tmp_path / "run"), **sizes)


def test_own_comparisons(compiled_fast, tmp_path, monkeypatch):
    sizes = {"POSTS": 128, "PAIRS": 1_024, "CONFIG": compiled_fast}
    execute("own_comparisons", tmp_path, monkeypatch, WORKDIR=str(tmp_path / "run"), **sizes)
    checkpoints = tmp_path / "run" / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["reward", "reward_seed0", "sft"]


@pytest.mark.slow
def test_own_data(tmp_path, monkeypatch):
    config = str(ROOT / "configs" / "mini.py")
    execute("own_data", tmp_path, monkeypatch, WORKDIR=str(tmp_path), CONFIG=config, ROWS=300, EPISODES=64)
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.slow
def test_pipeline(tmp_path, monkeypatch):
    sizes = {"POSTS": 256, "PAIRS": 640, "EPISODES": 256, "TEST_POSTS": 20}
    config = str(ROOT / "configs" / "mini.py")
    execute("pipeline", tmp_path, monkeypatch, WORKDIR=str(tmp_path / "run"), CONFIG=config, **sizes)
    assert (tmp_path / "run" / "report.html").exists()
