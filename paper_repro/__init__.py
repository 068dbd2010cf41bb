"""A real network on real data, run by `python -m paper_repro demo`."""
