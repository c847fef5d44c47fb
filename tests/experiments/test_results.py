"""The page of findings, from invented figures: what holds, by whom, what does not, what is missing."""

import copy
import json
import re

import pytest

from rlhf_jax.experiments import findings, findings_on_scale
from rlhf_jax.experiments.findings import at_kl, peak_of
from rlhf_jax.experiments.findings_on_feedback import feedback
from rlhf_jax.experiments.results import SECTIONS, main


def estimate(value, width=0.02):
    return {"value": value, "low": value - width, "high": value + width}


def rate(value, width=0.02):
    return {"rate": value, "stderr": width / 2, "low": value - width, "high": value + width}


def both(people, judge, width=0.02):
    return {"people": estimate(people, width), "gold judge": estimate(judge, width)}


JUDGED = {"title": 0.1, "base": 0.3, "sft": 0.5, "sft_10x": 0.55, "ppo": 0.9, "best_of_4": 0.8}
FREE = ("reference", "title")
RESULTS = {
    "judge": "gold judge",
    "people_over_reference": {name: rate(0.1 + 0.7 * value) for name, value in JUDGED.items()},
    "preference_over_reference": {name: rate(value) for name, value in JUDGED.items()},
    "policies": {
        name: {
            "preference_at_equal_length": None if name in FREE else estimate(JUDGED[name] - 0.05),
            "tokens": 11.0,
            "diversity": {"distinct": 0.9, "forms": 40}
            | {"commonest_form": 0.2, "ideal_text": 0.01, "ideal_claims": 0.3},
            "errors": {"day": 0.2} | ({"place": 0.1} if name == "ppo" else {}),
        }
        for name in ("reference", *JUDGED)
    },
    "likert": {
        name: {
            axis: estimate(value)
            for axis in ("overall", "overall_at_equal_length", "accuracy", "coverage", "coherence", "perfect")
        }
        for name, value in {"reference": 0.3, "sft": 0.2, "ppo": 0.6}.items()
    },
    "reward_model": {
        "by_change": {"roles": estimate(0.9) | {"pairs": 300}, "day": estimate(0.51) | {"pairs": 9}}
    },
    "ppo": {"kl": 2.61},
}
RESULTS["likert"]["ppo"]["coverage"] = estimate(0.75)
RESULTS["policies"]["ppo"]["key_fact"] = 0.91


def point(kl, reward, gold, **more):
    preference = both(0.1 + 0.7 * gold, gold) | {"reward model": estimate(min(1.0, reward / 2))}
    score = {"reward model": estimate(reward), "gold judge": estimate(5 * gold)}
    return more | {"kl": estimate(kl), "score": score, "preference": preference}


OVEROPTIMIZATION = {
    "percentile": 99,
    "reference_percentile": 1.5,
    "ppo": [
        point(1, 1.0, 0.7, kl_coef=0.5, errors={"day": estimate(0.1)}),
        point(4, 1.6, 0.9, kl_coef=0.05, errors={"day": estimate(0.1)}),
        point(16, 1.9, 0.6, kl_coef=0.001, errors={"day": estimate(0.12), "roles": estimate(0.3)}),
    ],
    "best_of_n": [
        point(kl, reward, gold, n=n, kl_closed_form=kl + 0.1)
        for n, kl, reward, gold in ((1, 0.0, 0.2, 0.5), (16, 1.6, 1.2, 0.85), (512, 3.0, 1.5, 0.9))
    ],
}
SMALL, LARGE = "mini/small", "mini/large"
SCALING = {
    "judge": "gold judge",
    "points": [
        {"size": size, "share": share, "parameters": parameters, "comparisons": int(4000 * share)}
        | {
            "accuracy": both(
                0.55 + 0.1 * share + parameters / 1e8, 0.7 + 0.1 * share + parameters / 3e7, 0.01
            )
        }
        | {"blind_accuracy": estimate(0.55)}
        for size, parameters, share in (
            (SMALL, 300_000, 0.25),
            (SMALL, 300_000, 1),
            (LARGE, 3_000_000, 1),
        )
    ],
    "policies": [
        {"size": size, "parameters": parameters}
        | {
            by: {"base": rate(0.3), "sft": rate(0.5), "ppo": rate(0.8)}
            for by in ("people_over_reference", "preference_over_reference")
        }
        for size, parameters in ((SMALL, 300_000), (LARGE, 3_000_000))
    ],
    "per_doubling": {who: {"comparisons": 0.02, "parameters": 0.004} for who in ("people", "gold judge")},
    "gates": {
        size: {"tokens": 97_000_000, "parameters": 300_000}
        | {"kinds": {"roles": {"accuracy": 0.97, "auc": 0.991, "pairs": 500}}}
        for size in (SMALL, LARGE)
    },
}
METRICS = {"reward_model": estimate(0.75) | {"pairs": 120}, "rougeL": estimate(0.57), "words": estimate(0.52)}
METRICS |= {"lead_over_rougeL": estimate(0.18)}
AGREEMENT = {
    "agreement": {
        kind: {who: dict(METRICS) for who in ("people", "gold judge")} for kind in ("held_out", "sft", "ppo")
    }
}
FEEDBACK = {
    "sft": both(0.45, 0.4),
    "points": [
        {
            "kind": kind,
            "hours": hours,
            "answers": int(hours * 3600 / seconds),
            "errors": {"any": 0.3, "day": 0.2, "roles": 0.0},
        }
        | {"preference": both(people + hours / 1e4, people + 0.05)}
        | ({"pairs": 99, "accuracy": both(0.7, 0.8)} if kind == "comparison" else {})
        for kind, seconds, people in (("comparison", 240, 0.7), ("demonstration", 390, 0.55))
        for hours in (100, 1000)
    ],
    "prices": {"comparison": {"seconds": 240, "source": "measured"}},
}
TRANSFER = {
    "over_sft": {"ppo": both(0.6, 0.7), "best_of_4": both(0.6, 0.65)},
    "policies": {
        name: {"rougeL": estimate(0.3)} | ({"preference": both(value, value)} if value else {})
        for name, value in {"reference": 0, "lead_3": 0.6, "sft": 0.5, "ppo": 0.7}.items()
    },
    "reward_model": {"gold judge": estimate(0.66) | {"pairs": 1234}},
}
METHODS = {
    "points": [
        {"method": name, "label": name.upper(), "setting": "β 0.1", "online": name == "ppo"}
        | {"samples": 1, "seconds": 30.0, "comparisons": 16000, "demonstrations": 8000}
        | {"kl": estimate(2.0), "distinct": 0.9, "errors": {"day": estimate(0.1)}}
        | dict.fromkeys(("preference", "to_choose", "to_report"), both(value, value))
        for name, value in {"dpo": 0.6, "ppo": 0.7}.items()
    ]
}
PROBES = {
    "truth": "gold judge",
    "probes": {"swapped_roles": estimate(0.93) | {"pairs": 100}, "edited": {"pairs": 0}},
}
ALL = {
    "results": RESULTS,
    "overoptimization": OVEROPTIMIZATION,
    "methods": METHODS,
    "scaling": SCALING,
    "agreement": AGREEMENT,
    "transfer": TRANSFER,
    "feedback": FEEDBACK,
    "probes": PROBES,
}
YES = {"people": True, "gold judge": True}


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


def test_every_finding_stands_beside_its_claim_and_says_by_whom_it_holds(tmp_path):
    for seed in range(3):
        write(tmp_path / "runs" / f"seed{seed}")
    text = page(tmp_path)
    found = verdicts(text)
    by_judge = {findings.equal_length, findings.likert, findings.probes}
    measured = {findings.diversity, findings.errors, findings.best_of_n, findings.by_change}
    measured.add(findings_on_scale.gates)
    for section in SECTIONS:
        assert f"## {section.title}\n\n{section.claim}" in text
        verdict = "yes (gold judge)" if section.find in by_judge else "yes (people), yes (gold judge)"
        assert found[section.title] == ["measured" if section.find in measured else verdict, "3"]
    # ± 0.02 in each of three runs that agree: 0.02 / √3 over all of them.
    assert "| SFT | 45.0% (43.8 to 46.2) | 45%, 45% and 45% | 50.0% (48.8 to 51.2) |" in text
    assert "PPO ends 2.6, 2.6 and 2.6 nats" in text and "91%, 91% and 91% of its summaries" in text
    assert re.search(r"Runs of seed 0, 1, 2, .*, 20\d\d-\d\d-\d\d\. People are", text)
    assert "No network is trained on its scores" in text.replace("\n", " ")


def test_images_are_drawn_and_named(tmp_path):
    write(tmp_path / "runs" / "seed0")
    write(tmp_path / "runs" / "weak0", {"overoptimization": OVEROPTIMIZATION})
    text = page(tmp_path)
    for name in ("overoptimization", "overoptimization-weak", "methods", "scaling", "agreement", "transfer"):
        assert f"(images/results-{name}.png)" in text
        assert (tmp_path / "docs" / "images" / f"results-{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "Optimizing a reward model too far, with a reward model of few comparisons" in verdicts(text)


def test_what_is_missing_is_said_and_what_makes_it(tmp_path):
    write(tmp_path / "runs" / "seed0", {"results": RESULTS})
    text = page(tmp_path)
    assert verdicts(text)["Policies along size"] == ["missing", "0"]
    assert f"**Missing**: `rlhf-jax probes --workdir={tmp_path / 'runs' / 'seed0'}`" in text


@pytest.mark.parametrize("seeds, verdict", [(1, "one run only"), (2, "too few seeds"), (3, "yes")])
def test_a_verdict_takes_three_runs(tmp_path, seeds, verdict):
    for seed in range(seeds):
        write(tmp_path / "runs" / f"seed{seed}", {"results": RESULTS})
    found = verdicts(page(tmp_path))["Human feedback beats ten times the size"]
    assert found == [f"{verdict} (people), {verdict} (gold judge)", str(seeds)]


def runs_with(rates: str, policy: str, *values: float) -> list[dict]:
    """Runs in which one rate has these values."""
    runs = [copy.deepcopy(RESULTS) for _ in values]
    for run, value in zip(runs, values, strict=True):
        run[rates][policy] = rate(value)
    return runs


def test_people_may_say_otherwise_than_the_judge():
    runs = runs_with("people_over_reference", "ppo", 0.46, 0.46, 0.46)
    assert findings.headline(runs).held == {"people": False, "gold judge": True}


@pytest.mark.parametrize("policy, rate", [("sft", 0.29), ("sft_10x", 0.91), ("title", 0.95), ("ppo", 0.45)])
def test_every_step_up_to_ppo_counts(policy, rate):
    runs = runs_with("preference_over_reference", policy, rate, rate, rate)
    assert findings.headline(runs).held == {"people": True, "gold judge": False}


def test_seeds_that_disagree_leave_a_mean_open():
    """A lead of 0.35 on average, of which the seeds' spread of 0.2 leaves ± 4.30 · 0.2 / √3 = 0.50 open."""
    runs = runs_with("preference_over_reference", "ppo", 0.7, 0.9, 1.1)
    assert not findings.headline(runs).held["gold judge"]
    assert findings.headline(runs[1:2]).held["gold judge"]


@pytest.mark.parametrize(
    "find, policy, figures",
    [
        (findings.equal_length, "policies", {"preference_at_equal_length": estimate(0.49, 0.001)}),
        (findings.likert, "likert", {"accuracy": estimate(0.31)}),
        (findings.likert, "likert", {"coherence": estimate(0.77)}),
    ],
    ids=["shorter than even", "no gain on accuracy", "more gain on coherence"],
)
def test_a_claim_holds_whole_or_not(find, policy, figures):
    other = copy.deepcopy(RESULTS)
    assert find([other]).held == {"gold judge": True}
    other[policy]["ppo"] |= figures
    assert find([other]).held == {"gold judge": False}


def test_diversity_and_errors_of_every_run():
    body = findings.diversity([RESULTS, RESULTS]).body
    assert "| PPO | 90% and 90% | 40 and 40 | 20% and 20% | 1% and 1% | 30% and 30% |" in body
    assert "| place | 0.0% | 0.0% | 0.0% | 0.0% | 10.0% |" in findings.errors([RESULTS]).body
    plain = {"policies": {"ppo": {"tokens": 1.0}}}
    assert findings.diversity([plain]) is None and findings.errors([plain]) is None


def test_kinds_of_change_on_which_the_reward_model_may_be_guessing():
    body = findings.by_change([RESULTS]).body
    assert body.endswith("Not shown to be better than chance: day.") and "| roles | 300 | 90.0%" in body
    assert findings.by_change([RESULTS | {"reward_model": {}}]) is None


def scaling_with(index, right):
    """SCALING, in which the reward model at `index` is right, by the judge, in another share of the pairs."""
    other = copy.deepcopy(SCALING)
    other["points"][index]["accuracy"]["gold judge"] = estimate(right, 0.01)
    return other


def test_growth_with_data_is_the_most_comparisons_above_the_fewest():
    assert findings_on_scale.more_comparisons([SCALING]).held == YES
    held = findings_on_scale.more_comparisons([scaling_with(1, 0.745)]).held  # 0.735 at the fewest, ± 0.014
    assert held == {"people": True, "gold judge": False}
    one_share = SCALING | {"points": SCALING["points"][1:]}
    assert findings_on_scale.more_comparisons([one_share]) is None


def test_growth_with_size_is_of_the_most_comparisons():
    found = findings_on_scale.larger_models([SCALING])
    assert found.held == YES and "mini/small | 0.30M | 4,000" in found.body and "1,000" not in found.body
    held = findings_on_scale.larger_models([scaling_with(2, 0.815)]).held  # 0.81 of the smaller, ± 0.014
    assert held == {"people": True, "gold judge": False}
    assert findings_on_scale.larger_models([SCALING | {"points": SCALING["points"][:2]}]) is None


@pytest.mark.parametrize("right, held", [(0.85, True), (0.80, False)])
def test_no_larger_model_may_be_worse(right, held):
    middle = SCALING["points"][1] | {"size": "middle", "parameters": 1_000_000}
    middle |= {"accuracy": both(0.67, right)}
    run = SCALING | {"points": [*SCALING["points"], middle]}
    assert findings_on_scale.larger_models([run]).held["gold judge"] == held


def test_feedback_at_the_smallest_size_has_to_beat_supervision_at_the_largest():
    other = copy.deepcopy(SCALING)
    other["policies"][1]["people_over_reference"]["sft"] = rate(0.79)
    assert findings_on_scale.policy_size([SCALING]).held == YES
    assert findings_on_scale.policy_size([other]).held == {"people": False, "gold judge": True}


def test_gates_of_the_pretrained_models():
    body = findings_on_scale.gates([SCALING]).body
    assert "| roles | 97.0%, 0.99 | 97.0%, 0.99 |" in body
    assert "| tokens of pretraining | 97M | 97M |" in body
    assert findings_on_scale.gates([SCALING | {"gates": {}}]) is None


def test_preference_that_goes_on_rising_is_no_overoptimization():
    rising = copy.deepcopy(OVEROPTIMIZATION)
    rising["ppo"][-1]["preference"]["people"] = estimate(0.95)
    assert findings.overoptimization([OVEROPTIMIZATION]).held == YES
    assert findings.overoptimization([rising]).held == {"people": False, "gold judge": True}


def test_the_peak_of_a_run_is_that_of_the_others():
    """Each of three runs has another lucky policy, which says nothing of the next run."""
    rates = {0.5: (0.9, 0.5, 0.5), 0.05: (0.6, 0.95, 0.6), 0.001: (0.4, 0.4, 0.99)}
    policies = [
        [{"kl_coef": coef, "preference": {"people": {"value": value}}} for value in values]
        for coef, values in rates.items()
    ]
    assert [peak_of(policies, i, "people")["kl_coef"] for i in range(3)] == [0.05, 0.5, 0.05]


def test_the_errors_that_grow_beyond_the_peak_are_named():
    body = findings.overoptimization([OVEROPTIMIZATION]).body
    # 30 points ± √(0.02² + 0²); day's 2 ± 2.8 may be none.
    assert "The errors that grow most on that way are, in points: roles +30.0 (28.0 to 32.0)." in body
    assert "| 0.001 | 16.00 | 12.0% (10.0 to 14.0) | 30.0% (28.0 to 32.0) |" in body


def test_agreement_holds_where_the_reward_model_leads_on_pairs_of_every_kind():
    behind = copy.deepcopy(AGREEMENT)
    behind["agreement"]["ppo"]["people"]["lead_over_rougeL"] = estimate(0.01)
    assert findings.agreement([AGREEMENT]).held == YES
    found = findings.agreement([behind])
    assert found.held == {"people": False, "gold judge": True}
    assert found.body.endswith("It is not shown to lead on PPO samples, people.")
    behind["agreement"]["ppo"]["people"]["another_reward_model"] = estimate(0.65)
    assert (
        "agrees with people on 75.0% (73.0 to 77.0) of the pairs, that of"
        in findings.agreement([behind]).body
    )


def test_values_at_equal_kl_lie_on_the_line_between_points():
    assert at_kl(OVEROPTIMIZATION["ppo"], "gold judge", 2.5) == pytest.approx(0.8)
    assert at_kl(OVEROPTIMIZATION["ppo"], "gold judge", 0.5) is None


def test_without_people_and_judge_the_reward_model_is_all_there_is(tmp_path):
    real = copy.deepcopy({"overoptimization": OVEROPTIMIZATION, "results": RESULTS})
    for one in real["overoptimization"]["ppo"] + real["overoptimization"]["best_of_n"]:
        del one["score"]["gold judge"], one["preference"]["gold judge"], one["preference"]["people"]
        one["errors"] = {}
    real["results"] |= {"judge": "reward model", "likert": None}
    del real["results"]["people_over_reference"]
    write(tmp_path / "runs" / "seed0", real)
    text = page(tmp_path)
    found = verdicts(text)
    assert "no measure of quality" in text and found["What is better"] == ["missing", "0"]
    assert found["Human feedback beats ten times the size"] == ["one run only (reward model)", "1"]
    assert found["Optimizing a reward model too far"] == ["measured", "1"]


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


def feedback_with(kind, hours, people) -> dict:
    other = copy.deepcopy(FEEDBACK)
    for one in other["points"]:
        if (one["kind"], one["hours"]) == (kind, hours):
            one["preference"]["people"] = estimate(people)
    return other


def test_kinds_of_feedback_at_equal_hours():
    """80.0 less 65.0 points at 1000 hours, ± √2 · 2 of two intervals that are added as independent."""
    finding = feedback([FEEDBACK])
    assert finding.held == YES
    assert "| comparison | 1000 | 15,000 | 80.0% (78.0 to 82.0) | 75.0%" in finding.body
    assert "| demonstration | 1000 | 9,230 | 65.0% (63.0 to 67.0) |" in finding.body
    assert "| 30% | day 20% |" in finding.body
    assert "| none | 0 | 0 | 45.0%" in finding.body and "| comparison | 240 | measured |" in finding.body
    assert "With 1000 hours comparison is shown to be best by people: before demonstration" in finding.body
    assert "| demonstration | -15.0 (-17.8 to -12.2) |" in finding.body


def test_kinds_of_feedback_are_drawn(tmp_path):
    write(tmp_path / "runs" / "seed0", {"feedback": FEEDBACK})
    assert "(images/results-feedback.png)" in page(tmp_path)
    assert (tmp_path / "docs" / "images" / "results-feedback.png").read_bytes().startswith(b"\x89PNG")


def test_comparisons_are_held_to_demonstrations_where_most_was_spent():
    assert feedback([feedback_with("demonstration", 100, 0.99)]).held == YES
    close = feedback([feedback_with("demonstration", 1000, 0.79)])
    assert close.held == {"people": False, "gold judge": True}
    assert "comparison is best, but not shown to be by people" in close.body


def test_without_demonstrations_nothing_is_held():
    alone = FEEDBACK | {"points": FEEDBACK["points"][:2]}
    finding = feedback([alone])
    assert not finding.held and "refuted" not in finding.body and "before" not in finding.body
