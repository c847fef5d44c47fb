"""Tables of one's own as records and comparisons: which rows teach what, and on which side a prompt is."""

import json
import re
from pathlib import Path

import hub_server
import pyarrow
import pyarrow.parquet
import pytest

from rlhf_jax.config import ConfigError, DataConfig
from rlhf_jax.data import own_records
from rlhf_jax.data.comparisons import load_comparisons
from rlhf_jax.data.own_records import OF_COMPARISONS
from rlhf_jax.data.own_tables import gather
from rlhf_jax.data.records import RecordError, Turn

HOWTO = Path(__file__).parents[2] / "docs" / "howto" / "own_task.md"
SHARED = Path(__file__).parents[3] / "shared" / "data"
PREFERRED = [{"prompt": f"{i} + 1?", "chosen": f"{i + 1}.", "rejected": "5,000."} for i in range(200)]
HELD_OUT = [row | {"prompt": f"What is {row['prompt']}"} for row in PREFERRED]
SHOWN = [{"prompt": f"{i} + 1?", "completion": f"It is {i + 1}."} for i in range(200)]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own_records.tell.cache_clear()


def write(name: str, rows) -> str:
    with open(name, "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return name


def gathered(files: str, **data):
    return gather(DataConfig(source="plain", files=files, **data))


def test_a_tenth_of_the_prompts_is_held_out_for_each_and_none_is_on_two_sides(capsys):
    found = gathered(f"{write('pairs.jsonl', PREFERRED)},{write('shown.jsonl', SHOWN)}")
    ids = {split: {record.id for record in records} for split, records in found.records.items()}
    assert list(ids) == ["train", "valid", "test"] and sum(map(len, ids.values())) == 200
    assert 130 < len(ids["train"]) < 190
    for split, ours in (("train", "train"), ("valid", "valid1"), ("test", "valid2")):
        assert {one.info.id for one in found.comparisons if one.split == ours} == ids[split]
    assert all(record.reference.startswith("It is") for record in found.records["train"])
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "pairs.jsonl: 200 rows: prompt, chosen, rejected"
    assert told[1] == "shown.jsonl: 200 rows: prompt, completion" and "a tenth of the prompts" in told[2]


def test_without_demonstrations_the_preferred_responses_are_learned(capsys):
    found = gathered(f"train:{write('a.jsonl', PREFERRED)},test:{write('b.jsonl', HELD_OUT)}")
    assert [record.reference for record in found.records["train"]] == [row["chosen"] for row in PREFERRED]
    assert "fine-tuning learns the preferred responses" in capsys.readouterr().out
    held_out = found.records["valid"] + found.records["test"]  # the halves of the one that is named
    assert len(held_out) == 200 and min(map(len, found.records.values())) > 60
    assert [one.split for one in found.comparisons].count("train") == 200
    assert all(one.choice == 0 and one.summaries[1].text == "5,000." for one in found.comparisons)


def test_splits_are_told_by_the_names_of_shards():
    write("train-00000-of-00002.jsonl", PREFERRED[:50])
    write("train-00001-of-00002.jsonl", PREFERRED[50:90])
    write("validation.jsonl", PREFERRED[90:100])
    write("test.jsonl", PREFERRED[100:])
    found = gathered(".")
    assert {split: len(records) for split, records in found.records.items()} == {
        "train": 90,
        "valid": 10,
        "test": 100,
    }


def test_a_text_is_the_prompt_that_it_is_as_a_users_turn():
    turns = [{"prompt": [{"role": "user", "content": row["prompt"]}]} for row in PREFERRED]
    asked = gathered(write("asked.jsonl", turns)).queries
    assert asked[0].prompt == (Turn("user", asked[0].text),)
    texts = gathered(write("texts.jsonl", [{"prompt": row["prompt"]} for row in PREFERRED])).queries
    assert [record.id for record in asked] == [record.id for record in texts]


def test_prompts_alone_are_queries_and_others_where_there_are_none():
    write("shown.jsonl", SHOWN)
    more = write("more.jsonl", [{"prompt": "And?"}, {"prompt": "And?"}])
    found = gathered(f"train:{write('a.jsonl', PREFERRED)},train:{more},test:{write('b.jsonl', HELD_OUT)}")
    assert [record.prompt for record in found.queries] == ["And?"]
    found = gathered(f"train:shown.jsonl,test:{write('c.jsonl', [{'prompt': f'{i}?'} for i in range(9)])}")
    assert len(found.queries) == 200 and not found.comparisons
    assert {record.reference for split in ("valid", "test") for record in found.records[split]} == {""}


def test_a_prompt_that_ppo_asks_has_its_reference_and_columns_for_rewards():
    """What configs/rewards/exact_answer.py compares with."""
    shown = write("shown.jsonl", [row | {"level": 3} for row in SHOWN])
    read = gathered(
        write("read.jsonl", [{"id": str(i), "prompt": f"{i}?", "reference": "a"} for i in range(99)])
    )
    for found in (gathered(shown), gathered(write("pairs.jsonl", PREFERRED)), read):
        references = {record.id: record.reference for record in found.records["train"]}
        assert {record.id: record.reference for record in found.queries} == references
    both = gathered(
        f"train:{shown},test:{write('b.jsonl', HELD_OUT)},train:{write('q.jsonl', [{'prompt': '7 + 1?'}])}"
    )
    assert [(one.reference, one.extra) for one in both.queries] == [("It is 8.", {})]
    assert gathered(shown).queries[0].extra == {"level": 3}


def test_good_and_bad_responses_to_one_prompt_are_a_preference(capsys):
    rows = [("a?", "yes", True), ("a?", "no", False), ("a?", "maybe", False), ("b?", "well", True)]
    rows = [{"prompt": p, "completion": c, "label": label} for p, c, label in rows]
    found = gathered(f"train:{write('kto.jsonl', rows)},test:{write('b.jsonl', HELD_OUT)}")
    assert [(record.prompt, record.reference) for record in found.records["train"]] == [
        ("a?", "yes"),
        ("b?", "well"),
    ]
    train = [one for one in found.comparisons if one.split == "train"]
    assert [[summary.text for summary in one.summaries] for one in train] == [["yes", "no"]]
    assert "data.files: 4 responses of train with a label make 1 preferences" in capsys.readouterr().out


def test_a_prompt_that_is_held_out_is_not_trained_on(capsys):
    write("a.jsonl", PREFERRED[:100])
    write("b.jsonl", PREFERRED[90:120])
    write("c.jsonl", PREFERRED[110:200])
    found = gathered("train:a.jsonl,valid:b.jsonl,test:c.jsonl")
    assert {split: len(records) for split, records in found.records.items()} == {
        "train": 90,
        "valid": 20,
        "test": 90,
    }
    assert [one.split for one in found.comparisons].count("train") == 90 == len(found.queries)
    told = capsys.readouterr().out
    assert "data.files: 10 prompts of train are left out: they are of valid or test, too" in told
    assert "data.files: 10 prompts of valid are left out: they are of test, too" in told


def test_what_stands_there_twice_is_taken_once_and_told(capsys):
    write("shown.jsonl", [*SHOWN, SHOWN[0] | {"completion": "One."}, *SHOWN[:50]])
    write("valid.jsonl", [{"prompt": f"What is {i}?", "completion": f"{i}."} for i in range(20)])
    write("test.jsonl", [{"prompt": f"Is it {i % 20}?", "completion": f"{i}."} for i in range(23)])
    write("more.jsonl", [{"prompt": f"And {i % 4}?"} for i in range(10)])
    found = gathered("train:shown.jsonl,valid.jsonl,test.jsonl,train:more.jsonl")
    assert len(found.records["train"]) == 201 and len(found.queries) == 4
    assert [record.reference for record in found.records["test"]] == [f"{i}." for i in range(20)]
    told = capsys.readouterr().out
    assert "data.files: 50 of 251 responses of train are left out: each is learned once" in told
    assert "data.files: 3 of 23 responses of test are left out: a prompt there has one reference" in told
    assert "data.files: 6 of 10 prompts for PPO are left out: each is asked once in an epoch" in told


def test_a_record_without_a_place_is_named_by_its_id():
    info = {"id": "c7", "prompt": [{"role": "user", "content": "Why?"}]}
    texts = [{"text": text, "policy": text} for text in ("one", "two")]
    row = {"info": info, "summaries": texts, "choice": 0, "worker": "", "batch": "", "split": "train"}
    found = gathered(f"test:{write('b.jsonl', HELD_OUT)},{write('a.jsonl', [row])},{write('c.jsonl', SHOWN)}")
    assert found.places["c7"] == "id c7" and "b.jsonl, line 1" in found.places.values()


ASKED = {"instruction": "Shorten.", "response1": "Late.", "response2": "It's late."}
QUESTION = {"passages": [["Robin", "A bird."]], "responses": ["A bird.", "Birds.", "A fish."]}
DECIDED = [{"first": 0, "second": 1, "preferred": 0}, {"first": 2, "second": 0, "preferred": 0}]
SHAPES = {  # rows of two real tables of people's judgments, by a word of the command that reads them
    "annotators": [ASKED | {"input": f"It is {i}.", "annotators": [2, 1, 2]} for i in range(100)],
    "passages": [
        QUESTION | {"question": f"What is {i}?", "demonstration": "It.", "comparisons": DECIDED}
        for i in range(100)
    ],
}


@pytest.mark.parametrize("word", SHAPES)
def test_real_judgments_are_read_by_the_documented_mappings(word):
    mappings = re.findall(r"--config.data.columns=(\S+)", HOWTO.read_text(encoding="utf-8"))
    (columns,) = {one for one in mappings if word in one}
    found = gathered(write("a.jsonl", SHAPES[word]), columns=columns)
    record = found.records["train"][0]
    asked, reference, workers = {
        "annotators": ("Shorten.\n\nIt is ", "It's late.", ["1", "2", "3"]),
        "passages": ("Robin\nA bird.\n\nWhat is ", "It.", ["", ""]),
    }[word]
    assert record.prompt.startswith(asked) and record.reference == reference
    assert [one.worker for one in found.comparisons if one.info.id == record.id] == workers
    sides = {split: {record.id for record in records} for split, records in found.records.items()}
    for split, ours in OF_COMPARISONS.items():
        assert {one.info.id for one in found.comparisons if one.split == ours} == sides[split]
    assert sum(map(len, sides.values())) == len(set().union(*sides.values())) == 100


def test_a_held_out_prompts_reference_is_what_most_preferred():
    rows = [row | {"annotators": [1, 2, 2]} for row in SHAPES["annotators"]]
    found = gathered(write("a.jsonl", rows), columns="instruction:prompt,input:prompt,annotators:votes")
    assert {record.reference for some in found.records.values() for record in some} == {"It's late."}


def test_a_demonstration_that_is_held_out_does_not_change_what_is_learned_there(capsys):
    write("valid.jsonl", [SHOWN[0] | {"prompt": "And?"}])
    files = f"train:{write('a.jsonl', PREFERRED)},valid:valid.jsonl,valid:{write('b.jsonl', HELD_OUT)}"
    found = gathered(f"{files},test:{write('c.jsonl', [{'prompt': 'Why?'}])}")
    assert [record.reference for record in found.records["valid"]] == [row["chosen"] for row in HELD_OUT]
    assert "no demonstrations; fine-tuning learns the preferred" in capsys.readouterr().out


def test_prompts_that_differ_in_blanks_around_them_are_one(capsys):
    blank = [row | {"prompt": f" {row['prompt']}\n"} for row in PREFERRED]
    found = gathered(f"{write('a.jsonl', PREFERRED)},{write('b.jsonl', blank)}")
    assert sum(map(len, found.records.values())) == 200 and len(found.comparisons) == 400
    gathered(f"train:a.jsonl,valid:{write('c.jsonl', HELD_OUT)},test:{write('d.jsonl', blank[:50])}")
    assert "50 prompts of train are left out" in capsys.readouterr().out


def test_columns_may_be_of_one_of_several_tables():
    write("a.jsonl", [{"question": row["prompt"], "answer": row["completion"]} for row in SHOWN])
    write("b.jsonl", [{"question": r["prompt"], "chosen": r["chosen"], "rejected": "x"} for r in PREFERRED])
    found = gathered("a.jsonl,b.jsonl", columns="question:prompt,answer:completion")
    assert len(found.comparisons) == 200 and found.records["train"][0].reference.startswith("It is")


def test_what_other_columns_hold_stays_with_the_record_as_json():
    nan, infinite = float("nan"), float("inf")
    row = PREFERRED[0] | {"source": "web", "weight": nan, "bound": infinite, "scores": [nan, 1.0]}
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist([row | {"prompt": str(i)} for i in range(50)]), "a.parquet"
    )
    assert gathered("a.parquet").queries[0].extra == {"source": "web", "scores": [None, 1.0]}


def test_openais_tables_of_the_hub_are_comparisons():
    info = {
        "id": "t3_a",
        "post": "A story.",
        "title": "T",
        "subreddit": "tifu",
        "article": None,
        "site": None,
    }
    row = {
        "info": info,
        "summaries": [
            {"text": " one", "policy": "ref", "note": None},
            {"text": " two", "policy": "b", "note": None},
        ],
        "choice": 1,
        "worker": "w",
        "batch": "b9",
        "split": "train",
        "extra": {"confidence": None},
    }
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), "c.parquet")
    (found,) = load_comparisons(DataConfig(comparisons="c.parquet"))
    assert found.info.title == "T" and found.choice == 1 and found.summaries[0].note == ""


def test_a_name_on_the_hub_is_downloaded(tmp_path):
    for folder in ("pairs/data", "two/a", "two/b"):
        (tmp_path / folder).mkdir(parents=True)
        write(f"{folder}/train-00000-of-00001.jsonl", PREFERRED)
    write("pairs/dataset_infos.json", [{}])
    (tmp_path / "pairs" / "data" / "weights.bin").write_text("nothing that is read")
    published = {"datasets/someone/pairs": tmp_path / "pairs", "datasets/someone/two": tmp_path / "two"}

    def gathered_from(address, *names):
        code = (
            "from rlhf_jax.config import ConfigError, DataConfig\n"
            "from rlhf_jax.data import own_tables, records\n"
            f"for config in [DataConfig(source='plain', files=name) for name in {names!r}]:\n"
            "    try: print('found', len(own_tables.gather(config).comparisons))\n"
            "    except (records.RecordError, ConfigError) as error: print('error', error)"
        )
        lines = hub_server.printed(code, address, tmp_path / "cache")
        return [line for line in lines if line.startswith(("found", "error"))]

    with hub_server.serve(published) as (address, asked):
        names = "someone/pairs", "someone/two", "someone/two/b", "someone/nothing"
        whole, several, one, missing = gathered_from(address, *names)
    assert whole == one == "found 200"
    assert "several folders; name one of someone/two/a, someone/two/b" in several
    assert "the hub does not give it to us (404)" in missing
    assert "data/train-00000-of-00001.jsonl" in asked and "data/weights.bin" not in asked
    assert gathered_from("http://127.0.0.1:9", "someone/two/a") == ["found 200"]  # it came with the whole


@pytest.mark.parametrize(
    "files, rows, message",
    [
        ("", [], "data.files: name a table of plain"),
        ("a.jsonl", [{"prompt": "p", "reply": "r", "messages2": 1}, {"answer": "p"}], "a.jsonl, line 2"),
        ("a.jsonl", [{"reply": "r"}], "a.jsonl, line 1: columns reply are none of"),
        ("a.jsonl", [PREFERRED[0], SHOWN[0]], "a.jsonl, line 2: column chosen is missing"),
        ("a.jsonl", [PREFERRED[0] | {"chosen": " "}], "a.jsonl, line 1: column chosen is empty"),
        (
            "a.jsonl",
            [PREFERRED[0] | {"chosen": "5,000."}],
            "a.jsonl, line 1: columns chosen and rejected are equal",
        ),
        ("gone.jsonl", [], "gone.jsonl: "),
        ("a.jsonl", PREFERRED[:1], "data.files: no row is of "),
        (
            "a.jsonl,b.jsonl",
            PREFERRED,
            "data.columns: no table has a column 'question'; there are prompt, chosen, rejected, completion",
        ),
        ("train:,b.jsonl", PREFERRED, "data.files: train: names no table"),
        ("test:with,comma.jsonl,b.jsonl", PREFERRED, "for with,comma.jsonl write with?comma.jsonl"),
        ("a.jsonl", [{"id": "1", "prompt": p, "reference": "r"} for p in "pq"], "two prompts have the id"),
        ("a.jsonl", [{"subreddit": "x", "post": "y", "id": "1", "title": ""}], "source=tldr reads them"),
    ],
)
def test_what_cannot_be_used_is_told_in_one_line(files, rows, message):
    write("a.jsonl", rows)
    write("b.jsonl", SHOWN)
    write("with,comma.jsonl", SHOWN)
    with pytest.raises((ConfigError, RecordError)) as error:
        gathered(files, columns="question:prompt" if "data.columns" in message else "")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_pattern_names_a_table_with_a_comma():
    write("with,comma.jsonl", PREFERRED)
    assert len(gathered("with?comma.jsonl").comparisons) == 200


def test_two_splits_that_would_be_one_are_told():
    write("train_sft.jsonl", PREFERRED)
    write("train_prefs.jsonl", HELD_OUT)
    with pytest.raises(RecordError, match=r"splits train_prefs and train_sft are both to be train; name the"):
        gathered(".")
    assert len(gathered("train:train_prefs.jsonl,test:train_sft.jsonl").comparisons) == 400


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data are not here")
@pytest.mark.parametrize(
    "file, columns, told",
    [
        (
            "instruction_pairs/pairs.jsonl",
            "instruction:prompt,input:prompt,annotators:votes",
            "765 rows: prompt, response1, response2, votes; 1,882 comparisons; "
            "left out: 274 ties, 139 with an empty response; 120 rows give nothing",
        ),
        (
            "qa_feedback/feedback.jsonl",
            "passages:prompt,question:prompt,demonstration:completion",
            "393 rows: prompt, responses, comparisons; 2,029 comparisons, 393 demonstrations; "
            "left out: 329 ties",
        ),
    ],
)
def test_the_real_tables_are_read_by_a_mapping_alone(capsys, file, columns, told):
    found = gathered(str(SHARED / file), columns=columns)
    assert f"{file}: {told}" in capsys.readouterr().out
    assert f"{len(found.comparisons):,} comparisons" in told
    sides = [{record.id for record in records} for records in found.records.values()]
    assert len(set.union(*sides)) == sum(map(len, sides))
