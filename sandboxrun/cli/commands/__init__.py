"""The commands; `cli/main.py` lists them. Each gives its exit code, or None for 0."""
