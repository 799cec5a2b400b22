"""3xx, network: what a sandbox reaches, and what reaches it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping

from sandboxrun.audit.finding import DATA, DIRECT, INDIRECT, REACH, STEP, Hit, about, rule
from sandboxrun.audit.subject import PROFILE, Subject
from sandboxrun.spec.option_types import METADATA_NAMES

METADATA = ("169.254.169.254", "169.254.170.2", "169.254.170.23", "fd00:ec2::254", "100.100.100.200", "192.0.0.192")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
# Names below these belong to whoever registers them: a wildcard, and often one name too, is anybody's server.
TENANTS = (
    "amazonaws.com", "cloudfront.net", "awsapprunner.com", "on.aws", "elasticbeanstalk.com", "azurewebsites.net",
    "blob.core.windows.net", "web.core.windows.net", "cloudapp.azure.com", "azurefd.net", "azureedge.net",
    "trafficmanager.net", "windows.net", "appspot.com", "run.app", "cloudfunctions.net", "firebaseapp.com", "web.app",
    "googleapis.com", "googleusercontent.com", "github.io", "githubusercontent.com", "gitlab.io", "pages.dev",
    "workers.dev", "r2.dev", "netlify.app", "vercel.app", "herokuapp.com", "fly.dev", "onrender.com", "railway.app",
    "ngrok.io", "ngrok.app", "ngrok-free.app", "trycloudflare.com", "loca.lt", "repl.co", "replit.app", "glitch.me",
    "surge.sh", "blogspot.com", "wordpress.com", "myshopify.com", "digitaloceanspaces.com", "ondigitalocean.app",
    "backblazeb2.com", "wasabisys.com", "fastly.net", "edgesuite.net", "akamaized.net", "webhook.site",
    "requestbin.com", "pipedream.net", "hooks.slack.com", "discord.com", "t.me", "pastebin.com",
)  # fmt: skip


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(text.strip("[]").partition("%")[0])
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        return found.ipv4_mapped
    return found


def is_public(text: str) -> bool:
    """Whether it is an address that anybody may have."""
    found = _address(text)
    return found is not None and found.is_global


def is_metadata(text: str) -> bool:
    """Whether an address or a name is that of a cloud's metadata service, or link-local."""
    if text.lower().rstrip(".") in METADATA_NAMES:
        return True
    found = _address(text)
    return found is not None and (str(found) in METADATA or found.is_link_local)


def _covers_metadata(text: str) -> bool:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return any(
        one.version == network.version and one in network for one in map(ipaddress.ip_address, (*METADATA, "fe80::1"))
    )


def _tenant(host: str) -> str | None:
    """The hosting domain that a name belongs to."""
    name = host.removeprefix("*.")
    return next((domain for domain in TENANTS if name == domain or name.endswith(f".{domain}")), None)


@rule(
    about("SBX301", "Every public host reachable", REACH, STEP, cwe=923, nist="3.4.2"),
    why="What a sandbox can read it can send to any host on the internet. The gateway keeps private, link-local and "
    "metadata addresses away, and nothing else.",
    fix='list what the task needs: egress: {allow: ["api.example.com:443"]}, or write egress: none',
    bad="egress: open",
    good="egress: {allow: ['api.example.com:443']}",
)
def open_egress(s: Subject) -> Iterator[Hit]:
    """egress: open, said or implied."""
    if s.reach is not None and s.reach.mode == "open":
        said = s.via("egress") not in ("default", "implied by network_mode")
        yield Hit("egress" if said else "network_mode", "egress is open: every public host can be reached")


@rule(
    about("SBX302", "Network without a filter", REACH, STEP, cwe=923, nist="3.4.2"),
    why="Nothing stands between the container and the outside: the internet, the local network, the host's own "
    "addresses and the metadata service.",
    fix="use egress in a profile; in Compose an internal network, and a proxy that lists hosts",
    bad="networks: [out]",
    good="services: {agent: {image: busybox, networks: [closed]}}\nnetworks: {closed: {internal: true}}",
)
def unfiltered(s: Subject) -> Iterator[Hit]:
    """A network that is not internal, without a gateway."""
    if s.open_network and s.namespaces.get("network") != "host":
        names = ", ".join(network.name for network in s.networks if not network.internal)
        key = "network_mode" if s.namespaces.get("network") else "networks"
        yield Hit(key, f"network {names}: nothing filters what the container reaches")


@rule(
    about("SBX303", "Proxy that can be bypassed", REACH, STEP, cwe=923, nist="3.4.2"),
    why="A program that ignores the variable, or unsets it, connects directly: the proxy's list of hosts is advice.",
    fix="join internal networks only, so that the proxy is the one way out",
    bad="networks: [out]\nenvironment: {HTTPS_PROXY: 'http://proxy.example.com:3128'}",
    good="services: {agent: {image: busybox, networks: [closed], environment: {HTTPS_PROXY: 'http://proxy.example.com:3128'}}}\n"
    "networks: {closed: {internal: true}}",
)
def advisory_proxy(s: Subject) -> Iterator[Hit]:
    """Proxy variables while another way out is open."""
    name = next((name for name in _PROXIES if s.environment.get(name)), None)
    if name is not None and s.open_network:
        yield Hit("environment", f"{name} is set, and a direct way out is open as well", item=name)


@rule(
    about("SBX304", "Host reachable from an internal network", REACH, INDIRECT, cwe=923),
    why="An internal network has no way out, but the host's own addresses answer on it: services that listen on all "
    "interfaces are reached.",
    fix="set driver_opts com.docker.network.bridge.gateway_mode_ipv4: isolated (engine 27.1 and later), or "
    'inhibit_ipv4: "true"',
    bad="services: {agent: {image: busybox, networks: [closed]}}\nnetworks: {closed: {internal: true}}",
    good="services: {agent: {image: busybox, networks: [closed]}}\nnetworks: {closed: {internal: true, driver_opts: "
    "{com.docker.network.bridge.gateway_mode_ipv4: isolated}}}",
    strict=True,
)
def host_reach(s: Subject) -> Iterator[Hit]:
    """Internal bridges with an address of the host."""
    for network in s.networks:
        if network.internal and network.host_reach and network.driver == "bridge":
            yield Hit("networks", f"the host answers on the network {network.name}", item=network.name)


@rule(
    about("SBX305", "Network shared with others", REACH, INDIRECT, cis="2.2", cwe=923, nist="3.4.2"),
    why="Members of one network reach each other's ports, unless enable_icc is false.",
    fix='give each a network of its own, or set driver_opts com.docker.network.bridge.enable_icc: "false"',
    bad="services: {a: {image: busybox}, b: {image: busybox}}",
    good="services: {a: {image: busybox, networks: [one]}, b: {image: busybox, networks: [two]}}\n"
    "networks: {one: {}, two: {}}",
    strict=True,
)
def shared_network(s: Subject) -> Iterator[Hit]:
    """Several on a network that does not keep them apart."""
    for network in s.networks:
        others = s.sharing.get(f"network {network.name}", ())
        if not network.isolated and (others or network.external):
            who = ", ".join(others[:3]) if others else "others"
            yield Hit("networks", f"{who} can be reached on the network {network.name}", item=network.name)


@rule(
    about("SBX306", "Metadata service reachable", DATA, DIRECT, cwe=(918, 522), nist="3.4.2"),
    why="A cloud's metadata service hands out the machine's credentials to whoever asks from it.",
    fix="remove the address",
    bad="extra_hosts: ['metadata.example.com:169.254.169.254']",
    good="extra_hosts: ['api.example.com:192.0.2.10']",
    inline=False,
)
def metadata(s: Subject) -> Iterator[Hit]:
    """Names, addresses and ranges of metadata services."""
    for name, addresses in s.hosts.items():
        for address in addresses:
            if is_metadata(address):
                yield Hit("extra_hosts", f"{name} is {address}, the address of a metadata service", item=name)
    if s.reach is None:
        return
    for destination in s.reach.allow:
        if is_metadata(destination.rpartition(":")[0].removeprefix("*.")):
            yield Hit("egress", f"{destination} is a metadata service", item=destination)
    for network in s.reach.private_networks:
        if _covers_metadata(network):
            message = f"private_networks {network} holds the address of a metadata service"
            yield Hit("egress", message, item="private_networks")


@rule(
    about("SBX307", "Private networks reachable", REACH, STEP, cwe=918, nist="3.4.2"),
    why="Services on a private network often trust whoever reaches them, and an allowed name may resolve to any "
    "address in the range.",
    fix="name the smallest range that holds the service",
    bad="egress: {allow: ['api.example.com:443'], private_networks: [10.0.0.0/8]}",
    good="egress: {allow: ['api.example.com:443']}",
)
def private_networks(s: Subject) -> Iterator[Hit]:
    """egress.private_networks."""
    for network in s.reach.private_networks if s.reach is not None else ():
        if not _covers_metadata(network):
            message = f"private_networks {network}: allowed names may resolve to any address in it"
            yield Hit("egress", message, item="private_networks")


@rule(
    about("SBX308", "Host or private address by name", REACH, STEP, cwe=918, nist="3.4.2"),
    why="The entry leads a name to the host or into a private network, whose services expect friends only.",
    fix="remove the entry",
    bad="extra_hosts: ['host.docker.internal:host-gateway']",
    good="extra_hosts: ['api.example.com:192.0.2.10']",
)
def private_names(s: Subject) -> Iterator[Hit]:
    """extra_hosts with host-gateway, loopback or private addresses."""
    for name, addresses in s.hosts.items():
        for address in addresses:
            found = _address(address)
            if address == "host-gateway":
                yield Hit("extra_hosts", f"{name} is the host itself", item=name)
            elif found is not None and _is_private(found) and not is_metadata(address):
                yield Hit("extra_hosts", f"{name} is {address}, a private address", item=name)


_DOCUMENTED = tuple(map(ipaddress.ip_network, ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")))


def _is_private(found: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Private, not counting loopback (the container's own) and the addresses of examples."""
    documented = any(found.version == network.version and found in network for network in _DOCUMENTED)
    return found.is_private and not found.is_loopback and not found.is_unspecified and not documented


@rule(
    about("SBX309", "Wildcard destination", REACH, INDIRECT, cwe=(923, 183), nist="3.4.2"),
    why="Every name below the domain is allowed, those that are created tomorrow too.",
    fix="list the names that are needed",
    bad="egress: {allow: ['*.example.com:443']}",
    good="egress: {allow: ['api.example.com:443']}",
)
def wildcard(s: Subject) -> Iterator[Hit]:
    """`*.domain` in a list."""
    for destination in s.reach.allow if s.reach is not None else ():
        host = destination.rpartition(":")[0]
        if host.startswith("*.") and _tenant(host) is None:
            yield Hit("egress", f"{destination} allows every name below {host[2:]}", item=destination)


@rule(
    about("SBX310", "Destination that anybody can rent", REACH, STEP, cwe=(923, 183), nist="3.4.2"),
    why="Names below this domain are given to customers: an attacker's own server is one of them.",
    fix="list the full name of your own service; where the path decides who answers, use a proxy of your own",
    bad="egress: {allow: ['*.amazonaws.com:443']}",
    good="egress: {allow: ['api.example.com:443']}",
)
def tenants(s: Subject) -> Iterator[Hit]:
    """Wildcards below hosting domains, and such names that anybody writes to."""
    for destination in s.reach.allow if s.reach is not None else ():
        host = destination.rpartition(":")[0]
        domain = _tenant(host)
        if domain is not None and (host.startswith("*.") or host == domain):
            yield Hit("egress", f"{destination}: {domain} serves anybody's content", item=destination)


@rule(
    about("SBX311", "Port other than 443", REACH, INDIRECT, cwe=(319, 923), nist="3.4.2"),
    why="Port 80 is in clear text, 22 and 25 are tunnels and mail, others mostly services that have no TLS.",
    fix="use the service's TLS port",
    bad="egress: {allow: ['api.example.com:80']}",
    good="egress: {allow: ['api.example.com:443']}",
)
def other_ports(s: Subject) -> Iterator[Hit]:
    """Destinations with ports other than 443."""
    for destination in s.reach.allow if s.reach is not None else ():
        port = destination.rpartition(":")[2]
        if port != "443":
            what = {"80": " is clear text", "22": " tunnels anything", "25": " sends mail", "53": " tunnels anything"}
            yield Hit("egress", f"{destination}: port {port}{what.get(port, ' is not HTTPS')}", item=destination)


@rule(
    about("SBX312", "Name server outside", REACH, STEP, cwe=923, nist="3.4.2"),
    why="Queries to a name server of one's own carry data out, whatever else is filtered.",
    fix="remove dns",
    bad="networks: [out]\ndns: [8.8.8.8]",
    good="networks: [out]\ndns: [127.0.0.1]",
)
def outside_dns(s: Subject) -> Iterator[Hit]:
    """dns servers that are not the container's own."""
    for server in s.dns:
        found = _address(server)
        if found is not None and not found.is_loopback:
            yield Hit("dns", f"the container asks the name server {server}", item=server)


@rule(
    about("SBX313", "Gateway asks a public name server", REACH, INDIRECT, cwe=923),
    why="The resolver decides to which public address an allowed name leads, and learns every name that is asked for.",
    fix="remove egress.resolvers, or name resolvers of your own",
    bad="egress: {allow: ['api.example.com:443'], resolvers: [8.8.8.8]}",
    good="egress: {allow: ['api.example.com:443'], resolvers: [10.1.0.53]}",
    strict=True,
)
def public_resolvers(s: Subject) -> Iterator[Hit]:
    """egress.resolvers that are public."""
    for server in s.reach.resolvers if s.reach is not None else ():
        if is_public(server):
            yield Hit("egress", f"the gateway asks {server}, a public name server", item="resolvers")


@rule(
    about("SBX314", "Inside and outside at once", REACH, STEP, cwe=(923, 668), nist="3.4.2"),
    why="A container on an internal and on another network is a bridge between them.",
    fix="join one of them only; let a proxy be the one member of both",
    bad="services: {agent: {image: busybox, networks: [closed, out]}}\nnetworks: {closed: {internal: true}, out: {}}",
    good="services: {agent: {image: busybox, networks: [closed]}}\nnetworks: {closed: {internal: true}}",
)
def both_sides(s: Subject) -> Iterator[Hit]:
    """Internal and external networks in one container."""
    closed = [network.name for network in s.networks if network.internal]
    outer = [network.name for network in s.networks if not network.internal]
    if closed and outer:
        message = f"on the internal network {', '.join(closed)} and on {', '.join(outer)}, which leads outside"
        yield Hit("networks", message, item=outer[0])


@rule(
    about("SBX315", "IPv6 without a policy", REACH, INDIRECT, cwe=923, nist="3.4.2"),
    why="Filters are often written for IPv4 only, and a global IPv6 address is reachable from outside.",
    fix="remove enable_ipv6, or filter both",
    bad="services: {agent: {image: busybox, networks: [out]}}\nnetworks: {out: {enable_ipv6: true}}",
    good="services: {agent: {image: busybox, networks: [out]}}\nnetworks: {out: {}}",
)
def ipv6(s: Subject) -> Iterator[Hit]:
    """enable_ipv6."""
    for network in s.networks:
        if network.ipv6:
            yield Hit("networks", f"the network {network.name} has IPv6 as well", item=network.name)


def _is_loopback(address: str) -> bool:
    found = _address(address)
    return address == "localhost" or (found is not None and found.is_loopback)


@rule(
    about(
        "SBX316", "Port published on all interfaces", REACH, STEP, cis="5.14", cwe=1327, nist="3.4.2", pss="Host Ports"
    ),
    why="Without an address the port is open on every interface of the host, past most firewalls: the engine writes "
    "its own rules.",
    fix="write 127.0.0.1 before the port, or remove it",
    bad="services: {agent: {image: busybox, ports: ['8080:80']}}",
    good="services: {agent: {image: busybox, ports: ['[::1]:8080:80', '127.0.0.1:8080:80']}}",
)
def published_everywhere(s: Subject) -> Iterator[Hit]:
    """Ports on all interfaces."""
    for port in s.ports:
        if port.address in ("", "0.0.0.0", "::", "[::]", "*"):
            message = f"port {port.target} is published on all interfaces"
            help = f"write 127.0.0.1:{port.written or port.target}"
            yield Hit("ports", message, item=port.written or port.target, help=help)


@rule(
    about("SBX317", "Port published on one interface", REACH, INDIRECT, cis="5.14", cwe=1327, pss="Host Ports"),
    why="Whoever reaches that interface reaches the container.",
    fix="use 127.0.0.1, or remove the port",
    bad="services: {agent: {image: busybox, ports: ['192.0.2.1:8080:80']}}",
    good="services: {agent: {image: busybox, ports: ['127.0.0.1:8080:80']}}",
)
def published(s: Subject) -> Iterator[Hit]:
    """Ports on another address than loopback."""
    for port in s.ports:
        if port.address not in ("", "0.0.0.0", "::", "[::]", "*") and not _is_loopback(port.address):
            yield Hit("ports", f"port {port.target} is published on {port.address}", item=port.written or port.target)


@rule(
    about("SBX318", "Directly on the local network", REACH, STEP, cwe=(923, 668), nist="3.4.2"),
    why="With macvlan or ipvlan the container is a machine of its own on the local network, past the host's firewall.",
    fix="use the driver bridge",
    bad="services: {agent: {image: busybox, networks: [lan]}}\nnetworks: {lan: {driver: macvlan}}",
    good="services: {agent: {image: busybox, networks: [lan]}}\nnetworks: {lan: {driver: bridge}}",
)
def macvlan(s: Subject) -> Iterator[Hit]:
    """macvlan and ipvlan."""
    for network in s.networks:
        if network.driver in ("macvlan", "ipvlan"):
            yield Hit("networks", f"{network.driver} puts the container on the local network", item=network.name)


@rule(
    about("SBX319", "Engine's default bridge", REACH, INDIRECT, cis="5.30", cwe=923, nist="3.4.2"),
    why="Every container without a network of its own is on it, and they reach each other.",
    fix="remove network_mode: bridge, so that the project's own network is used",
    bad="services: {agent: {image: busybox, network_mode: bridge}}",
    good="services: {agent: {image: busybox}}",
)
def default_bridge(s: Subject) -> Iterator[Hit]:
    """network_mode: bridge outside of a profile."""
    if s.kind != PROFILE and s.namespaces.get("network") == "bridge":
        yield Hit("network_mode", "on the engine's default bridge, with everybody else")


@rule(
    about("SBX320", "Remote administration port", REACH, STEP, cis=("5.7", "5.8"), cwe=1327, pss="Host Ports"),
    why="A shell, a database or an engine behind the port is open to whoever guesses a password.",
    fix="remove the port; use sandboxrun exec, or docker exec",
    bad="services: {agent: {image: busybox, ports: ['2222:22']}}",
    good="services: {agent: {image: busybox, ports: ['127.0.0.1:2222:22']}}",
)
def administration(s: Subject) -> Iterator[Hit]:
    """Published ports of shells, engines, debuggers and databases."""
    for port in s.ports:
        number = re.match(r"\d+", port.target)
        what = _SERVICES.get(number[0]) if number else None
        if what is not None and not _is_loopback(port.address):
            yield Hit("ports", f"{what} (port {number[0]}) is published", item=port.written or port.target)  # type: ignore[index]


_SERVICES = {
    port: what
    for what, ports in {
        "SSH": "22",
        "telnet": "23",
        "the engine's API": "2375 2376",
        "a remote desktop": "3389 5900",
        "the debugger of node": "9229",
        "the debugger of Java": "5005",
        "the debugger of Python": "5678",
        "the debugger of a browser": "9222",
        "file sharing": "139 445",
        "rsync": "873",
        "NFS": "2049",
        "a database": "1433 1521 3306 5432 5984 6379 9042 9200 27017",
        "a cache": "11211",
        "the store of a cluster": "2379",
        "a cluster's API": "6443",
        "a node's API": "10250",
    }.items()
    for port in ports.split()
}


@rule(
    about("SBX322", "Privileged port of the host", REACH, INDIRECT, cis="5.8", cwe=1327, pss="Host Ports"),
    why="Ports below 1024 are reserved for the host's own services: whoever connects trusts what answers there.",
    fix="publish a port above 1023, behind a proxy of the host",
    bad="services: {agent: {image: busybox, ports: ['80:8080']}}",
    good="services: {agent: {image: busybox, ports: ['127.0.0.1:80:8080', '8080:80']}}",
)
def privileged_port(s: Subject) -> Iterator[Hit]:
    """Host ports below 1024, but for those on loopback."""
    for port in s.ports:
        number = re.match(r"\d{1,5}", port.published)
        if number is not None and 0 < int(number[0]) < 1024 and not _is_loopback(port.address):
            message = f"port {port.published} of the host is a privileged one"
            yield Hit("ports", message, item=port.written or port.target)


@rule(
    about("SBX321", "Fixed network of another project", REACH, INDIRECT, cwe=923),
    why="An external network has members that this file does not show.",
    fix="use a network of the project",
    bad="services: {agent: {image: busybox, networks: [shared]}}\nnetworks: {shared: {external: true}}",
    good="services: {agent: {image: busybox, networks: [own]}}\nnetworks: {own: {}}",
)
def foreign_network(s: Subject) -> Iterator[Hit]:
    """External networks."""
    for network in s.networks:
        if network.external:
            message = f"the network {network.name} has members that this file does not show"
            yield Hit("networks", message, item=network.name)


# By log driver: the option with the address to which it sends, and what it sends to where that is not said. Those that
# are not here, plugins, send who knows where.
_RECEIVERS = {
    "syslog": ("syslog-address", ""),
    "fluentd": ("fluentd-address", ""),
    "gelf": ("gelf-address", ""),
    "splunk": ("splunk-url", "Splunk"),
    "awslogs": ("awslogs-endpoint", "Amazon CloudWatch"),
    "gcplogs": ("", "Google Cloud Logging"),
    "logentries": ("", "Logentries"),
}
_ON_THE_HOST = ("", "json-file", "local", "journald", "none", "etwlogs")


def receiver_of(driver: str, options: Mapping[str, str]) -> str | None:
    """Where a log driver sends what the container prints; None where that stays on the host."""
    if driver in _ON_THE_HOST:
        return None
    if driver not in _RECEIVERS:
        return f"where the log driver {driver} does"
    option, service = _RECEIVERS[driver]
    address = options.get(option, "")
    scheme, mark, rest = address.partition("://")
    host = (rest if mark else address).partition("/")[0].rpartition("@")[2]
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if scheme in ("unix", "unixgram") or name.lower() == "localhost" or _is_loopback(name):
        return None
    return host or service or None


@rule(
    about("SBX323", "Output sent to another host", REACH, STEP, cwe=(200, 532), nist="3.4.2"),
    why="What the agent prints leaves the host through the engine, whatever its own network may reach: secrets that it "
    "was given, too.",
    fix="use the driver local; send from the host what has been looked at",
    bad="services: {agent: {image: busybox, network_mode: none, logging: {driver: gelf, options: {gelf-address: "
    "'udp://logs.example.com:12201'}}}}",
    good="services: {agent: {image: busybox, network_mode: none, logging: {driver: local}}}",
)
def sent_output(s: Subject) -> Iterator[Hit]:
    """Log drivers that send to another host: syslog, gelf, fluentd and splunk by their address, services, plugins."""
    if (receiver := receiver_of(s.log_driver, s.log_options)) is not None:
        yield Hit("logging", f"what the container prints is sent to {receiver}")
