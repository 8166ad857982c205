"""Trained once, served at any width: what is done with a finished run without training again.

codes.py     item vectors in fewer bits
export.py    vectors for other programs, in a folder that is checked when it is read
fold_in.py   new users and items, by one least-squares solve each
formats.py   the arrays of an export: npy, safetensors, Parquet, faiss
index.py     search at any ladder of widths
manifest.py  a folder that is complete or absent, and the checksums of its files
scans.py     the first look at all items, by compiled loops or by faiss
"""

from mrl.serving.export import Export, export, load_export
from mrl.serving.fold_in import fold_in_items, fold_in_users
from mrl.serving.index import Index
