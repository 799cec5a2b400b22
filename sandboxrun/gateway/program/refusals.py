"""Why the gateway refuses: a word for the records, and a sentence for whoever looks into the sandbox.

Owns the words of refusals. Must not decide anything.
"""

from __future__ import annotations

# word → what to do about it, for the owner of the agent; "" where only the client can do something
ADVICE = {
    "host": "to permit it, list it under egress: allow: in the sandbox's profile",
    "port": "the profile lists this host with another port: list host:port under egress: allow:",
    "address": "destinations are names: list the name under egress: allow: and use it in place of the address",
    "name": "destinations are host names in ASCII with a dot in them, without a dot at the end",
    "reserved": "it leads to an address that no sandbox may reach; no setting opens it",
    "private": "it leads to a private address: list its range under egress: private_networks: in the profile",
    "not-tls": "port 443 carries TLS only",
    "sni": "TLS must name the host that the tunnel was asked for; this can't be opened by a setting",
    "hello": "the start of TLS could not be understood",
    "host-header": "the Host field must name the host of the request's target",
    "scheme": "plain requests are for http:// only; https:// goes through CONNECT",
    "target": "a proxy's client sends CONNECT host:port, or a request with the whole http:// address",
    "request": "the request is malformed",
    "version": "HTTP/1.1 is spoken here",
    "loop": "the request has come through here before",
    "too-large": "the request's head is too long",
    "timeout": "the client took too long",
    "busy": "too many connections are open at once",
    "rules": "the sandbox's rules were changed meanwhile",
    "budget": "the sandbox has used up what its records may take; nothing more is let out",
    "stopped": "the gateway was stopped",
}


class Refused(Exception):
    """What a client asked for is denied: a word of ADVICE, and what of it exactly (printable ASCII, one line)."""

    def __init__(self, reason: str, what: str, status: int = 403) -> None:
        super().__init__(reason, what)
        self.reason = reason
        self.what = what
        self.status = status

    @property
    def advice(self) -> str:
        """What to do about it."""
        return ADVICE[self.reason]


class Failed(Exception):
    """What a client asked for is allowed, and could not be had: `unresolved`, `unreachable`, `timeout`, `broken`."""

    def __init__(self, reason: str, what: str, status: int = 502) -> None:
        super().__init__(reason, what)
        self.reason = reason
        self.what = what
        self.status = status
