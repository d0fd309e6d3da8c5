"""Share what several experiments use."""
