"""The egress gateway: the one way out of a sandbox, what it lets through, and the image it runs from.

Owns the gateway's rules, its program and its image. Which containers and networks there are is decided elsewhere.
"""
