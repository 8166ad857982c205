"""The models of the study: their names, their spaces, and which cells of the tables they fill."""

from __future__ import annotations

import pytest
from settings import train_config

from mrl import TrainConfig
from mrl.controls.fitting import fit_bpr_rotated, fit_mrl4rec
from mrl.errors import ConfigError
from mrl.study.models import Choice, LogRange, StudyModel, select_models, study_models

WIDTHS = (4, 8, 16, 32, 64, 128)

each = pytest.mark.parametrize("model", study_models(WIDTHS), ids=lambda model: model.name)


def test_names_are_unique_and_the_models_are_those_of_the_study() -> None:
    models = study_models(WIDTHS)
    assert len({model.name for model in models}) == len(models)
    rows = list(dict.fromkeys(model.model for model in models))
    assert rows[0] == TrainConfig().recipe and "least_squares" in rows
    nested = {f"{backbone}-{rule}" for backbone in ("mf", "lightgcn") for rule in ("dns-mns", "dns-shared", "ahns-mns")}
    assert nested <= set(rows)
    assert {"ials-64", "ials-128", "ials-256", "ials-alone", "bpr-rotated", "ease", "popularity"} <= set(rows)


def test_each_row_has_one_number_a_width_and_none_where_it_is_too_narrow() -> None:
    cells: dict[str, list[int]] = {}
    for model in study_models(WIDTHS):
        cells.setdefault(model.model, []).extend(model.widths)
    assert cells.pop("ease") == cells.pop("popularity") == []
    assert cells.pop("ials-64") == [4, 8, 16, 32, 64]
    assert all(tuple(widths) == WIDTHS for widths in cells.values())


@each
def test_the_first_trial_lies_in_the_space(model: StudyModel) -> None:
    if not model.space:
        assert model.max_trials == 1 and not model.first_trial
        return
    assert set(model.first_trial) == set(model.space) and not set(model.space) & set(model.fixed)
    for name, range_ in model.space.items():
        value = model.first_trial[name]
        inside = value in range_.values if isinstance(range_, Choice) else range_.low <= value <= range_.high
        assert inside and isinstance(range_, Choice | LogRange)


@each
def test_settings_of_trainings_are_those_of_train_config(model: StudyModel) -> None:
    if model.fit is fit_mrl4rec:
        config = train_config(dataset="tool", widths=model.widths, **model.fixed, **model.first_trial)
        name = config.run_name.replace("lightgcn2", "lightgcn")
        assert name == model.name


def test_trainings_stop_at_a_width_and_have_fewer_seeds() -> None:
    for model in study_models((4, 128, 256, 512)):
        is_trained = model.fit in (fit_mrl4rec, fit_bpr_rotated)
        assert (model.max_seeds == 3) == is_trained and len(model.seeds(range(5))) == (
            1 if model.deterministic else 3 if is_trained else 5
        )
        assert not is_trained or model.widths == (4, 128)
    assert {model.role for model in study_models((256, 512))} == {"recipe", "control"}  # none is left to train


def test_models_are_chosen_by_name_or_row() -> None:
    assert [model.name for model in select_models(["ease", "ials-alone"], (2, 4))] == [
        "ials-alone-2",
        "ials-alone-4",
        "ease",
    ]
    assert select_models([], WIDTHS) == study_models(WIDTHS)
    with pytest.raises(ConfigError, match="models='eas': unknown; choose of default, least_squares, mf-dns-mns, "):
        select_models(["ease", "eas"], WIDTHS)


def test_a_single_width_has_no_narrower_row() -> None:
    assert [model.name for model in select_models(["ials-8", "ials-16", "ials-alone"], (8,))] == [
        "ials-8", "ials-16", "ials-alone-8",
    ]  # fmt: skip
