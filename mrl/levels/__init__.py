"""What the levels know of a taxonomy and of users, beside models that are not nested: several models, data sets, seeds.

depths      one matrix and classes of its rows → which width knows which class, beside chance
users       what is known of users, as classes
study       runs → one table: means over seeds with intervals, what each width keeps, what nesting adds
sentences   that table in words
"""

from mrl.levels.depths import in_fifths, measure_depths
from mrl.levels.sentences import describe_levels
from mrl.levels.study import measure_run, summarise_levels
from mrl.levels.users import user_classes
