"""Sweeps: many runs that differ in settings and seeds, scheduled by Ray Tune.

Owns what is tried, who proposes it, how a trial is judged, and the processes in which trials run.
What a trial does is a run like any other (bench.engine). Only ray_connection.py, scheduling.py
and worker.py know Ray.
"""
