"""Clock, blocking door, settings."""
