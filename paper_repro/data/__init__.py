"""The one door to real data."""
