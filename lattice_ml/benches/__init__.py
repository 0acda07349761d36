"""Named benchmarks: what a sampler is worth, and how fast this machine is, as one table each.

A TOML file in `configs/bench` names its benchmark and holds the settings, with tables `[toy]`,
`[small]` and `[full]` that override them (`plans.py`).  A benchmark is a module with

    Settings                        a frozen dataclass, whose fields are the keys of the TOML
    run(settings, seed) -> Result   rows of numbers with errors (`record.py`)
    draw(result) -> figures         (name, figure, caption) for the page

Times are of one process and leave out compilation (`timing.py`).
"""

from lattice_ml.benches.plans import Plan, available, load

__all__ = ["Plan", "available", "load"]
