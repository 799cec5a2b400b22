"""Run, apply, destroy, wait, verify and saved plans, as functions for the command line and Python alike."""
