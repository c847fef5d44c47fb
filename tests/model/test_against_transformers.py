"""Checkpoints made with transformers give here what they gave there; see fixtures/make_families.py."""

from pathlib import Path

import pytest
from fixtures.agreement import assert_agrees

FOLDERS = sorted(file.parent for file in Path(__file__).parents[1].glob("fixtures/*/expected.npz"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_logits_generation_and_scores(folder):
    assert_agrees(folder)
