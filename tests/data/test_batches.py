from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from rlhf_jax.config import DataConfig, SftConfig
from rlhf_jax.data.batches import BatchError, PairPlan, QueryPlan, ResponsePlan, SftPlan, pack_rows
from rlhf_jax.data.comparisons import Pair
from rlhf_jax.data.records import Post
from rlhf_jax.data.tasks.tldr import Tldr
from rlhf_jax.data.widths import rounded

EOS, PAD = 128, 129


def query_text(post: Post) -> str:
    return Tldr(DataConfig()).prompt(post).text


FRAME = len(query_text(Post("", "r", "", "")))  # tokens of a query without text


class Characters:
    """One token a character."""

    vocab_size, eos_id, pad_id, prefix = EOS + 1, EOS, PAD, ()

    def encode(self, text):
        return [ord(c) for c in text]

    def decode(self, ids):
        return "".join(map(chr, ids))


def data(*buckets: int, **fields) -> DataConfig:
    """Buckets in tokens beyond the query's frame."""
    lengths = tuple(FRAME + bucket for bucket in buckets)
    return DataConfig(query_buckets=lengths, query_tokens=lengths[-1], response_tokens=8, **fields)


def posts_of(*lengths: int) -> list[Post]:
    return [Post(str(i), "r", "", chr(97 + i % 26) * n, "s" * (i % 9)) for i, n in enumerate(lengths)]


def random_posts(count: int, longest: int = 40) -> list[Post]:
    return posts_of(*np.random.default_rng(7).integers(1, longest + 1, count))


def query_plan(posts, data, batch_size=8, seed=3) -> QueryPlan:
    return QueryPlan(posts, Characters(), Tldr(data), batch_size, seed)


def sft_plan(posts, data, seed=3, **options) -> SftPlan:
    return SftPlan(posts, Characters(), Tldr(data), SftConfig(**options), seed)


def pair_plan(posts, data, batch_size=8, seed=3) -> PairPlan:
    pairs = [Pair(post, post.summary, "not " + post.summary) for post in posts]
    return PairPlan(pairs, Characters(), Tldr(data), batch_size, seed)


PLANS = {
    "queries": partial(query_plan),
    "pairs": partial(pair_plan),
    "sft": partial(sft_plan, batch_size=8, pack=False),
    "packed": partial(sft_plan, batch_size=8, pack=True),
}


def equal(a, b) -> bool:
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and a[k].shape == b[k].shape and a[k].tobytes() == b[k].tobytes() for k in a
    )


@pytest.mark.parametrize("make", PLANS.values(), ids=PLANS)
def test_a_batch_depends_on_seed_and_step_alone(make):
    posts, buckets = random_posts(103), data(10, 20, 40)
    steps = range(2 * make(posts, buckets).steps_per_epoch + 3)
    straight = make(posts, buckets)
    once = [straight.batch(step) for step in steps]
    resumed = make(posts, buckets)
    for step in [*steps[len(steps) // 2 :], *steps]:  # from the middle of an epoch, then back
        assert equal(resumed.batch(step), once[step])
    other = make(posts, buckets, seed=4)
    assert not all(equal(other.batch(step), once[step]) for step in steps)


@pytest.mark.parametrize("make", PLANS.values(), ids=PLANS)
def test_every_row_comes_once_an_epoch_in_a_new_order(make):
    plan = make(random_posts(103), data(10, 20, 40))
    size, steps = len(plan.batch(0)["index"]), plan.steps_per_epoch
    epochs = [
        np.concatenate([plan.batch(epoch * steps + i)["index"] for i in range(steps)]) for epoch in range(3)
    ]
    rows = sum(valid for _, valid in plan.in_order())
    for index in epochs:
        assert len(index) == len(set(index)) == rows - rows % size
        assert set(index) <= set(range(rows))
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(epochs[1], epochs[2])


def test_rows_left_out_differ_by_epoch():
    plan = query_plan(random_posts(103), data(40))
    assert plan.steps_per_epoch == 12  # 103 = 12 * 8 + 7
    left_out = [
        set(range(103)) - {i for step in range(12) for i in plan.batch(12 * epoch + step)["index"]}
        for epoch in range(2)
    ]
    assert [len(rows) for rows in left_out] == [7, 7]
    assert left_out[0] != left_out[1]


def test_leftovers_move_up_to_the_next_bucket():
    # 10 posts fit 5 characters, 3 need 20, 3 need 30: by fours, 2 + 5 rows, 1 + 4 rows.
    plan = query_plan(posts_of(*[5] * 10, *[20] * 3, *[30] * 3), data(5, 10, 20, 30, 99), batch_size=4)
    for epoch in range(3):
        widths = [plan.batch(4 * epoch + i)["query"].shape[1] - FRAME for i in range(4)]
        assert sorted(widths) == [5, 5, 20, 30]
    orders = {tuple(plan.batch(4 * e + i)["query"].shape[1] for i in range(4)) for e in range(12)}
    assert len(orders) > 3  # of 12; lengths do not come in a fixed order


def test_short_posts_get_short_rows_and_shapes_are_few():
    posts, buckets = random_posts(400), data(10, 20, 40)
    for make in (PLANS["queries"], PLANS["pairs"], PLANS["sft"]):
        plan = make(posts, buckets)
        batches = [plan.batch(step) for step in range(plan.steps_per_epoch)]
        shapes = Counter(tuple(a.shape for a in batch.values()) for batch in batches)
        assert len(shapes) == 3
        assert min(shapes.values()) >= 10  # about a quarter, a quarter and a half of 50 batches
    plan = query_plan(posts, buckets)
    moved = 0
    for step in range(plan.steps_per_epoch):
        batch = plan.batch(step)
        lengths = np.array([len(posts[i].post) for i in batch["index"]])
        shortest = np.array([next(b for b in (10, 20, 40) if n <= b) for n in lengths])
        assert (shortest <= batch["query"].shape[1] - FRAME).all()
        moved += (shortest < batch["query"].shape[1] - FRAME).sum()
    assert moved <= 2 * 7  # two bucket ends, fewer than a batch each


def test_widths_follow_the_texts_where_none_are_given(capsys):
    """Texts of 3 and of 200 characters; no more widths than batches; packed rows stay as they are."""
    posts = posts_of(*[3] * 16, *[200] * 8)
    short, long = rounded(FRAME + 3), rounded(FRAME + 200)
    limits = DataConfig(query_tokens=FRAME + 300, response_tokens=8)
    plan = query_plan(posts, limits)
    assert sorted(plan.batch(i)["query"].shape[1] for i in range(3)) == [short, short, long]
    plan.tell("ppo")
    padding = 1 - (16 * (FRAME + 3) + 8 * (FRAME + 200)) / (16 * short + 8 * long)
    assert capsys.readouterr().out == (
        f"ppo: prompts are padded to {short}, {long} tokens, {padding:.0%} of which are padding\n"
    )
    assert query_plan(posts, limits, batch_size=24).batch(0)["query"].shape[1] == long
    assert query_plan(posts[-8:], replace(limits, query_tokens=FRAME + 200)).batch(0)["query"].shape == (
        8,
        FRAME + 200,
    )
    packed = sft_plan(posts, limits, batch_size=8, pack=True)
    assert packed.batch(0)["tokens"].shape[1] == FRAME + 308


def test_queries_are_padded_on_the_left():
    posts = random_posts(64)
    plan = query_plan(posts, data(20, 40))
    for step in range(plan.steps_per_epoch):
        batch = plan.batch(step)
        assert batch["query"].dtype == batch["index"].dtype == np.int32
        for row, i in zip(batch["query"], batch["index"], strict=True):
            ids = [ord(c) for c in query_text(posts[i])]
            assert row.tolist() == [PAD] * (len(row) - len(ids)) + ids


@pytest.mark.parametrize("read_as", ["", "?", "  "])
def test_space_padding_needs_a_token_for_a_space(read_as):
    class Spaceless(Characters):
        def encode(self, text):
            return super().encode(text.replace(" ", read_as))

    with pytest.raises(BatchError, match="data.padding: space needs a tokenizer with a token for a space"):
        QueryPlan(posts_of(3), Spaceless(), Tldr(data(5, padding="space")), 1, seed=0)


def test_space_padding_is_attended_to():
    posts = posts_of(3, 5, 9, 10)
    batches = [batch["query"] for batch, _ in query_plan(posts, data(5, 10, padding="space"), 2).in_order()]
    for post, row in zip(posts, np.concatenate([b[:, -FRAME - 10 :] for b in batches[:1]]), strict=False):
        assert row.tolist() == [32] * (5 - len(post.post)) + [ord(c) for c in query_text(post)]
    assert not any((query == PAD).any() for query in batches)
    limits = DataConfig(query_tokens=FRAME + 20, response_tokens=8, padding="space")
    (batch, _), *_ = query_plan(posts, limits, 4).in_order()  # whatever the lengths of the other texts
    assert batch["query"].shape == (4, FRAME + 20) and not (batch["query"] == PAD).any()


def test_prompts_of_another_kind():
    posts = posts_of(3, 5)
    few_shot = Tldr(data(200)).few_shot(posts[:1])
    plan = QueryPlan(posts, Characters(), few_shot, 2, 0)
    batch, _ = next(plan.in_order())
    for row, i in zip(batch["query"], batch["index"], strict=True):
        ids = [ord(c) for c in few_shot.prompt(posts[i]).text]
        assert row[-len(ids) :].tolist() == ids


def test_pairs_line_up():
    posts = posts_of(3, 5, 4, 2)
    pairs = [Pair(post, "abc", "de" * i) for i, post in enumerate(posts)]
    plan = PairPlan(pairs, Characters(), Tldr(data(5, reward_response_tokens=6)), 4, 0)
    batch = plan.batch(0)
    for b, i in enumerate(batch["index"]):
        assert batch["query"][b, -len(query_text(posts[i])) :].tolist() == [
            ord(c) for c in query_text(posts[i])
        ]
        assert batch["chosen"][b].tolist() == [*b" abc", EOS, PAD]
        assert batch["rejected"][b].tolist() == ([*b" dedede"[: min(1 + 2 * i, 5)], EOS] + [PAD] * 5)[:6]


@pytest.mark.parametrize(("longest", "width"), [(2, 3), (3, 3), (4, 6), (6, 6), (7, 12), (40, 12)])
def test_summaries_take_the_quarter_or_half_of_the_limit_that_holds_them(longest, width):
    """A batch of them: a space, letters and EOS; three widths, so that little is compiled."""
    posts = posts_of(3, 5)
    limits = Tldr(data(5, reward_response_tokens=12))
    texts = ["a", "b" * (longest - 2)]
    read = ResponsePlan(posts, [texts, texts], Characters(), limits, 2)
    pairs = PairPlan([Pair(post, *texts) for post in posts], Characters(), limits, 2, 0)
    assert next(read.in_order())[0]["responses"].shape == (2, 2, width)
    assert pairs.batch(0)["chosen"].shape == pairs.batch(0)["rejected"].shape == (2, width)


def test_summaries_to_score_line_up_with_their_posts():
    posts, summaries = posts_of(3, 9, 1), [("abc", "x"), ("", "y"), ("abcdef", "z")]
    task = Tldr(data(5, 10, reward_response_tokens=5))
    plan = ResponsePlan(posts, summaries, Characters(), task, 2)
    rows = {}
    for batch, valid in plan.in_order():
        for b in range(valid):
            rows[int(batch["index"][b])] = batch["query"][b], batch["responses"][b].tolist()
    assert {i: responses for i, (_, responses) in rows.items()} == {
        0: [[*b" abc", EOS], [*b" x", EOS, PAD, PAD]],
        1: [[*b" ", EOS, PAD, PAD, PAD], [*b" y", EOS, PAD, PAD]],
        2: [[*b" abc", EOS], [*b" z", EOS, PAD, PAD]],
    }
    for i, (query, _) in rows.items():
        ids = Characters().encode(query_text(posts[i]))
        assert query[len(query) - len(ids) :].tolist() == ids


def test_sft_row_by_hand():
    # One packed row of 2 * (FRAME + 2) tokens: queries of FRAME + 1, responses of " ", "ab", EOS cut to 3.
    posts = [Post(i, "r", "", c, "ab") for i, c in (("0", "x"), ("1", "y"))]
    config = replace(data(FRAME + 5), response_tokens=3)
    for query_loss in (False, True):
        plan = sft_plan(posts, config, batch_size=2, pack=True, query_loss=query_loss)
        assert plan.steps_per_epoch == 1 and [count for count, _ in plan.lost] == [0, 2, 0, 0]
        batch = plan.batch(0)
        assert {k: v.shape for k, v in batch.items() if k != "index"} == dict.fromkeys(
            ("tokens", "segments", "targets_mask"), (1, 2 * FRAME + 8)
        )
        query, length = FRAME + 1, FRAME + 4
        assert batch["segments"][0].tolist() == [1] * length + [2] * length
        response = [ord(" "), ord("a"), EOS]
        assert batch["tokens"][0, query:length].tolist() == response
        assert batch["tokens"][0, length + query :].tolist() == response
        one = [0.0] + [1.0] * (length - 1) if query_loss else [0.0] * query + [1.0] * 3
        assert batch["targets_mask"][0].tolist() == one * 2
        assert batch["targets_mask"].dtype == np.float32


def segments_of(plan: SftPlan) -> Counter:
    """The multiset of (tokens, targets) of all examples."""
    found = Counter()
    for batch, valid in plan.in_order():
        for tokens, segments, targets in zip(
            batch["tokens"][:valid], batch["segments"][:valid], batch["targets_mask"][:valid], strict=True
        ):
            assert (tokens[segments == 0] == PAD).all()
            assert (targets[segments == 0] == 0).all()
            for segment in range(1, segments.max() + 1):
                here = segments == segment
                assert np.flatnonzero(here).tolist() == list(range(here.argmax(), here.argmax() + here.sum()))
                found[tokens[here].tobytes(), targets[here].tobytes()] += 1
    return found


@pytest.mark.parametrize("query_loss", [False, True])
def test_packed_and_unpacked_rows_hold_the_same_examples(query_loss):
    posts = random_posts(101)
    packed, unpacked = (
        sft_plan(posts, data(10, 20, 40), batch_size=8, pack=pack, query_loss=query_loss)
        for pack in (True, False)
    )
    assert segments_of(packed) == segments_of(unpacked)
    assert sum(segments_of(packed).values()) == 101


def test_packed_batches_hold_about_the_posts_asked_for():
    posts, buckets = random_posts(2_000, longest=300), data(300)
    plan = sft_plan(posts, buckets, batch_size=64, pack=True)
    examples = [plan.batch(step)["segments"].max(axis=1).sum() for step in range(plan.steps_per_epoch)]
    assert 0.85 * 64 < np.mean(examples) < 1.15 * 64
    rows = len(plan.batch(0)["tokens"])
    assert plan.most_targets == max(batch["targets_mask"].sum(axis=1).max() for batch, _ in plan.in_order())
    assert rows < 64
    assert rows % 8 == 0
    for batch_size in (12, 24, 60, 96):
        plan = sft_plan(posts, buckets, batch_size=batch_size, pack=True, microbatches=3)
        assert len(plan.batch(0)["tokens"]) % 3 == 0


def test_packing_fills_the_fullest_row_that_holds_an_example():
    # 6 | 6 3 | 6 3, 5 | 6 3, 5 2 | 6 3 1, 5 2
    assert pack_rows([6, 3, 5, 2, 1], 10, range(5)) == [[0, 1, 4], [2, 3]]
    lengths = np.random.default_rng(0).integers(1, 101, 1_000)
    rows = pack_rows(lengths, 100, range(1_000))
    assert sorted(i for row in rows for i in row) == list(range(1_000))
    assert max(sum(lengths[i] for i in row) for row in rows) <= 100
    assert sum(lengths) > 0.9 * 100 * len(rows)


def test_rows_in_order_are_all_there_and_the_last_batch_is_filled_up():
    plan = query_plan(posts_of(*[5] * 6, *[20] * 5), data(5, 20, 30), batch_size=4)
    batches = list(plan.in_order())
    assert [batch["index"].tolist() for batch, _ in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 8]]
    assert [valid for _, valid in batches] == [4, 4, 3]
    assert [batch["query"].shape for batch, _ in batches] == [
        (4, FRAME + 5),
        (4, FRAME + 20),
        (4, FRAME + 20),
    ]


def test_fewer_posts_than_a_batch_can_be_evaluated_but_not_trained_on():
    plan = query_plan(posts_of(3, 4), data(5), batch_size=4)
    ((batch, valid),) = plan.in_order()
    assert batch["index"].tolist() == [0, 1] and valid == 2
    with pytest.raises(
        BatchError, match="^ppo.batch_size: 2 rows do not fill a batch of 4: lower it or add data$"
    ):
        plan.batch(0)


@pytest.mark.parametrize(
    "rows, multiple, size", [(16, 1, 16), (9, 1, 16), (8, 1, 8), (5, 1, 8), (1, 1, 1), (1, 4, 4), (5, 16, 16)]
)
def test_the_last_batch_is_halved_while_its_rows_fit_and_the_devices_share_it(rows, multiple, size):
    plan = query_plan(posts_of(*[5] * rows), data(5), batch_size=16)
    ((batch, valid),) = plan.in_order(multiple)
    assert len(batch["index"]) == len(batch["query"]) == size and valid == rows
    assert batch["index"].tolist() == [i % rows for i in range(size)]


@pytest.mark.parametrize("epochs, steps", [(1.0, 12), (0.5, 6), (2.25, 27), (0.001, 1)])
def test_epochs_are_turned_into_steps(epochs, steps):
    assert query_plan(random_posts(103), data(40)).total_steps(epochs) == steps
