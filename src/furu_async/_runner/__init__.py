"""One attempt of one artifact: child process, supervision, capture."""
