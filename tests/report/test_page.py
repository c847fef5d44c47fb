import copy
import json
import re
from html.parser import HTMLParser

import pytest

from rlhf_jax.config import Config
from rlhf_jax.pipeline import stages
from rlhf_jax.report.page import ReportError, duration, write_report
from rlhf_jax.run import workdir as runs
from rlhf_jax.run.stored_config import to_dict

POST = {
    "id": "p1",
    "subreddit": "advice",
    "title": "My boss <script>alert(1)</script>",
    "post": '</div><img src="https://example.com/x.png" onerror="alert(2)"> & more',
    "summary": "fired & sad",
}
SUMMARIES = {
    "sft": {"text": " </script><b>loud</b>", "score": -0.25, "gold": 3.0, "key_fact": False},
    "ppo": {"text": " my boss fired me", "score": 1.5, "gold": 5.5, "key_fact": True},
}
RESULTS = {
    "split": "test",
    "posts": 500,
    "judge": "gold judge",
    "people": "simulated people",
    "people_over_reference": {
        "sft": {"rate": 0.451, "stderr": 0.0222},
        "ppo": {"rate": 0.55, "stderr": 0.0222},
    },
    "preference_over_reference": {
        "sft": {"rate": 0.382, "stderr": 0.0217},
        "ppo": {"rate": 0.614, "stderr": 0.0218},
    },
    "policies": {
        "reference": {
            "words": 9.96,
            "reward": -0.004,
            "diversity": {"distinct": 499, "distinct_share": 0.998, "forms": 120, "ideal_claims": 0.0123},
            "errors": {"any": 0.25, "roles": 0.0625, "of_my_own": 0.5},
        },
        "sft": {"gold": {"overall": 3.456}, "key_fact": 0.249, "words": 11.0, "reward": -1.204},
        "ppo": {"gold": {"overall": 5.0}, "key_fact": 0.5, "words": 12.0, "reward": 0.3},
    },
    "reward_model": {
        "valid_accuracy": 0.6712,
        "gold_accuracy": 0.823,
        "blind_accuracy": 0.61,
        "by_change": {"too_late": {"pairs": 1300, "value": 0.905, "low": 0.88, "high": 0.92}},
    },
    "ppo": {"kl": 6.314, "episodes": 9600},
    "seconds": {"sft": 64.2, "ppo": 281.0},
    "notes": ["KL was <negative>"],
}


def run(folder, results=RESULTS, summaries=SUMMARIES):
    """A work folder with one post and short logs, whose stages have all run."""
    for name in ("metrics", "samples"):
        (folder / name).mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(to_dict(Config())))
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "samples" / "test.jsonl").write_text(json.dumps({"post": POST, "summaries": summaries}) + "\n")
    for stage in stages.STAGES:
        runs.record_stage(folder, stage.name, 1.0, done=True, **stage.about(Config()))
    for name in ("sft", "reward_seed0", "reward_seed1"):
        log(folder, name)
    return folder


def log(folder, name):
    records = [{"step": i, "loss": loss} for i, loss in enumerate([2.0, "nan", 1.25])]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "metrics" / f"{name}.jsonl").write_text(lines)


class Page(HTMLParser):
    """Elements of a page, its table rows as lists of texts (* for bold), text outside script and style."""

    def __init__(self, folder):
        super().__init__()
        self.tags, self.attributes, self.rows, self.texts, self.code = [], [], [], [], []
        write_report(folder)
        self.source = (folder / "report.html").read_text(encoding="utf-8")
        self.feed(self.source)
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("*" if ("class", "best") in attrs else "")

    def handle_data(self, data):
        if self.lasttag in ("script", "style"):
            self.code.append(data)
            return
        self.texts.append(data)
        if self.lasttag in ("td", "th"):
            self.rows[-1][-1] += data.strip()


@pytest.fixture
def page(tmp_path):
    return Page(run(tmp_path))


def test_text_of_a_post_never_becomes_markup(page):
    assert page.tags.count("script") == 1  # the page's own
    assert not {"img", "b"} & set(page.tags)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert POST["title"] in page.text
    assert POST["post"] in page.text
    assert "KL was <negative>" in page.text


def test_the_page_loads_nothing(page):
    links = [value for _, name, value in page.attributes if name in ("src", "href", "xlink:href", "data")]
    assert links and all(value.startswith("#") for value in links)
    assert not {"link", "iframe", "object", "embed"} & set(page.tags)
    assert not re.search(r"@import|url\((?!#)|https?:|fetch\(|import\(", "".join(page.code))
    assert "default-src 'none'" in page.source
    # What is left of the network is text: of a post, and of the setting that names OpenAI's server.
    assert set(re.findall(r"https?://[^/]*", page.source)) == {
        "https://example.com",
        "https://openaipublic.blob.core.windows.net",
    }


def test_numbers_of_the_table(page):
    verdicts = ["Preferred by gold judge", "Preferred by simulated people"]
    start = page.rows.index(["", *verdicts, "Overall", "Key fact", "RM score", "Words"])
    assert page.rows[start + 1 : start + 4] == [
        ["Reference", "", "", "", "", "+0.00", "10.0"],
        ["SFT", "38.2 ± 2.2%", "45.1 ± 2.2%", "3.46", "25%", "−1.20", "11.0"],
        ["PPO", "61.4 ± 2.2%", "55.0 ± 2.2%", "5.00", "50%", "+0.30", "12.0"],
    ]


def test_tables_of_diversity_and_errors_have_a_row_a_policy(page):
    start = page.rows.index(["", "Distinct", "… share", "Forms", "Ideal’s claims"])
    assert page.rows[start + 1 : start + 3] == [
        ["Reference", "499", "100%", "120", "1.2%"],
        ["SFT", "", "", "", ""],
    ]
    start = page.rows.index(["", "Any", "Roles", "Of my own"])
    assert page.rows[start + 1 : start + 3] == [["Reference", "25.0%", "6.2%", "50.0%"], ["SFT", "", "", ""]]
    assert "Roles doer and victim are exchanged" in page.text


def test_the_reward_model_is_shown_by_kind_of_change(page):
    assert "What the reward model reads" in page.text and "too_late (1,300)" in page.text


def test_every_verdict_says_whose_it_is(page):
    assert "of posts by the gold judge, on 55.0 ± 2.2% by simulated people" in page.text
    assert (
        "The gold judge compared each summary with the post’s reference; so did simulated people" in page.text
    )
    assert "by gold judge (bars) and simulated people (dots)" in page.text
    assert "Picks what simulated people prefer of two held-out summaries 67.1%" in page.text
    assert "A scorer blind to the post, against the gold judge 61.0%" in page.text


def test_headline_facts_and_seconds(page):
    assert "PPO preferred over the reference on 61.4 ± 2.2% of posts" in page.text
    assert "same 500 test posts" in page.text
    assert "Picks what the gold judge prefers 82.3%" in page.text
    assert "KL from the SFT policy, nats 6.31" in page.text
    assert "Episodes 9,600" in page.text
    assert "Time 5 min 45 s" in page.text  # 64.2 + 281.0 seconds
    assert ["PPO", "", "4 min 41 s"] in page.rows


def test_summaries_side_by_side_with_the_reference(page):
    start = page.rows.index(["", "", "Key fact", "Gold", "RM"])
    assert page.rows[start + 1 :] == [
        ["Reference", "fired & sad", "", "", ""],
        ["SFT", "</script><b>loud</b>", "", "3.0", "−0.25"],
        ["PPO", "my boss fired me", "✓", "*5.5", "*+1.50"],
    ]


def test_a_log_of_each_stage_and_seed_is_drawn(page):
    for title in (
        "Supervised fine-tuning loss 1.25",
        "Reward model, seed 0 loss",
        "Reward model, seed 1 loss",
    ):
        assert title in page.text
    assert page.tags.count("svg") == 5  # three losses, preferences and kinds of change


def test_a_larger_policy_s_log_goes_by_the_policy_s_name(tmp_path):
    log(run(tmp_path), "sft_10x")
    page = Page(tmp_path)
    assert "Supervised fine-tuning loss 1.25" in page.text and "SFT, 10× larger loss 1.25" in page.text


def test_a_stage_of_ones_own_is_told_as_its_run_calls_it(tmp_path):
    results = copy.deepcopy(RESULTS)
    results["policies"]["student"] = results["policies"]["ppo"]
    results["preference_over_reference"]["student"] = {"rate": 0.5, "stderr": 0.02}
    results["seconds"]["distill"] = 60.0
    summaries = SUMMARIES | {"student": SUMMARIES["sft"]}
    folder = run(tmp_path, results, summaries)
    log(folder, "distill")
    runs.record_stage(folder, "distill", label="Distillation", networks={"student": "a small student"})
    page = Page(folder)
    assert "Distillation loss 1.25" in page.text and ["Distillation", "", "1 min 00 s"] in page.rows
    assert [row for row in page.rows if row[0] == "A small student"][0][1] == "50.0 ± 2.0%"
    assert "student" not in page.text.replace("small student", "")


def test_a_page_of_a_folder_without_a_record_of_its_stages_names_policies_all_the_same(tmp_path):
    (run(tmp_path) / "progress.json").unlink()
    page = Page(tmp_path)
    assert any(row[:2] == ["PPO", "61.4 ± 2.2%"] for row in page.rows)


def test_rewards_of_ones_own_have_a_curve_a_column_and_a_number_at_each_sample(tmp_path):
    results = copy.deepcopy(RESULTS) | {"judge": "own reward", "reward_model": None}
    for name, mean in {"reference": 0.125, "sft": -0.375, "ppo": 0.75}.items():
        results["policies"][name] = {"words": 10.0, "rewards": {"length": mean}}
    texts = {"reference": 0.0, "sft": -0.5, "ppo": 1.0}
    summaries = {name: {"text": name, "score": None, "rewards": {"length": x}} for name, x in texts.items()}
    folder = run(tmp_path, results, summaries)
    config = Config()
    config.ppo.reward = "mine.py:length"
    (folder / "config.json").write_text(json.dumps(to_dict(config)))
    curve = [{"step": i, "rewards/length/mean": i / 10, "rewards/length/std": 1.0} for i in range(3)]
    (folder / "metrics" / "ppo.jsonl").write_text("".join(json.dumps(record) + "\n" for record in curve))
    page = Page(folder)
    assert "by its own reward" in page.text and "PPO maximized mine.py:length over" in page.text
    assert "a reward model learned" not in page.text and "please this judge" in page.text
    assert "rewards/length/mean" in page.text.partition("more")[0]
    cells = [cell for row in page.rows for cell in row]
    assert {"+0.75", "−0.38", "+0.12", "*+1.00", "−0.50"} <= set(cells)


def test_a_run_without_ppo_speaks_of_the_policies_that_it_has(tmp_path):
    """Nothing was trained to please the reward model that judges here."""
    shares, policies = RESULTS["preference_over_reference"], RESULTS["policies"]
    of_dpo = {
        "preference_over_reference": {"sft": shares["sft"], "dpo": shares["ppo"]},
        "policies": {name: policies[name] for name in ("reference", "sft")} | {"dpo": policies["ppo"]},
    }
    folder = run(tmp_path, RESULTS | of_dpo | {"judge": "reward model", "ppo": {}})
    (folder / "config.json").write_text(json.dumps(to_dict(Config(policies=("dpo",)))))
    page = Page(folder)
    assert "trained by preferences: DPO." in page.text
    assert "PPO maximized" not in page.text and "to please this judge" not in page.text


def test_without_gold_judge_the_page_does_not_speak_of_one(tmp_path):
    results, summaries = copy.deepcopy(RESULTS), copy.deepcopy(SUMMARIES)
    results |= {"split": "valid", "judge": "reward model", "people": "people", "notes": []}
    del results["people_over_reference"], results["reward_model"]["by_change"]
    for policy in results["policies"].values():
        policy |= {"gold": None, "key_fact": None, "errors": {}, "diversity": {}}
    results["reward_model"]["gold_accuracy"] = None
    for summary in summaries.values():
        summary |= {"gold": None, "key_fact": None}
    page = Page(run(tmp_path / "real", results, summaries))
    assert not re.search("gold|key fact", page.text, re.IGNORECASE)
    assert "None" not in page.text
    assert ["", "Preferred by reward model", "RM score", "Words"] in page.rows
    assert not re.search("Diversity|Errors|What the reward model reads|dots", page.text)
    assert "A scorer blind to the post, against people 61.0%" in page.text
    assert ["", "", "RM"] in page.rows
    assert "same 500 validation posts" in page.text
    assert "by its own reward model" in page.text


def test_what_is_missing_is_absent(tmp_path):
    needed = {name: RESULTS[name] for name in ("split", "posts", "policies")}
    text = Page(run(tmp_path, needed)).text
    assert "Learning to summarize" in text
    assert not re.search("Preferred|Time|held-out|None", text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (47.6, "48 s"),
        (59.7, "1 min 00 s"),
        (281, "4 min 41 s"),
        (3599.6, "1 h 00 min"),
        (11_240, "3 h 07 min"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_a_folder_without_results_says_what_to_run(tmp_path):
    with pytest.raises(ReportError, match=r"results\.json is missing: .*--stage=eval"):
        write_report(tmp_path)


def test_broken_results_name_their_line(tmp_path):
    (tmp_path / "results.json").write_text('{\n"posts": }')
    with pytest.raises(
        ReportError,
        match=r"results\.json: not JSON \(.*line 2, column 10\); `rlhf-jax run --stage=eval` makes it again",
    ):
        write_report(tmp_path)
