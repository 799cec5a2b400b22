"""From text to a `Profile`: parse with positions, compose, render, check. Must not know the engine."""
