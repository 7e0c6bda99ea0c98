"""The inner loop: one network fitted to one observation."""
