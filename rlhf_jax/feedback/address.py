"""The site's address, and what follows from it: the origin of its forms, cookie, encryption, path."""

import hashlib
import re
from typing import NamedTuple
from urllib.parse import urlsplit

from rlhf_jax.feedback.study import StudyError

LOCAL = ("127.0.0.1", "localhost")
PORTS = {"http": 80, "https": 443}  # which browsers leave out of an address
HSTS_SECONDS = 30 * 86_400  # for which a browser that was here asks for https alone


class Address(NamedTuple):
    """What people open: `origin` and, where a proxy gives the site a part of one alone, `root`."""

    origin: str  # https://label.example.org:8443
    root: str = ""  # /round1

    @property
    def url(self) -> str:
        return self.origin + self.root

    @property
    def path(self) -> str:
        """Below which the cookie is sent."""
        return self.root or "/"

    @property
    def secure(self) -> bool:
        return self.origin.startswith("https:")

    @property
    def cookie(self) -> str:
        """The session's: of this site alone, as cookies know no ports and two studies may share a host.

        The prefixes have browsers refuse it from whoever speaks without encryption or for a whole domain.
        """
        prefix = "" if not self.secure else "__Secure-" if self.root else "__Host-"
        return f"{prefix}session-{hashlib.sha256(self.url.encode()).hexdigest()[:8]}"

    @property
    def headers(self) -> dict[str, str]:
        return {"Strict-Transport-Security": f"max-age={HSTS_SECONDS}"} if self.secure else {}


def parse_address(url: str) -> Address:
    """Written as browsers send it. Raises StudyError."""
    try:
        parts = urlsplit(url)
        name = (parts.hostname or "").encode("idna").decode()
        number = parts.port
    except ValueError as error:
        raise StudyError(f"--url: {url} is no address ({error})") from None
    if name and not re.fullmatch(r"[\w.:-]+", name):
        raise StudyError(f"--url: {url} is no address (its host is {name!r})")
    root = parts.path.rstrip("/")
    more = parts.query or parts.fragment or parts.username is not None
    if parts.scheme not in PORTS or not name or more:
        raise StudyError(f"--url: {url} should be like https://label.example.org or …org/label")
    if not re.fullmatch(r"(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*", root):
        raise StudyError(f"--url: {url} should have a path of letters, digits, _, - and ., such as /label")
    name = f"[{name}]" if ":" in name else name
    suffix = "" if number in (None, PORTS[parts.scheme]) else f":{number}"
    return Address(f"{parts.scheme}://{name}{suffix}", root)


def hosts_of(address: Address, named: bool) -> list[str]:
    """The hosts that the site answers to, by name.

    Any, where its address is `named`: a proxy may write a name of its own, and forms are taken by their
    origin. Else this machine's alone, so that no page elsewhere can pose as it.
    """
    if named:
        return ["*"]
    return [re.sub(r":\d+$", "", urlsplit(address.origin).netloc), *LOCAL]
