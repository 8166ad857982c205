"""Figures and tables as a paper wants them: every figure at column and page width, tables as CSV and LaTeX.

What `notebooks/figures.ipynb` calls. A rerun gives the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import polars as pl
import polars.selectors as cs
from matplotlib.figure import Figure
from pydantic import Field, NonNegativeInt, PositiveInt

from mrl.config import TrainConfig
from mrl.data import dataset_name
from mrl.errors import RunError
from mrl.figures.style import SIZES, name_models, save, write_whole
from mrl.hierarchy import SAMPLE
from mrl.parameters import PathText, settings
from mrl.report.stages import PROJECT, training_config

CONTROLS = ("mrl4rec", "bpr", "bpr-rotated", "alone", "shared", "ials")  # beside the nested model


@settings
class FiguresConfig:
    """Parameters of `notebooks/figures.ipynb`.

    dataset, seeds: of the models; what is missing is trained. Figures of one run are of the first seed.
    settings: further parameters of `train.ipynb`. epochs: of the controls that are trained, at most. processes:
    trainings at once, 0 for one a core. sample: items at most that are clustered. folder: where figures and tables go;
    empty for the project's `figures/`.
    """

    dataset: PathText = "ml-100k"
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] = (0, 1, 2)
    epochs: PositiveInt = 300
    settings: dict[str, Any] = Field(default_factory=dict)
    processes: NonNegativeInt = 0
    sample: PositiveInt = SAMPLE
    folder: PathText = ""

    @property
    def training(self) -> TrainConfig:
        """The settings of the nested model of the first seed."""
        return training_config(self.settings, dataset=self.dataset, seed=self.seeds[0])

    def stem(self, name: str) -> Path:
        """Where a figure or table goes, without the ending."""
        return (Path(self.folder) if self.folder else PROJECT / "figures") / f"{dataset_name(self.dataset)}-{name}"


def draw(
    stem: Path,
    function: Callable[..., Figure],
    *tables: pl.DataFrame,
    sizes: Iterable[str] = tuple(SIZES),
    **options: Any,
) -> Figure:
    """Draw and save at both widths: `<stem>.pdf` and `.png` at page width, `<stem>-column.…` at column width.

    Returns the figure of the last size, by default that of a page.
    """
    for size in sizes:
        figure = function(*tables, **options, size=size)
        save(figure, stem if size == "page" else stem.with_name(f"{stem.name}-{size}"))
    return figure


def write_beside(table: pl.DataFrame, path: Path, schema: Mapping[str, Any], what: str) -> Path:
    """Write a table of some data sets as CSV, beside the rows of others that the file has; its path.

    schema: of both, with a column dataset. what: the table is of, for the error where the file is no such table.
    """
    if path.exists():
        try:
            others = pl.read_csv(path, schema=schema).filter(~pl.col("dataset").is_in(table["dataset"].unique()))
        except pl.exceptions.PolarsError as error:
            reason = str(error).partition("\n")[0]
            raise RunError(f"{path}: is no table of {what} ({reason}); remove it, or name another") from None
        table = pl.concat([others, table]).sort("dataset", maintain_order=True)
    return write_whole(path, table.write_csv().encode())


def over_seeds(metrics: pl.DataFrame, k: int = 20) -> pl.DataFrame:
    """Recall and NDCG by model and width: columns dataset, protocol, model, width, metric, seeds, mean, low, high.

    metrics: tidy, of one or more seeds. low and high: the range over seeds.
    """
    return (
        metrics.filter(pl.col("metric").is_in(["recall", "ndcg"]), k=k)
        .group_by("dataset", "protocol", "model", "width", pl.format("{}@{}", "metric", "k"), maintain_order=True)
        .agg(
            seeds=pl.col("seed").n_unique(),
            mean=pl.col("value").mean(),
            low=pl.col("value").min(),
            high=pl.col("value").max(),
        )
    )


def write_table(table: pl.DataFrame, stem: Path) -> list[Path]:
    """Write `<stem>.csv` and `<stem>.tex`, a tabular in the rules of booktabs with display names; return the paths.

    Numbers are rounded: the last digits of a mean depend on how threads shared its sum.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    table = table.with_columns(cs.float().round(6))
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("csv", "tex")]
    table.write_csv(paths[0])
    paths[1].write_text(latex(name_models(table)), encoding="utf-8")
    return paths


def latex(table: pl.DataFrame, *, digits: int = 4) -> str:
    """The table as a LaTeX tabular with \\toprule, \\midrule and \\bottomrule; missing values are dashes."""
    rows = [table.columns]
    for row in table.iter_rows():
        rows.append(
            ["--" if cell is None else f"{cell:.{digits}f}" if isinstance(cell, float) else cell for cell in row]
        )
    head, *body = (" & ".join(escape_latex(str(cell)) for cell in row) + r" \\" for row in rows)
    columns = "".join("r" if dtype.is_numeric() else "l" for dtype in table.dtypes)
    lines = [
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        head,
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def escape_latex(text: str) -> str:
    """The text with what LaTeX reads as commands escaped."""
    return re.sub(r"[&%$#_{}]", r"\\\g<0>", text)
