"""The edge to the container engine: everything that is said to it is said from here, and only from here.

Owns the transport, the calls of the Engine API, the translation of what goes wrong, and the project's lock.
Must not decide anything about profiles or plans: answers are the engine's own JSON.
"""
