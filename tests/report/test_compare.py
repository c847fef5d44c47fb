"""Many runs on one page: seeds of one setting, what the runs differ in, figures, curves, and the table."""

import csv
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from rlhf_jax.config import Config
from rlhf_jax.pipeline import stages
from rlhf_jax.report.compare import band, main, notes, page_of, policy_columns
from rlhf_jax.report.many_runs import differing_fields, ending, means, read_runs, settings
from rlhf_jax.run import workdir as runs
from rlhf_jax.run.stored_config import to_dict
from rlhf_jax.run.workdir import WorkdirError


def run(folder, seed=0, kl_coef=0.05, preferred=0.9, done="eval", steps=10, judge="gold judge"):
    """A work folder whose stages have run up to `done`, or are in it where that is not eval."""
    config = Config(seed=seed)
    config.ppo.kl_coef = kl_coef
    (folder / "metrics").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(to_dict(config)))
    for stage in stages.STAGES:
        runs.record_stage(folder, stage.name, 1.0, done=stage.name != done, **stage.about(Config()))
        lines = [json.dumps({"step": i, "loss": seed + i / steps}) + "\n" for i in range(steps)]
        if stage.name in ("sft", "ppo"):
            (folder / "metrics" / f"{stage.name}.jsonl").write_text("".join(lines))
        if stage.name == done:
            break
    if done == "eval":
        runs.record_stage(folder, "eval", done=True)
        rate = {"rate": preferred, "stderr": 0.01, "low": preferred - 0.02, "high": preferred + 0.02}
        results = {"split": "test", "posts": 500, "judge": judge, "preference_over_reference": {"ppo": rate}}
        results |= {"policies": {"ppo": {"words": 10.0}}, "ppo": {"kl": 6.25, "episodes": 9600}}
        (folder / "results.json").write_text(json.dumps(results))
    return folder


@pytest.fixture
def three(tmp_path):
    """Two seeds of one setting, and a run of another."""
    return [
        run(tmp_path / "a0", 0, preferred=0.90),
        run(tmp_path / "a1", 1, preferred=0.94),
        run(tmp_path / "b", 0, kl_coef=0.2, preferred=0.7),
    ]


class Page(HTMLParser):
    """The rows of all tables as texts, and what it would load."""

    def __init__(self, source):
        super().__init__()
        self.rows, self.loads, self.tags, self.inside = [], [], [], False
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [value for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = True

    def handle_endtag(self, tag):
        self.inside &= tag not in ("td", "th")

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1] = " ".join(f"{self.rows[-1][-1]} {data}".split())


def test_runs_that_differ_in_the_seed_alone_are_one_setting(three):
    found = read_runs(three)
    assert [[one.name for one in setting.runs] for setting in settings(found)] == [["a0", "a1"], ["b"]]
    assert differing_fields(found) == ["ppo.kl_coef"]


def test_the_same_seed_twice_is_no_further_seed(tmp_path):
    found = read_runs([run(tmp_path / name, seed) for name, seed in (("a", 0), ("again", 0), ("b", 1))])
    assert [[one.name for one in setting.runs] for setting in settings(found)] == [["a", "b"], ["again"]]


def test_a_field_that_an_older_version_did_not_have_is_its_default(tmp_path):
    folders = [run(tmp_path / "new"), run(tmp_path / "old", 1)]
    stored = json.loads((folders[1] / "config.json").read_text())
    del stored["ppo"]["lam"]
    stored["ppo"]["gone"] = 3
    (folders[1] / "config.json").write_text(json.dumps(stored))
    assert differing_fields(read_runs(folders)) == ["ppo.gone"]


def test_names_tell_folders_apart_and_a_folder_counts_once(tmp_path, monkeypatch):
    for place in ("x/kl", "y/kl", "y/other"):
        run(tmp_path / place)
    monkeypatch.chdir(tmp_path)
    found = read_runs(["x/kl", "y/kl", "y/other", "./y/../x/kl/", tmp_path / "y/other"])
    assert [one.name for one in found] == ["x/kl", "y/kl", "other"]


def test_figures_over_seeds_are_means_with_students_interval(three):
    """0.90 and 0.94: mean 0.92, s = 0.02 √2, and t = 12.7062 at one degree of freedom: 12.7062 × 0.02."""
    both, alone = settings(read_runs(three))
    estimate = both.figure("preference_over_reference.ppo")
    assert estimate == pytest.approx(
        {"value": 0.92, "low": 0.92 - 0.254124, "high": 0.92 + 0.254124}, abs=1e-6
    )
    assert alone.figure("preference_over_reference.ppo") == pytest.approx(
        {"value": 0.7, "low": 0.68, "high": 0.72}
    )
    assert alone.figure("nothing") is None


def test_the_page_has_settings_figures_and_curves_and_loads_nothing(three):
    source = page_of(read_runs(three))
    page = Page(source)
    assert ["", "ppo.kl_coef", "seeds", "has come to"] in page.rows
    assert ["a0, a1", "0.05", "0, 1", "Evaluation finished"] in page.rows
    assert ["", "Preferred", "Words"] in page.rows
    assert ["a0, a1", "92.0% 66.6% to 117.4%", "10.0"] in page.rows
    assert ["b", "70.0% 68.0% to 72.0%", "10.0"] in page.rows
    assert ["b", "6.25", "9,600"] in page.rows
    assert "3 runs of 2 settings" in source and "They differ in ppo.kl_coef." in source
    assert source.count('class="setting-1"') >= 3  # a curve of SFT, one of PPO, and the point of a figure
    assert page.loads and all(link.startswith("#") for link in page.loads)
    assert not re.search(r"@import|url\((?!#)|https?:", source)


def test_of_a_run_that_still_goes_what_is_there_is_shown(tmp_path):
    folders = [run(tmp_path / "done"), run(tmp_path / "goes", 1, done="ppo", steps=4)]
    (folders[1] / "metrics" / "ppo.jsonl").open("a").write('{"step": 4, "lo')  # a line that is being written
    found = read_runs(folders)
    assert found[1].progress == "PPO, 4 steps, not finished"
    page = Page(page_of(found))
    assert ["done, goes", "90.0% of 1 88.0% to 92.0%", "10.0 of 1"] in page.rows
    assert notes(found) == ["Not evaluated yet: goes."]


def test_runs_that_have_only_begun_make_a_page(tmp_path):
    source = page_of(read_runs([run(tmp_path / "a", done="sft"), run(tmp_path / "b", 1, done="sft")]))
    assert "Supervised fine-tuning" in source and "Preferred" not in source


def test_what_cannot_be_compared_is_said(tmp_path):
    own = [run(tmp_path / f"own{seed}", seed, judge="reward model") for seed in range(2)]
    assert "its own reward model" in notes(read_runs(own))[0]
    other = run(tmp_path / "other")
    results = json.loads((other / "results.json").read_text())
    (other / "results.json").write_text(json.dumps(results | {"posts": 400}))
    assert notes(read_runs([run(tmp_path / "one"), other])) == ["The runs were evaluated on different posts."]


def test_many_fields_stand_below_each_other(tmp_path):
    folders = [run(tmp_path / "a"), run(tmp_path / "b")]
    stored = json.loads((folders[1] / "config.json").read_text())
    stored["ppo"] |= {"lam": 0.9, "gamma": 0.5}
    stored["data"]["query_buckets"] = [256, 512]
    (folders[1] / "config.json").write_text(json.dumps(stored))
    rows = Page(page_of(read_runs(folders))).rows
    assert ["", "a", "b"] in rows and ["ppo.lam", "0.95", "0.9"] in rows
    assert ["data.query_buckets", "–", "256, 512"] in rows


def test_the_name_of_a_folder_never_becomes_markup_or_a_formula(tmp_path):
    page = Page(page_of(read_runs([run(tmp_path / "<b>$x$ & y"), run(tmp_path / "b", kl_coef=1.0)])))
    assert "b" not in page.tags and any("<b>$x$ & y" in row[0] for row in page.rows if row)


def test_the_table_has_a_row_a_run_and_figure(three, tmp_path, capsys):
    page = tmp_path / "sweep.html"
    assert main(["rlhf-jax compare", *map(str, three), f"--out={page}"]) == 0
    assert capsys.readouterr().out == f"{page}\n{tmp_path / 'sweep.csv'}\n" and page.exists()
    rows = list(csv.DictReader((tmp_path / "sweep.csv").open(encoding="utf-8")))
    found = {(row["run"], row["stage"], row["figure"]): row for row in rows}
    assert len(found) == len(rows)
    rate = found["a1", "eval", "preference_over_reference.ppo"]
    assert (rate["setting"], rate["seed"], rate["ppo.kl_coef"]) == ("1", "1", "0.05")
    assert float(rate["value"]) == 0.94 and float(rate["low"]) == pytest.approx(0.92)
    assert found["b", "ppo", "steps"]["value"] == "10" and found["b", "ppo", "steps"]["low"] == ""
    assert float(found["a1", "sft", "loss"]["value"]) == 1.9  # of ten steps, the last


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "work folders are missing"),
        (["{}/a0", "{}/nowhere"], "nowhere is not the folder of a run: it has no config.json"),
        (["{}/a0", "{}/model"], "model/config.json is that of something else"),
        (["{}/a0", "--out={}/page.txt"], "page.txt should end in .html"),
        (["{}/broken"], "broken/results.json: not JSON"),
        (["{}/other"], "other/results.json: not as an evaluation writes it"),
        (["{}/torn"], "torn/metrics/sft.jsonl, line 1"),
    ],
)
def test_what_is_no_run_is_told_in_one_line_and_nothing_is_written(
    tmp_path, capsys, monkeypatch, words, told
):
    run(tmp_path / "a0")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llama", "hidden_size": 8}')
    (run(tmp_path / "broken") / "results.json").write_text("{")
    (run(tmp_path / "other") / "results.json").write_text('{"policies": []}')
    (run(tmp_path / "torn") / "metrics" / "sft.jsonl").write_text("[]\n")
    monkeypatch.chdir(tmp_path)
    assert main(["rlhf-jax compare", *(word.format(tmp_path) for word in words)]) == 2
    said = capsys.readouterr().err
    assert told in said and said.startswith("rlhf-jax compare: ") and said.count("\n") == 1
    assert not list(tmp_path.glob("*.html")) and not list(tmp_path.glob("*.csv"))


def test_a_folder_of_no_run_is_no_run(tmp_path):
    with pytest.raises(WorkdirError):
        read_runs([tmp_path])


def test_points_of_a_curve_are_means_of_parts_of_the_steps():
    records = [{"step": i, "loss": value} for i, value in enumerate([1.0, 3.0, math.nan, 4.0, 5.0])]
    assert means(records, "loss", 2, 4).tolist()[:3] == [2.0, 4.0, 5.0]
    assert math.isnan(means(records, "loss", 2, 4)[3])
    assert ending(records) == {"loss": 5.0}


def test_a_curve_of_seeds_is_their_mean_in_their_range_as_far_as_each_has_come():
    long = [{"step": i, "loss": 1.0} for i in range(3)]
    short = [{"step": i, "loss": 3.0} for i in range(2)]
    found = band([long, short, []], "loss", 1, 4)
    assert np.array_equal(found.mean, [2, 2, 1, np.nan], equal_nan=True)
    assert np.array_equal(found.low, [1, 1, 1, np.nan], equal_nan=True)
    assert np.array_equal(found.high, [3, 3, 1, np.nan], equal_nan=True)


def test_runs_without_references_are_compared_by_what_their_policies_are_compared_with():
    said = {"prompts": "prompts", "response": "response", "prompt": "prompt", "responses": "responses"}
    columns = policy_columns("ppo", said | {"anchor": "sft"})
    heading, _, meaning = columns["preference_over_sft.ppo"]
    assert (heading, meaning) == (
        "Preferred",
        "share of prompts on which the response scores above the sft's",
    )
    assert not any("{" in meaning for _, _, meaning in columns.values())
