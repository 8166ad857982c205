"""Vectors to and from elsewhere: for other programs and databases, and from other models.

export.py    the vectors of a run in a folder that is checked when it is read
formats.py   its arrays as other programs read them: npy, safetensors, Parquet, faiss
"""

from mrl.exchange.export import Export, export, load_export
