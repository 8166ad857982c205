"""The models of the study: their names, their spaces, and which cells of the tables they fill."""

from __future__ import annotations

import pytest

from mrl import TrainConfig
from mrl.errors import ConfigError
from mrl.study.fitting import fit_nested
from mrl.study.models import Choice, Contender, LogRange, contenders, select

WIDTHS = (4, 8, 16, 32, 64, 128)

each = pytest.mark.parametrize("contender", contenders(WIDTHS), ids=lambda contender: contender.name)


def test_names_are_unique_and_the_models_are_those_of_the_study() -> None:
    found = contenders(WIDTHS)
    assert len({one.name for one in found}) == len(found)
    rows = list(dict.fromkeys(one.model for one in found))
    assert rows[0] == TrainConfig().recipe and "least_squares" in rows
    nested = {f"{backbone}-{rule}" for backbone in ("mf", "lightgcn") for rule in ("dns-mns", "dns-shared", "ahns-mns")}
    assert nested <= set(rows)
    assert {"ials-64", "ials-128", "ials-256", "ials-alone", "bpr-rotated", "ease", "popularity"} <= set(rows)


def test_each_row_has_one_figure_a_width_and_none_where_it_is_too_narrow() -> None:
    cells: dict[str, list[int]] = {}
    for one in contenders(WIDTHS):
        cells.setdefault(one.model, []).extend(one.widths)
    assert cells.pop("ease") == cells.pop("popularity") == []
    assert cells.pop("ials-64") == [4, 8, 16, 32, 64]
    assert all(tuple(widths) == WIDTHS for widths in cells.values())


@each
def test_the_first_trial_lies_in_the_space(contender: Contender) -> None:
    if not contender.space:
        assert contender.trials in (0, 1) and not contender.start
        return
    assert set(contender.start) == set(contender.space) and not set(contender.space) & set(contender.fixed)
    for name, range_ in contender.space.items():
        value = contender.start[name]
        inside = value in range_.values if isinstance(range_, Choice) else range_.low <= value <= range_.high
        assert inside and isinstance(range_, Choice | LogRange)


@each
def test_settings_of_trainings_are_those_of_train_config(contender: Contender) -> None:
    if contender.fit is fit_nested:
        config = TrainConfig(dataset="tool", widths=contender.widths, **contender.fixed, **contender.start)
        name = config.run_name.replace("lightgcn2", "lightgcn")
        assert name == contender.name


def test_models_are_chosen_by_name_or_row() -> None:
    assert [one.name for one in select(["ease", "ials-alone"], (2, 4))] == ["ials-alone-2", "ials-alone-4", "ease"]
    assert select([], WIDTHS) == contenders(WIDTHS)
    with pytest.raises(ConfigError, match="contenders='eas': unknown; choose of refined, least_squares, mf-dns-mns, "):
        select(["ease", "eas"], WIDTHS)


def test_a_single_width_has_no_narrower_row() -> None:
    assert [one.name for one in select(["ials-8", "ials-16", "ials-alone"], (8,))] == [
        "ials-8", "ials-16", "ials-alone-8",
    ]  # fmt: skip
