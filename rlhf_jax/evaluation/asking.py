"""JSON asked of a server that may be busy: one attempt, and how long to wait for the next.

It imports nothing but the standard library: a process that only asks starts at once.
"""

import email.utils
import http.client
import json
import random
import re
import time
import urllib.error
import urllib.request
from typing import Any

ADDRESS = r"https?://([\w.-]+|\[[\da-fA-F:.]+\])(:\d+)?(/|$)"  # what the address of a server begins with
LONGEST_WAIT = 60.0  # seconds between two attempts, where the server names no time
PASSING = {408, 409, 425, 429, 500, 502, 503, 504, 529}  # statuses that another attempt may not get


class PassingError(Exception):
    """What went wrong with one attempt, and the seconds to the next that the server asks for, if any."""

    def __init__(self, reason: str, wait: float | None = None):
        super().__init__(reason)
        self.wait = wait


class RefusedError(Exception):
    """A status that another attempt would get again, and the beginning of what the server says of it."""

    def __init__(self, reason: str, said: str):
        super().__init__(reason)
        self.said = said


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host."""

    def redirect_request(self, *_):
        return None


def post(url: str, body: Any, timeout: float, key: str = "") -> Any:
    """One attempt: the JSON value that the server answers. `timeout` is in seconds without a byte.

    Raises PassingError or RefusedError, neither of which tells the key.
    """
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    try:
        asked = urllib.request.Request(url, json.dumps(body).encode(), headers)
        with urllib.request.build_opener(_NoRedirects).open(asked, timeout=timeout) as response:
            return json.loads(response.read())
    except urllib.error.HTTPError as error:
        reason = f"status {error.code}"
        if error.code in PASSING:
            raise PassingError(reason, _retry_after(error.headers.get("Retry-After"))) from None
        said = " ".join(error.read(300).decode(errors="replace").split())
        raise RefusedError(reason, said.replace(key, "…") if key else said) from None
    except (OSError, http.client.HTTPException) as error:
        raise PassingError(str(getattr(error, "reason", error)) or type(error).__name__) from None
    except ValueError:
        raise PassingError("an answer that is not JSON") from None


def pause(attempt: int, error: PassingError) -> float:
    """Seconds to wait after attempt number `attempt`: what the server asks for, or longer each time."""
    if error.wait is not None:
        return error.wait
    return min(LONGEST_WAIT, 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.0)


def _retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After header names, as a number or as a date."""
    if value is None:
        return None
    if re.fullmatch(r"\d+(\.\d+)?", value.strip()):
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
