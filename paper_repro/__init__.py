"""Real models, real data and the papers' experiments, run by `python -m paper_repro NAME`."""
