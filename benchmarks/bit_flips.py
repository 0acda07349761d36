"""Does one flipped bit in a file ever change what a verb says without a word?  It must not.

An ensemble is generated, another imported; a diffusion model and an RBM are trained on the first,
and two trainings are stopped halfway.  Then single bits of their files are flipped, one at a time:
a file is drawn, and a byte and a bit in it.  The verbs that read the file run in this process, and
what they print and write is compared with what they did before the flip.  A flip is

    noticed      a verb ended with one sentence and status 2, no other differed
    harmless     all verbs said and wrote what they did before
    SILENT       a verb said or wrote something else with status 0
    TRACEBACK    an exception got through, or a status that is neither

Printed is a row per kind of file; the exit status is 1 where there is one of the last two.

    python benchmarks/bit_flips.py [--flips 2000] [--seed 1] [--only ensemble/manifest.json]
"""

import argparse
import contextlib
import fnmatch
import hashlib
import io
import itertools
import os
import re
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lattice_ml.runtime.devices import use_all_cores

KINDS = ("noticed", "harmless", "SILENT", "TRACEBACK")
ANSWERS = (0, 1, 4)  # statuses with which a verb says what it was asked
CLOCK = re.compile(r"\d+\.\d+ s\b|[\d.]+/s")  # in what is printed
UNREAD = ("config.toml", "metrics.jsonl", "checkpoints")  # of what is finished: few flips will do
FEW = 5
UNCLOCKED = ("cost.json", "checkpoints", "report.json")  # in what is written: all but these

SMALL = "--lattice.shape 4 4 --chain.n-chains 4 --chain.n-thermalise 20 --chain.n-configs 24"
ACTION = "--action.kappa 0.2 --action.lam 0.022"
NETWORK = "--model.n-channels 1 --model.n-hidden 4 --model.n-outputs 1 --training.batch-size 8"
TRAIN = {
    "diffusion": f"{NETWORK} --training.n-steps 20",
    "rbm": "--model.kind GaussianRBM --model.mu-squared 9 --training.n-steps 40",
}


def run(verb: str, words: str) -> tuple[int, str]:
    """Run a verb: its status, and what it prints, or says that is wrong."""
    from lattice_ml import commands

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = commands.run(verb, words.split())
        except Exception:
            return -1, traceback.format_exc()
    return status, CLOCK.sub("", out.getvalue()) if status in ANSWERS else err.getvalue()


def written(folder: Path) -> dict[str, str]:
    """The sha256 of the files in a folder, those that know the clock left out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not any(part in name for part in UNCLOCKED):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def build(names: set[str]) -> None:
    """Make everything that is going to be damaged, in the working directory."""
    from lattice_ml.jobs import config, generate, train

    def job(words: str, parse: Callable[..., Any] = config.parse) -> Any:
        return parse(words.split())

    generate.generate(job(f"{SMALL} {ACTION}"), "ensemble", block_configs=8)
    assert run("export", "ensemble --out fields.npy")[0] == 0
    assert run("import", f"fields.npy --out imported --n-chains 4 {ACTION}")[0] == 0
    for kind, words in TRAIN.items():
        if f"{kind}-stopped" in names:
            stop(job(f"{words} --training.checkpoint-every 0", config.parse_training), kind)
        if kind in names:
            train.train(job(words, config.parse_training), kind, data=["ensemble"])


def stop(asked: Any, kind: str) -> None:
    """Begin a training and end it after three blocks."""
    from lattice_ml.jobs import train

    done = []

    def note(progress: Any) -> None:
        done.append(progress.done)
        if len(done) == 3:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        train.train(asked, f"{kind}-stopped", data=["ensemble"], on_progress=note)


def read(name: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The verbs that read an object: what to call, and all that it gives back."""
    out = Path("out")

    def writing(verb: str, words: str, made: bool = False) -> Any:
        shutil.rmtree(out, ignore_errors=True)
        if made:
            out.mkdir()
        return *run(verb, words), written(out) if out.is_dir() else None

    def going_on(verb: str, words: str) -> Any:
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(name, out)
        return *run(verb, f"{words} --out out"), written(out)

    if name.endswith("-stopped"):
        words = f"{TRAIN[name.removesuffix('-stopped')]} --training.checkpoint-every 0"
        yield "train", lambda: going_on("train", f"empty.toml {words} --data ensemble")
        return
    yield "info", lambda: run("info", name)
    if name in TRAIN:
        yield "sample", lambda: writing("sample", f"{name} --n-samples 8 --out out")
        if name == "rbm":
            yield "spectrum", lambda: writing("spectrum", f"{name} --out out")
        return
    yield "measure", lambda: writing("measure", f"{name} --json out/x.json", made=True)
    yield "check", lambda: run("check", name)
    yield "export", lambda: writing("export", f"{name} --out out/x.npy", made=True)
    if name == "ensemble":
        yield "generate", lambda: going_on("generate", f"empty.toml {SMALL} {ACTION}")


def flip(data: bytes, rng: np.random.Generator) -> bytes:
    """Another content that differs in one bit."""
    position, bit = int(rng.integers(len(data))), int(rng.integers(8))
    changed = bytearray(data)
    changed[position] ^= 1 << bit
    return bytes(changed)


def judge(before: Any, after: Any) -> str:
    """What a flip did to one verb."""
    if after == before:
        return "harmless"
    status = after[0]
    return "noticed" if status == 2 else "SILENT" if status in ANSWERS else "TRACEBACK"


def kind_of(path: Path) -> str:
    """The row that a file belongs to."""
    object_, *rest = path.parts
    return f"{object_}/{'shards' if 'shards' in rest else rest[0]}"


def campaign(names: Sequence[str], only: str, n: int, seed: int) -> dict[str, Counter[str]]:
    """Flip bits and count what became of them, by kind of file."""
    rng, found = np.random.default_rng(seed), dict[str, Counter[str]]()
    calls = {name: dict(read(name)) for name in names}
    normal = {name: {verb: call() for verb, call in calls[name].items()} for name in names}
    for name in names:  # twice the same, or nothing can be compared
        for verb, call in calls[name].items():
            assert normal[name][verb][0] in ANSWERS, (name, verb, normal[name][verb])
            assert call() == normal[name][verb], (name, verb)
    files: dict[str, list[Path]] = {}
    for path in sorted(p for name in names for p in Path(name).rglob("*") if p.is_file()):
        if path.stat().st_size and fnmatch.fnmatch(kind_of(path), only):
            files.setdefault(kind_of(path), []).append(path)
    for number, kind in enumerate(itertools.islice(_rows(list(files)), n)):
        path = files[kind][int(rng.integers(len(files[kind])))]
        whole, name = path.read_bytes(), path.parts[0]
        path.write_bytes(changed := flip(whole, rng))
        # all verbs open an ensemble alike, and none looks into its index again
        verbs = ("info", "generate") if path.name == "ensemble.h5" else tuple(calls[name])
        said = {verb: call() for verb, call in calls[name].items() if verb in verbs}
        verdicts = {verb: judge(normal[name][verb], said[verb]) for verb in said}
        path.write_bytes(whole)
        worst = max(verdicts.values(), key=("harmless", *KINDS).index)
        if "noticed" in verdicts.values() and worst == "harmless":
            worst = "noticed"
        found.setdefault(kind, Counter())[worst] += 1
        if worst.isupper():
            where = next(i for i, (a, b) in enumerate(zip(whole, changed, strict=True)) if a != b)
            print(f"{worst}: {path}, byte {where}: {whole[where]} -> {changed[where]}")
            for verb in (verb for verb, verdict in verdicts.items() if verdict == worst):
                print(f"  {verb}: {str(said[verb])[-600:]}", flush=True)
        if number % 100 == 99:
            print(f"{number + 1} flips, {time.process_time():.0f} s", file=sys.stderr, flush=True)
    return found


def _rows(kinds: Sequence[str]) -> Iterator[str]:
    """Kinds of files in turn, those that nobody reads only at first."""
    read = [k for k in kinds if "-stopped/" in k or not k.endswith(UNREAD)]
    yield from itertools.chain.from_iterable([kinds] * FEW)
    yield from itertools.cycle(read or kinds)


def main(words: Sequence[str] | None = None) -> int:
    """Print the table; exit 1 where a flip changed something in silence or ended badly."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flips", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="*", help="a kind of file, such as rbm/model.json")
    options = parser.parse_args(words)
    names = ("ensemble", "imported", *TRAIN, *(f"{kind}-stopped" for kind in TRAIN))
    wanted = [name for name in names if fnmatch.fnmatch(name, options.only.split("/")[0])]
    use_all_cores()
    import jax  # after use_all_cores, which JAX reads when it is imported

    jax.config.update("jax_enable_x64", True)
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            Path("empty.toml").touch()
            build(set(wanted))
            found = campaign(wanted, options.only, options.flips, options.seed)
        finally:
            os.chdir(here)
    print(f"| file | {' | '.join(KINDS)} |\n|---|{'---|' * len(KINDS)}")
    total: Counter[str] = Counter()
    for kind, counts in sorted(found.items()):
        print(f"| {kind} | {' | '.join(str(counts[k]) for k in KINDS)} |")
        total += counts
    print(f"| all {sum(total.values())} | {' | '.join(str(total[k]) for k in KINDS)} |")
    return int(bool(total["SILENT"] or total["TRACEBACK"]))


if __name__ == "__main__":
    raise SystemExit(main())
