"""A kind of model is a folder and a row: what every row must lead to."""

import dataclasses
import inspect

from lattice_ml.models.kinds import DEFAULT, KINDS


def test_every_row_leads_to_a_whole_kind_of_that_name():
    wrong = []
    for name, row in KINDS.items():
        kind = row.model
        if kind.kind != name or inspect.isabstract(kind):
            wrong.append((name, kind, sorted(kind.__abstractmethods__)))
    assert wrong == []
    assert DEFAULT in KINDS


def test_sections_of_every_kind_have_defaults_and_hold_what_the_trainer_asks_for():
    for name, row in KINDS.items():
        training, sampling = row.sections.TrainingSection(), row.sections.SamplingSection()
        keys = {field.name for field in dataclasses.fields(training)}
        assert {"validation", "checkpoint_every"} <= keys, name
        assert dataclasses.fields(sampling), name
        (found,) = [d for key, _, d in row.sections.model_fields([]) if key == "kind"]
        assert found == name
