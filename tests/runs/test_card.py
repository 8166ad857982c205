"""The model card: true to its tables, read by the parser of the hub, safe whatever the data are called."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import polars as pl
import pytest
import yaml
from runs.test_results import written_run

from mrl import Run, load
from mrl.data import DATASETS
from mrl.runs.card import CARD, LICENCES, PICTURE, UNSTATED, accuracy_picture, model_card
from mrl.runs.directory import RunDirectory

SIZES = {"users": 30, "items": 1200, "dims": 4}


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    monkeypatch.chdir(tmp_path)
    return written_run()


def metrics(widths=(2, 4), model: str = "default", value: float = 0.25, k: int = 20) -> pl.DataFrame:
    rows = [
        {"model": model, "protocol": "honest", "seed": 3, "split": split, "width": width, "metric": name, "k": k}
        | {"value": value * place / len(widths) if split == "test" else 0.9}
        for split in ("valid", "test")
        for place, width in enumerate(widths, 1)
        for name in ("recall", "ndcg")
    ]
    return pl.DataFrame(rows, schema_overrides={"width": pl.Int64})


def front_matter(card: str) -> dict:
    return yaml.safe_load(re.match(r"---\n(.*?)\n---\n", card, re.S)[1])


def rows_of(card: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in card.splitlines() if line.startswith("|")]


def test_the_card_beside_a_run_tells_the_run(run) -> None:
    card = (run.path / CARD).read_text()
    header, _, *rows = rows_of(card)
    table = run.by_width()
    assert header[:2] == ["width", "Recall@20"] and header[-1] == "Recall, of width 4"
    assert [int(row[0]) for row in rows] == table["width"].to_list()
    for row, recall in zip(rows, table["recall@20"], strict=True):
        assert row[1] == f"{recall:.4f}"
    assert rows[-1][-1] == "100 %"
    assert f"![Accuracy by width]({PICTURE})" in card and (run.path / PICTURE).is_file()
    for fact in (
        run.environment["fingerprint"],
        run.environment["torch"],
        "seed 0",
        f"{len(run.user_ids)} users and {len(run.item_ids)} items",
    ):
        assert fact in card
    assert "Licence of the data: not known to mrl" in card and str(run.path.parent.parent) not in card


def test_its_lines_to_load_and_recommend_run_as_they_stand(run, capsys) -> None:
    (source,) = re.findall(r"```python\n(.*?)```", (run.path / CARD).read_text(), re.S)
    exec(source.replace("path/of/this/folder", str(run.path)), {})
    assert "rank" in capsys.readouterr().out


def test_the_yaml_on_top_is_what_the_hub_reads(run) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="the extra `hub` is not installed")
    data = hub.ModelCard((run.path / CARD).read_text()).data
    assert data.library_name == "mrl" and "matryoshka" in data.tags and data.license is None
    measured = {(result.metric_type, result.metric_name): result.metric_value for result in data.eval_results}
    table = run.by_width()
    for name, title in (("recall@20", "Recall@20"), ("ndcg@20", "NDCG@20")):
        for width, value in zip(table["width"], table[name], strict=True):
            assert measured.pop((name, f"{title}, width {width}")) == pytest.approx(value, abs=1e-6)
    assert measured == {}
    assert {(result.dataset_name, result.dataset_split) for result in data.eval_results} == {("clicks", "test")}


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_known_data_set_says_its_licence(dataset) -> None:
    assert set(LICENCES) <= set(DATASETS)
    environment = {"dataset": dataset}
    card = model_card({"dataset": dataset}, environment, metrics(), **SIZES)
    assert f"Licence of the data: {LICENCES.get(dataset, UNSTATED)}" in card
    # a file of the same name is another data set
    card = model_card({"dataset": f"of/mine/{dataset}"}, environment, metrics(), **SIZES)
    assert "not known to mrl" in card and DATASETS[dataset].about not in card


def test_what_was_measured_on_test_and_no_more_is_told() -> None:
    card = model_card({}, {"dataset": "mine", "advice": "8 keep 94 %"}, metrics(), **SIZES)
    assert "0.9000" not in card and "\n8 keep 94 %.\n" in card and "chosen on validation alone" in card
    paper = metrics().with_columns(protocol=pl.lit("paper"))
    assert "picked on the test set itself" in model_card({}, {"dataset": "mine"}, paper, **SIZES)
    assert rows_of(model_card({}, {"dataset": "mine"}, metrics(k=5), **SIZES))[0][1] == "Recall@5"
    none = model_card({}, {"dataset": "mine"}, metrics(value=0.0), **SIZES)
    assert rows_of(none)[0] == ["width", "Recall@20", "NDCG@20"]  # of nothing, nothing can be kept


def test_a_model_without_vectors_has_a_card_without_widths(tmp_path, monkeypatch) -> None:
    card = model_card({}, {"dataset": "mine"}, metrics((None,), "popularity"), **SIZES | {"dims": None})
    assert "has no vectors" in card and "width=" not in card and PICTURE not in card
    assert rows_of(card)[2][0] == "–" and "# popularity, trained on mine" in card
    assert front_matter(card)["model-index"][0]["results"][0]["metrics"][0]["name"] == "Recall@20"
    monkeypatch.chdir(tmp_path)
    assert "has no vectors" in (written_run(has_vectors=False).path / CARD).read_text()


@pytest.mark.robustness
@pytest.mark.parametrize(
    "name", ['a": [b', "---\nx: 1", "é{}: #&*!|>'%@`", "<script>x</script>", "[a](b) ![c](d)", "- no"]
)
def test_whatever_the_data_are_called_the_card_is_whole(name) -> None:
    card = model_card({"dataset": name, "name": name}, {"dataset": name, "notes": [name]}, metrics(), **SIZES)
    told = front_matter(card)["model-index"][0]["results"][0]["dataset"]
    assert told["name"] == name and "<script" not in card.partition("\n---\n")[2]
    assert len(re.findall(r"(?<!\\)!?(?<!\\)\[[^]]*\]\(", card.partition("\n---\n")[2])) == 3  # two papers, a picture
    assert rows_of(card)[-1][-1] == "100 %"


def points_of(picture: str) -> list[list[tuple[float, float]]]:
    lines = ElementTree.fromstring(picture).findall("{http://www.w3.org/2000/svg}polyline")
    return [[tuple(map(float, point.split(","))) for point in line.get("points").split()] for line in lines]


def test_the_picture_draws_every_width_higher_where_better() -> None:
    recall, ndcg = points_of(accuracy_picture(metrics((2, 4, 8))))
    assert recall == ndcg and len(recall) == 3
    assert [x for x, _ in recall] == sorted(x for x, _ in recall)
    assert [y for _, y in recall] == sorted((y for _, y in recall), reverse=True)
    labels = [
        node for node in ElementTree.fromstring(accuracy_picture(metrics())).iter() if node.get("fill") and node.text
    ]
    (first, second) = [float(node.get("y")) for node in labels if node.text in ("Recall@20", "NDCG@20")]
    assert abs(first - second) >= 16  # of lines that end in one place
    for value in (0.0, 1e-4, 1.0):
        assert all(0 <= y <= 300 for line in points_of(accuracy_picture(metrics(value=value))) for _, y in line)
    assert accuracy_picture(metrics((4,))) == accuracy_picture(metrics((None,))) == ""


def test_a_run_that_is_trained_anew_keeps_nothing_of_the_old_card(run) -> None:
    with RunDirectory(run.path) as directory:
        directory.clear_results()
    assert not (run.path / CARD).exists() and not (run.path / PICTURE).exists()
    again = written_run(seed=0)
    assert (again.path / CARD).is_file() and load(Path(again.path)).metrics.equals(run.metrics)
