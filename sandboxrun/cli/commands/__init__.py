"""The commands, each in a file of its own; `cli/table.py` lists them. Each gives its exit code, or None for 0."""
