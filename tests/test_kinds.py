"""A kind of model is a folder and a row: what every row must lead to."""

import dataclasses
import inspect

import trained_models

from lattice_ml.models.diffusion.phases import plan
from lattice_ml.models.kinds import DEFAULT, KINDS
from lattice_ml.models.model import Stage
from lattice_ml.models.training import Task


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
        training, sampling = row.training(), row.sampling()
        keys = {field.name for field in dataclasses.fields(training)}
        assert {"validation", "checkpoint_every"} <= keys, name
        assert dataclasses.fields(sampling), name
        (found,) = [d for key, _, d in row.model_fields([]) if key == "kind"]
        assert found == name


def test_phases_are_those_with_steps_stage_by_stage():
    job = trained_models.job(training_fine_tune=True, training_fine_tune_steps=[0, 3])
    stages = tuple(Stage(shape, (), ()) for shape in ((4, 4), (8, 8)))
    phases = plan(Task(job.model, job.training, 1, ["small", "large"], None, stages)).phases
    assert [(p.name, p.first, p.first + p.total) for p in phases] == [
        ("4 x 4 denoising", 0, 40),
        ("8 x 8 denoising", 40, 80),
        ("8 x 8 fine-tuning", 80, 83),
    ]
