"""Trained once, served at any width: what is done with a finished run without training again.

cascade.py         the width that a query needs: narrow first, wider where a list is not sure
cascade_table.py   what a cascade keeps and costs, beside fixed widths and the oracle
codes.py           item vectors in fewer bits
confidence.py      how sure a list of a narrow width is
fold_in.py         new users and items, by one least-squares solve each
heldout.py         a run's vectors as they were before they saw validation
index.py           an index over the items of a run: exact, adaptive and funnel search
scans.py           the first look at all items, by compiled loops or by faiss
thresholds.py      when a cascade stops
"""

from mrl.serving.cascade import Cascade, fit_cascade
from mrl.serving.cascade_table import describe_cascade
from mrl.serving.fold_in import fold_in_items, fold_in_users
