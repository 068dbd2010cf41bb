"""The traced program: the only room that knows how JAX writes one."""
