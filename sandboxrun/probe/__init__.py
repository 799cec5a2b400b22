"""Probes: what must be seen from inside a sandbox, each with its negative control.

Owns the program that looks (C, in c/, built into bin/), the controls that read what it saw, and the verdicts. Pure but
for the program's file: talks to no engine and prints nothing.
"""
