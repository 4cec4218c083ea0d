"""Benchmarks: each prints one JSON object a line: what, ours, peer, unit, ratio, goal, holds, runs.

Figures are medians of at least five runs; peer and ours are measured in turn, in the same run, on the same
machine. A ratio is throughput, ours over the peer's, higher is better, except where the name speaks of a
cost (time, memory, bytes, cpu): there lower is better.
"""
