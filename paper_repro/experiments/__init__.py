"""The experiments of the papers, one module for each."""
