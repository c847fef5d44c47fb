import os

import pytest

from rlhf_jax.files import JsonError, naming, parse_json, read_object, whole, write_text


class Fault(ValueError):
    pass


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", r"^not JSON \(Expecting value at column 1\)$"),
        (b'{\n"a": }', r"^not JSON \(Expecting value at line 2, column 6\)$"),
        (b'"\xff"', "^not UTF-8 text$"),
        (b"[NaN]", r"^not JSON \(NaN is no number of JSON\)$"),
        (b"[" * 100_000, r"^not JSON that can be read \(it is nested too deeply\)$"),
        (b"1" * 5_000, r"^not JSON that can be read \(a number has thousands of digits\)$"),
    ],
)
def test_what_is_no_json_is_told_in_one_line(content, words):
    with pytest.raises(JsonError, match=words):
        parse_json(content)


def test_an_object_is_read_or_the_file_named(tmp_path):
    file = tmp_path / "a.json"
    file.write_text('{"b": 1}')
    assert read_object(file, Fault) == {"b": 1}
    file.write_text("[]")
    with pytest.raises(Fault, match=r"a\.json: should be a JSON object$"):
        read_object(file, Fault)
    with pytest.raises(Fault, match=r"gone\.json: cannot be read \(No such file or directory\)$"):
        read_object(tmp_path / "gone.json", Fault)


def test_a_file_appears_at_the_end_in_a_new_folder(tmp_path):
    file = tmp_path / "new" / "a.txt"
    with whole(file) as partial:
        partial.write_text("new")
        assert not file.exists()
    assert file.read_text() == "new" and os.listdir(file.parent) == ["a.txt"]


def test_a_folder_is_not_written_over(tmp_path):
    (tmp_path / "a.html").mkdir()
    with pytest.raises(OSError, match="Is a directory: '.*a.html'"), whole(tmp_path / "a.html") as partial:
        partial.write_text("new")
    assert os.listdir(tmp_path) == ["a.html"]


def test_a_failed_write_leaves_what_was_there_and_nothing_else(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("old")
    with pytest.raises(KeyboardInterrupt), whole(file) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert file.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_a_full_disk_names_the_file_that_was_to_be_written(tmp_path):
    file = tmp_path / "a.txt"
    with pytest.raises(OSError) as error, whole(file) as partial:
        os.symlink("/dev/full", partial)
        partial.write_text("text")
    assert (error.value.strerror, error.value.filename) == ("No space left on device", str(file))
    assert os.listdir(tmp_path) == []


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    file = tmp_path / "a.txt"
    write_text(file, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(file, "new \ud800")
    assert file.read_text() == "old"


def test_an_error_without_a_name_gets_one_and_keeps_its_class(tmp_path):
    with pytest.raises(FileNotFoundError) as error, naming(tmp_path):
        raise FileNotFoundError(2, "No such file or directory")
    assert error.value.filename == str(tmp_path)
