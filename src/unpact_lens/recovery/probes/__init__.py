"""Probe an unlearned model for forgotten facts, one probe a file."""
