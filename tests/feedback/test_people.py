"""Invitations and sessions; who must not come in stands in test_feedback_attacks.py."""

import time

from rlhf_jax.feedback import people
from rlhf_jax.feedback.schema import sessions
from rlhf_jax.feedback.store import Store


def test_a_link_leads_to_a_session_of_its_person(tmp_path):
    with Store(tmp_path / "s").write() as db:
        ana, token = people.add(db, "Ana", "labeler", "training")
        assert people.invited(db, token) == ana
        found = people.session(db, people.join(db, token))
        assert found.person == ana and (ana.name, ana.role, ana.standing) == ("Ana", "labeler", "training")


def test_sessions_have_tokens_of_their_own(tmp_path):
    with Store(tmp_path / "s").write() as db:
        ana, token = people.add(db, "Ana", "labeler")
        first = people.session(db, people.join(db, token))
        second = people.session(db, people.join(db, people.invite(db, ana.id)))
        assert first.csrf != second.csrf and first.person == second.person


def test_a_session_ends_after_its_time(tmp_path):
    with Store(tmp_path / "s").write() as db:
        ana, token = people.add(db, "Ana", "labeler")
        cookie = people.join(db, token)
        assert people.session(db, cookie)
        db.execute(sessions.update().values(created=time.time() - people.SESSION_SECONDS - 1))
        assert people.session(db, cookie) is None


def test_workers_are_not_known_by_their_names(tmp_path):
    with Store(tmp_path / "s").write() as db:
        found = [people.add(db, name, "labeler")[0] for name in ("Ana", "Bo")]
        assert people.everybody(db) == found
        assert people.find(db, found[1].worker) == found[1]
        assert len({person.worker for person in found}) == 2 and "Ana" not in found[0].worker
