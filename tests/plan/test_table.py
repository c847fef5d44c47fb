import json
from pathlib import Path

import pytest

from rlhf_jax.plan import card_page, cells, table
from rlhf_jax.plan.compiled import BY_CUBLAS

SFT = cells.Cell("paper_1_3b", "v5e:4x4", "sft")
PPO = cells.Cell("paper_6_7b", "v5e:2x2", "ppo")


@pytest.fixture
def versions(monkeypatch):
    """What is installed, to be changed."""
    installed = {"jax": "1.0", "libtpu": "0.1", "jax-cuda13-plugin": "1.0"}
    monkeypatch.setattr(cells.importlib.metadata, "version", installed.__getitem__)
    return installed


@pytest.fixture
def compiled(monkeypatch, versions):
    """Stands in for the compilers, to which PPO of 6.7B on four chips is too large; the cells compiled."""
    done = []

    def compile_cell(cell, folder):
        done.append(cell)
        plan = {
            "program": cell.stage,
            "compiler": f"invented, {BY_CUBLAS}" if cell.stage == "ppo" else "invented",
            "fits": cell != PPO,
            "reason": "",
            "memory": {},
            "memory_fraction": 0.95 if cell.size == "paper_1_3b" else 0.0,
            "model_parameters": 2**28,
            "bound": {"seconds": 0.25},
            "chip_hours": {"100%": 1.5, "30%": 5.0},
        }
        plan["memory"] = {"peak": 2**31, "total": 2**31, "beside": 2**30, "arguments": 2**30}
        if cell == PPO:
            plan |= {"reason": "RESOURCE_EXHAUSTED: 80.24G of 15.75G", "memory": {}}
        content = {
            "date": "2030-01-02",
            "jax": "1.0",
            "compiler": f"libtpu {versions['libtpu']}",
            "plans": [plan],
        }
        if not cell.topology.startswith("v"):
            content["compiler"] = "jax-cuda13-plugin 1.0"
        (folder / f"{cell.name}.json").write_text(json.dumps(content))

    monkeypatch.setattr(table, "compile_cell", compile_cell)
    return done


def run(folder, *arguments):
    out = folder / "plans.md"
    assert table.main(["rlhf-jax plan-table", f"--json={folder / 'cells'}", f"--out={out}", *arguments]) == 0
    return out.read_text()


def test_the_table_says_what_fits_and_quotes_the_compiler_where_it_does_not(tmp_path, compiled):
    text = run(tmp_path)
    assert len(compiled) == 2 * 7 * 4
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| `v5e:4x4`")]
    assert [row[2].strip() for row in rows] == ["3.0 GiB, ≥ 0.25 s", "5"] * 2  # and chip-hours, of both sizes
    assert text.count("does not fit |") == 1 and text.count(" 5 |") == 2 * 7 * 4 - 1
    assert "- paper_6_7b, v5e:2x2, ppo: RESOURCE_EXHAUSTED: 80.24G of 15.75G" in text
    assert "not run" in text and "2030-01-02" in text and "libtpu 0.1" in text


def test_a_cell_is_compiled_once_for_the_versions_installed(tmp_path, compiled, versions):
    run(tmp_path, "--only=v5e")
    assert {cell.topology for cell in compiled} == {"v5e:2x2", "v5e:4x4"}
    before = len(compiled)
    run(tmp_path, "--only=v5e")
    assert len(compiled) == before
    versions["libtpu"] = "0.2"
    run(tmp_path, f"--only={SFT.name}")
    assert compiled[before:] == [SFT]


def test_cells_that_are_not_there_stay_empty(tmp_path, compiled):
    text = run(tmp_path, f"--only={SFT.name}")
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    filled = [cell.strip() for row in rows for cell in row.split("|")[2:-1] if cell.strip()]
    assert filled == ["3.0 GiB, ≥ 0.25 s", "5"]


def test_the_page_of_one_card_says_bytes_a_parameter_and_where_jax_must_be_told(tmp_path, compiled):
    text = run(tmp_path, "--one_card", "--only=paper_1_3b-h100")
    assert [cell.stage for cell in compiled] == list(table.STAGES)
    assert all("--config.ppo.microbatches=64" in cell.flags for cell in compiled)
    (row,) = [line.split("|") for line in text.splitlines() if "`configs/paper_1_3b.py`" in line]
    assert row[2].strip() == "`h100`" and row[3].strip() == r"3.0 GiB, ≥ 0.25 s\*"
    assert row[-3].strip() == "4.0 held, 8.0 at the peak"  # 2³⁰ and 2³¹ bytes of 2²⁸ parameters
    assert row[-2].strip() == "5"
    assert "with all products by cuBLAS: ppo of `paper_1_3b`." in text
    (empty,) = [line.split("|") for line in text.splitlines() if "`configs/tldr_gemma3_1b_lora.py`" in line]
    assert "".join(empty[3:]).strip() == ""


def test_every_recipe_of_the_page_is_there():
    configs = Path(__file__).parents[2] / "configs"
    assert all((configs / f"{row.config}.py").is_file() for row in card_page.ROWS)


def test_a_missing_compiler_is_one_line(tmp_path, capsys, monkeypatch):
    def missing(package):
        raise cells.importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(cells.importlib.metadata, "version", missing)
    folder = tmp_path / "cells"
    folder.mkdir()
    (folder / f"{SFT.name}.json").write_text(
        json.dumps(dict.fromkeys(("jax", "compiler", "date", "plans"), "old"))
    )
    status = table.main(
        ["rlhf-jax plan-table", f"--json={folder}", f"--out={tmp_path / 'o'}", f"--only={SFT.name}"]
    )
    assert status == 2
    assert "plan-tpu" in capsys.readouterr().err
