"""The options of verbs that read no config."""

from collections.abc import Sequence
from typing import TypeVar

import tyro

from lattice_ml.runtime.values import ConfigError

__all__ = ["parse_options"]

Options = TypeVar("Options")


def parse_options(kind: type[Options], arguments: Sequence[str], verb: str) -> Options:
    """Type the arguments of a verb, or end with the parser's message.

    An empty value, as `--json "$UNSET"` gives, names no file: taken as not given, it would leave a
    result unwritten without a word, or write it to the working directory.

    Raises:
        ConfigError: a value is empty.
    """
    options = tyro.cli(kind, args=list(arguments), prog=f"lattice-ml {verb}")
    for name, value in vars(options).items():
        if "" in (value if isinstance(value, tuple) else (value,)):
            option = name.replace("_", "-")
            raise ConfigError(f"{option} must not be empty: say which, or leave it out")
    return options
