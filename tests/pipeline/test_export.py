import json
import re

import jax
import numpy as np
import pytest
import tiny
import tokenizers

from rlhf_jax import inference
from rlhf_jax.config import Config, ModelConfig, fields_of
from rlhf_jax.data import task as tasks
from rlhf_jax.data.tokenizer import load_tokenizer
from rlhf_jax.files import write_text
from rlhf_jax.mesh import make_mesh
from rlhf_jax.model import heads, params, pretrained, transformer
from rlhf_jax.pipeline import export
from rlhf_jax.run import checkpoint
from rlhf_jax.run import workdir as runs
from rlhf_jax.validation import validate

MODEL = ModelConfig(width=16, layers=1, heads=2, positions="rotary")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder with random networks: (folder, its tokenizer, stage → parameters)."""
    config = tiny.run_config(tiny.write_data(tmp_path_factory.mktemp("data")))
    config.model = MODEL
    workdir = runs.open_workdir(tmp_path_factory.mktemp("run"), validate(config))
    tokenizer = tasks.find(config.data, 0).make_tokenizer(tiny.posts(40, 0), None)
    tokenizer.save(workdir)
    weights = {
        "ppo": tiny.parameters(transformer.specs(MODEL, tokenizer.vocab_size), 1),
        "reward": tiny.parameters(heads.specs(MODEL, tokenizer.vocab_size), 2),
    }
    for stage, tree in weights.items():
        folder = workdir / "checkpoints" / stage
        checkpoint.save(folder, 1, params=tree, rest={"x": np.zeros(1)}, meta={})
    return workdir, tokenizer, weights


@pytest.fixture(scope="module")
def policy(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "ppo"
    export.export(run[0], "ppo", out)
    return out


@pytest.fixture(scope="module")
def reward(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "reward"
    export.export(run[0], "reward", out)
    return out


def read(file):
    return json.loads(file.read_text())


def test_a_policy_comes_back_as_it_was(run, policy):
    model = pretrained.architecture(ModelConfig(pretrained=str(policy)))
    like = params.abstract(transformer.specs(model, run[1].vocab_size), make_mesh())
    tiny.assert_same(pretrained.load(policy, like), run[2]["ppo"])


def test_a_reward_model_gets_a_padding_token_and_keeps_everything_else(run, reward):
    _, tokenizer, weights = run
    config = read(reward / "config.json")
    assert config["pad_token_id"] == tokenizer.vocab_size != config["eos_token_id"] == tokenizer.eos_id
    assert config["vocab_size"] == tokenizer.vocab_size + 1 and config["num_labels"] == 1
    assert config["architectures"] == ["GPTNeoXForSequenceClassification"]
    like = params.abstract(heads.specs(MODEL, config["vocab_size"]), make_mesh())
    loaded = jax.device_get(pretrained.load(reward, like))
    embed = loaded["transformer"]["embed"]
    assert not embed["tokens"][-1].any()
    embed["tokens"] = embed["tokens"][:-1]
    tiny.assert_same(loaded, weights["reward"])


def test_the_padding_token_of_a_reward_model_is_one_special_token(run, reward):
    written = tokenizers.Tokenizer.from_file(str(reward / "tokenizer.json"))
    assert written.encode(export.PAD).ids == [run[1].vocab_size]
    assert read(reward / "tokenizer_config.json")["pad_token"] == export.PAD
    assert read(reward / "tokenizer_config.json")["padding_side"] == "right"


def test_a_policy_pads_with_eos_on_the_left_and_stops_there(run, policy):
    eos = run[1].eos_id
    generation = read(policy / "generation_config.json")
    assert generation == {"eos_token_id": eos, "pad_token_id": eos, "max_new_tokens": 9, "do_sample": False}
    assert read(policy / "tokenizer_config.json")["padding_side"] == "left"
    assert not (policy.parent / "reward" / "generation_config.json").exists()


def test_the_exported_tokenizer_is_the_run_s(run, policy):
    tokenizer = load_tokenizer(policy)
    for post in tiny.posts(5, 3):
        assert tokenizer.encode(post.post) == run[1].encode(post.post)
    assert (tokenizer.eos_id, tokenizer.vocab_size) == (run[1].eos_id, run[1].vocab_size)


def test_the_card_says_what_it_is(run, policy, reward):
    card = (policy / "README.md").read_text()
    assert "trained with PPO" in card and "| `ppo.kl_coef` | `0.05` |" in card
    assert "has not been evaluated" in card and "AutoModelForCausalLM" in card
    assert "reward_shift" in (reward / "README.md").read_text()
    count = params.count(transformer.specs(MODEL, run[1].vocab_size))
    assert f"{count:,} parameters" in card


def architecture_in(card: str) -> dict[str, str]:
    """The fields of the model that a card's table of settings shows."""
    return dict(re.findall(r"^\| `model\.(\S+)` \| `(.*)` \|$", card, re.MULTILINE))


@pytest.mark.parametrize("base", [None, tiny.LLAMA], ids=["from scratch", "pretrained"])
@pytest.mark.parametrize("stage", ["ppo", "reward"])
def test_the_card_shows_the_architecture_of_the_model_beside_it(run, tmp_path, base, stage):
    config = runs.read_config(run[0])
    model = MODEL
    if base:
        pretrained.save(tmp_path / "base", tiny.parameters(transformer.specs(base, tiny.VOCABULARY)), base)
        config.model = ModelConfig(pretrained=str(tmp_path / "base"))
        model = pretrained.architecture(config.model)
    workdir = runs.open_workdir(tmp_path / "run", config)
    run[1].save(workdir)
    specs = (heads if stage == "reward" else transformer).specs(model, run[1].vocab_size)
    meta = inference.describe(model, stage == "reward")
    folder = workdir / "checkpoints" / stage
    checkpoint.save(folder, 1, params=tiny.parameters(specs), rest={"x": np.zeros(1)}, meta=meta)
    export.export(workdir, stage, tmp_path / "out")
    card, written = (tmp_path / "out" / "README.md").read_text(), read(tmp_path / "out" / "config.json")
    shown = architecture_in(card)
    assert (shown["width"], shown["layers"], shown["heads"], shown["positions"]) == (
        str(written["hidden_size"]),
        str(written["num_hidden_layers"]),
        str(written["num_attention_heads"]),
        "rotary",
    )
    described = {name: str(value) for name, _, value in fields_of(Config(model=model))}
    assert shown == {name: described[f"model.{name}"] for name in shown}
    assert f"{params.count(specs):,} parameters" in card


def test_the_card_has_the_results(run, tmp_path):
    rates = {"preference_over_reference": {"ppo": {"rate": 0.616, "stderr": 0.021}}, "judge": "gold"}
    write_text(run[0] / "results.json", json.dumps(rates))
    export.export(run[0], "ppo", tmp_path / "out")
    assert "| ppo | 61.6% | 2.1% |" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"workdir": "nowhere"}, "nowhere is not the folder of a run"),
        ({"stage": "sft"}, "sft"),
        ({"stage": "eval"}, "stage"),
        ({"dtype": "int8"}, "dtype"),
        ({"out": "full"}, "full is not empty"),
        ({"out": None}, "out"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_errors_of_use_are_one_line_and_write_nothing(run, tmp_path, monkeypatch, capsys, change, message):
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path / "full" / "x", "")
    options = {"workdir": run[0], "stage": "ppo", "out": "new"} | change
    status = export.main(["rlhf-jax export", *(f"--{k}={v}" for k, v in options.items() if v is not None)])
    error = capsys.readouterr().err
    assert status == 2 and message in error and error.count("\n") == 1
    assert not (tmp_path / "new").exists() and len(list((tmp_path / "full").iterdir())) == 1


def test_an_export_that_fails_half_way_leaves_nothing(run, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device", "somewhere")

    monkeypatch.setattr(export, "model_card", full)
    with pytest.raises(OSError, match="No space"):
        export.export(run[0], "ppo", tmp_path / "out")
    assert not list(tmp_path.iterdir())
