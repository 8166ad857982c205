"""Notebooks → one page about a data set; figures and tables as a paper wants them.

What has not changed is not executed again, and a rerun gives the same files.

    stages    notebooks executed one after the other
    headlines  what they found, on two printed pages: every width beside the strongest baseline, which one to take
    code      which code has made a number: a digest of the files that it depends on
    ablation  how much each stage of the default recipe gives at each width
    levels    what each width knows of a taxonomy, the models trained where they are missing
    prototypes  nested prototypes beside k-means, after a training and in it
    federated  federations and their baselines, by client group and width
    explore   the aligned maps of the items in JupyterLab, to move about in
    page      executed notebooks as one self-contained HTML page
    paper     every figure at both widths, every table as CSV and LaTeX
    reproduction  the published method under its own protocol; figures that others have published
"""

from mrl.report.ablation import AblationConfig, describe_stages, measure_stages, write_stages
from mrl.report.federated import ComparisonConfig, compare_runs, curves_of, describe_comparison, fit_all
from mrl.report.federated import write_comparison
from mrl.report.headlines import summarise
from mrl.report.levels import LevelsConfig, measure_models, train_models, write_levels
from mrl.report.page import write_page
from mrl.report.paper import FiguresConfig, draw, write_table
from mrl.report.prototypes import measure_prototypes, write_prototypes
from mrl.report.reproduction import ReproductionConfig, compare_with_anchors, published_figures
from mrl.report.stages import ReportConfig, execute
