"""How a network is run: one small contract, one file or folder per runtime.

What a network computes is bench.networks'; every runtime must compute the same.
"""
