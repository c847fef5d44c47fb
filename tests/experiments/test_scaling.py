"""Scaling on runs with random networks: what is trained on what, and how accuracies are told."""

import json
from collections import Counter
from dataclasses import replace

import experimenting
import pytest
import tiny

from rlhf_jax.data.comparisons import comparisons_of_run, pairs_of
from rlhf_jax.experiments import findings, scaling
from rlhf_jax.experiments.scaling import doublings, first_share, main
from rlhf_jax.pipeline import stages as pipeline
from rlhf_jax.run import workdir as runs


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return experimenting.finished_run(tmp_path_factory.mktemp("scaling"))


def write_results(folder, rate):
    rates = {"rate": rate, "stderr": 0.1, "low": rate - 0.2, "high": rate + 0.2}
    results = {"judge": "gold judge", "ppo": {"kl": 1.0}}
    results["preference_over_reference"] = {name: rates for name in ("title", "sft", "ppo")}
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
        for name in ("valid_accuracy", "gold_accuracy", "blind_accuracy"):
            assert 0 <= one[name]["low"] <= one[name]["value"] <= one[name]["high"] <= 1
    half, whole = (workdir / "scaling" / name for name in ("own_0.5", "own_1"))
    assert len(pairs_of(comparisons_of_run(experimenting.config(), half), "train")) == 8
    assert (whole / "checkpoints" / "reward").resolve() != (half / "checkpoints" / "reward").resolve()


def test_policies_along_size(figures):
    (one,) = figures["policies"]
    assert one["ppo"]["rate"] == 0.6 and "title" not in one and one["kl"] == 1


def test_the_run_s_own_policies_serve_where_they_are_of_all_comparisons_and_as_many_episodes(
    tmp_path, monkeypatch
):
    workdir, config = experimenting.finished_run(tmp_path), experimenting.config()
    experimenting.finish(workdir, "eval")
    write_results(workdir, 0.7)
    monkeypatch.setattr(pipeline, "run_stages", run_stages)
    assert scaling.policy(config, workdir, "", 1)["ppo"]["rate"] == 0.7
    assert scaling.policy(config, workdir, "", 0.5)["ppo"]["rate"] == 0.6
    arguments = ["scaling", f"--workdir={workdir}", "--shares=1", "--policies", "--episodes=16"]
    assert main(arguments) == 0
    (one,) = json.loads((workdir / "scaling.json").read_text())["policies"]
    assert one["ppo"]["rate"] == 0.6
    assert runs.read_config(workdir / "scaling" / "own_1").ppo.episodes == 16


def test_the_page_of_findings_reads_them(figures):
    assert "A doubling of the comparisons adds" in findings.more_comparisons([figures]).body
    assert findings.larger_models([figures]) is None  # one size was tried
    assert not findings.policy_size([figures]).held


def test_what_a_doubling_adds_by_hand():
    # accuracy = 0.5 + 0.02 log₂(comparisons / 100) + 0.01 log₂(parameters / 1000), without error.
    points = [
        {
            "size": f"base{j}",
            "comparisons": 100 * 2**i,
            "parameters": 1000 * 2**j,
            "valid_accuracy": {"value": 0.5 + 0.02 * i + 0.01 * j},
        }
        for i in range(4)
        for j in (0, 3)
    ]
    sizes = ["base0", "base3"]
    gains = {"comparisons": 0.02, "parameters": 0.01}
    assert doublings(points, sizes)["valid_accuracy"] == pytest.approx(gains)
    assert doublings(points, sizes[:1])["valid_accuracy"] == pytest.approx({"comparisons": 0.02})
    assert doublings(points[:1], sizes) == {"valid_accuracy": {}}
    # A base that saw more tells of comparisons, as the others do, and nothing of parameters.
    more = [
        one | {"size": "more", "valid_accuracy": {"value": 0.7 + 0.02 * i}}
        for i, one in enumerate(points[::2])
    ]
    assert doublings(points + more, sizes)["valid_accuracy"] == pytest.approx(gains)


def test_the_run_s_reward_model_serves_where_it_is_the_best_of_as_many(tmp_path):
    workdir, config = experimenting.finished_run(tmp_path), experimenting.config()
    more = replace(config, reward=replace(config.reward, seeds=config.reward.seeds + 1))
    folder = scaling.prepare(more, workdir, "", 1)
    assert runs.stage_done(folder, "sft") and not runs.stage_done(folder, "reward")
    assert runs.stage_done(scaling.prepare(config, workdir, "", 0.5), "sft")
    (folder / "config.json").unlink()
    assert runs.stage_done(scaling.prepare(config, workdir, "", 1), "reward")


@pytest.mark.parametrize(
    "option, message",
    [
        ("--shares=0.5,2", "--shares: a share of the comparisons is at most 1"),
        ("--alike=elsewhere", "--alike: elsewhere should be some of"),
    ],
)
def test_what_cannot_be_is_refused(workdir, capsys, option, message):
    assert main(["rlhf-jax scaling", f"--workdir={workdir}", option]) == 2
    assert message in capsys.readouterr().err
