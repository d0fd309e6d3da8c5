"""Run the experiments whose results the documentation reports."""
