"""What nested training has to beat: popularity, EASE, SVD, iALS, and plain models truncated, rotated or trained alone
at each width. Each becomes a run directory with the data and the settings of a nested run.

    models      the methods that are computed, and their search
    computed    a run directory of each of them
    fitting     how models are fitted in a search of their settings and in the refit
    runs        all controls of a nested run, trained or computed
"""

from mrl.controls.computed import ComputedConfig, compute_control
from mrl.controls.models import ease, ease_scores, popularity_scores, search_ials, shuffle_columns, truncated_svd
from mrl.controls.runs import CONTROLS, ControlsConfig, metrics_on_test, pivot_by_width, plan_controls, run_controls
