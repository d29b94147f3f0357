"""Benchmarks: figures side by side in one run. They assert nothing about time."""
