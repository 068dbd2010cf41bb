"""What an experiment writes, and how alike two maps are."""
