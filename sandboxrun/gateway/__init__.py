"""The egress gateway: the one way out of a sandbox, what it lets through, and the image it runs from.

Owns the gateway's rules, its program and its image. Which containers and networks there are is decided elsewhere.
"""

USER = "65532:65532"
DIRECTORY, FILE = "/etc/sandboxrun", "rules.json"  # where the companion has its rules
RUN = "/run/gateway"  # what it and HAProxy write, in memory
