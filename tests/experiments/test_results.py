"""The page of findings, from invented figures: what holds, what does not, what is missing."""

import copy
import json
import re

import pytest

from rlhf_jax.experiments import findings
from rlhf_jax.experiments.findings import at_kl
from rlhf_jax.experiments.results import SECTIONS, main


def estimate(value, width=0.02):
    return {"value": value, "low": value - width, "high": value + width}


def rate(value, width=0.02):
    return {"rate": value, "stderr": width / 2, "low": value - width, "high": value + width}


RESULTS = {
    "judge": "gold judge",
    "preference_over_reference": {
        "sft": rate(0.5),
        "sft_10x": rate(0.45),
        "ppo": rate(0.9),
        "best_of_4": rate(0.8),
    },
    "policies": {
        "reference": {"preference_at_equal_length": None, "tokens": 10.0},
        "sft": {"preference_at_equal_length": estimate(0.5), "tokens": 11.0},
        "ppo": {"preference_at_equal_length": estimate(0.85), "tokens": 12.0, "key_fact": 0.91},
    },
    "likert": {
        name: {
            axis: estimate(value)
            for axis in ("overall", "overall_at_equal_length", "accuracy", "coverage", "coherence", "perfect")
        }
        for name, value in {"reference": 0.3, "sft": 0.2, "ppo": 0.6}.items()
    },
    "ppo": {"kl": 2.61},
}


def point(kl, reward, gold, **more):
    return more | {
        "kl": estimate(kl),
        "reward": estimate(reward),
        "reward_preference": estimate(min(1.0, reward / 2)),
        "gold": estimate(5 * gold),
        "gold_preference": estimate(gold),
    }


OVEROPTIMIZATION = {
    "percentile": 99,
    "reference_percentile": 1.5,
    "ppo": [
        point(1, 1.0, 0.7, kl_coef=0.5),
        point(4, 1.6, 0.9, kl_coef=0.05),
        point(16, 1.9, 0.6, kl_coef=0.001),
    ],
    "best_of_n": [
        point(kl, reward, gold, n=n, kl_closed_form=kl + 0.1)
        for n, kl, reward, gold in ((1, 0.0, 0.2, 0.5), (16, 1.6, 1.2, 0.85), (512, 3.0, 1.5, 0.9))
    ],
}
SCALING = {
    "points": [
        {"size": f"base{size}", "parameters": size, "comparisons": 1000 * 2**i}
        | {"valid_accuracy": estimate(0.6 + 0.02 * i)}
        | {"gold_accuracy": estimate(0.7 + 0.02 * i + size / 3e7, 0.01), "blind_accuracy": estimate(0.55)}
        for size in (300_000, 3_000_000)
        for i in range(3)
    ],
    "policies": [
        {"size": f"base{size}", "parameters": size} | {"base": rate(0.3), "sft": rate(0.5), "ppo": rate(0.8)}
        for size in (300_000, 3_000_000)
    ],
    "alike": ["base300000", "base3000000"],
    "per_doubling": {"gold_accuracy": {"comparisons": 0.02, "parameters": 0.004}, "valid_accuracy": {}},
}
METRICS = {"reward_model": estimate(0.75) | {"pairs": 120}, "rougeL": estimate(0.57), "words": estimate(0.52)}
METRICS |= {"lead_over_rougeL": estimate(0.18)}
AGREEMENT = {"agreement": {kind: METRICS for kind in ("people", "sft", "ppo")}}
TRANSFER = {
    "judge": "gold judge",
    "over_sft": {"ppo": estimate(0.7), "best_of_4": estimate(0.65)},
    "policies": {
        name: {"rougeL": estimate(0.3)} | ({"preference": estimate(value)} if value else {})
        for name, value in {
            "reference": 0,
            "lead_3": 0.6,
            "sft": 0.5,
            "ppo": 0.7,
            "sft_on_news": 0.72,
        }.items()
    },
    "reward_model": {"accuracy": estimate(0.66) | {"pairs": 1234}},
}
PROBES = {"probes": {"swapped_roles": estimate(0.93) | {"pairs": 100}, "edited": {"pairs": 0}}}
ALL = {
    "results": RESULTS,
    "overoptimization": OVEROPTIMIZATION,
    "scaling": SCALING,
    "agreement": AGREEMENT,
    "transfer": TRANSFER,
    "probes": PROBES,
}


def write(folder, figures=ALL):
    folder.mkdir(parents=True)
    for name, one in figures.items():
        (folder / f"{name}.json").write_text(json.dumps(one))


def page(tmp_path) -> str:
    assert main(["rlhf-jax results", f"--runs={tmp_path / 'runs'}", f"--out={tmp_path / 'docs'}"]) == 0
    return (tmp_path / "docs" / "results.md").read_text(encoding="utf-8")


def verdicts(text: str) -> dict[str, list[str]]:
    rows = [line.strip("| ").split(" | ") for line in text.split("\n") if line.startswith("| ")]
    return {title: rest for title, *rest in rows[1 : 1 + len(SECTIONS) + 2] if len(rest) == 2}


def test_every_finding_stands_beside_the_paper_s_claim(tmp_path):
    for seed in range(2):
        write(tmp_path / "runs" / f"seed{seed}")
    text = page(tmp_path)
    found = verdicts(text)
    for section in SECTIONS:
        assert f"## {section.title}\n\nThe paper: {section.claim}" in text
        compared = section.find is findings.best_of_n
        assert found[section.title] == ["compared" if compared else "yes", "2"]
    assert "| 0 | 50.0% (48.0 to 52.0) | 45.0% (43.0 to 47.0) | 90.0% (88.0 to 92.0) |" in text
    assert "PPO ends 2.6 and 2.6 nats" in text and "91% and 91% of its summaries" in text
    assert "A doubling of the comparisons adds +2.0% and +2.0%" in text
    assert re.search(r"Runs of seed 0, 1, .*, 20\d\d-\d\d-\d\d\. The judge", text)
    assert "gold judge, who knows what happened" in text


def test_images_are_drawn_and_named(tmp_path):
    write(tmp_path / "runs" / "seed0")
    write(tmp_path / "runs" / "weak0", {"overoptimization": OVEROPTIMIZATION})
    text = page(tmp_path)
    for name in ("overoptimization", "overoptimization-weak", "scaling", "agreement", "transfer"):
        assert f"(images/results-{name}.png)" in text
        assert (tmp_path / "docs" / "images" / f"results-{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "Optimizing a reward model too far, with a reward model of few comparisons" in verdicts(text)


def test_what_is_missing_is_said_and_what_makes_it(tmp_path):
    write(tmp_path / "runs" / "seed0", {"results": RESULTS})
    text = page(tmp_path)
    found = verdicts(text)
    assert found["Human feedback beats ten times the size"] == ["yes", "1"]
    assert found["Policies along size"] == ["missing", "0"]
    assert f"**Missing**: `rlhf-jax probes --workdir={tmp_path / 'runs' / 'seed0'}`" in text


def test_one_seed_that_does_not_bear_it_out_is_enough(tmp_path):
    write(tmp_path / "runs" / "seed0")
    other = copy.deepcopy(ALL)
    other["results"]["preference_over_reference"]["sft_10x"] = rate(0.89)
    write(tmp_path / "runs" / "seed1", other)
    text = page(tmp_path)
    assert verdicts(text)["Human feedback beats ten times the size"] == ["**not shown**", "2"]
    assert "**Not shown here.**" in text


@pytest.mark.parametrize(
    "find, policy, figures",
    [
        (findings.equal_length, "policies", {"preference_at_equal_length": estimate(0.49, 0.001)}),
        (findings.likert, "likert", {"coverage": estimate(0.6), "accuracy": estimate(0.31)}),
        (findings.likert, "likert", {"coverage": estimate(0.6), "coherence": estimate(0.7)}),
    ],
    ids=["shorter than even", "no gain on accuracy", "more gain on coherence"],
)
def test_a_claim_holds_whole_or_not(find, policy, figures):
    other = copy.deepcopy(RESULTS)
    other["policies"]["sft"]["preference_at_equal_length"] = estimate(0.3)
    assert find([other]).held
    other[policy]["ppo"] |= figures
    assert not find([other]).held


def scaling_with(index, right):
    """SCALING, in which the reward model at `index` is right in another share of the pairs."""
    other = copy.deepcopy(SCALING)
    other["points"][index]["gold_accuracy"] = estimate(right, 0.01)
    return other


def test_growth_with_data_is_the_most_comparisons_above_the_fewest():
    assert findings.more_comparisons([SCALING]).held
    assert not findings.more_comparisons([SCALING, scaling_with(2, 0.715)]).held  # 0.71 at the fewest, ± 0.01
    one_share = SCALING | {"points": SCALING["points"][2::3]}
    assert findings.more_comparisons([one_share]) is None
    assert findings.larger_models([one_share]).held


def test_growth_with_size_is_that_of_models_pretrained_alike():
    assert findings.larger_models([SCALING]).held
    assert not findings.larger_models([SCALING, scaling_with(-1, 0.755)]).held  # 0.75 of the smaller, ± 0.01
    assert findings.larger_models([SCALING | {"alike": ["base300000"]}]) is None
    body = findings.larger_models([SCALING]).body
    assert "base300000 | 0.30M | 4,000" in body and "2,000" not in body


def test_no_larger_model_may_be_worse():
    middle = SCALING["points"][2] | {"size": "middle", "parameters": 1_000_000}
    for right, held in ((0.8, True), (0.74, False)):
        points = [*SCALING["points"], middle | {"gold_accuracy": estimate(right, 0.01)}]
        run = SCALING | {"points": points, "alike": [*SCALING["alike"], "middle"]}
        assert findings.larger_models([run]).held == held


def test_preference_that_goes_on_rising_is_no_overoptimization():
    rising = copy.deepcopy(OVEROPTIMIZATION)
    rising["ppo"][-1]["gold_preference"] = estimate(0.95)
    assert findings.overoptimization([OVEROPTIMIZATION]).held
    assert not findings.overoptimization([rising]).held


def test_agreement_holds_where_the_reward_model_leads_on_pairs_of_every_kind():
    behind = copy.deepcopy(AGREEMENT)
    behind["agreement"]["ppo"]["lead_over_rougeL"] = estimate(0.01)
    assert findings.agreement([AGREEMENT]).held
    found = findings.agreement([AGREEMENT, behind])
    assert not found.held and found.body.endswith("It does not lead on PPO samples, gold judge.")
    behind["agreement"]["ppo"] |= {"reward_model": METRICS["reward_model"] | estimate(0.53)}
    behind["agreement"]["ppo"]["another_reward_model"] = estimate(0.65)
    body = findings.agreement([behind]).body
    assert "agrees with the judge on 53% of the pairs, that of another run on 65%. What its own" in body


def test_values_at_equal_kl_lie_on_the_line_between_points():
    assert at_kl(OVEROPTIMIZATION["ppo"], "gold_preference", 2.5) == pytest.approx(0.8)
    assert at_kl(OVEROPTIMIZATION["ppo"], "gold_preference", 0.5) is None


def test_without_a_gold_judge_the_reward_model_is_all_there_is(tmp_path):
    real = copy.deepcopy({"overoptimization": OVEROPTIMIZATION, "results": RESULTS})
    for one in real["overoptimization"]["ppo"] + real["overoptimization"]["best_of_n"]:
        del one["gold"], one["gold_preference"]
    real["results"] |= {"judge": "reward model", "likert": None}
    write(tmp_path / "runs" / "seed0", real)
    text = page(tmp_path)
    assert "no measure of quality" in text and verdicts(text)["What is better"] == ["missing", "0"]


@pytest.mark.parametrize(
    "content, message", [("{", "not JSON"), ('{"judge": "x"}', "another version made it")]
)
def test_files_that_cannot_be_used_are_named(tmp_path, capsys, content, message):
    (tmp_path / "runs" / "seed0").mkdir(parents=True)
    (tmp_path / "runs" / "seed0" / "results.json").write_text(content)
    assert main(["rlhf-jax results", f"--runs={tmp_path / 'runs'}", f"--out={tmp_path}"]) == 2
    assert message in (error := capsys.readouterr().err) and "seed0/results.json" in error


def test_a_folder_without_runs_is_told(tmp_path, capsys):
    assert main(["rlhf-jax results", f"--runs={tmp_path}"]) == 2
    assert "has no runs seed0" in capsys.readouterr().err
