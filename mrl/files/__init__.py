"""A file, or a folder with the parts of one table → a log of interactions, or labels of items.

The content tells the format. What is certain is read; what is not is refused in one line, with what to write.

    content           compressed files, and what is no data
    lists             whole numbers apart by blanks: adjacency lists
    tables            separated text, Parquet, and the parts of one table
    columns           the usual names of columns
    values            raw values → ids, numbers, times
    formats           what is in a file, and why
    parsers           a file → a log
    labels            files → titles, years and genres of the items; age, gender, occupation of the users
    completejourney   its products → titles and true depths
"""

from mrl.files.columns import USUAL, check_given, usual
from mrl.files.content import content_of, describe_non_data, stem_of, suffix_of
from mrl.files.values import EXPECTED, OpenDates, to_times
from mrl.files.tables import ParquetTable, check_parquet
from mrl.files.formats import MOVIELENS, Format, find_parts, sniff, sniff_parts
from mrl.files.labels import read_atomic_items, read_item_table, read_movies, read_users, replay
from mrl.files.parsers import read_log
from mrl.files.completejourney import FILES as COMPLETEJOURNEY
from mrl.files.completejourney import read_products
