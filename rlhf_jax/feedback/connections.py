"""Connections over which a request does not arrive: closed after a time, and early where they are many.

Whoever sends half a request and waits would else hold one of the few files that a process may have open,
and enough of them would keep everybody out.
"""

import asyncio
from collections import OrderedDict

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

ARRIVES = 20.0  # seconds in which a request is there, from its first byte or the connection's start
MOST_WAITING = 64  # connections whose request is not there yet; the oldest goes first


class Patient(H11Protocol):
    """uvicorn's protocol, with these limits."""

    waiting: "OrderedDict[Patient, asyncio.TimerHandle]" = OrderedDict()  # of all connections

    def connection_made(self, transport) -> None:
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state in (h11.IDLE, h11.SEND_BODY):
            self._wait()
        else:
            self._wait_no_longer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_no_longer()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self not in self.waiting:
            self.waiting[self] = asyncio.get_running_loop().call_later(ARRIVES, self._give_up)
            if len(self.waiting) > MOST_WAITING:
                next(iter(self.waiting))._give_up()

    def _wait_no_longer(self) -> None:
        if timer := self.waiting.pop(self, None):
            timer.cancel()

    def _give_up(self) -> None:
        self._wait_no_longer()
        self.transport.abort()
