"""Many devices, and data sets."""
