"""Methods that change what goes back through an operation."""
