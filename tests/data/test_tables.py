import gzip
import json
import tracemalloc
from itertools import islice
from pathlib import Path

import pyarrow.ipc
import pyarrow.parquet
import pytest
from table_formats import FORMATS, TABLE, arrow, gzipped, indexed_arrow, jsonl, lines, parquet

from rlhf_jax.data.columns import Joined
from rlhf_jax.data.records import RecordError
from rlhf_jax.data.tables import Row, columns_of, rows, splits

NESTED = {"prompt": [{"role": "user", "content": "q"}], "info": {"id": "t3_a", "title": "T"}}


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_has_the_same_rows(tmp_path, name):
    FORMATS[name](tmp_path / name, TABLE)
    assert [row.values for row in rows(tmp_path / name)] == TABLE
    assert [row.values for row in rows(tmp_path)] == TABLE  # a folder of one shard


@pytest.mark.parametrize("name", [name for name in FORMATS if "csv" not in name])
def test_each_format_with_nested_values_has_them_without_their_nulls(tmp_path, name):
    empty = {"prompt": [], "info": {"id": "t3_b", "title": None}}
    FORMATS[name](tmp_path / name, [NESTED, empty])
    found = [row.values for row in rows(tmp_path / name)]
    assert found == [NESTED, {"prompt": [], "info": {"id": "t3_b"}}]


@pytest.mark.parametrize(
    "name, counted", [("a.jsonl", "line"), ("a.jsonl.gz", "line"), ("list.json", "row"), ("a.parquet", "row")]
)
def test_a_row_has_its_place(tmp_path, name, counted):
    FORMATS[name](tmp_path / name, [{"n": 5}] * 3)
    assert list(rows(tmp_path / name))[2] == Row({"n": 5}, f"{tmp_path / name}, {counted} 3")


def test_rows_are_read_as_they_are_asked_for(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines([{"text": "x" * 1000}] * 20_000) + b"not JSON")
    tracemalloc.start()
    assert len(list(islice(rows(tmp_path / "a.jsonl"), 1000))) == 1000
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()


def test_numbers_of_a_csv_stay_the_texts_they_are(tmp_path):
    (tmp_path / "a.csv").write_text("prompt,completion\n007,1e3\n")
    assert next(rows(tmp_path / "a.csv")).values == {"prompt": "007", "completion": "1e3"}


# Shards and splits ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names, expected",
    [
        ("batch3 batch4 cnndm0", {"": "batch3 batch4 cnndm0"}),
        ("part-00001-of-00002 part-00000-of-00002", {"": "part-00000-of-00002 part-00001-of-00002"}),
        ("train valid test", {"test": "test", "train": "train", "valid": "valid"}),
        (
            "train-00000-of-00002 train-00001-of-00002 test-00000-of-00001",
            {"test": "test-00000-of-00001", "train": "train-00000-of-00002 train-00001-of-00002"},
        ),
        ("train_sft-00000-of-00001", {"train_sft": "train_sft-00000-of-00001"}),
    ],
)
def test_shards_are_of_the_splits_that_their_names_begin_with(tmp_path, names, expected):
    for name in [*names.split(), ".hidden"]:
        jsonl(tmp_path / f"{name}.jsonl", [{"from": name}])
    (tmp_path / "README.md").write_text("a card")
    found = {split: [file.name for file in files] for split, files in splits(tmp_path).items()}
    assert found == {split: [f"{name}.jsonl" for name in files.split()] for split, files in expected.items()}
    for split, files in expected.items():
        assert [row.values["from"] for row in rows(tmp_path, split=split)] == files.split()


def test_a_glob_takes_its_files_alone(tmp_path):
    for split in ("train", "test"):
        parquet(tmp_path / f"{split}-00000-of-00001.parquet", [{"from": split}])
    assert [row.values for row in rows(f"{tmp_path}/train-*.parquet")] == [{"from": "train"}]
    assert [row.values for row in rows(f"{tmp_path}/test*")] == [{"from": "test"}]


def saved(folder: Path, table: list, **state) -> None:
    """As Dataset.save_to_disk leaves a folder; tests of the library itself are below."""
    folder.mkdir(parents=True)
    arrow(folder / "data-00000-of-00002.arrow", table[:1])
    arrow(folder / "data-00001-of-00002.arrow", table[1:])
    arrow(folder / "cache-83.arrow", [{"left": "over"}])
    files = [{"filename": f"data-0000{i}-of-00002.arrow"} for i in range(2)]
    (folder / "state.json").write_text(json.dumps({"_data_files": files, "_split": None} | state))
    (folder / "dataset_info.json").write_text("{}")


def test_a_saved_dataset_and_its_splits_are_read(tmp_path):
    saved(tmp_path / "one", TABLE)
    assert [row.values for row in rows(tmp_path / "one")] == TABLE
    saved(tmp_path / "split", TABLE, _split="train")
    assert list(splits(tmp_path / "split")) == ["train"]
    for split in ("train", "test"):
        saved(tmp_path / "both" / split, [{"from": split}, {"from": split}], _split=split)
    (tmp_path / "both" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert list(splits(tmp_path / "both")) == ["train", "test"]
    assert {row.values["from"] for row in rows(tmp_path / "both", split="test")} == {"test"}


# Columns -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_columns_are_renamed(tmp_path, name):
    FORMATS[name](tmp_path / name, TABLE)
    found = [row.values for row in rows(tmp_path / name, {"prompt": "completion", "completion": "prompt"})]
    assert found[1] == {"completion": "2 + 2 =", "prompt": " 4", "note": "easy"}


def test_a_column_may_be_missing_from_the_first_line(tmp_path):
    jsonl(tmp_path / "a.jsonl", TABLE)
    assert list(rows(tmp_path / "a.jsonl", {"note": "remark"}))[1].values["remark"] == "easy"


@pytest.mark.parametrize("name", FORMATS)
def test_several_columns_get_one_name(tmp_path, name):
    FORMATS[name](tmp_path / name, TABLE)
    found = [row.values for row in rows(tmp_path / name, {"note": "prompt", "prompt": "prompt"})]
    assert found[1] == {"prompt": {"note": "easy", "prompt": "2 + 2 ="}, "completion": " 4"}
    assert list(found[1]["prompt"]) == ["note", "prompt"] and isinstance(found[1]["prompt"], Joined)


def test_a_column_that_is_null_in_the_first_rows_is_there(tmp_path):
    parquet(tmp_path / "a.parquet", [{"prompt": "q", "input": None}] * 200 + [{"prompt": "q", "input": "i"}])
    assert columns_of(tmp_path / "a.parquet") == ["prompt", "input"]


def test_a_column_to_rename_may_stand_in_late_rows_of_one_shard(tmp_path):
    jsonl(tmp_path / "a-0.jsonl", [{"prompt": "q"}] * 200 + [{"prompt": "q", "input": "i"}])
    jsonl(tmp_path / "a-1.jsonl", [{"prompt": "q"}])
    found = [row.values for row in rows(tmp_path, {"input": "more"})]
    assert found[200] == {"prompt": "q", "more": "i"} and len(found) == 202
    with pytest.raises(RecordError, match="no column 'output' there; it has prompt, input"):
        next(rows(tmp_path, {"output": "more"}))


NANOSECONDS = 1_700_000_000_123_456_789  # since 1970
MOMENTS = {
    pyarrow.timestamp("ns"): (NANOSECONDS, "2023-11-14 22:13:20.123456789"),
    pyarrow.date32(): (10**7, "29349-01-26"),
    pyarrow.list_(pyarrow.struct([("at", pyarrow.timestamp("ns"))])): (
        [{"at": NANOSECONDS}],
        [{"at": "2023-11-14 22:13:20.123456789"}],
    ),
}


@pytest.mark.parametrize("kind", MOMENTS, ids=str)
def test_moments_that_python_does_not_have_are_texts(tmp_path, kind):
    given, text = MOMENTS[kind]
    table = pyarrow.table({"prompt": ["q"], "at": pyarrow.array([given], kind)})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert next(rows(tmp_path / "a.parquet")).values == {"prompt": "q", "at": text}


def test_numbers_that_json_does_not_have_stand_for_nothing(tmp_path):
    nan, infinite = float("nan"), float("inf")
    parquet(tmp_path / "a.parquet", [{"score": nan, "of": {"a": infinite, "b": 1.0}, "votes": [2.0, nan]}])
    assert next(rows(tmp_path / "a.parquet")).values == {"of": {"b": 1.0}, "votes": [2.0, None]}


# What cannot be read -------------------------------------------------------------------------


def cut(make, share: float):
    def edit(path: Path) -> None:
        make(path, TABLE * 500)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])

    return edit


def without_end(path: Path) -> None:
    arrow(path, TABLE)
    path.write_bytes(path.read_bytes()[:-8])


def put(content: bytes):
    return lambda path: path.write_bytes(content) and None


def not_text(path: Path) -> None:
    column = pyarrow.array([b"fine", b"\xff\xfe"]).cast(pyarrow.string(), safe=False)
    pyarrow.parquet.write_table(pyarrow.table({"n": [1, 2], "prompt": column}), path)


def on_mars(path: Path) -> None:
    at = pyarrow.array([NANOSECONDS], pyarrow.timestamp("ns", tz="Mars/Crater"))
    pyarrow.parquet.write_table(pyarrow.table({"at": at}), path)


def without_index(path: Path) -> None:
    indexed_arrow(path, TABLE)
    path.write_bytes(path.read_bytes()[:-20])


BAD = [
    ("a.parquet", on_mars, "column at cannot be read (Cannot locate or parse timezone 'Mars/Crater'"),
    ("a.arrow", without_index, "broken Arrow"),
    ("a.jsonl", put(b'{"a": 1}\n{"a": \n'), "line 2: not JSON"),
    ("a.jsonl", put(b'{"a": 1}\n[1]\n'), "line 2: should be a JSON object"),
    ("a.jsonl", put(b'{"a": 1}\n{"a": "\xff"}\n'), "line 2: not UTF-8 text"),
    ("a.jsonl", put(b'{"a": 1}\n{"a": "\\ud800"}\n'), "line 2: field a holds half of a surrogate pair"),
    ("a.jsonl", put(b'{"a": NaN}\n'), "line 1: not JSON (NaN"),
    ("a.jsonl", put(b""), "no rows in it"),
    ("a.jsonl", put(b'{"a": ' + b"[" * 900 + b"]" * 900 + b"}"), "line 1: nested too deeply"),
    ("a.json", put(b"[]"), "no rows in it"),
    ("a.json", put(b'[{"a": 1}, 2]'), "row 2: should be a JSON object"),
    ("a.json", put(b'[{"a": 1},\n {"a": 1,}]'), "line 2, column"),
    ("a.json", put(b'\n\n[{"a": 1},\n {"a": 1,}]'), "line 4, column"),
    ("a.json", put(b'{\n "a": 1\n}'), "line 1: an object should stand on one line"),
    ("a.jsonl.gz", put(b'{"a": 1}\n'), "broken gzip (Not a gzipped file"),
    ("a.jsonl.gz", cut(gzipped, 0.7), "broken gzip (Compressed file ended"),
    ("a.jsonl.gz", put(gzip.compress(b'{"a": 1}\n')[:-9] + b"\xff" * 9), "broken gzip"),
    ("a.csv", put(b""), "no rows in it"),
    ("a.csv", put(b"prompt,completion\n"), "no rows in it"),
    ("a.csv", put(b"a,b\n1,2\n1,2,3\n"), "row 2: 3 cells, but the header names 2 columns"),
    ("a.csv", put(b"a,b\n1\n"), "row 1: 1 cells"),
    ("a.csv", put(b"a,a\n1,2\n"), "two columns have the name 'a'"),
    ("a.csv", put(b'a,b\n1,"2\n'), "line 2: not CSV (unexpected end of data)"),
    ("a.csv", put(b"a,b\n1,2\n1,\xe9\n"), "line 3: not UTF-8 text"),
    ("a.parquet", put(b""), "broken Parquet"),
    ("a.parquet", cut(parquet, 0.5), "broken Parquet"),
    ("a.parquet", lambda path: parquet(path, []), "no rows in it"),
    ("a.parquet", not_text, "row 2: column prompt is not UTF-8 text"),
    ("a.arrow", put(b"1234567890"), "broken Arrow"),
    ("a.arrow", cut(arrow, 0.5), "broken Arrow"),
    ("a.arrow", without_end, "broken Arrow after row 3 (it ends early)"),
    ("a.txt", put(b"text"), "no table, which is one of .jsonl, .json, .csv"),
    ("a.jsonl", lambda path: path.mkdir(), "there is nothing"),
]


@pytest.mark.parametrize("name, make, words", BAD)
def test_a_bad_file_ends_in_one_line_that_names_it(tmp_path, name, make, words):
    make(tmp_path / name)
    with pytest.raises(RecordError) as error:
        list(rows(tmp_path / name))
    assert str(error.value).startswith(str(tmp_path / name)) and "\n" not in str(error.value)
    assert words in str(error.value)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"columns": {"question": "prompt"}}, "no column 'question' there; it has prompt, completion, note"),
        (
            {"columns": {"note": "prompt"}},
            "line 2: two columns would be prompt; rename the other one, too, or join",
        ),
        ({"split": "test"}, "no split 'test'; it has no splits"),
    ],
)
def test_a_question_that_the_table_cannot_answer(tmp_path, arguments, words):
    jsonl(tmp_path / "a.jsonl", TABLE)
    with pytest.raises(RecordError) as error:
        list(rows(tmp_path / "a.jsonl", **arguments))
    assert words in str(error.value)


def test_a_folder_that_is_no_table(tmp_path):
    def told(path) -> str:
        with pytest.raises(RecordError) as error:
            list(rows(path))
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "No such file or folder" in told(tmp_path / "nowhere")
    (tmp_path / "data").mkdir()
    assert "there is data" in told(tmp_path)
    jsonl(tmp_path / "train.jsonl", TABLE)
    jsonl(tmp_path / "test.jsonl", TABLE)
    assert "which split?; it has test, train" in told(tmp_path)
    parquet(tmp_path / "test.parquet", TABLE)
    assert ".jsonl and .parquet files" in told(tmp_path)
    saved(tmp_path / "saved", TABLE)
    (tmp_path / "saved" / "data-00001-of-00002.arrow").unlink()
    assert "data-00001-of-00002.arrow: cannot be read (No such file" in told(tmp_path / "saved")
    (tmp_path / "saved" / "state.json").write_text("{}")
    assert "not as Dataset.save_to_disk leaves a folder" in told(tmp_path / "saved")
