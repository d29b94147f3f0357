"""Locks under fault injection: workers and faults write logs, and a judge reads nothing else."""
