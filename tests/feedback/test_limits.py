"""What people write on the site: limits in characters, and text that nobody can see."""

import labelling
import pytest
import sqlalchemy as sa
from labelling import join, make_site, pair

from rlhf_jax.feedback.schema import answers
from rlhf_jax.feedback.study import Study


@pytest.fixture
def site(tmp_path):
    return make_site(tmp_path, [pair(i) for i in range(6)])


@pytest.mark.parametrize("character", ["x", "ы", "字", "🐈"])
def test_a_limit_counts_characters_whatever_bytes_they_are_sent_in(tmp_path, character):
    """The longest form: four texts, each as long as it may be; one more is refused and said."""
    site = make_site(tmp_path, [labelling.single(0)], Study(kinds=("explanation",)))
    ana = join(site, "Ana")
    path = ana.next_task()
    longest = dict.fromkeys(("why", "invented", "missing", "unclear"), character * 5000)
    assert ana.submit(path, step="explanation", **longest).status_code == 422  # the marks stand nowhere
    assert "At most" not in ana.page and ana.page.count("do not stand in the") == 6
    ana.submit(path, step="explanation", why=character * 5001)
    assert "At most 5,000 characters; these are 5,001." in ana.page
    ana.open(path)
    assert 'maxlength="5000"' not in ana.page.split("<details")[0]  # browsers count and cut otherwise
    assert ana.submit(path, step="explanation", why=character * 5000).status_code == 200


def test_a_name_is_counted_in_characters(site):
    boss = join(site, "Boss", "administrator")
    fields = {"csrf": boss.hidden("csrf"), "role": "labeler"}
    response = boss.post("/admin/people", data=fields | {"name": "🐈" * 81})
    assert response.status_code == 400 and "at most 80 characters; these are 81" in response.text
    assert boss.post("/admin/people", data=fields | {"name": "🐈" * 80}).status_code == 200


UNSEEN = ["\u200b", "\u00ad", "\ufeff", " \u2060 \u200d", "\u3164", "\u2800", "\u00a0\u3000", "\x07\x1f"]


@pytest.mark.parametrize("text", UNSEEN)
def test_a_text_that_nobody_can_see_is_missing(site, text):
    boss, ana = join(site, "Boss", "administrator"), join(site, "Ana")
    path = ana.next_task()
    ana.submit(path, step="interpret", interpretation_first=text, interpretation_second="b")
    assert "Say what the first summary tells you." in ana.page and "second summary tells you" not in ana.page
    ana.submit(path, step="interpret", interpretation_first="a", interpretation_second="b")
    ana.submit(path, step="choose", choice="2", comment=text)
    with site.store.read() as db:
        assert db.scalar(sa.select(answers.c.answer))["comment"] == ""
    ana.open("/questions")
    assert ana.submit("/questions", text=text).status_code == 400
    fields = {"csrf": boss.hidden("csrf"), "role": "labeler"}
    assert boss.post("/admin/people", data=fields | {"name": text}).status_code == 400
    assert boss.post("/admin/people", data=fields | {"name": f"{text}Boss"}).status_code == 400  # is there
