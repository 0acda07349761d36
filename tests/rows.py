"""Many rows in one test: `each` is `pytest.mark.parametrize` for what takes a millisecond.

The test runs for every row and then fails with all rows that do, so that a table of a hundred
mistakes is one line of the report and no less of a test.
"""

import functools
import inspect

import pytest


def each(names, rows):
    """Run the decorated test for every row, each in a folder of its own where it has `tmp_path`."""
    names = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    rows = list(rows)

    def decorate(test):
        signature = inspect.signature(test)
        fixtures = [p for p in signature.parameters.values() if p.name not in names]
        assert rows and "monkeypatch" not in signature.parameters, "patches would add up"

        @functools.wraps(test)
        def all_rows(**given):
            wrong = []
            for number, row in enumerate(rows):
                here = dict(given)
                if "tmp_path" in here:
                    here["tmp_path"] = given["tmp_path"] / f"row{number}"
                    here["tmp_path"].mkdir()
                values = row if len(names) > 1 else (row,)
                try:
                    test(**here, **dict(zip(names, values, strict=True)))
                except (Exception, pytest.fail.Exception) as error:
                    wrong.append(f"{row!r}: {type(error).__name__}: {error}")
            assert not wrong, f"{len(wrong)} of {len(rows)} rows fail\n" + "\n".join(wrong)

        all_rows.__signature__ = signature.replace(parameters=fixtures)
        return all_rows

    return decorate
