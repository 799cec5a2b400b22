"""The Docker Engine: everything that is said to it is said from here, and only from here."""
