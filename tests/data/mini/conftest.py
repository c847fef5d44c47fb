import pytest

from rlhf_jax.data.mini.documents import documents
from rlhf_jax.data.tasks.tldr import Tldr
from rlhf_jax.data.tokenizer import train_tokenizer
from rlhf_jax.pipeline.pretrain import VOCABULARY


@pytest.fixture(scope="session")
def tokenizer():
    """The tokenizer that pretraining makes."""
    return train_tokenizer(
        [document.text for document in documents(0, 0, 5_000, 5_000)], VOCABULARY, Tldr.pieces
    )
