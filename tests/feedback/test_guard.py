"""Rates; the other guards stand in test_feedback_attacks.py, where they are attacked."""

import asyncio

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from rlhf_jax.feedback import guard


def test_a_limit_refills_steadily(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(guard, "monotonic", lambda: now[0])
    limiter = guard.Limiter(3, 60)
    for _ in range(3):
        limiter.take("a")
    with pytest.raises(HTTPException) as refused:
        limiter.take("a")
    assert refused.value.status_code == 429 and refused.value.headers["Retry-After"] == "21"
    limiter.take("b")
    now[0] = 20.0
    limiter.take("a")
    assert limiter.left("a") == 0
    now[0] = 1000.0
    assert limiter.left("a") == 3


def test_a_request_that_breaks_off_is_an_error_of_its_own():
    coming = [{"type": "http.request", "body": b"ha", "more_body": True}, {"type": "http.disconnect"}]

    async def receive():
        return coming.pop(0)

    with pytest.raises(HTTPException, match="broken off"):
        asyncio.run(guard.read_body(Request({"type": "http", "method": "POST"}, receive), 10))


def test_a_limiter_forgets_the_longest_unseen(monkeypatch):
    monkeypatch.setattr(guard.Limiter, "KEYS", 2)
    limiter = guard.Limiter(3, 60)
    for key in ("a", "b", "c"):
        limiter.take(key)
    assert limiter.left("a") == 3 and limiter.left("c") < 3
