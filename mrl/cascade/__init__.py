"""The width that a query needs: start narrow, and go on only where the list is not sure (Kusupati et al., 2205.13147).

cascade.py     thresholds fitted to a target share of the full width's accuracy, and search by them
confidence.py  how sure a user's list is at a level
thresholds.py  where to stop, fitted one pair of widths after the other
table.py       what a cascade keeps and costs, beside fixed widths and the oracle; in words
heldout.py     vectors of the same settings that have not learned from validation
"""

from mrl.cascade.cascade import Cascade, fit_cascade
from mrl.cascade.table import describe_cascade
