"""Comparisons in the formats of other programs: by hand, and in again."""

import csv
import io
import json
import re
from dataclasses import replace

import pyarrow.parquet
import pytest
from labelling import ALL_KINDS, answer_all, answered, lines, pair

from rlhf_jax.config import DataConfig
from rlhf_jax.data import own_tables
from rlhf_jax.feedback import agreement, people
from rlhf_jax.feedback.answers import export, main
from rlhf_jax.feedback.formats import FORMATS

COMMAND = '=HYPERLINK("http://example.org","x")'
TEXTS = [
    COMMAND,
    "- one\n- two",
    "'=b",
    "\ttab",
    "a;=1",
    'He said "no", then left.',
    "Straße\r\n+1",
    " blank",
]


def asked(i: int, prompt=None, **values) -> dict:
    """A prompt of one's own with two responses, one of which a spreadsheet would run."""
    info = {"id": f"p{i}", "prompt": prompt or f"{TEXTS[i % len(TEXTS)]} ({i})"}
    summaries = [{"text": TEXTS[i % len(TEXTS)], "policy": "a"}, {"text": f"Plain {i}.", "policy": "b"}]
    return {"info": info, "summaries": summaries, **values}


def number(task) -> int:
    return int(task.record["info"]["id"][1:])


def pairs(file) -> dict[tuple, str]:
    """What training on a table learns: prompt, better and worse response, and who said so → the split."""
    own_tables.tell.cache_clear()
    found = own_tables.gather(DataConfig(source="chat", files=str(file))).comparisons
    texts = [(one, *(one.summaries[i].text for i in (one.choice, 1 - one.choice))) for one in found]
    return {(one.info.text, better, worse, one.worker): one.split for one, better, worse in texts}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Sixteen prompts compared by Ana: the first by far, and on to a tie and the second by far."""
    folder = tmp_path_factory.mktemp("formats")
    store = answered(
        folder, [asked(i) for i in range(18)], lambda task: {"choice": str(number(task) % 9 + 1)}
    )
    export(store, folder / "out", "b", others=FORMATS, held_out=0.2)
    with store.read() as db:
        (ana,) = people.everybody(db)
    return folder / "out", ana.worker


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_read_again_as_the_same_pairs(exported, name):
    out, ana = exported
    wanted = {}
    for i in range(18):
        texts = TEXTS[i % len(TEXTS)], f"Plain {i}."
        if choice := i % 9 - 4:
            prompt, (better, worse) = f"{TEXTS[i % len(TEXTS)]} ({i})", texts if choice < 0 else texts[::-1]
            wanted[prompt, better, worse, ana] = choice
    back = pairs(out / name)
    assert back.keys() == wanted.keys()
    assert back == pairs(out / "comparisons.jsonl") and set(back.values()) == {"train", "valid1", "valid2"}


def test_a_row_of_trl_by_hand(tmp_path):
    given = {"choice": "2", "comment": "It names the cat."}
    store = answered(tmp_path, [pair(3, split="train", batch="b7")], lambda _: given, flipped=True)
    with store.write() as db:
        (ana,) = people.everybody(db)
        db.exec_driver_sql("UPDATE answers SET created = 1767225599.9, seconds = 61.23")
    export(store, tmp_path / "out", "b", others=["trl", "conversational"])
    (said,) = lines(tmp_path / "out" / "instructions.jsonl")
    prompt = (
        "SUBREDDIT: r/pets\n\nTITLE: Title 3: the cat and the neighbour\n\nPOST: Body 3. My cat sleeps at "
        "the neighbour's house.\n\nShe feeds him. Should I talk to her?\n\nTL;DR:"
    )
    south, north = (text["text"] for text in pair(3)["summaries"][::-1])
    beside = {
        "strength": 3,
        "comment": "It names the cat.",
        "seconds": 61.2,
        "worker": ana.worker,
        "date": "2025-12-31T23:59:59Z",
        "batch": "b7",
        "instructions": said["id"],
        "id": "post3",
    }
    (row,) = lines(tmp_path / "out" / "trl" / "train.jsonl")
    assert row == {"prompt": prompt, "chosen": f" {south}", "rejected": f" {north}"} | beside
    (row,) = lines(tmp_path / "out" / "conversational" / "train.jsonl")
    assert (
        row
        == {
            "prompt": [{"role": "user", "content": prompt}],
            "chosen": [{"role": "assistant", "content": south}],
            "rejected": [{"role": "assistant", "content": north}],
        }
        | beside
    )


def test_tables_say_ties_and_what_cannot_be_said_is_counted(tmp_path, capsys):
    turns = [("user", "Hi"), ("assistant", "Hello."), ("user", "2 + 2?")]
    talk = [{"role": role, "content": content} for role, content in turns]
    one = [{"role": "user", "content": "Alone?"}]
    records = [asked(0), asked(1), asked(2, talk), asked(3, one)]
    answered(tmp_path, [one | {"split": "train"} for one in records], lambda t: {"choice": "5919"[number(t)]})
    out = f"--out={tmp_path / 'out'}"
    assert (
        main(
            [
                "rlhf-jax answers",
                f"--store={tmp_path / 's.sqlite'}",
                out,
                f"--formats={','.join([*FORMATS, 'trl'])}",
            ]
        )
        == 0
    )
    told = capsys.readouterr().out.splitlines()
    assert told[1:5] == [
        "trl: 2 comparisons; left out: 1 ties, 1 conversations",
        "conversational: 3 comparisons; left out: 1 ties",
        "parquet: 4 comparisons",
        "csv: 3 comparisons; left out: 1 conversations",
    ]
    table = pyarrow.parquet.read_table(tmp_path / "out" / "parquet" / "train.parquet").to_pylist()
    by_id = {row["id"]: row for row in table}
    assert [(by_id[f"p{i}"]["votes"], by_id[f"p{i}"]["strength"]) for i in range(4)] == seen_by(tmp_path)
    assert by_id["p2"]["prompt"] == talk and by_id["p3"]["prompt"] == one
    assert by_id["p0"]["response1"] == [{"role": "assistant", "content": COMMAND}]
    chosen = {row["id"]: row["prompt"] for row in lines(tmp_path / "out" / "trl" / "train.jsonl")}
    assert chosen == {"p1": asked(1)["info"]["prompt"], "p3": "Alone?"}


def seen_by(folder) -> list[tuple[int, int]]:
    """(vote, strength) of what Ana said of p0 to p3, by the export's own answers."""
    given = {line["post"]: line["answer"]["confidence"] for line in lines(folder / "out" / "answers.jsonl")}
    said = [given[f"p{i}"] for i in range(4)]
    return [(0 if one == 5 else 1 if one < 5 else 2, abs(one - 5)) for one in said]


def test_no_cell_of_the_csv_begins_as_a_formula_in_any_program(exported):
    """Whether it parts cells at commas, semicolons or tabs, and whether it knows quotes or not."""
    out, _ = exported
    files = [file.read_text(encoding="utf-8-sig") for file in (out / "csv").iterdir()]
    cells = [cell for text in files for row in csv.reader(io.StringIO(text, newline="")) for cell in row]
    assert len(cells) == 13 * (18 + len(files)) and any("HYPERLINK" in cell for cell in cells)
    for cell in cells + [part for text in files for part in re.split("[;\t\n]", text)]:
        assert not re.match(r"[\s\"]*[=+@\t\r-]", cell), cell


@pytest.mark.parametrize("name", ["csv", "parquet"])
def test_people_agree_in_a_table_as_they_do_in_openais_records(tmp_path, name, capsys):
    records = [asked(i, split="train") for i in range(9)]
    store = answered(tmp_path, records, lambda task: {"choice": str(number(task) + 1)})
    answer_all(store, "Bo", lambda _: {"choice": "2"}, study=replace(ALL_KINDS, people_per_task=2))
    export(store, tmp_path / "out", "b", others=[name])
    figures = {}
    for file in (tmp_path / "out" / "comparisons.jsonl", tmp_path / "out" / name / f"train.{name}"):
        assert agreement.main(["rlhf-jax agreement", str(file), f"--json={tmp_path / 'a.json'}"]) == 0
        figures[file.name] = json.loads((tmp_path / "a.json").read_text())
    openai, table = figures.values()
    assert table["agreement"] == openai["agreement"] and table["shared_tasks"] == 8
    assert {one["worker"] for one in table["people"]} == {one["worker"] for one in openai["people"]}


def test_people_stand_under_their_names_where_that_is_asked_for(tmp_path):
    store = answered(tmp_path, [asked(1, split="train")], lambda _: {"choice": "1"})
    export(store, tmp_path / "out", "b", names=True, others=["trl"])
    for file in ("answers.jsonl", "comparisons.jsonl", "trl/train.jsonl"):
        assert [line["worker"] for line in lines(tmp_path / "out" / file)] == ["Ana"]


def test_an_unknown_format_is_told_in_one_line(tmp_path, capsys):
    assert main(["rlhf-jax answers", "--store=s", f"--out={tmp_path / 'out'}", "--formats=trl,xlsx"]) == 2
    assert "--formats: 'xlsx' is none of trl, conversational, parquet, csv" in capsys.readouterr().err
