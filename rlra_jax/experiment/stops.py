"""Stops asked for by SIGTERM or SIGINT: training ends a few steps later, with a checkpoint.

A thread hears the signals, since Python's own handlers wait for as long as the main thread does for a device.
"""

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
from jax.experimental import multihost_utils

STATUS = 75  # of a process that stopped as it was asked to: EX_TEMPFAIL of sysexits.h, "try again later"
_SIGNALS = signal.SIGINT, signal.SIGTERM
_SECONDS = 2.0  # between two times that a Watch asks
_GROWTH = 4  # most by which the steps in between grow from one time to the next
_LOG = logging.getLogger(__name__)
_heard, _training = threading.Event(), threading.Event()


class StoppedError(Exception):
    """Training has stopped as it was asked to; says where, and the checkpoint is saved or being written."""

    @classmethod
    def within(cls, epoch: int, done: int, steps: int) -> 'StoppedError':
        """In an epoch, with so many of its steps done."""
        return cls(f'stopped after step {done} of {steps} in epoch {epoch}; the same command goes on from there')


def listen() -> None:
    """From now on a signal asks training for a stop. Outside training, or at a second one, the process ends at once.

    To be called once, in the main thread, and after `jax.distributed.initialize`, which would take SIGTERM for itself.
    """
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    for number in _SIGNALS:
        signal.signal(number, lambda *_: None)
    threading.Thread(target=_hear, args=(ours, theirs), name='stops', daemon=True).start()


@contextlib.contextmanager
def training() -> Iterator[None]:
    """The time in which there is something to save before the process ends."""
    _training.set()
    try:
        yield
    finally:
        _training.clear()


def heard() -> bool:
    """Whether this process heard a signal. Unlike `asked` it touches no device."""
    return _heard.is_set()


def asked() -> bool:
    """Whether any process heard a signal. All processes must call it alike."""
    return bool(np.any(multihost_utils.process_allgather(np.asarray(_heard.is_set()))))


class Watch:
    """When to ask within an epoch whether to stop: every few seconds, at the same steps in all processes."""

    def __init__(self) -> None:
        self._interval = 1  # steps

    def begin(self, done: int) -> None:
        """Counts from here, where so many steps of an epoch are done."""
        self._done, self._since = done, time.perf_counter()
        self.next = done + self._interval  # steps done when it is time to ask

    def asked(self, done: int) -> bool:
        """Whether any process heard a signal; all must ask after the same steps, which have ended."""
        each = (time.perf_counter() - self._since) / (done - self._done)
        told = multihost_utils.process_allgather(np.array([_heard.is_set(), each]))
        heard, slowest = np.reshape(told, (-1, 2)).max(axis=0)
        self._interval = max(1, int(min(_SECONDS / slowest, _GROWTH * (done - self._done))))
        self.begin(done)
        return bool(heard)


def _hear(ours: socket.socket, theirs: socket.socket) -> None:
    """Takes signals as they come; `theirs` is kept from being closed."""
    while True:
        (number,) = ours.recv(1)
        if number not in _SIGNALS:  # another handler's
            continue
        name = signal.Signals(number).name
        if _heard.is_set():
            _end(f'{name} again: stopped at once; the same command goes on from the last checkpoint', 128 + number)
        _heard.set()
        if not _training.is_set():
            _end(f'stopped by {name}; the same command goes on', STATUS)
        _LOG.warning('%s: training saves and stops at its next step or epoch; a second signal stops it at once', name)


def _end(message: str, status: int) -> None:
    sys.stdout.flush()
    print(message, file=sys.stderr, flush=True)
    os._exit(status)
