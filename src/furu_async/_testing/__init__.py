"""Fakes and helpers behind furu_async.testing."""
