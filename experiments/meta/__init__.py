"""Test the verdict, the probes and the metrics on models whose truth is known."""
