"""What the clauses of the miniature say, and what the story says of it."""

import numpy as np

from rlhf_jax.data.mini import rows
from rlhf_jax.data.mini.clauses import NO_SLOT, SLOTS, MarkingWriter, most_like, slots, unmarked, values
from rlhf_jax.data.mini.documents import POSTS, document
from rlhf_jax.data.mini.reading import read
from rlhf_jax.data.mini.wording import Writer
from rlhf_jax.data.mini.world import PLACES, Fact, Question, Story

ROBBED = Fact("dan", "robbed", "mia", place="church", effect="fled", affected="mia")
HELPED = Fact("leo", "helped", "mia")
STORY = Story((ROBBED, HELPED), Question("call", "dan"))


def test_the_slots_of_a_fact_and_of_a_question():
    place, day = (list(SLOTS).index(name) for name in ("place", "day"))
    assert values(ROBBED)[place] == 1 + PLACES.index("church") and values(ROBBED)[day] == 0
    assert values(STORY.question)[place] == NO_SLOT
    assert slots(ROBBED) == {
        "subject": "dan",
        "deed": "robbed",
        "object": "mia",
        "place": "church",
        "day": "",
        "effect": "fled",
        "affected": "mia",
        "denied": False,
    }
    assert slots(STORY.question) == {"action": "call", "person": "dan"}
    assert slots(None) == {}


def test_a_statement_is_most_like_the_fact_it_changes_or_that_changes_it_into_another():
    assert most_like(STORY, Fact("dan", "robbed", "mia", place="home")) == ROBBED
    assert most_like(STORY, Fact("leo", "helped", "dan")) == HELPED
    assert most_like(STORY, Fact("mia", "robbed", "dan")) == ROBBED  # of equals that of the same people
    assert most_like(STORY, Fact("emma", "hit", "mia")) is None  # half like either
    assert most_like(STORY, Question("date", "mia")) == STORY.question


def test_a_marking_writer_says_what_a_writer_says_and_knows_where_clauses_end():
    for seed in range(40):
        plain = Writer(np.random.default_rng(seed))
        marking = MarkingWriter(np.random.default_rng(seed))
        said = [" ".join(one.sentences([ROBBED, HELPED, ROBBED], joined=0.5)) for one in (plain, marking)]
        text, clauses = unmarked(said[1], marking.clauses)
        assert text == said[0]
        assert [clause.says.triple for _, clause in sorted(clauses.items())] == [
            fact.triple for fact in (ROBBED, HELPED, ROBBED)
        ]
        assert clauses[max(clauses)].says.effect == ""  # told again, it is told without
        assert all(text[place : place + 1] in " ." for place in clauses)


def test_a_clause_reads_as_it_says():
    for i in range(60):
        made = document(POSTS._replace(kinds={"check": 1.0}, posts=0.0), np.random.default_rng(i))
        for place, clause in made.clauses.items():
            if clause.found is None or isinstance(clause.says, Question):
                continue
            said = made.text[:place].removeprefix(" ")
            before = max(said.rfind(end) for end in (". ", "? ", "true ", "false "))
            (fact,) = read(said[before:].removeprefix("true").removeprefix("false") + ".").facts
            assert fact.triple == clause.says.triple


def test_a_row_knows_clauses_by_their_last_token(tokenizer):
    made = document(POSTS._replace(kinds={"check": 1.0}), np.random.default_rng(3))
    encoded = rows.encode(made, tokenizer)
    whole = [token for text, _ in made.spans for token in tokenizer.encode(text)]
    assert list(encoded.tokens) == [*whole, tokenizer.eos_id][: rows.ROW_TOKENS]
    ends = {len(tokenizer.encode(made.text[:place])) - 1: clause for place, clause in made.clauses.items()}
    assert encoded.clauses == ends
