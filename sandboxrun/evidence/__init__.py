"""What is kept of a run: capture, the store, the chain, and the readers that take what an agent left as hostile.

Owns the evidence's form on disk. Does not decide what happens to a container: capture comes first, removal is
`apply`'s.
"""
