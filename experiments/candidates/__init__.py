"""Compare the candidates for a method that forgets without destroying what it never saw."""
