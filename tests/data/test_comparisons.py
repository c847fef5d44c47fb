from dataclasses import replace

import pytest

from rlhf_jax.config import Config, DataConfig
from rlhf_jax.data.comparisons import (
    PUBLISHED,
    Pair,
    comparisons_of_run,
    halved,
    load_comparisons,
    pairs_of,
    pairs_to_learn,
)
from rlhf_jax.data.record_json import write_jsonl
from rlhf_jax.data.records import Article, Comparison, Example, Post, RecordError, Summary

POST = Post("t3_a", "tifu", "A title", "A story.")
ARTICLE = Article("n1", "cnn", "News", "It rained.")
COMPARISON = Comparison(POST, (Summary(" a", "ref"), Summary(" b", "sup")), 1, "w1", "batch3", "train")


def test_the_chosen_summary_stands_first():
    comparisons = [
        COMPARISON,
        replace(COMPARISON, choice=0, info=ARTICLE),
        replace(COMPARISON, split="valid1"),
    ]
    assert pairs_of(comparisons, "train") == [Pair(POST, " b", " a"), Pair(ARTICLE, " a", " b")]
    assert pairs_of(comparisons, "valid1") == [Pair(POST, " b", " a")]
    assert pairs_of(comparisons, "valid2") == []


def test_folder_and_glob_are_read_in_the_order_of_names(tmp_path):
    for name, batch in (("b.jsonl", "batch4"), ("a.json", "batch3"), ("c.json", "batch5")):
        write_jsonl(tmp_path / name, [replace(COMPARISON, batch=batch)])
    (tmp_path / "notes.txt").write_text("not a record")

    def batches(pattern, wanted=()):
        return [c.batch for c in load_comparisons(DataConfig(comparisons=str(pattern)), wanted)]

    assert batches(tmp_path) == ["batch3", "batch4", "batch5"]
    assert batches(tmp_path / "*.json") == ["batch3", "batch5"]
    assert batches(tmp_path / "b.jsonl") == ["batch4"]
    assert batches(tmp_path, ("batch5", "batch4")) == ["batch4", "batch5"]
    message = "of batch 'batch6', 'batch7'; there are batch3, batch4, batch5. --config"
    with pytest.raises(RecordError, match=message):
        batches(tmp_path, ("batch3", "batch7", "batch6"))


def test_batches_are_of_those_to_train_on_and_what_is_held_out_stays(tmp_path):
    held_out = [replace(COMPARISON, batch="batch11", split=split) for split in ("valid1", "valid2")]
    later = replace(COMPARISON, batch="batch11")
    write_jsonl(tmp_path / "all.json", [COMPARISON, later, *held_out])
    data = DataConfig(comparisons=str(tmp_path))
    assert load_comparisons(data, ("batch3",)) == [COMPARISON, *held_out]
    assert load_comparisons(data) == [COMPARISON, later, *held_out]


def test_batches_of_tables_are_selected_too(tmp_path):
    def of(batch, split):
        info = Example(f"{batch} {split}", f"{batch} {split}?", "")
        return replace(COMPARISON, info=info, batch=batch, split=split)

    rows = [of(batch, split) for batch in ("a", "b") for split in ("train", "valid1", "valid2")]
    write_jsonl(tmp_path / "own.jsonl", rows)
    data = DataConfig(source="plain", files=str(tmp_path / "own.jsonl"))
    found = [(one.batch, one.split) for one in load_comparisons(data, ("b",)) if one.split == "train"]
    assert (
        found == [("b", "train")] and len(load_comparisons(data)) == len(load_comparisons(data, ("b",))) + 1
    )
    with pytest.raises(
        RecordError, match=r"own\.jsonl: no comparisons to train on of batch 'c'; there are a, b"
    ):
        load_comparisons(data, ("c",))


@pytest.mark.parametrize(("splits", "missing"), [([], "train"), (["valid1"], "train"), (["train"], "valid1")])
def test_a_reward_model_needs_pairs_to_train_on_and_to_be_chosen_by(splits, missing):
    with pytest.raises(RecordError, match=f"^no comparisons of split {missing}; a reward model needs"):
        pairs_to_learn(replace(COMPARISON, split=split) for split in splits)
    both = pairs_to_learn(replace(COMPARISON, split=split) for split in ("valid2", "valid1", "train"))
    assert both == {"train": [Pair(POST, " b", " a")], "valid1": [Pair(POST, " b", " a")]}


def test_what_a_run_collected_goes_before_what_its_configuration_names(tmp_path):
    named, collected = COMPARISON, replace(COMPARISON, worker="simulated")
    write_jsonl(tmp_path / "named.jsonl", [named])
    config = Config(data=DataConfig(comparisons=str(tmp_path / "named.jsonl")))
    assert comparisons_of_run(config, tmp_path / "run") == [named]
    write_jsonl(tmp_path / "run" / "comparisons.jsonl", [collected])
    assert comparisons_of_run(config, tmp_path / "run") == [collected]


def test_held_out_comparisons_are_of_the_halves_of_valid():
    posts = [replace(POST, id=str(i)) for i in range(5)]
    splits = halved({"train": posts[:1], "valid": posts})
    assert splits == {"train": posts[:1], "valid": posts, "valid1": posts[:2], "valid2": posts[2:]}


@pytest.mark.parametrize("name", ["", "nowhere", "*.json"])
def test_a_place_without_comparisons_is_named(tmp_path, name):
    with pytest.raises(
        RecordError, match=r"no \*\.json, \*\.jsonl or other tables there \(data\.comparisons\)$"
    ):
        load_comparisons(DataConfig(comparisons=str(tmp_path / name)))


def test_published_batches_are_3_to_20_and_22_and_four_more():
    assert len(PUBLISHED) == 18 + 1 + 4
    assert "batch21" not in PUBLISHED
