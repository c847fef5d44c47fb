"""Pretraining the ladder, and the gates that its bases have to pass."""

import json

import jax
import numpy as np
import pytest

from rlhf_jax.config import ModelConfig
from rlhf_jax.data.mini.documents import KINDS, documents
from rlhf_jax.data.mini.reading import read
from rlhf_jax.data.mini.rows import ROW_FILLED, ROW_TOKENS, ROWS
from rlhf_jax.data.mini.world import CAST, split_of
from rlhf_jax.data.tasks.tldr import Tldr
from rlhf_jax.data.tokenizer import load_tokenizer, train_tokenizer
from rlhf_jax.mesh import make_mesh
from rlhf_jax.model import params, pretrained, transformer
from rlhf_jax.pipeline import gates, pretrain

SIZES = {"a": pretrain.Size(8, 2, 1e-2), "b": pretrain.Size(16, 2, 1e-2)}
TWO_UPDATES = int(2 * ROWS * ROW_TOKENS * ROW_FILLED)


@pytest.fixture(scope="module")
def tokenizer():
    texts = [document.text for document in documents(0, 0, 5_000, 5_000)]
    return train_tokenizer(texts, pretrain.VOCABULARY, Tldr.pieces)


@pytest.fixture(scope="module")
def run(tokenizer, tmp_path_factory):
    """Runs the command with sizes that are quickly made; returns its status and where the bases are."""
    folder = tmp_path_factory.mktemp("ladder")
    tokenizer.save(folder / "tokenizer")

    def pretrained_to(name, *sizes):
        given = [f"--out={folder / name}", f"--tokenizer={folder}/tokenizer", f"--tokens={TWO_UPDATES}"]
        given.append("--pairs=10")
        return pretrain.main(["pretrain", *given, *(f"--sizes={size}" for size in sizes)]), folder / name

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain, "SIZES", SIZES)
        patch.setattr(pretrain, "LAYERS", 4)  # four quarters of one layer
        yield pretrained_to


def test_the_ladder_is_written_with_its_gates_and_fails_where_they_are_not_passed(run, tokenizer, capsys):
    status, folder = run("both", *SIZES)
    assert status != 0
    said = capsys.readouterr().err
    assert all(f"{kind} of {size}" in said for kind in KINDS for size in SIZES)
    for size in SIZES:
        found = json.loads((folder / size / "gates.json").read_text())
        assert found["tokens"] == TWO_UPDATES
        assert list(found["kinds"]) == list(KINDS)
        model = pretrained.architecture(ModelConfig(pretrained=str(folder / size)))
        assert (model.width, model.layers) == (SIZES[size].width, pretrain.LAYERS)
        assert load_tokenizer(folder / size).vocab_size == tokenizer.vocab_size
    _, alone = run("alone", "b")  # sizes do not hear of each other
    weights = [(one / "b" / pretrained.WEIGHTS).read_bytes() for one in (folder, alone)]
    assert weights[0] == weights[1]


def test_told_apart():
    true, false = np.array([-1.0, -2.0, 3.0, -1.0]), np.array([1.0, -3.0, 2.0, 4.0])
    found = gates.told_apart(true, false)
    assert found["accuracy"] == (3 / 4 + 3 / 4) / 2
    assert found["auc"] == (3 + 0 + 3 + 4) / 16


def test_a_gate_is_each_kind_of_its_own():
    passed = {"accuracy": gates.PASS}
    assert gates.failed({"object": passed, "roles": {"accuracy": 0.949}}) == ["roles"]


@pytest.mark.parametrize("kind", KINDS)
def test_at_the_gates_a_statement_stands_under_an_unseen_post(kind):
    made = gates.statements(kind, np.random.default_rng(0))
    for true, false in (next(made) for _ in range(20)):
        post, claim = true.split("COMMENT:")
        people = {name for fact in read(post[post.find("POST:") + 5 :]).facts for name in fact.people}
        assert len(people) < CAST or split_of(sorted(people)) == "valid"
        assert false.startswith(post) and false != true and claim.strip()


def test_leanings_do_not_depend_on_what_stands_beside(tokenizer):
    model = pretrain.model_of(SIZES["a"])
    with jax.set_mesh(make_mesh()):
        weights = params.init(transformer.specs(model, tokenizer.vocab_size), jax.random.key(1))
        texts = [f" dan robbed {name}." for name in ("mia", "eve who was at school", "leo", "ben")]
        all_ = gates.leanings(weights, model, tokenizer, texts)
        one = gates.leanings(weights, model, tokenizer, texts[2:3])
    np.testing.assert_allclose(one, all_[2:3], atol=1e-4)


def test_the_shipped_bases_passed_their_gates_and_share_a_tokenizer():
    folders = [pretrained.folder_of(f"mini/{size}") for size in pretrain.SIZES]
    of_first = load_tokenizer(folders[0]).vocab_size
    for folder in folders:
        found = json.loads((folder / "gates.json").read_text())
        assert gates.failed(found["kinds"]) == []
        assert load_tokenizer(folder).vocab_size == of_first
