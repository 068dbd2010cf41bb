"""Pytrees, chunks, and the function explained as a compiled program."""
