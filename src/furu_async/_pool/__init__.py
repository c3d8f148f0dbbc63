"""Pilot workers that take tasks from a queue of files: the controller's side and the worker's."""
