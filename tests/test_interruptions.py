"""Signals are answered at once, while the main thread is busy and cannot."""

import os
import signal
import subprocess
import sys
import time

import pytest

from lattice_ml.runtime import interruptions, session

BLOCKS = """
import hashlib, sys
from lattice_ml.runtime import interruptions, session
with interruptions.answered("lattice-ml test"):
    with session.watching(None) as watch:
        print("begun", flush=True)
        hashlib.pbkdf2_hmac("sha256", b"", b"", int(sys.argv[1]))  # a block, in C
        print("kept", *watch.caught, flush=True)
"""
FINISHING = (
    b"lattice-ml test: SIGTERM: finishing this block and keeping it; once more ends at once\n"
)
ENDED = b"lattice-ml test: SIGTERM: ended at once; nothing that was kept is lost, and the same "


def block(n):
    """A process in a block of n steps in which Python gets no word in."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    child = subprocess.Popen([sys.executable, "-c", BLOCKS, str(n)], **pipes)
    assert child.stdout.readline() == b"begun\n"
    child.send_signal(signal.SIGTERM)
    return child


def test_the_first_signal_is_announced_at_once_and_the_second_ends_it():
    child = block(10**9)
    begin = time.monotonic()
    assert child.stderr.readline() == FINISHING
    child.send_signal(signal.SIGTERM)
    out, err = child.communicate(timeout=30)
    assert time.monotonic() - begin < 10
    assert (child.returncode, out) == (143, b"")
    assert err.startswith(ENDED) and err.count(b"\n") == 1


def test_the_block_is_finished_and_whoever_watches_knows():
    child = block(2 * 10**6)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out, err) == (0, b"kept 15\n", FINISHING)


def test_all_is_as_before_in_the_end():
    before = {number: signal.getsignal(number) for number in interruptions.SIGNALS}
    with interruptions.answered("test"), interruptions.finishing():
        assert signal.getsignal(signal.SIGINT) != before[signal.SIGINT]
    assert {number: signal.getsignal(number) for number in interruptions.SIGNALS} == before
    assert signal.set_wakeup_fd(-1) == -1


def test_in_a_process_of_others_the_handler_speaks(capsys):
    safe = pytest.raises(session.Interrupted, match="SIGINT: all safe")
    with safe, session.watching(None) as watch:
        os.kill(os.getpid(), signal.SIGINT)
        watch.stop(": all safe")
    assert "SIGINT: finishing this block and keeping it" in capsys.readouterr().err
