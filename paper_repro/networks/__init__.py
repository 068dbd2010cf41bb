"""The networks that the experiments explain, and their training."""
