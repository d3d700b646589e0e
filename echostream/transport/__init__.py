"""Ways to reach other programs, and whom to trust there. Knows bytes and streams, never frames."""
