"""The data sets of the study by name: their settings are what they are said to be."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import svds

from mrl.study.config import StudyConfig
from mrl.study.datasets import DATASETS, describe_options, load_split
from mrl.study.folder import find_experiment
from mrl.study.models import select_models


def singular_values(dataset: str) -> np.ndarray:
    train = load_split(dataset, 0, {}).merge_valid().train
    pairs = train.users.numpy(), train.items.numpy()
    matrix = csr_matrix((np.ones(len(train)), pairs), (train.num_users, train.num_items))
    return np.sort(svds(matrix, k=140, v0=np.ones(min(matrix.shape)), return_singular_vectors=False))[::-1]


def test_one_planted_set_has_a_flat_spectrum_and_one_a_steep_one() -> None:
    flat, steep = singular_values("planted-flat"), singular_values("planted-steep")
    assert flat[1] < 2 * flat[127] and flat[127] > 1.3 * flat[130]  # as many axes as there are groups
    assert (steep[[0, 1, 3, 15]] > 1.3 * steep[[1, 3, 15, 63]]).all()


def test_a_study_is_of_all_its_data_sets_where_none_is_named() -> None:
    config = StudyConfig()
    assert config.datasets == tuple(DATASETS) and {"gowalla", "completejourney"} < set(DATASETS)
    assert StudyConfig(datasets=["planted-flat"]).datasets == ("planted-flat",)


def test_each_is_kept_in_a_folder_of_its_own(tmp_path) -> None:
    (model,) = select_models(["ials-8"], (2, 4, 8))
    paths = {find_experiment(tmp_path, name, "aa", model).path.parent for name in ("planted", *DATASETS)}
    assert paths == {tmp_path / name for name in DATASETS}


def test_the_settings_of_the_planted_set_are_of_that_set_alone() -> None:
    small = {"num_users": 60, "num_items": 64, "interactions": 1200}
    assert load_split("planted", 0, small).num_users == 60
    assert load_split("planted-steep", 0, small).num_users == 4000


def test_settings_are_told_in_a_sentence() -> None:
    assert describe_options("completejourney") == "completejourney: completejourney with core 10."
    told = describe_options("planted-flat")
    assert told.startswith("planted-flat: planted with num_users 4000, ") and "branching [128]" in told
