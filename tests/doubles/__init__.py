"""Hand-made stand-ins that are real in all but size."""
