"""Methods that take plain gradients."""
