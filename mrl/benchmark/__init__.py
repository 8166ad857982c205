"""How fast training and evaluation are, and in how much memory: beside the published way and a plain PyTorch loop, and
as data grow to tens of millions of interactions.

    yardsticks    the published way and plain PyTorch
    measure       single measurements, in turn
    fits          whole fits beside ALS of the library implicit
    report        their table, the claims and a figure
    parts         planted data of any size, in Parquet parts that several processes write
    scale         several processes: what they take here, the cost model fitted to it, more machines on paper
    memory        memory of a training in several processes
"""

from mrl.benchmark.fits import load_fit_datasets, measure_fits
from mrl.benchmark.measure import BenchmarkConfig, measure_growth, measure_memory, measure_speed
from mrl.benchmark.memory import measure_sharded_memory
from mrl.benchmark.parts import write_planted
from mrl.benchmark.report import check_claims, draw_speed, summarise
from mrl.benchmark.scale import ScaleConfig, draw_scale, fit_scale, measure_scale, predict_scale, scale_errors
