"""What a server does not learn of a client, named and measured.

masks.py     secure aggregation
noise.py     user-level differential privacy
attack.py    what a curious server reads
"""
