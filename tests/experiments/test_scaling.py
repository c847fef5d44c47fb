"""Scaling on runs with random networks: what is trained on what, and how accuracies are told."""

import json
from collections import Counter
from dataclasses import replace

import experimenting
import pytest
import tiny

from rlhf_jax.data.comparisons import comparisons_of_run, pairs_of
from rlhf_jax.experiments import command, findings_on_scale, scaling
from rlhf_jax.experiments.command import open_run
from rlhf_jax.experiments.scaling import doublings, first_share, main
from rlhf_jax.pipeline import stages as pipeline
from rlhf_jax.run import workdir as runs


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return experimenting.finished_run(tmp_path_factory.mktemp("scaling"))


def write_results(folder, rate):
    rates = {"rate": rate, "stderr": 0.1, "low": rate - 0.2, "high": rate + 0.2}
    results = {"judge": "gold judge", "ppo": {"kl": 1.0}}
    for by in ("people_over_reference", "preference_over_reference"):
        results[by] = dict.fromkeys(("title", "sft", "ppo"), rates)
    (folder / "results.json").write_text(json.dumps(results))


def run_stages(config, folder, wanted=None):
    """A random reward model in place of training; the policies' rates are invented."""
    if not runs.stage_done(folder, "reward"):
        experimenting.save(folder, "reward", seed=20)
    if wanted is None:
        write_results(folder, 0.6)


@pytest.fixture(scope="module")
def figures(workdir):
    """Two shares."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "run_stages", run_stages)
        arguments = ["scaling", f"--workdir={workdir}", "--shares=0.5,1", "--policies"]
        assert main(arguments) == 0
        first = (workdir / "scaling.json").read_bytes()
        patch.setattr(scaling, "accuracies", lambda folder: pytest.fail("measured again"))
        assert main(arguments) == 0
        assert (workdir / "scaling.json").read_bytes() == first
    return json.loads(first)


def test_shares_lie_in_one_another_and_all_is_held_out(workdir):
    comparisons = comparisons_of_run(experimenting.config(), workdir)
    half, all_of_it = (first_share(comparisons, share) for share in (0.5, 1))
    assert all_of_it == comparisons
    for split in ("valid1", "valid2"):
        assert pairs_of(half, split) == pairs_of(comparisons, split)
    ours, all_train = pairs_of(half, "train"), pairs_of(comparisons, "train")
    quarter = pairs_of(first_share(comparisons, 0.25), "train")
    assert len(ours) == 8 and all(pair in all_train for pair in ours)
    assert len(quarter) == 4 and all(pair in ours for pair in quarter)


def test_a_share_is_of_all_batches():
    """Published comparisons stand batch by batch, of policies that grow better."""
    comparisons = [
        replace(one, batch=f"batch{i // 100}") for i, one in enumerate(tiny.comparisons("train", 400, 0))
    ]
    drawn = Counter(comparison.batch for comparison in first_share(comparisons, 0.25))
    assert sorted(drawn) == [f"batch{i}" for i in range(4)] and min(drawn.values()) > 10


def test_points_of_every_share(workdir, figures):
    assert [(one["share"], one["comparisons"]) for one in figures["points"]] == [(0.5, 8), (1, 16)]
    for one in figures["points"]:
        assert one["parameters"] == figures["points"][0]["parameters"] > 12_288  # 768 pieces × width 16
        assert one["accuracy"].keys() == {"people", "gold judge"}
        for right in (*one["accuracy"].values(), one["blind_accuracy"]):
            assert 0 <= right["low"] <= right["value"] <= right["high"] <= 1
    half = workdir / "scaling" / "own_0.5"
    assert len(pairs_of(comparisons_of_run(experimenting.config(), half), "train")) == 8
    assert not (workdir / "scaling" / "own_1").exists()  # that is the run itself


def test_policies_along_size(figures):
    (one,) = figures["policies"]
    for by in ("people_over_reference", "preference_over_reference"):
        assert one[by]["ppo"]["rate"] == 0.6 and "title" not in one[by]
    assert one["kl"] == 1


def test_the_page_of_findings_reads_them(figures):
    assert ", and a doubling adds" in findings_on_scale.more_comparisons([figures]).body
    assert findings_on_scale.larger_models([figures]) is None  # one size was tried
    assert not any(findings_on_scale.policy_size([figures]).held.values())


def test_what_a_doubling_adds_by_hand():
    # accuracy = 0.5 + 0.02 log₂(comparisons / 100) + 0.01 log₂(parameters / 1000), without error.
    points = [
        {
            "size": f"base{j}",
            "comparisons": 100 * 2**i,
            "parameters": 1000 * 2**j,
            "accuracy": {"people": {"value": 0.5 + 0.02 * i + 0.01 * j}},
        }
        for i in range(4)
        for j in (0, 3)
    ]
    gains = {"comparisons": 0.02, "parameters": 0.01}
    assert doublings(points)["people"] == pytest.approx(gains)
    assert doublings(points[::2])["people"] == pytest.approx({"comparisons": 0.02})
    assert doublings(points[:1]) == {"people": {}}


def test_another_share_of_the_run_s_size_goes_on_from_its_supervised_policy(workdir):
    run = open_run(workdir)
    folder = scaling.prepare(run, "", 0.25)
    assert runs.stage_done(folder, "sft") and not runs.stage_done(folder, "reward")
    assert scaling.prepare(run, "", 1) == workdir


def test_the_miniature_s_sizes_are_its_ladder_and_each_but_the_run_s_own_gets_the_largest_share(
    workdir, monkeypatch, tmp_path
):
    tried, run = [], open_run(workdir)
    small = replace(run.config, model=replace(run.config.model, pretrained="mini/small"))

    def point(run, size, share):
        tried.append((size, share))
        accuracy = {"people": {"value": 0.6, "low": 0.5, "high": 0.7}}
        about = {"size": size, "share": share, "comparisons": 16, "parameters": len(tried)}
        return about | {"accuracy": accuracy, "blind_accuracy": accuracy["people"]}

    monkeypatch.setattr(scaling, "point", point)
    monkeypatch.setattr(scaling, "gates", lambda size: {"tokens": 1})
    monkeypatch.setattr(command, "open_run", lambda _: replace(run, workdir=tmp_path, config=small))
    assert main(["rlhf-jax scaling", f"--workdir={workdir}", "--shares=0.25,0.5"]) == 0
    rungs = [("mini/tiny", 0.5), ("mini/small", 0.25), ("mini/small", 0.5), ("mini/medium", 0.5)]
    assert tried == [*rungs, ("mini/large", 0.5)]
    assert list(json.loads((tmp_path / "scaling.json").read_text())["gates"]) == list(scaling.LADDER)


def test_a_share_above_all_is_refused(workdir, capsys):
    assert main(["rlhf-jax scaling", f"--workdir={workdir}", "--shares=0.5,2"]) == 2
    assert "--shares: a share of the comparisons is at most 1" in capsys.readouterr().err
