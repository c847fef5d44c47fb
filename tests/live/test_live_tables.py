"""Tables are read as the library `datasets` reads and writes them."""

import pytest

datasets = pytest.importorskip("datasets", reason="pip install -r tests/requirements-live.txt")

from table_formats import FORMATS, TABLE, padded

from rlhf_jax.data.tables import rows

pytestmark = pytest.mark.live


def test_what_the_library_datasets_writes_is_read(tmp_path):
    table = datasets.Dataset.from_list(padded(TABLE))
    table.save_to_disk(tmp_path / "one", num_shards=2)
    table.select([2, 0]).save_to_disk(tmp_path / "selected")
    datasets.DatasetDict(train=table, test=table.select([1])).save_to_disk(tmp_path / "both")
    table.to_parquet(tmp_path / "a.parquet")
    table.to_json(tmp_path / "a.jsonl")
    table.to_csv(tmp_path / "a.csv")
    for name in ("one", "a.parquet", "a.jsonl", "a.csv"):
        assert [row.values for row in rows(tmp_path / name)] == TABLE
    assert [row.values for row in rows(tmp_path / "selected")] == [TABLE[2], TABLE[0]]
    assert [row.values for row in rows(tmp_path / "both", split="test")] == [TABLE[1]]


@pytest.mark.parametrize("name", FORMATS)
def test_the_library_datasets_reads_the_same_rows(tmp_path, name):
    FORMATS[name](tmp_path / name, TABLE)
    kind = name.removesuffix(".gz").rpartition(".")[2].replace("jsonl", "json")
    file = str(tmp_path / name)
    if kind == "csv":
        theirs = datasets.Dataset.from_csv(file, cache_dir=str(tmp_path))
    else:
        theirs = datasets.load_dataset(kind, data_files=file, split="train", cache_dir=str(tmp_path))
    found = [{column: value for column, value in row.items() if value is not None} for row in theirs]
    assert found == [row.values for row in rows(file)]
