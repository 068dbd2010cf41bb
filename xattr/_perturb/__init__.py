"""Methods that take no gradient of f: they look at f of inputs with parts left out."""
