"""Settings of a training that may differ from stage to stage."""

from typing import Any

from lattice_ml.runtime.values import ConfigError

__all__ = ["PerStage"]


class PerStage:
    """A dataclass of settings; those that are tuples hold one value, or one per stage."""

    def of_stage(self, index: int, n_stages: int) -> dict[str, Any]:
        """The numbers of one stage.

        Raises:
            ConfigError: another number of values.
        """
        numbers: dict[str, Any] = {}
        for key, value in vars(self).items():
            numbers[key] = value
            if isinstance(value, tuple):
                if len(value) not in (1, n_stages):
                    raise ConfigError(
                        f"training.{key} must be one value or one per stage, got {len(value)} "
                        f"values for {n_stages} lattice shapes"
                    )
                numbers[key] = value[index if len(value) > 1 else 0]
        return numbers
