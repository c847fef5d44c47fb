"""Ways to learn, compared on a run with random networks: what is trained, once, and what is told."""

import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import experimenting
import numpy as np
import pytest
import tiny
from absl import flags

from rlhf_jax.config import Config, ConfigError
from rlhf_jax.data import task as tasks
from rlhf_jax.data.records import Post
from rlhf_jax.experiments import findings_on_methods
from rlhf_jax.experiments.command import open_run
from rlhf_jax.experiments.methods import METHODS, Trial, by_halves, chosen, main, spread
from rlhf_jax.experiments.written import Pool, Written, by_best_of_n
from rlhf_jax.run import workdir as runs
from rlhf_jax.run.config_flags import parse_config

ROWS = {method.name: method for method in METHODS}
NAMES = ("sft", "more_sft", "best_of_n", "distill", "dpo", "ppo", "ppo_worst", "ppo_mean")
ARGUMENTS = [f"--methods={','.join(NAMES)}", "--strengths=1", "--posts=7", "--pool=16"]
TRIED = ["sft", "more_sft_2", "best_of_n_16", "distill_16", "dpo_0.03", "ppo_0.05", "ppo_worst_0.05"]
TRIED.append("ppo_mean_0.05")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return experimenting.finished_run(tmp_path_factory.mktemp("methods"))


@pytest.fixture(scope="module")
def trained(workdir):
    """What was trained, (folder, stage, configuration), with random networks in its place; twice started."""
    made: list[tuple[str, str, Config]] = []

    def stand_in(stage):
        def train(config, folder):
            made.append((folder.name, stage, config))
            if stage == "sft":
                for file in workdir.glob("tokenizer*"):
                    (folder / file.name).write_bytes(file.read_bytes())
            experimenting.save(folder, stage, seed=len(made) + 10)

        return train

    with pytest.MonkeyPatch.context() as patch:
        for stage in ("sft", "reward", "dpo", "distill", "ppo"):
            tiny.stand_in(patch, stage, stand_in(stage))
        assert main(["rlhf-jax methods", f"--workdir={workdir}", *ARGUMENTS]) == 0
        first, count = (workdir / "methods.json").read_bytes(), len(made)
        assert main(["rlhf-jax methods", f"--workdir={workdir}", *ARGUMENTS]) == 0
        assert (workdir / "methods.json").read_bytes() == first and len(made) == count
    return made


@pytest.fixture(scope="module")
def points(workdir, trained):
    found = json.loads((workdir / "methods.json").read_text())["points"]
    return dict(zip(TRIED, found, strict=True))


@pytest.mark.parametrize("config", ["the miniature", "a tiny run"])
def test_every_row_makes_configurations_that_can_run(config):
    mini = Path(__file__).parents[2] / "configs" / "mini.py"
    run = experimenting.config()
    if config == "the miniature":
        run = parse_config(["methods", f"--config={mini}"], flags.FlagValues())
    trials = [Trial(method, strength) for method in METHODS for strength in method.strengths]
    made = [trial.config(run, 1280) for trial in trials]
    assert len({trial.name for trial in trials}) == len(made) == 33  # each has a folder of its own
    assert [one.ppo.episodes == 1280 for one in made] == [trial.method.is_online for trial in trials]


def test_a_setting_that_the_run_s_own_do_not_allow_is_told_with_its_trial():
    run = experimenting.config()
    odd = replace(run, ppo=replace(run.ppo, batch_size=6, minibatches=1))
    with pytest.raises(ConfigError, match=r"^rloo_0.2: ppo.samples: 4 do not divide ppo.batch_size 6"):
        Trial(ROWS["rloo"], 0.2).config(odd, None)


def test_each_trial_is_trained_once_and_reward_models_of_a_kind_for_all_of_them(trained):
    assert [made[:2] for made in trained] == [
        ("more_sft_2", "sft"),
        ("distill_16", "distill"),
        ("dpo_0.03", "dpo"),
        ("reward_models", "reward"),
        ("ppo_worst_0.05", "ppo"),
        ("ppo_mean_0.05", "ppo"),
    ]
    configs = {folder: config for folder, _, config in trained}
    assert configs["more_sft_2"].data.mini_posts == 2 * experimenting.config().data.mini_posts
    assert configs["distill_16"].distill.best_of == 16 and configs["dpo_0.03"].dpo.beta == 0.03
    assert configs["reward_models"].reward.seeds == configs["ppo_mean_0.05"].reward.seeds == 3
    assert [configs[f"ppo_{how}_0.05"].ppo.ensemble for how in ("worst", "mean")] == ["worst", "mean"]


def test_what_a_method_shares_with_the_run_is_the_run_s(workdir, trained):
    def same(folder, network, source):
        (ours, theirs) = (
            next((workdir / place / "checkpoints" / network).glob("*/manifest.json"))
            for place in (folder, source)
        )
        return os.path.samefile(ours, theirs)

    assert all(same(f"methods/{name}", "sft", ".") for name in ("distill_16", "dpo_0.03", "ppo_mean_0.05"))
    assert same("methods/ppo_0.05", "ppo", ".")  # at the strength of the run's own policy
    assert same("methods/ppo_mean_0.05", "reward", "methods/reward_models")
    assert not same("methods/reward_models", "reward", ".")


def test_a_policy_of_another_experiment_is_not_trained_again(tmp_path, monkeypatch):
    workdir = experimenting.finished_run(tmp_path)
    config = Trial(ROWS["ppo"], 0.2).config(experimenting.config(), None)
    other = runs.open_workdir(workdir / "overoptimization" / "kl_0.2", config)
    experimenting.save(other, "ppo", seed=9)
    tiny.stand_in(monkeypatch, "ppo", lambda config, folder: pytest.fail("trained again"))
    arguments = ["--methods=ppo", "--posts=2"]
    monkeypatch.setattr("rlhf_jax.experiments.methods.METHODS", (replace(ROWS["ppo"], strengths=(0.2,)),))
    assert main(["rlhf-jax methods", f"--workdir={workdir}", *arguments]) == 0


def test_figures_and_costs(workdir, points):
    comparisons, demonstrations = experimenting.COMPARED, experimenting.config().data.mini_posts
    taken = {
        name: (one["demonstrations"], one["comparisons"], one["samples"]) for name, one in points.items()
    }
    assert taken.pop("sft") == (demonstrations, 0, 1)
    assert taken.pop("more_sft_2") == (2 * demonstrations, 0, 1)
    assert taken.pop("best_of_n_16") == (demonstrations, comparisons, 16)
    assert set(taken.values()) == {(demonstrations, comparisons, 1)}
    # Every stage of the run took a second, and each that was trained since another and the time of it.
    assert points["sft"]["seconds"] == 0 and points["best_of_n_16"]["seconds"] == 1
    assert points["ppo_0.05"]["seconds"] == 2 and points["ppo_mean_0.05"]["seconds"] > 2
    assert points["sft"]["kl"] == {"value": 0, "low": 0, "high": 0}
    assert [name for name, one in points.items() if one["online"]] == TRIED[-3:]
    for one in points.values():
        assert one["preference"].keys() == {"reward model", "gold judge", "people"}
        assert one["errors"].keys() == points["sft"]["errors"].keys() and 0 < one["distinct"] <= 1
        for who, rate in one["preference"].items():  # of 7 posts, of which 3 are to choose on
            halves = 3 * one["to_choose"][who]["value"] + 4 * one["to_report"][who]["value"]
            assert halves == pytest.approx(7 * rate["value"])
    assert (workdir / "methods.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_of_findings_reads_them(workdir, points):
    finding = findings_on_methods.methods([json.loads((workdir / "methods.json").read_text())])
    assert finding.held.keys() == {"people", "gold judge"}
    assert "| best-of-N, distilled | N 16 |" in finding.body


def test_halves_by_hand():
    """Of two posts with two summaries each the first is judged by the first summary, the second by both."""
    verdicts = {
        "gold judge": np.array([[5.0, 1.0], [4.0, 2.0]]),
        "people": np.array([[0.0, 1.0], [1.0, 0.0]]),
    }
    written = Written([None] * 2, ["a", "b"], np.zeros(2), verdicts, np.array([[1.0, 0.0], [0.5, 0.5]]))
    found = by_halves(written, {"gold judge": np.array([3.0, 3.0])})
    values = {half: {who: one["value"] for who, one in each.items()} for half, each in found.items()}
    assert values["to_choose"] == {"gold judge": 1.0, "people": 0.0}
    assert values["to_report"] == {"gold judge": 0.5, "people": 0.5}


def test_the_texts_of_best_of_n_are_drawn_as_it_would():
    """Of three samples the middle one is the best of two with probability 1/3, the worst one never."""
    posts = [Post(str(i), "", "", "", "") for i in range(600)]
    scores = {"reward model": np.tile([0.0, 2.0, 1.0], (600, 1))}
    written = by_best_of_n(Pool(posts, [["worst", "best", "middle"]] * 600, scores), 2)
    drawn = Counter(written.texts)
    assert drawn.keys() == {"best", "middle"}
    assert abs(drawn["middle"] - 200) < 4 * (600 * 1 / 3 * 2 / 3) ** 0.5


def test_fewer_strengths_are_spread_over_those_of_the_row():
    strengths = (2, 4, 8, 16, 32, 64)
    assert spread(strengths, None) == spread(strengths, 9) == list(strengths)
    assert [spread(strengths, count) for count in (1, 2, 3)] == [[16], [4, 32], [4, 16, 64]]
    assert spread((None,), 2) == [None]


def test_only_the_miniature_has_more_demonstrations(workdir, tmp_path):
    run = open_run(workdir)
    other = replace(run, task=tasks.find(tiny.write_data(tmp_path), 0))
    assert [method.name for method in chosen(run, ["more_sft", "dpo"])] == ["more_sft", "dpo"]
    assert [method.name for method in chosen(other, ["more_sft", "dpo"])] == ["dpo"]


@pytest.mark.parametrize(
    "argument, message",
    [
        ("--methods=ppo,dqn", "--methods: 'dqn' is none of sft, more_sft"),
        ("--pool=32", "--pool: best of 64 takes as many samples a post at least"),
    ],
)
def test_what_cannot_be_compared_is_refused(workdir, capsys, argument, message):
    assert main(["rlhf-jax methods", f"--workdir={workdir}", argument]) == 2
    assert message in (told := capsys.readouterr().err) and told.count("\n") == 1
