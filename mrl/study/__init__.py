"""Every model on every data set, searched alike, tested with several seeds and compared. `run_study` does what is not
done yet, `study_tables` collects it, `write_study` writes it.

    config          settings of a study
    datasets        its data sets, and the settings of some of them
    models          which models there are, at which widths and seeds, what of their settings is searched
    folder          what is kept of a model on a data set
    jobs            a trial, a test
    plan            how long it will take
    run             all of them, shared by processes
    kept            what is committed, for another call to go on from
    tables          the results as one tidy table
    words           sentences about it
    tex             rows and columns, and LaTeX
    page            the files, one of them a web page
"""

from mrl.study.config import StudyConfig
from mrl.study.models import StudyModel, select_models, study_models
from mrl.study.page import render_page, write_study
from mrl.study.plan import describe_plan, plan_study
from mrl.study.run import run_study
from mrl.study.tables import StudyTables, read_tables, study_tables
from mrl.study.tex import render_latex
from mrl.study.words import describe_protocol, summarise
