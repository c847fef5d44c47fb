import json

import pytest

from rlhf_jax.plan import table

SFT = table.Cell("paper_1_3b", "v5e:4x4", "sft")
PPO = table.Cell("paper_6_7b", "v5e:2x2", "ppo")


@pytest.fixture
def versions(monkeypatch):
    """What is installed, to be changed."""
    installed = {"jax": "1.0", "libtpu": "0.1", "jax-cuda13-plugin": "1.0"}
    monkeypatch.setattr(table.importlib.metadata, "version", installed.__getitem__)
    return installed


@pytest.fixture
def compiled(monkeypatch, versions):
    """Stands in for the compilers, to which PPO of 6.7B on four chips is too large; the cells compiled."""
    cells = []

    def compile_cell(cell, folder):
        cells.append(cell)
        plan = {
            "program": cell.stage,
            "fits": cell != PPO,
            "reason": "",
            "memory": {},
            "bound": {"seconds": 0.25},
            "chip_hours": {"100%": 1.5, "30%": 5.0},
        }
        plan["memory"] = {"peak": 2**31, "total": 2**31, "beside": 2**30}
        if cell == PPO:
            plan |= {"reason": "RESOURCE_EXHAUSTED: 80.24G of 15.75G", "memory": {}}
        content = {
            "date": "2030-01-02",
            "jax": "1.0",
            "compiler": f"libtpu {versions['libtpu']}",
            "plans": [plan],
        }
        if cell.topology.startswith("gpu"):
            content["compiler"] = "jax-cuda13-plugin 1.0"
        (folder / f"{cell.name}.json").write_text(json.dumps(content))

    monkeypatch.setattr(table, "compile_cell", compile_cell)
    return cells


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


def test_a_missing_compiler_is_one_line(tmp_path, capsys, monkeypatch):
    def missing(package):
        raise table.importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(table.importlib.metadata, "version", missing)
    cells = tmp_path / "cells"
    cells.mkdir()
    (cells / f"{SFT.name}.json").write_text(
        json.dumps(dict.fromkeys(("jax", "compiler", "date", "plans"), "old"))
    )
    status = table.main(
        ["rlhf-jax plan-table", f"--json={cells}", f"--out={tmp_path / 'o'}", f"--only={SFT.name}"]
    )
    assert status == 2
    assert "plan-tpu" in capsys.readouterr().err
