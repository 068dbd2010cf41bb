"""The traced program: the only wing that knows how JAX writes one."""
