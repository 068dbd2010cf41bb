"""Gradients that XLA compiles to slow code on CPU, replaced by equal ones."""
