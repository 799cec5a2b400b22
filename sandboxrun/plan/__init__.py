"""The planner: what must happen for the engine to hold what the profile declares."""
