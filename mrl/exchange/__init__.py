"""Vectors to and from elsewhere: for other programs and databases, and from other models.

export.py    the vectors of a run in a folder that is checked when it is read
formats.py   its arrays as other programs read them: npy, safetensors, Parquet, faiss
nest.py      vectors of any other model made nested, their scores unchanged
"""

from mrl.exchange.export import Export, export, load_export
from mrl.exchange.nest import Nested, nest, prefix_recall
