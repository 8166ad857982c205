"""Rounds of `mrl.federated` as a Flower app: clients in processes of their own, on this machine or on many.

Uploads travel as they are: masks and noise (`mrl.privacy`) are the simulator's.
The extra `federated` installs Flower with its simulation engine (Ray); only `run` can be imported without it.

run.py        from Python or a notebook: rounds and their metrics
app.py        what `flwr run` starts: a ClientApp and a ServerApp
strategy.py   the Strategy: columns of every width summed over the clients that hold them
"""

from mrl.flower.run import run_flower
