"""The gateway's program: a proxy that lets through what the rules name, and says of everything what became of it.

Runs inside the gateway's container, with Python (3.11 or later) and h11 alone: imports nothing else of sandboxrun.
"""
