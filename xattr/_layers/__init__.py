"""Attribution to hidden layers."""
