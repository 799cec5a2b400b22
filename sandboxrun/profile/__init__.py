"""From text to a `Profile`: parse with positions, compose, render, check. Knows no engine."""
