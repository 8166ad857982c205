"""Clients that hold prefixes of different width.

masks.py     secure aggregation
"""
