"""What a run does to a disk, recorded, and every disk that a crash in between may leave.

The model is what POSIX promises, not what a file system does: the content of a file is there for
sure after an `fsync` of it, a name in a folder after an `fsync` of the folder.  Until then a file
is whole, half there or empty, and any subset of the names that were made or moved is on the disk.
"""

import os
from itertools import combinations
from pathlib import Path


def record(patch, root):
    """A list that fills with what happens below the folder `root`, (verb, path, ...).

    Verbs are `mkdir`, `write` with the bytes, `rename` with the new path, `unlink`, and `sync` of a
    file or folder.  The lock is left out: it is the system's that counts.
    """
    log, opened = [], {}

    def note(verb, path, *rest):
        relative = os.path.relpath(path, root)
        if not relative.startswith("..") and Path(path).name != "lock":
            log.append((verb, relative, *rest))

    def after(owner, name, then):
        real = getattr(owner, name)

        def call(*args, **kwargs):
            result = real(*args, **kwargs)
            then(result, *args)
            return result

        patch.setattr(owner, name, call)

    after(os, "open", lambda number, path, *rest: opened.__setitem__(number, path))
    after(os, "fsync", lambda result, number: note("sync", opened[number]))
    after(os, "replace", lambda result, a, b: note("rename", a, os.path.relpath(b, root)))
    after(Path, "mkdir", lambda result, path, *rest: note("mkdir", path))
    after(Path, "unlink", lambda result, path: note("unlink", path))
    for name in ("write_bytes", "write_text"):
        after(Path, name, lambda result, path, *rest: note("write", path, path.read_bytes()))
    return log


def disks(log):
    """The disks that a crash right after these operations may leave: {path: bytes, or None}.

    None stands for a folder.  Names move and contents do not, so files go by numbers.
    """
    contents, safe, names, durable, pending = {}, set(), {}, {}, []
    for verb, path, *rest in log:
        if verb in ("mkdir", "write"):
            if path not in names:
                names[path] = len(contents)
                pending.append((path, path, names[path]))
            contents[names[path]] = rest[0] if rest else None
            safe.discard(names[path])
        elif verb == "rename":
            assert os.path.dirname(path) == os.path.dirname(rest[0])
            names[rest[0]] = names.pop(path)
            pending.append((path, rest[0], names[rest[0]]))
        elif verb == "unlink" and path in names:
            pending.append((path, None, names.pop(path)))
        elif verb == "sync" and contents.get(names.get(path)) is not None:
            safe.add(names[path])
        elif verb == "sync":
            here = [change for change in pending if (os.path.dirname(change[0]) or ".") == path]
            durable = _moved(durable, here)
            pending = [change for change in pending if change not in here]
    for n in range(len(pending) + 1):
        for changes in combinations(pending, n):
            there = _moved(durable, changes)
            reached = {p: i for p, i in there.items() if _above(p) <= there.keys()}
            for part in (lambda x: x, lambda x: x[: len(x) // 2], lambda x: b""):
                yield {
                    path: contents[i] if i in safe or contents[i] is None else part(contents[i])
                    for path, i in reached.items()
                }


def lay_out(disk, root):
    """Make the files of a disk below a folder."""
    root.mkdir()
    for path, content in sorted(disk.items()):
        if content is None:
            (root / path).mkdir()
        else:
            (root / path).write_bytes(content)


def _moved(names, changes):
    """Names after some of the changes (old path, new path, number)."""
    names = dict(names)
    for old, new, number in changes:
        names.pop(old, None)
        if new is not None:
            names[new] = number
    return names


def _above(path):
    """The folders that a path needs."""
    return {str(p) for p in Path(path).parents} - {"."}
