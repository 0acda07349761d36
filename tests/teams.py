"""Processes of one run, for the tests of what they share."""

import multiprocessing
import os
import socket
import sys

HEARTBEAT = 3  # seconds

_FORK = multiprocessing.get_context("forkserver")  # children that need not import JAX again
_FORK.set_forkserver_preload(["lattice_ml.jobs.generate", "lattice_ml.jobs.train", "pytest"])


def _child(verb, words, log, devices, place):
    os.environ["XDG_CACHE_HOME"] = str(log.parent)
    os.environ["PATH"] = ""  # no git, which a busy machine may not wait for
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    os.environ.update(place)
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    sys.exit(verb([*words, "--heartbeat", f"{HEARTBEAT}s"]))


class Peers:
    """Processes that know of each other.

    Args:
        verb: what each calls with its words, a function of a module.
        words: of each.
        log: where what they say goes, path-process.log.
        devices: of each.
    """

    def __init__(self, verb, words, log, devices=1):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.logs = [log.parent / f"{log.name}-{process}.log" for process in range(len(words))]
        self.children = []
        for process, own in enumerate(words):
            place = {
                "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
                "JAX_NUM_PROCESSES": f"{len(words)}",
                "JAX_PROCESS_ID": f"{process}",
            }
            args = (verb, own, self.logs[process], devices, place)
            self.children.append(_FORK.Process(target=_child, args=args))
            self.children[-1].start()

    def status(self, process):
        self.children[process].join(300)
        return self.children[process].exitcode

    def statuses(self):
        return [self.status(process) for process in range(len(self.children))]

    def said(self, process):
        return self.logs[process].read_text()

    def end(self):
        for child in self.children:
            child.kill()
            child.join()
