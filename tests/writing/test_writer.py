"""What a writer writes is what the network writes elsewhere, in whatever company, and in few shapes."""

import jax
import pytest
import tiny

from rlhf_jax.data.records import RecordError
from rlhf_jax.mesh import make_mesh
from rlhf_jax.writing import writer as writing
from rlhf_jax.writing.response import LENGTH
from rlhf_jax.writing.writer import size_for, sizes

POSTS = tiny.posts(7, seed=0)


def written(writer, prompts, records, **sampling):
    responses = [
        writer.response(prompts.of_record(record).ids, seed, **sampling)
        for seed, record in enumerate(records)
    ]
    for _ in writer.write(responses):
        pass
    return [response.text for response in responses]


def test_greedy_responses_are_those_of_the_network(plain):
    network, prompts, writer = plain
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        assert written(writer, prompts, POSTS) == network.write(POSTS)


def test_a_drawn_response_does_not_depend_on_its_company(plain):
    _, prompts, writer = plain
    together = written(writer, prompts, POSTS, temperature=0.9)
    alone = writer.response(prompts.of_record(POSTS[4]).ids, 4, temperature=0.9)
    for _ in writer.write([alone]):
        pass
    assert alone.text == together[4] and len(set(together)) == len(POSTS)


def test_settings_share_a_call(plain):
    """A greedy one, a drawn one and a short one, in one batch, are what each is by itself."""
    _, prompts, writer = plain
    ids = prompts.of_record(POSTS[0]).ids
    settings = [{}, {"temperature": 1.0}, {"max_tokens": 3}]
    together = [writer.response(ids, 1, **each) for each in settings]
    for _ in writer.write(together):
        pass
    for each, response in zip(settings, together, strict=True):
        alone = writer.response(ids, 1, **each)
        for _ in writer.write([alone]):
            pass
        assert (alone.text, alone.finish) == (response.text, response.finish)
    assert together[2].finish == LENGTH and len(together[2].ids) == 3


def test_a_response_grows_by_pieces(plain):
    _, prompts, writer = plain
    response = writer.response(prompts.of_record(POSTS[0]).ids, 1, max_tokens=20, temperature=1.0)
    lengths = [len(response.ids) for _ in writer.write([response])]
    assert lengths == [8, 16, 20] or response.finish != LENGTH


def test_like_sizes_compile_nothing_again(plain):
    """Any temperature, seed, number of rows up to a size, length up to a bucket, and number of tokens."""
    _, prompts, writer = plain
    written(writer, prompts, POSTS[:3])
    known = writing.begin._cache_size(), writing.advance._cache_size()
    written(writer, prompts, POSTS[1:7], temperature=0.3, max_tokens=5)
    written(writer, prompts, POSTS[2:6], temperature=1.3, max_tokens=12, stop=("a",))
    assert (writing.begin._cache_size(), writing.advance._cache_size()) == known


def test_a_prompt_may_be_longer_than_in_training_up_to_the_context(plain):
    _, prompts, writer = plain
    long = writer.response(prompts.as_it_is("a" * 200).ids, 0)
    for _ in writer.write([long]):
        pass
    assert long.finish
    full = writer.response(prompts.as_it_is("a" * 250).ids, 0)
    assert full.sampling.max_tokens == 6  # what is left of the context
    with pytest.raises(RecordError, match="takes 256 tokens, and the model reads 256 with the response"):
        writer.response(prompts.as_it_is("a" * 256).ids, 0)
    with pytest.raises(RecordError, match="of which 60 are asked for"):
        writer.response(prompts.as_it_is("a" * 200).ids, 0, max_tokens=60)


def test_sizes():
    assert sizes(2, 4, 128) == [2, 8, 32, 128] and sizes(12, 2, 20) == [12, 20] and sizes(9, 2, 3) == [9]
    assert [size_for([2, 8], needed) for needed in (1, 2, 3, 8)] == [2, 2, 8, 8]
