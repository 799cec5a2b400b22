"""Clients that the default image lacks, each without a setting: ssh, psql, musl's resolver, Go, Java.

Their packages are unpacked on this machine, and the sandbox gets their files.
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from msgspec import structs

from scripts import system
from tests.engine.outside import DENIED
from tests.engine.test_gateway import AUTHORITY, LISTED, Inside, open_inside

# Each client asks for a denied name of its own: one that is asked for again within seconds is recorded once.
ALLOW = (*LISTED, "db.example.com:5432", "ssh.example.com:22")
LIBRARIES = "usr/lib/x86_64-linux-gnu"


def bring(client: str, folder: Path) -> Path:
    """A client's files, below `folder`; skips where its packages can't be had."""
    target = folder / client
    try:
        for package in system.CLIENTS[client]:
            shutil.copytree(system.unpacked(package), target, symlinks=True, dirs_exist_ok=True)
    except SystemExit as error:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no {client} to bring along: {error}")
    return target


def build(client: docker.DockerClient, image: str, labels: Any, folder: Path, script: str) -> None:
    """Run a compiler in the image, with the folder at /w."""
    mounts = {str(folder): {"bind": "/w", "mode": "rw"}}
    client.containers.run(
        image, ["sh", "-ec", script], volumes=mounts, network_mode="none", labels=labels, user="0:0", remove=True
    )


FETCH_IN_C = r"""
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* fetch NAME: its address; fetch NAME PATH: what a plain request gets */
int main(int count, char **words) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    int error = getaddrinfo(words[1], "80", &hints, &found);
    if (error) {
        printf("%s\n", gai_strerror(error));
        return 1;
    }
    char text[4096];
    if (count == 2) {
        getnameinfo(found->ai_addr, found->ai_addrlen, text, sizeof text, 0, 0, NI_NUMERICHOST);
        puts(text);
        return 0;
    }
    int sock = socket(found->ai_family, SOCK_STREAM, 0);
    if (connect(sock, found->ai_addr, found->ai_addrlen)) {
        perror("connect");
        return 2;
    }
    int size = snprintf(text, sizeof text, "GET %s HTTP/1.0\r\nHost: %s\r\n\r\n", words[2], words[1]);
    write(sock, text, size);
    int all = 0;
    while (all < (int)sizeof text - 1 && (size = read(sock, text + all, sizeof text - 1 - all)) > 0) all += size;
    text[all] = 0;
    char *body = strstr(text, "\r\n\r\n");
    fputs(body ? body + 4 : text, stdout);
    return 0;
}
"""
MUSL = """
cd /w/musl && at=$(echo /w/musl/usr/lib/*-linux-musl) && headers=$(echo /w/musl/usr/include/*-linux-musl)
gcc -static -no-pie -nostdinc -nostdlib -isystem "$headers" -o /w/fetch "$at/crt1.o" "$at/crti.o" /w/fetch.c \
  "$at/libc.a" "$(gcc -print-libgcc-file-name)" "$at/libc.a" "$at/crtn.o"
"""


@pytest.fixture(scope="module")
def shared(
    engine_host: str,
    engine_client: docker.DockerClient,
    run_id: str,
    agent_image: str,
    gateway_image: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Inside]:
    folder = tmp_path_factory.mktemp("others")
    clients = folder / "clients"
    clients.mkdir()
    for client in ("ssh", "psql", "musl"):
        bring(client, clients)
    (clients / "fetch.c").write_text(FETCH_IN_C)
    build(engine_client, agent_image, {"sandboxrun.test": run_id}, clients, MUSL)
    yield from opened(engine_host, f"{run_id}-others", folder, agent_image)


def opened(host: str, project: str, folder: Path, image: str, **options: Any) -> Iterator[Inside]:
    volumes = ["./clients:/clients:ro", *options.pop("volumes", ())]
    for inside in open_inside(host, project, folder, image, volumes=volumes, **options):
        listed = structs.replace(inside, options={**inside.options, "egress": inside.egress(*ALLOW)})
        listed.world.apply(listed.profile())
        yield listed


@pytest.fixture
def inside(shared: Inside, engine_client: docker.DockerClient) -> Inside:
    shared.outside.seen.clear()
    shared.outside.names.asked.clear()
    return structs.replace(shared, earlier=len(shared.requests(engine_client)))


def refused_by_name(inside: Inside, client: docker.DockerClient, host: str) -> bool:
    """Whether a denied host's name was refused, recorded, and asked of nobody."""
    assert inside.recorded(client, host)["reason"] == "host"
    return host not in inside.outside.names.asked and inside.outside.seen == []


# -- ssh: the server speaks first, and the client does not say which host it wants


def disconnecting(peer: socket.socket) -> None:
    """A server of ssh that hears the client's first words, and ends the connection with a reason."""
    peer.sendall(b"SSH-2.0-example\r\n")
    line = b""
    while not line.endswith(b"\n"):
        line += peer.recv(1)
    assert line.startswith(b"SSH-2.0-OpenSSH")
    words = b"it was reached"
    payload = struct.pack(">BII", 1, 11, len(words)) + words + struct.pack(">I", 0)
    padding = 4 + (-(len(payload) + 9) % 8)
    peer.sendall(struct.pack(">IB", len(payload) + padding + 1, padding) + payload + bytes(padding))
    peer.recv(65536)


SSH = "/clients/ssh/usr/bin/ssh -F none -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"


def test_ssh(inside: Inside, engine_client: docker.DockerClient) -> None:
    server = inside.outside.speak(22, disconnecting)
    run = f"LD_LIBRARY_PATH=/clients/ssh/{LIBRARIES} {SSH} agent@"
    code, text = inside.sh(f"{run}ssh.example.com true")
    assert code == 255 and "it was reached" in text, text
    assert server.connections == 1
    record = inside.recorded(engine_client, "ssh.example.com")
    assert (record["protocol"], record["port"], record["verdict"]) == ("tcp", 22, "allowed")
    code, text = inside.sh(f"{run}ssh.{DENIED} true")
    assert code == 255 and "Could not resolve hostname" in text, text
    assert refused_by_name(inside, engine_client, f"ssh.{DENIED}") and server.connections == 1


# -- psql: the client asks for TLS in its own way first


def base(peer: socket.socket) -> None:
    """A server of PostgreSQL that has one row."""

    def message(kind: bytes, body: bytes) -> bytes:
        return kind + struct.pack(">I", len(body) + 4) + body

    def exactly(size: int) -> bytes:
        data = b""
        while len(data) < size:
            data += (piece := peer.recv(size - len(data)))
            if not piece:
                raise ConnectionError
        return data

    ready = message(b"Z", b"I")
    while True:
        size, code = struct.unpack(">II", exactly(8))
        exactly(size - 8)
        if code == 3 << 16:
            break
        peer.sendall(b"N")  # neither TLS nor GSSAPI
    settings = {b"server_version": b"15.0", b"client_encoding": b"UTF8", b"standard_conforming_strings": b"on"}
    told = [message(b"S", key + b"\0" + value + b"\0") for key, value in settings.items()]
    peer.sendall(message(b"R", bytes(4)) + b"".join(told) + ready)
    while (kind := exactly(1)) != b"X":
        exactly(struct.unpack(">I", exactly(4))[0] - 4)
        if kind == b"Q":
            column = struct.pack(">H", 1) + b"word\0" + struct.pack(">IHIHIH", 0, 0, 25, 0xFFFF, 0xFFFFFFFF, 0)
            row = struct.pack(">HI", 1, 6) + b"served"
            peer.sendall(message(b"T", column) + message(b"D", row) + message(b"C", b"SELECT 1\0") + ready)


def test_psql(inside: Inside, engine_client: docker.DockerClient) -> None:
    server = inside.outside.speak(5432, base)
    run = f"PGCONNECT_TIMEOUT=20 LD_LIBRARY_PATH=/clients/psql/{LIBRARIES}"
    run += " $(echo /clients/psql/usr/lib/postgresql/*/bin/psql) -XAt -U agent -d base -c 'select word' -h"
    assert inside.sh(f"{run} db.example.com") == (0, "served\n")
    record = inside.recorded(engine_client, "db.example.com")
    assert (record["protocol"], record["port"], record["verdict"]) == ("tcp", 5432, "allowed")
    code, text = inside.sh(f"{run} psql.{DENIED}")
    assert code == 2 and "could not translate host name" in text, text
    assert refused_by_name(inside, engine_client, f"psql.{DENIED}") and server.connections == 1
    code, text = inside.sh(f"{run} db.example.com -p 5433")
    assert code == 2 and "Connection refused" in text, text


# -- musl: one answer that says no to the other family would hide the name


def test_musl(inside: Inside, engine_client: docker.DockerClient) -> None:
    assert inside.run("/clients/fetch", "api.example.com", "/data") == (0, "served\n")
    assert inside.run("/clients/fetch", "x.models.example.org") == (0, f"{inside.address()}\n")
    inside.outside.seen.clear()
    code, text = inside.run("/clients/fetch", f"musl.{DENIED}", "/data")
    assert (code, text) == (1, "Name does not resolve\n")
    assert refused_by_name(inside, engine_client, f"musl.{DENIED}")


# -- Go and Java, whose compilers are large: each has a resolver, TLS and roots of its own

FETCH_IN_GO = """
package main

import ("fmt"; "io"; "net/http"; "os")

func main() {
    answer, err := http.Get(os.Args[1])
    if err != nil { fmt.Println(err); os.Exit(1) }
    io.Copy(os.Stdout, answer.Body)
}
"""
GO = """
ln -sfn /w/go/usr/share/go-1.19 /usr/share/go-1.19 && ln -sfn /w/go/usr/lib/go-1.19 /usr/lib/go-1.19 && cd /w
GOCACHE=/tmp/go GOPATH=/tmp/path GO111MODULE=off CGO_ENABLED=0 GOROOT=/usr/lib/go-1.19 \
  /usr/lib/go-1.19/bin/go build -o /w/fetch-go /w/fetch.go
"""
FETCH_IN_JAVA = """
import java.io.FileInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

class Fetch {
    public static void main(String[] words) throws Exception {
        KeyStore roots = KeyStore.getInstance(KeyStore.getDefaultType());
        roots.load(null, null);
        try (FileInputStream file = new FileInputStream(words[1])) {
            roots.setCertificateEntry("it", CertificateFactory.getInstance("X.509").generateCertificate(file));
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(roots);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, trust.getTrustManagers(), null);
        HttpClient client = HttpClient.newBuilder().sslContext(context).build();
        HttpRequest request = HttpRequest.newBuilder(URI.create(words[0])).build();
        System.out.print(client.send(request, HttpResponse.BodyHandlers.ofString()).body());
    }
}
"""


@pytest.mark.full
def test_go(
    engine_host: str,
    engine_client: docker.DockerClient,
    project: str,
    labels: Any,
    agent_image: str,
    gateway_image: str,
    tmp_path: Path,
) -> None:
    clients = tmp_path / "clients"
    bring("go", clients)
    (clients / "fetch.go").write_text(FETCH_IN_GO)
    build(engine_client, agent_image, labels, clients, GO)
    shutil.rmtree(clients / "go")
    for inside in opened(engine_host, project, tmp_path, agent_image):
        for scheme in ("https", "http"):
            assert inside.run("/clients/fetch-go", f"{scheme}://api.example.com/data") == (0, "served\n")
        inside.outside.seen.clear()
        code, text = inside.run("/clients/fetch-go", f"https://go.{DENIED}/data")
        assert code == 1 and "no such host" in text, text
        assert refused_by_name(inside, engine_client, f"go.{DENIED}")


@pytest.mark.full
def test_java(
    engine_host: str,
    engine_client: docker.DockerClient,
    project: str,
    agent_image: str,
    gateway_image: str,
    tmp_path: Path,
) -> None:
    clients = tmp_path / "clients"
    settings = next((bring("java", clients) / "etc").glob("java-*"))
    (clients / "Fetch.java").write_text(FETCH_IN_JAVA)
    java = "$(ls -d /clients/java/usr/lib/jvm/*/bin/java | head -1) -Xshare:off /clients/Fetch.java"
    volumes = [f"./{settings.relative_to(tmp_path)}:/etc/{settings.name}:ro"]
    for inside in opened(engine_host, project, tmp_path, agent_image, volumes=volumes, mem_limit="1g"):
        assert inside.sh(f"{java} https://api.example.com/data {AUTHORITY}") == (0, "served\n")
        inside.outside.seen.clear()
        code, text = inside.sh(f"{java} https://java.{DENIED}/data {AUTHORITY}")
        assert code == 1 and "UnresolvedAddressException" in text, text
        assert refused_by_name(inside, engine_client, f"java.{DENIED}")
