"""What the operations of a program are, and what a rule for one gets to see."""
