"""load → observe → plan → apply → verify: the program's uses as functions, for the command line and Python alike."""
