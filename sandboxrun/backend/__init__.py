"""What runs sandboxes: the seam that the rest of the program speaks to, and the engines behind it."""
