"""The commands, each in a file of its own; `cli/group.py` lists them. Each gives its exit code, or None for 0."""
