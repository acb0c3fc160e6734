"""Benchmarks: each compares us with a peer on the same data, interleaved, in processes of their own."""
