"""Ways to learn, compared on invented figures: what is chosen where, what leads what, and what refutes it."""

import copy

import pytest

from rlhf_jax.experiments.findings_on_methods import chosen, methods


def estimate(value, width=0.02):
    return {"value": value, "low": value - width, "high": value + width}


def point(method, setting, choose, report, online=False, samples=1):
    """A trial that people prefer so often on either half of the posts.

    The judge prefers it 0.1 more often where it is reported, and would choose what people would not.
    """

    def of(value):
        return {"reward model": estimate(0.9), "gold judge": estimate(value + 0.1), "people": estimate(value)}

    about = {"method": method, "label": method.upper(), "setting": setting, "online": online}
    costs = {"samples": samples, "seconds": 30.0, "comparisons": 16000, "demonstrations": 8000}
    measured = {"kl": estimate(2.0), "distinct": 0.9, "errors": {"day": estimate(0.1)}}
    halves = {"preference": of((choose + report) / 2), "to_report": of(report)}
    halves["to_choose"] = of(choose) | {"gold judge": estimate(1 - choose)}
    return about | costs | measured | halves


RUN = {
    "points": [
        point("sft", "", 0.5, 0.5),
        point("best_of_n", "N 64", 0.9, 0.9, samples=64),
        point("dpo", "β 0.1", 0.7, 0.6),
        point("dpo", "β 0.01", 0.6, 0.8),
        point("rloo", "β 0.05", 0.7, 0.99, online=True),
        point("ppo", "β 0.2", 0.65, 0.95, online=True),
        point("ppo", "β 0.05", 0.8, 0.7, online=True),
    ]
}


def with_report(index, value):
    run = copy.deepcopy(RUN)
    for who, more in (("people", 0.0), ("gold judge", 0.1)):
        run["points"][index]["to_report"][who] = estimate(value + more)
    return run


def test_strengths_are_chosen_on_one_half_and_told_of_the_other():
    """β 0.1 is DPO's best of the first half, PPO's 0.05 the online methods': all else may have been luck."""
    finding = methods([RUN] * 3)
    # ± 0.02 in each of three runs that agree: 0.02 / √3 over all of them.
    assert "| DPO | β 0.1 | 60.0% (58.8 to 61.2) | 70.0% (68.8 to 71.2) |" in finding.body
    assert "| PPO | β 0.05 | 70.0% (68.8 to 71.2) |" in finding.body and "β 0.2" not in finding.body
    # 0.7 − 0.6 ± √2 · 0.02 / √3
    ahead = "of SFT +20.0 (18.4 to 21.6); of DPO, β 0.1 +10.0 (8.4 to 11.6)."
    assert f"By people PPO, β 0.05 is ahead, in points: {ahead}" in finding.body
    assert finding.held == {"people": True, "gold judge": True}  # best-of-N takes 64 samples


def test_one_strength_is_chosen_for_all_runs():
    """The first has the higher mean on the half to choose on, the second the highest value."""
    first = [point("dpo", "β 0.1", choose, 0.5) for choose in (0.7, 0.7, 0.7)]
    second = [point("dpo", "β 0.01", choose, 0.9) for choose in (0.9, 0.5, 0.5)]
    assert chosen([first, second], "people") is first


@pytest.mark.parametrize(
    "report, told",
    [
        (0.69, "Not shown to be behind: DPO, β 0.1."),  # 1 point ± 1.6
        (0.75, "DPO, β 0.1 refutes the claim."),  # −5 points ± 1.6
    ],
)
def test_a_lead_that_is_not_shown_and_one_that_is_refuted(report, told):
    finding = methods([with_report(2, report)] * 3)
    assert finding.held == {"people": False, "gold judge": False}
    assert finding.body.count(told) == 2


def test_without_a_method_on_either_side_there_is_no_verdict():
    offline = {"points": RUN["points"][:4]}
    finding = methods([offline])
    assert finding.held == {} and "| DPO | β 0.1 |" in finding.body


def test_without_people_and_judge_the_reward_model_chooses_and_nothing_is_held():
    run = copy.deepcopy(RUN)
    for one in run["points"]:
        for half in ("preference", "to_choose", "to_report"):
            one[half] = {"reward model": one[half]["reward model"]}
    finding = methods([run])
    assert finding.held == {} and "preferred by the reward model" in finding.body
