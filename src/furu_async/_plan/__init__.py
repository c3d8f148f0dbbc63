"""What to do next: a pure state machine. No await, no clock, no path, no randomness, no disk."""
