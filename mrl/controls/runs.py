"""Controls as run directories: what nested training has to beat, with the settings and the data of a nested run.

    mrl4rec         the published method, where the nested run is of another recipe
    bpr             the same training at the widest width alone, truncated
    bpr-rotated     its vectors rotated to their principal axes, truncated
    bpr-shuffled    its columns shuffled, truncated
    alone-<width>   the same training at that width alone; at the widest this is bpr itself
    shared          mrl4rec with one negative for all levels instead of one for each (no matryoshka negative sampling)
    svd             singular vectors of the normalised matrix, truncated
    ials            iALS of the widest width, rotated, truncated
    ease            EASE: metrics only, no width
    popularity      the same list for everybody: metrics only, no width

`mrl4rec`, `bpr`, `alone` and `shared` are trainings by the recipe mrl4rec; the rest is computed by
`mrl.controls.computed`. Each goes to <dataset>-<control>-<seed> beside the nested run.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal, get_args

import polars as pl
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from tqdm import tqdm

from mrl.config import Positive, TrainConfig, in_sections
from mrl.controls.computed import ComputedConfig, compute_control
from mrl.data import datasets, load_data
from mrl.errors import ConfigError, RunError
from mrl.parameters import PathText, as_config, settings
from mrl.recipes import BY_RECIPE
from mrl.runs import Run, default_path, load
from mrl.sweep import current_fingerprint, finished, fit_all

ControlName = Literal[
    "mrl4rec", "bpr", "bpr-rotated", "bpr-shuffled", "alone", "shared", "svd", "ials", "ease", "popularity"
]
CONTROLS: tuple[str, ...] = get_args(ControlName)
FROM_BPR = ("bpr", "bpr-rotated", "bpr-shuffled", "alone")


@settings
class ControlsConfig:
    """Parameters of `notebooks/controls.ipynb`.

    run: path of the nested run; data, widths and, if it is of the recipe mrl4rec, training settings are taken from its
    config.json. trained: settings of the trainings where it is of another recipe, beside those of the authors.
    controls: which, of CONTROLS; empty for all. seeds: of controls and of the nested run beside them; empty for the
    run's own.
    ials_settings: alpha0 and l2 of iALS, empty to search them on validation (under `paper`, validation is test).
    ials_trials: at most so many fits in that search. ease_l2: tried on validation; a single one is taken as it is.
    processes: trainings at once, 0 for one a core.
    """

    run: PathText
    controls: tuple[ControlName, ...] = ()
    trained: dict[str, Any] = Field(default_factory=dict)
    seeds: tuple[NonNegativeInt, ...] = ()
    ials_settings: dict[str, Positive] = Field(default_factory=dict)
    ials_trials: PositiveInt = 20
    ease_l2: Annotated[tuple[Positive, ...], Field(min_length=1)] = (30.0, 100.0, 300.0, 1000.0)
    processes: NonNegativeInt = 0

    @model_validator(mode="after")
    def _alpha0_and_l2_together(self) -> ControlsConfig:
        if self.ials_settings and set(self.ials_settings) != {"alpha0", "l2"}:
            raise ConfigError(f"ials_settings={self.ials_settings}: give alpha0 and l2, or nothing to search them")
        return self


def plan_controls(config: ControlsConfig) -> tuple[list[TrainConfig], list[ComputedConfig]]:
    """What is to be trained (nested runs of further seeds first), and what is to be computed after it.

    Raises RunError where `config.run` is not a finished run, ConfigError where it is not one of `train.ipynb`.
    """
    run = load(config.run)
    if (control := _control_name(run)) is not None:
        raise ConfigError(f"run={config.run!r}: is itself a control ({control}); give the nested run")
    nested = as_config(TrainConfig, run.config)
    folder, dataset = run.path.parent, datasets.dataset_name(nested.dataset)
    wanted, widest = config.controls or CONTROLS, nested.widths[-1]
    is_published = nested.recipe == "mrl4rec"
    published = {} if is_published else {"recipe": "mrl4rec"} | dict.fromkeys(BY_RECIPE) | config.trained
    plain = published | {"level_weights": (), "levels_per_step": 0}
    truncated = plain | {"widths": (widest,), "eval_widths": nested.report_widths[:-1]}
    *narrower, widest_alone = (
        ("alone", f"alone-{width}", plain | {"widths": (width,), "eval_widths": ()}) for width in nested.widths
    )
    # (the control that asks for it, name, changed settings)
    trained = [
        *([] if is_published else [("mrl4rec", "mrl4rec", published)]),
        *((name, "bpr", truncated) for name in FROM_BPR),
        *narrower,
        ("shared", "shared", published | {"nested_negatives": False}),
    ]
    computed = [  # the cheap ones first: what cannot be computed at all is said at once
        ("popularity", "popularity", {}),
        ("svd", "svd", {}),
        ("ials", "ials", {"settings": config.ials_settings or {"trials": config.ials_trials}}),
        ("ease", "ease", {"settings": {"l2": list(config.ease_l2)}}),
        ("bpr-rotated", "bpr-rotated", truncated),
        ("bpr-shuffled", "bpr-shuffled", truncated),
        widest_alone,
    ]

    def configure(kind: type[TrainConfig], seed: int, name: str, changes: dict) -> TrainConfig:
        path = folder / default_path(dataset, name, seed).name
        place = {"seed": seed, "name": name, "run_dir": str(path), "resume": True}
        return kind(**in_sections(place | changes, nested.to_dict()))

    def configure_all(kind: type[TrainConfig], controls: list[tuple[str, str, dict]]) -> list[TrainConfig]:
        chosen = {name: changes for control, name, changes in controls if control in wanted}
        return [configure(kind, seed, name, changes) for seed in seeds for name, changes in chosen.items()]

    seeds = tuple(dict.fromkeys(config.seeds)) or (nested.seed,)
    others = [seed for seed in seeds if seed != nested.seed]
    again = [configure(TrainConfig, seed, nested.run_name, {"name": nested.name}) for seed in others]
    return again + configure_all(TrainConfig, trained), configure_all(ComputedConfig, computed)


def run_controls(config: ControlsConfig, *, progress: bool = True) -> list[Run]:
    """Train and compute what is not there yet. Returns the nested runs, then the controls in the order of CONTROLS.

    Stopped half-way, the next call goes on. A control that was made with other data is made again; RunError at the
    start where the nested run was.
    """
    trained, computed = plan_controls(config)
    nested, known = load(config.run), {}
    was, now = nested.environment["fingerprint"], current_fingerprint(as_config(TrainConfig, nested.config), known)
    if was != now:
        raise RunError(
            f"{nested.path}: was trained on other data than {nested.config['dataset']} holds now (fingerprints "
            f"{was[:12]} and {now[:12]}); train it again, or put back the data it was trained on"
        )
    runs = [nested] if nested.config["seed"] in (config.seeds or [nested.config["seed"]]) else []
    # what needs no training first: if it cannot be computed at all, that is said at once
    runs += _compute_all([control for control in computed if not control.is_from_bpr], known, progress)
    runs += fit_all(trained, processes=config.processes or None, progress=progress)
    runs += _compute_all([control for control in computed if control.is_from_bpr], known, progress)
    order = [None, *CONTROLS]
    return sorted(runs, key=lambda run: (order.index(_control_name(run)), run.config["widths"][-1], run.config["seed"]))


def _control_name(run: Run) -> str | None:
    """Which of CONTROLS a run is; None for a nested run."""
    name = run.metrics["model"][0]
    name = "alone" if name.startswith("alone-") else name
    return name if name in CONTROLS else None


def _compute_all(configs: list[ComputedConfig], known: dict[str, str], progress: bool) -> list[Run]:
    runs: list[Run] = []
    seed, data = None, None  # of one seed at a time
    with tqdm(total=len(configs), desc="controls", unit="run", disable=not progress or not configs) as bar:
        for config in configs:
            run = finished(config, known)
            if run is None:
                bar.set_description_str(f"{config.name} (seed {config.seed})")
                if seed != config.seed:
                    seed, data = config.seed, load_data(config)
                run = compute_control(config, data, on_step=bar.set_postfix_str)
            runs.append(run)
            bar.update()
    return runs


def metrics_on_test(runs: Iterable[Run]) -> pl.DataFrame:
    """The metrics of all runs on test, those trained at one width each as one model, `alone`."""
    return pl.concat(run.metrics.filter(split="test") for run in runs).with_columns(
        pl.col("model").str.replace(r"^alone-\d+$", "alone")
    )


def pivot_by_width(metrics: pl.DataFrame, k: int = 20) -> pl.DataFrame:
    """A row a model and metric (recall, then NDCG), a column a width, and `no width`; means over seeds."""
    widths = metrics["width"].drop_nulls().unique().sort().cast(pl.String).to_list()
    rows = metrics.filter(pl.col("metric").is_in(["recall", "ndcg"]), k=k).with_columns(
        pl.format("{}@{}", "metric", "k").alias("metric"), pl.col("width").cast(pl.String).fill_null("no width")
    )
    keys = ["dataset", "protocol", "metric", "model"]
    means = rows.group_by(*keys, "width", maintain_order=True).agg(pl.col("value").mean())
    seeds = rows.group_by(keys, maintain_order=True).agg(seeds=pl.col("seed").n_unique())
    wide = means.pivot("width", index=keys, values="value")
    columns = [width for width in (*widths, "no width") if width in wide.columns]
    return seeds.join(wide.select(*keys, *columns), on=keys, maintain_order="left").sort(
        "dataset", "protocol", "metric", descending=[False, False, True], maintain_order=True
    )
