"""Memory of a worker in which large batches travel to the process that trains, used again and again.

Fresh shared memory costs a page fault for every 4 KiB at both ends, and a round trip to hand it over: more than the
copy itself. A ring is handed over once. Its slots are free again when the receiver has dropped all that lies in them,
so nobody waits: who finds no free slot takes another way. It has no name, and so is gone with its processes.
"""

from __future__ import annotations

import mmap
import os
import secrets
import weakref
from dataclasses import dataclass
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SLOTS = 8
"""Batches of one worker that can be on their way or in use."""
_PAGE = mmap.PAGESIZE
_KNOWN = _PAGE - 1  # byte that the receiver sets once it has the ring; the first bytes are 1 for slots in use


@dataclass(frozen=True)
class Ticket:
    """What travels in the place of a batch; the descriptor only until the receiver has the ring."""

    ring: str
    process: int
    slot: int
    slot_bytes: int
    size: int
    descriptor: Any


class Ring:
    """The sender's side.

    Parameters
    ----------
    slot_bytes
        Largest batch that fits.

    Raises
    ------
    OSError
        If the system gives no such memory.
    """

    def __init__(self, slot_bytes: int) -> None:
        self.slot_bytes = -(-slot_bytes // _PAGE) * _PAGE
        self.process = os.getpid()
        self._name = secrets.token_hex(8)
        self._descriptor = os.memfd_create("curation-batches")
        os.ftruncate(self._descriptor, _PAGE + SLOTS * self.slot_bytes)
        self._memory = mmap.mmap(self._descriptor, _PAGE + SLOTS * self.slot_bytes)

    def claim(self, size: int) -> tuple[Ticket, NDArray[np.uint8]] | None:
        """Slot to write ``size`` bytes to, and what to send; None if none is free or large enough."""
        free = next((slot for slot in range(SLOTS) if not self._memory[slot]), None)
        if free is None or size > self.slot_bytes:
            return None
        self._memory[free] = 1
        descriptor = None if self._memory[_KNOWN] else DupFd(self._descriptor)
        ticket = Ticket(self._name, self.process, free, self.slot_bytes, size, descriptor)
        return ticket, np.frombuffer(self._memory, np.uint8, size, _PAGE + free * self.slot_bytes)


class _View(np.ndarray[Any, Any]):
    """An array that tells when it is dropped."""


_received: dict[str, tuple[int, mmap.mmap]] = {}


def received(ticket: Ticket) -> NDArray[np.uint8]:
    """Bytes that a ticket stands for; their slot is free when the array, and all that shares it, is dropped."""
    if ticket.ring not in _received:
        for name in [name for name, (process, _) in _received.items() if not Path(f"/proc/{process}").exists()]:
            del _received[name]
        descriptor = ticket.descriptor.detach()
        memory = mmap.mmap(descriptor, _PAGE + SLOTS * ticket.slot_bytes)
        os.close(descriptor)
        _received[ticket.ring] = ticket.process, memory
        memory[_KNOWN] = 1
    memory = _received[ticket.ring][1]
    view = np.frombuffer(memory, np.uint8, ticket.size, _PAGE + ticket.slot * ticket.slot_bytes).view(_View)
    weakref.finalize(view, memory.__setitem__, ticket.slot, 0).atexit = False
    return view
