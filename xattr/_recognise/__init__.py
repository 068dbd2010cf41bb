"""What the operations of a program are, and what a rule gets of them."""
