"""What a Compose file says, in every spelling; what nobody else finds; and what must stay silent."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandboxrun.audit.judge import ReviewTerms
from sandboxrun.compose.files import interpolate
from sandboxrun.lifecycle.review import review, targets
from tests.unit.audit.reviewing import TODAY, reviewed, rules_of

CLOSED = """
    image: busybox:1.36@sha256:{digest}
    user: "1000:1000"
    cap_drop: [ALL]
    security_opt: ["no-new-privileges:true"]
    read_only: true
    mem_limit: 256m
    memswap_limit: 256m
    cpus: 1
    pids_limit: 100
    ulimits: {{nofile: 1024, core: 0}}
    logging: {{driver: local}}
    healthcheck: {{test: [CMD, "true"]}}
    networks: [closed]
""".format(digest="0" * 64)
TOP = """
networks:
  closed: {internal: true, driver_opts: {com.docker.network.bridge.gateway_mode_ipv4: isolated}}
  out: {}
  h: {external: true, name: host}
secrets: {key: {file: ./key}, hosts: {file: /root/.ssh/id_rsa}}
volumes:
  data: {}
  share: {driver_opts: {type: cifs, device: //nas.example.com/s, o: 'username=me,password=hunter22,vers=3.0'}}
  disk: {driver_opts: {type: ext4, device: /dev/sda1}}
  system: {driver_opts: {type: none, o: 'rw,bind', device: '${ROOT:-/etc}'}}
  remote: {driver_opts: {type: nfs, device: ':/exports/data', o: 'addr=nas.example.com,nolock,soft'}}
  layers: {driver_opts: {type: overlay, device: overlay, o: 'lowerdir=/etc,upperdir=/srv/u,workdir=/srv/w'}}
  kernel: {driver_opts: {type: sysfs, device: sysfs}}
configs:
  settings: {content: "[db]\\npassword = correcthorsebattery\\n"}
  hosts: {file: /etc/shadow}
  beside: {file: ../other/settings}
  plain: {content: "[db]\\npassword_file = /run/secrets/key\\ntoken_ttl = 3600\\n"}
"""


def closed(options: str, top: str = TOP) -> str:
    """A hardened service with options more, of which each replaces the one that it has."""
    lines = CLOSED.strip("\n").splitlines()
    keys = {line.strip().partition(":")[0] for line in options.splitlines() if line and not line.startswith(" ")}
    kept = [line for line in lines if line.strip().partition(":")[0] not in keys]
    return "services:\n  agent:\n" + "\n".join([*kept, *(f"    {line}" for line in options.splitlines())]) + top


def found(directory: Path, text: str) -> list[str]:
    """The rules that a Compose file breaks."""
    verdict = reviewed(directory, text, "compose.yaml", ReviewTerms(today=TODAY, strict=True))
    assert verdict.gaps == (), verdict.gaps
    return rules_of(verdict)


def test_a_hardened_service_has_no_finding(tmp_path: Path) -> None:
    assert found(tmp_path, closed("")) == []


ONE_THING_MORE = {
    "privileged: Y": "SBX101",
    "volumes: ['layers:/s']": "SBX204",
    "volumes: ['kernel:/s']": "SBX204",
    "secrets: [hosts]": "SBX206",
    "configs: [hosts]": "SBX206",
    "configs: [beside]": "SBX208",
    "group_add: [0]": "SBX110",
    "group_add: [docker]": "SBX110",
    'security_opt: [no-new-privileges, "systempaths=unconfined"]': "SBX116",
    'security_opt: [no-new-privileges, "writable-cgroups=true"]': "SBX117",
    'security_opt: [no-new-privileges, "label=type:spc_t"]': "SBX115",
    'security_opt: [no-new-privileges, "label:disable"]': "SBX115",
    'security_opt: [no-new-privileges, "seccomp:unconfined"]': "SBX111",
    'security_opt: [no-new-privileges, "seccomp=unconfined"]': "SBX111",
    'security_opt: ["no-new-privileges:false"]': "SBX106",
    "cgroup: host": "SBX123",
    "device_cgroup_rules: ['a *:* rwm']": "SBX132",
    "devices: [/dev/kvm]": "SBX131",
    "devices: ['/dev/fuse:/dev/fuse']": "SBX131",
    "devices: [{source: /dev/mem, target: /dev/mem}]": "SBX130",
    "gpus: all": "SBX134",
    "deploy: {resources: {reservations: {devices: [{capabilities: [gpu]}]}}}": "SBX134",
    "sysctls: {net.ipv4.conf.all.route_localnet: 1}": "SBX140",
    "sysctls: ['net.ipv4.conf.all.route_localnet=1']": "SBX140",
    "oom_score_adj: -1000": "SBX143",
    "network_mode: container:other": "SBX126",
    "pid: service:other": "SBX126",
    "volumes_from: [other]": "SBX127",
    "use_api_socket: true": "SBX201",
    "volumes: [/run:/run]": "SBX201",
    "volumes: [{type: bind, source: /var/run/docker.sock, target: /x, read_only: true}]": "SBX201",
    "volumes: ['${DOCKER_SOCK:-/var/run/docker.sock}:/var/run/docker.sock']": "SBX201",
    "volumes: ['/run/user/1000/podman/podman.sock:/p.sock']": "SBX201",
    "volumes: ['${SSH_AUTH_SOCK}:/agent']": "SBX203",
    "volumes: ['/run/host-services/ssh-auth.sock:/agent']": "SBX203",
    "environment: {DOCKER_HOST: 'tcp://engine:2375'}": "SBX202",
    "volumes: ['$HOME:/h:ro']": "SBX206",
    "volumes: ['$HOME/.aws:/a:ro']": "SBX206",
    "volumes: ['~/.netrc:/a:ro']": "SBX206",
    "volumes: ['/root/.gitconfig:/a:ro']": "SBX206",
    "volumes: ['../..:/up']": "SBX207",
    "volumes: ['.:/work']": "SBX216",
    "volumes: ['./.git:/src/.git']": "SBX214",
    "volumes: ['./.vscode:/src/.vscode']": "SBX215",
    "volumes: ['/etc/passwd:/p:ro']": "SBX205",
    "volumes: ['/etc:/host']": "SBX204",
    "volumes: ['./data:/data:rw,rshared']": "SBX209",
    "volumes: [{type: bind, source: ./data, target: /data, bind: {propagation: rslave}}]": "SBX210",
    "tmpfs: /tmp": "SBX212",
    "volumes: [{type: tmpfs, target: /tmp}]": "SBX212",
    "networks: [out]": "SBX302",
    "networks: {out: null}": "SBX302",
    "networks: [closed, out]": "SBX314",
    "networks: [out]\nenvironment: ['HTTPS_PROXY=http://proxy.example.com:3128']": "SBX303",
    "extra_hosts: ['host.docker.internal:host-gateway']": "SBX308",
    "extra_hosts: ['md=169.254.169.254']": "SBX306",
    "extra_hosts: {md: 'fd00:ec2::254'}": "SBX306",
    "extra_hosts: {md: '::ffff:169.254.169.254'}": "SBX306",
    "dns: 8.8.8.8": "SBX312",
    "pids_limit: -1": "SBX404",
    "pids_limit: 0": "SBX404",
    "memswap_limit: -1": "SBX402",
    "ulimits: {nofile: {soft: 1024, hard: 1048576}, core: 0}": "SBX405",
    "logging: {driver: json-file}": "SBX407",
    "logging: {driver: syslog, options: {syslog-address: 'tcp+tls://192.0.2.1:6514'}}": "SBX323",
    "logging: {driver: gelf, options: {gelf-address: 'udp://${HOST}:12201'}}": "SBX323",
    "logging: {driver: fluentd, options: {fluentd-address: 'logs.example.com:24224'}}": "SBX323",
    "logging: {driver: fluentd, options: {fluentd-address: 'tcp://[2001:db8::1]:24224'}}": "SBX323",
    "logging: {driver: splunk, options: {splunk-url: 'https://u:p@logs.example.com:8088'}}": "SBX323",
    "logging: {driver: awslogs, options: {awslogs-group: x}}": "SBX323",
    "logging: {driver: gcplogs}": "SBX323",
    "logging: {driver: 'example/plugin:latest'}": "SBX323",
    "label_file: ../agent.labels": "SBX512",
    "label_file: [~/.npmrc]": "SBX512",
    "restart: always": "SBX409",
    "restart: unless-stopped": "SBX409",
    "deploy: {restart_policy: {condition: any}}": "SBX409",
    "environment: [AWS_SECRET_ACCESS_KEY]": "SBX503",
    "environment: {TOKEN: '${GITHUB_TOKEN}'}": "SBX503",
    "env_file: [../../other.env]": "SBX509",
    "environment: {COLOUR: 'ghp_0123456789abcdefghijklmnopqrstuvwxyzAB'}": "SBX501",
    "labels: {note: 'AKIA0123456789ABCDEF'}": "SBX502",
    "labels: ['note=AKIA0123456789ABCDEF']": "SBX502",
    "build: {context: ., args: {NPM: 'npm_0123456789abcdefghijklmnopqrstuvwxyz'}}": "SBX502",
    "build: {context: ., args: ['DB_PASSWORD=correcthorse']}": "SBX502",
    "command: [serve, --token, abcdef123456]": "SBX502",
    "post_start: [{command: x, user: root}]": "SBX606",
    "post_start: [{command: x, privileged: true}]": "SBX605",
    "build: {context: ., entitlements: [network.host]}": "SBX607",
    "build: {context: ., ssh: [default]}": "SBX608",
    "build: {context: ., network: host}": "SBX609",
    "build: 'https://git.example.com/a.git'": "SBX610",
    "provider: {type: x}": "SBX611",
    "working_dir: /proc/self/fd/7": "SBX603",
    "develop: {watch: [{path: /etc, action: sync, target: /etc}]}": "SBX612",
    "cap_dropp: [ALL]": "SBX613",
    "ports: ['8080:80']": "SBX316",
    "ports: [{target: 80, published: '8080'}]": "SBX316",
    "ports: ['192.0.2.5:8080:80']": "SBX317",
    "ports: ['2222:22']": "SBX320",
    "privileged: 'true'": "SBX101",
    "privileged: ${P:-true}": "SBX901",
    "user: 'root'": "SBX107",
    "user: '0'": "SBX107",
    "user: '1000:0'": "SBX107",
    "user: node": "SBX109",
    "read_only: false": "SBX211",
    "image: busybox": "SBX602",
    "image: 'registry.example.com:5000/a'": "SBX602",
    "image: busybox:1.36": "SBX601",
    "security_opt: [no-new-privileges, 'apparmor=Unconfined']": "SBX114",
    "volumes: ['//./pipe/docker_engine:/pipe']": "SBX201",
    "volumes: ['\\\\.\\pipe\\docker_engine:/pipe']": "SBX201",
    "volumes: ['${XDG_RUNTIME_DIR}/podman/podman.sock:/c']": "SBX201",
    "volumes: ['$XDG_RUNTIME_DIR:/run']": "SBX201",
    "volumes: ['//var/run/../run/docker.sock:/x']": "SBX201",
    "volumes: ['${HOME:?}/.aws:/x']": "SBX206",
    "volumes: ['C:\\Users\\me\\.ssh:/x']": "SBX206",
    "volumes: ['C:/:/x:ro']": "SBX205",
    "volumes: ['data:/data:shared']": "SBX209",
    "devices: ['/dev/mmcblk0:/x']": "SBX130",
    "runtime: nvidia": "SBX134",
    "networks: [h]\n": "SBX125",
    "mem_limit: -1": "SBX401",
    "mem_limit: 0": "SBX401",
    "logging: {driver: none}": "SBX413",
    "healthcheck: {disable: true}": "SBX414",
    "healthcheck: {test: [NONE]}": "SBX414",
    "healthcheck: {test: NONE}": "SBX414",
    "healthcheck: {test: 'redis-cli -a hunter2 ping'}": "SBX502",
    "healthcheck: {test: [CMD, mysqladmin, ping, -phunter2]}": "SBX502",
    "command: redis-server --requirepass foobared": "SBX502",
    "command: [sh, -c, 'curl -u user:pass https://example.com']": "SBX502",
    "command: sh -c 'PGPASSWORD=hunter2 psql'": "SBX502",
    "environment: {PGPASSWORD: hunter}": "SBX501",
    "environment: {dbPassword: abcdef}": "SBX501",
    "environment: {PASSWORD: 123456}": "SBX501",
    "environment: {ENCRYPTIONKEY: abcd}": "SBX501",
    "environment: {HEADER: 'Bearer abcdef0123456789'}": "SBX501",
    "environment: {PASSWORD: '${PASSWORD:-changeme}'}": "SBX501",
    "environment: ['PASSWORD=${PASSWORD:?missing}']": "SBX503",
    "environment: {TOKEN: '${GITHUB_TOKEN:-}'}": "SBX503",
    "environment: {MYSQL_ALLOW_EMPTY_PASSWORD: 'yes'}": "SBX511",
    "secrets: [{source: key, mode: 292}]": "SBX505",
    "secrets: [{source: key, mode: 0440}]": "SBX505",
    "ports: ['5432:5432']": "SBX320",
    "ports: ['80:8080']": "SBX322",
    "ports: [{target: 8080, published: 443, host_ip: 192.0.2.1}]": "SBX322",
    "build: {context: ., additional_contexts: {x: 'https://git.example.com/x.git'}}": "SBX610",
    "volumes: ['share:/s']": "SBX502",
    "volumes: ['disk:/s']": "SBX204",
    "volumes: [{type: volume, source: system, target: /s}]": "SBX204",
    "volumes: ['/lib/modules:/lib/modules']": "SBX204",
    "volumes: ['/etc/hosts:/etc/hosts']": "SBX204",
    "logging: {driver: splunk, options: {splunk-token: 176FCEBF-4CF5-4EDF-91BC-703796522D20, max-size: 1m}}": "SBX502",
    "deploy: {labels: {note: ghp_0123456789abcdefghijklmnopqrstuvwxyzAB}}": "SBX502",
    "build: {context: ., labels: ['note=ghp_0123456789abcdefghijklmnopqrstuvwxyzAB']}": "SBX502",
    "annotations: {note: ghp_0123456789abcdefghijklmnopqrstuvwxyzAB}": "SBX502",
    "post_start: [{command: [curl, -H, 'Authorization: Bearer abcdef0123456789abcdef'], user: '1000'}]": "SBX502",
    "pre_stop: [{command: x, user: '1000', environment: {DB_PASSWORD: correcthorse}}]": "SBX502",
    "configs: [settings]": "SBX510",
    "environment: {SQL: 'Server=db;Database=x;User Id=sa;Password=Str0ng!Pass;'}": "SBX501",
    "environment: {JDBC: 'jdbc:postgresql://db/x?user=app&password=hunter22'}": "SBX501",
    "environment: {JAVA_OPTS: '-Xmx1g -Djavax.net.ssl.keyStorePassword=changeit'}": "SBX501",
    "environment: {MYSQL_ROOT_PASSWORD: ''}": "SBX511",
    "environment: {GF_AUTH_ANONYMOUS_ENABLED: 'true'}": "SBX511",
    "command: ['--api.insecure=true', '--providers.docker=true']": "SBX511",
    "command: jupyter notebook --ip=0.0.0.0 --NotebookApp.token='' --allow-root": "SBX511",
    "command: redis-server --protected-mode no": "SBX511",
    "command: mongod --noauth": "SBX511",
    "user: '${UID}:${GID}'": "SBX108",
    "network_mode: other_net": "SBX302",
    "image: '${IMAGE}'": "SBX601",
    "image: 'nginx:${TAG}'": "SBX601",
    "build: {context: /srv/app}": "SBX616",
    "build: ~/app": "SBX616",
    "build: {context: ., args: {HTTP_PROXY: 'http://u:pa55word@p.example.com:3128'}}": "SBX506",
    "develop: {watch: [{path: ., action: sync+exec, target: /x, exec: {command: x, user: root}}]}": "SBX606",
}


@pytest.mark.parametrize("options", ONE_THING_MORE)
def test_one_thing_more_is_found(options: str, tmp_path: Path) -> None:
    assert ONE_THING_MORE[options] in found(tmp_path, closed(options))


SILENT = [
    "volumes: ['/etc/localtime:/etc/localtime:ro', '/etc/timezone:/etc/timezone:ro']",
    "volumes: ['./mock.sock:/var/run/docker.sock:ro']",
    "security_opt: [no-new-privileges]",
    "security_opt: ['no-new-privileges=true']",
    "logging: {driver: syslog}",
    "logging: {driver: syslog, options: {syslog-address: 'unixgram:///dev/log'}}",
    "logging: {driver: journald}",
    "logging: {driver: fluentd}",
    "logging: {driver: fluentd, options: {fluentd-address: 'localhost:24224'}}",
    "logging: {driver: gelf, options: {gelf-address: 'udp://[::1]:12201'}}",
    "cap_drop: [CAP_ALL]",
    "cap_drop: [all]",
    "cap_add: [NET_BIND_SERVICE]",
    "ports: ['[::1]:8080:80', '127.0.0.1:8081:81', 'localhost:1:1']",
    "environment: {TOKEN_TTL: 3600, PASSWORD_MIN_LENGTH: 12, MAX_TOKENS: 4096, SECRET_ROTATION_DAYS: 30d}",
    "environment: {API_KEY_FILE: /run/secrets/key, KEYBOARD: us, PWD: /work, MONKEY: yes}",
    "environment: {POSTGRES_PASSWORD_FILE: /run/secrets/key, AUTH_TOKEN_HEADER: X-Token}",
    "environment: {URL: 'https://example.com/a?b=c', PUBLIC_KEY: abcdef123456}",
    "secrets: [key]",
    "mem_limit: null\nmemswap_limit: 256m\ndeploy: {resources: {limits: {memory: 256m, cpus: '1', pids: 10}}}",
    "volumes: ['data:/data']",
    "restart: 'no'",
    "restart: on-failure:3",
    "tmpfs: ['/tmp:size=16m']",
    "x-note: anything",
    "volumes: ['./docker.sock:/var/run/docker.sock']",
    "environment: {TOKEN_LIMIT: 4096, PASSWORD_RETRIES_MAX: 5, KEY_ROTATION_DAYS: 30, API_KEY: '${X-}'}",
    "secrets: [{source: key, mode: 256}]",
    "secrets: [{source: key, mode: '0400'}]",
    "command: [serve, --token-file, /run/secrets/key, '--password=$PASSWORD']",
    "command: sh -c 'curl -u $USER:$PASS https://example.com'",
    "healthcheck: {test: 'redis-cli -a $$PASS ping'}",
    "volumes: ['remote:/data']",
    "volumes: ['/lib/modules:/lib/modules:ro', '/etc/ssl/certs:/etc/ssl/certs:ro']",
    "configs: [plain]",
    "sysctls: {net.core.somaxconn: 1024}",
    "environment: {API_TOKEN_NAME: ci, PASSWORD_HASHER: argon2, KMS_KEY_ARN: 'arn:aws:kms:eu-west-1:1:key/x'}",
    "environment: {PARTITION_KEY: id, SORT_KEY: name, CACHE_KEY_PREFIX: app, PRIMARY_KEY: uuid, SECRET_STORE: vault}",
    "environment: {JAVA_OPTS: '-Xmx1g -Dpassword.file=/run/secrets/key'}",
    "environment: {SQL: 'Server=db;Database=x;Integrated Security=true;Token Timeout=30'}",
    "logging: {driver: json-file, options: {max-size: 10m, tag: '{{.Name}}', labels: 'key=value'}}",
    "post_start: [{command: [curl, -H, 'Authorization: Bearer $$TOKEN'], user: '1000'}]",
    "annotations: {com.example.key: '1', com.example.token-ttl: 3600s}",
    "command: [serve, --auth, required, --no-authors]",
    "build: {context: ./app, args: {VERSION: '1.2', KEY_SIZE: '4096'}, labels: {a: b}}",
]


@pytest.mark.parametrize("options", SILENT)
def test_what_is_harmless_stays_silent(options: str, tmp_path: Path) -> None:
    assert found(tmp_path, closed(options)) == []


def test_a_seccomp_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "all.json").write_text('{"defaultAction": "SCMP_ACT_ALLOW"}')
    assert found(tmp_path, closed("security_opt: [no-new-privileges, 'seccomp:all.json']")) == ["SBX112"]


def test_a_seccomp_file_that_is_not_there_is_a_gap(tmp_path: Path) -> None:
    text = closed("security_opt: [no-new-privileges, 'seccomp:none.json']")
    assert [gap.what for gap in reviewed(tmp_path, text, "compose.yaml").gaps] == ["none.json"]


def test_an_override_file_is_merged(tmp_path: Path) -> None:
    (tmp_path / "compose.override.yaml").write_text("services:\n  agent:\n    privileged: true\n")
    verdict = reviewed(tmp_path, closed(""), "compose.yaml")
    assert rules_of(verdict) == ["SBX101"]
    assert str(verdict.findings[0].span).endswith("compose.override.yaml:3:17")


def test_an_override_file_that_is_named_goes_with_its_file(tmp_path: Path) -> None:
    names = ("compose.override.yaml", "compose.yaml")
    for name in names:
        (tmp_path / name).write_text("services: {a: {image: x}}\n")
    every, _ = targets([tmp_path / name for name in names])
    assert [target.paths for target in every] == [(tmp_path / "compose.yaml", tmp_path / "compose.override.yaml")]


OVERRIDDEN = [
    ("compose.yaml", "docker-compose.override.yml"),
    ("compose.yml", "compose.override.yaml"),
    ("docker-compose.yml", "compose.override.yml"),
    ("docker-compose.yaml", "docker-compose.override.yml"),
]


@pytest.mark.parametrize(("name", "override"), OVERRIDDEN)
@pytest.mark.parametrize("given", ["directory", "file", "override"])
def test_any_override_file_that_compose_takes_is_merged(name: str, override: str, given: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(closed(""))
    (tmp_path / override).write_text("services: {agent: {privileged: true}}\n")
    path = {"directory": tmp_path, "file": tmp_path / name, "override": tmp_path / override}[given]
    every, gaps = targets([path])
    assert (gaps, [target.paths for target in every]) == ((), [(tmp_path / name, tmp_path / override)])
    assert rules_of(review(every, ReviewTerms(today=TODAY))) == ["SBX101"]


def test_of_several_override_files_none_is_left_out(tmp_path: Path) -> None:
    """Compose takes the first of them, an older one that which is called like its file."""
    for name in ("compose.yaml", "docker-compose.yml"):
        (tmp_path / name).write_text(closed(""))
    for name in ("compose.override.yml", "docker-compose.override.yml"):
        (tmp_path / name).write_text("services: {agent: {}}\n")
    every, _ = targets([tmp_path])
    assert sorted([path.name for path in target.paths] for target in every) == [
        ["compose.yaml", "compose.override.yml"],
        ["compose.yaml", "docker-compose.override.yml"],
        ["docker-compose.yml", "docker-compose.override.yml"],
    ]


@pytest.mark.parametrize("separator", [":", ","])
def test_files_that_the_env_file_names_instead_are_found(separator: str, tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text(closed(""))
    (tmp_path / "low.yaml").write_text(closed(""))
    (tmp_path / "high.yaml").write_text("services: {agent: {privileged: true}}\n")
    (tmp_path / ".env").write_text(f"COMPOSE_PATH_SEPARATOR={separator}\nCOMPOSE_FILE=low.yaml{separator}high.yaml\n")
    every, gaps = targets([tmp_path])
    assert [[path.name for path in target.paths] for target in every] == [["low.yaml", "high.yaml"], ["compose.yaml"]]
    assert rules_of(review(every, ReviewTerms(today=TODAY), gaps=gaps)) == ["SBX101"]


def test_a_file_that_the_env_file_names_and_that_is_not_there_is_a_gap(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("COMPOSE_FILE=/etc/other.yaml\n")
    every, _ = targets([tmp_path])
    assert [gap.why for gap in review(every, ReviewTerms(today=TODAY)).gaps] == ["it cannot be read"]


# What no reader of the file sees at once: the options, the files beside it, and the rule that says it.
HIDDEN: list[tuple[str, dict[str, str], str]] = [
    ("volumes: ['${A:-${B:-${C:-${D:-/var/run/docker.sock}}}}:/s']", {}, "SBX201"),
    ("volumes: ['${HOME:+/var/run/docker.sock}:/s']", {}, "SBX201"),
    ("volumes: ['${HOME:-./data}/.ssh:/s:ro']", {}, "SBX206"),
    ("volumes: ['${HOME}/.ssh:/s:ro']", {".env": "HOME=./data"}, "SBX206"),
    ("volumes: ['${A:-./data}:/s']", {".env": "B=/var/run\nA=${B}/docker.sock"}, "SBX201"),
    ("volumes: ['${A:-./data}:/s']", {".env": "A: /var/run/docker.sock"}, "SBX201"),
    ("volumes: ['${A:-./data}:/s']", {".env": "B='a\nb' A=/var/run/docker.sock # text"}, "SBX201"),
    ("volumes: ['${A:-./data}:/s']", {".env": 'export A="/var/run/${B:-docker}.sock"'}, "SBX201"),
    ("volumes: ['${A:?}:/s']", {}, "SBX901"),
    ("volumes: [{type: bind, source: '$A', target: /s}]", {}, "SBX901"),
    ("cgroup: '${C:-private}'", {}, "SBX901"),
    ("networks:", {}, "SBX302"),
]


@pytest.mark.parametrize(("options", "files", "rule"), HIDDEN)
def test_what_is_hidden_is_found(options: str, files: dict[str, str], rule: str, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text + "\n")
    assert rule in found(tmp_path, closed(options))


def test_an_environment_file_that_compose_would_not_read_is_a_gap(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("A=1\nB='open\n")
    gaps = reviewed(tmp_path, closed(""), "compose.yaml").gaps
    assert [(Path(gap.what).name, gap.why) for gap in gaps] == [(".env:2", "it is not NAME=value")]


def test_the_network_that_a_service_is_on_by_default_may_be_the_hosts(tmp_path: Path) -> None:
    top = "\nnetworks: {default: {name: host, external: true}}\n"
    text = "\n".join(line for line in closed("", top).splitlines() if "networks: [closed]" not in line)
    assert "SBX125" in found(tmp_path, text)


def test_a_path_counts_from_the_directory_of_its_own_file(tmp_path: Path) -> None:
    """Wherever that is: an include may name any, and an extended file has its own."""
    (tmp_path / "sub").mkdir()
    other = closed("volumes: ['.:/a', {type: bind, source: etc, target: /b}]", "\n").replace("agent:", "other:")
    (tmp_path / "sub/other.yaml").write_text(other + "secrets: {key: {file: root/.ssh/id_rsa}}\n")
    include = "include: [{path: [sub/other.yaml], project_directory: /}]\n"
    assert {"SBX204"} <= set(found(tmp_path, include + closed("")))
    base = "services: {base: {image: x, volumes: ['../../x:/x'], env_file: agent.env}}\n"
    (tmp_path / "sub/base.yaml").write_text(base)
    (tmp_path / "sub/agent.env").write_text("GH=ghp_0123456789abcdefghijklmnopqrstuvwxyzAB\n")
    verdict = reviewed(tmp_path, closed("extends: {file: sub/base.yaml, service: base}"), "compose.yaml")
    assert {"SBX207", "SBX501"} <= set(rules_of(verdict))
    inside = "services: {base: {image: x, volumes: ['../x:/x']}}\n"
    (tmp_path / "sub/base.yaml").write_text(inside)
    assert found(tmp_path, closed("extends: {file: sub/base.yaml, service: base}")) == []


def test_variables_of_an_include_come_from_its_files_and_from_those_above(tmp_path: Path) -> None:
    other = closed("volumes: ['${A:-./data}:/a', '${B:-./data}:/b']", "").replace("agent:", "other:")
    (tmp_path / "other.yaml").write_text(other)
    (tmp_path / "more.txt").write_text("A=/etc\nB=./inside\n")
    include = "include: [{path: other.yaml, env_file: more.txt}]\n"
    assert {"SBX201", "SBX204"} & set(found(tmp_path, include + closed(""))) == {"SBX204"}
    (tmp_path / ".env").write_text("A=./inside\nB=/var/run/docker.sock\n")
    assert {"SBX201", "SBX204"} & set(found(tmp_path, include + closed(""))) == {"SBX201"}


def test_links_of_the_repository_are_followed(tmp_path: Path) -> None:
    """As an engine follows them: where they lead out, that is what is mounted."""
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").touch()
    (tmp_path / "data").symlink_to("/")
    (tmp_path / "key").symlink_to("/etc/shadow")
    (tmp_path / "in").symlink_to("inner")
    assert found(tmp_path, closed("volumes: ['./data/etc:/s']")) == ["SBX204"]
    assert found(tmp_path, closed("secrets: [key]")) == ["SBX206"]
    assert found(tmp_path, closed("volumes: ['./in/data:/s']")) == []


def test_a_build_is_given_what_lies_in_the_repository_only(tmp_path: Path) -> None:
    """Where a Dockerfile of the repository takes it from: a context, and files that it is given as secrets."""
    (tmp_path / "repository/.git").mkdir(parents=True)
    (tmp_path / "repository/.git" / "HEAD").touch()
    (inner := tmp_path / "repository/sub").mkdir()
    (inner / "out").symlink_to("/etc")
    for context in ("../..", "out", "./out/ssh"):
        for build in (context, f"{{context: '{context}'}}", f"{{additional_contexts: {{a: '{context}'}}}}"):
            assert found(inner, closed(f"build: {build}")) == ["SBX616"], build
    for context in ("..", ".", "../app", "https://example.com/app.git"):
        assert "SBX616" not in found(inner, closed(f"build: {context}"))
    assert found(inner, closed("build: {context: ., secrets: [hosts]}")) == ["SBX206"]
    assert found(inner, closed("build: {context: ., secrets: [{source: key, target: k}]}")) == []


def test_what_a_service_takes_over_of_another_is_judged_with_it(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("services: {base: {image: x, volumes_from: ['container:other']}}\n")
    assert "SBX127" in found(tmp_path, closed("extends: {file: base.yaml, service: base}"))


@pytest.mark.parametrize("tag", ["!reset", "!re%73et", "!e!set"])
def test_a_reset_in_any_spelling_takes_away(tag: str, tmp_path: Path) -> None:
    text = f"%TAG !e! !re\n---\n{closed(f'cap_drop: {tag} [ALL]')}"
    assert found(tmp_path, text) == ["SBX105"]


INTERPOLATED = {
    "$A/${A}/$$A/$${A}": "a/a/$A/${A}",
    "${N:-${M-x}y}z": "xyz",
    "${E:-x}${E-x}": "x",
    "${A:+x${A}}${E:+x}${E+x}${N+x}": "xaxx",
    "${A:?no {braces} end}b": "ab",
    "${N:?told}$N": "${N:?told}$N",
    "${N:-{a}}": "{a}",
    "${N:-a": "${N:-a",
    "${!}$ $1 ${": "${!}$ $1 ${",
    "}{${A}": "}{a",
    "$Aé": "aé",
    "${HOME:-x}": "${HOME}",
}


@pytest.mark.parametrize("text", INTERPOLATED)
def test_interpolation(text: str) -> None:
    assert interpolate(text, {"A": "a", "E": ""}) == INTERPOLATED[text]


def test_interpolation_of_any_depth_takes_a_time_that_grows_with_the_text() -> None:
    assert interpolate("${N:-" * 10_000 + "/" + "}" * 10_000, {}) == "/"


def test_variables_that_multiply_end(tmp_path: Path) -> None:
    doubling = "A0=" + "x" * 1000 + "\n" + "".join(f"A{n + 1}=$A{n}$A{n}\n" for n in range(60))
    many = "B=" + "y" * 200_000 + "\n" + "".join(f"C{n}=$B\n" for n in range(5_000))
    lists = ", ".join(["$B$B$B"] * 5_000)
    for text in (doubling, many, "B=" + "y" * 200_000):
        (tmp_path / ".env").write_text(text)
        options = f"environment: [{lists}]\nvolumes: ['${{N:+$B$B}}/var/run/docker.sock:/s', '${{N-/etc}}:/e']"
        verdict = reviewed(tmp_path, closed(options), "compose.yaml")
        assert {"SBX204", "SBX901"} <= set(rules_of(verdict)) or verdict.gaps, text[:10]


def test_values_of_the_env_file_are_filled_in(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("WHERE=/etc\n")
    assert "SBX204" in found(tmp_path, closed("volumes: ['${WHERE:-./data}:/x']"))


def test_an_env_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "agent.env").write_text("A=1\nGH=ghp_0123456789abcdefghijklmnopqrstuvwxyzAB\n")
    verdict = reviewed(tmp_path, closed("env_file: agent.env"), "compose.yaml")
    assert rules_of(verdict) == ["SBX501"]
    assert str(verdict.findings[0].span).endswith("agent.env:2:4")


def test_a_label_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "agent.labels").write_text("a=1\nnote=ghp_0123456789abcdefghijklmnopqrstuvwxyzAB\n")
    verdict = reviewed(tmp_path, closed("label_file: agent.labels"), "compose.yaml")
    assert rules_of(verdict) == ["SBX502"]
    assert str(verdict.findings[0].span).endswith("agent.labels:2:6")
    assert rules_of(reviewed(tmp_path, closed("label_file: agent.labels\nlabels: {note: x}"), "compose.yaml")) == []


def test_extends_and_anchors(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("services:\n  base:\n    cap_add: [SYS_ADMIN]\n    image: busybox\n")
    text = (
        "x-common: &common\n  pid: host\nservices:\n  agent:\n    <<: *common\n"
        "    extends: {file: base.yaml, service: base}\n"
    )
    verdict = reviewed(tmp_path, text, "compose.yaml")
    places = {finding.rule: str(finding.span).rpartition("/")[2] for finding in verdict.findings}
    assert places["SBX102"] == "base.yaml:3:15"
    assert places["SBX120"] == "compose.yaml:2:8"


def test_include(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more/compose.yaml").write_text("services: {other: {image: busybox, privileged: true}}\n")
    verdict = reviewed(tmp_path, "include: [more/compose.yaml]\n" + closed(""), "compose.yaml")
    assert "SBX101" in rules_of(verdict)


def test_a_file_outside_of_the_repository_is_a_gap(tmp_path: Path) -> None:
    inner = tmp_path / "project"
    (inner / ".git").mkdir(parents=True)
    (inner / ".git" / "HEAD").touch()
    (tmp_path / "secret.yaml").write_text("services: {base: {image: x}}\n")
    verdict = reviewed(inner, "services: {a: {extends: {file: ../secret.yaml, service: base}}}", "compose.yaml")
    assert len(verdict.gaps) == 1
    assert "cannot be read" in verdict.gaps[0].why


def project(directory: Path, *texts: str) -> list[str]:
    """The rules that several files break together, later ones merged over earlier ones."""
    paths = [directory / f"compose.{number}.yaml" for number in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text)
    verdict = review(targets((), compose=paths)[0], ReviewTerms(today=TODAY))
    assert verdict.gaps == (), verdict.gaps
    return rules_of(verdict)


WIDE = closed("privileged: true\ncap_add: [SYS_ADMIN, NET_ADMIN]\nports: ['8080:80', '9090:90']")
RESETS = {
    "services: {agent: {privileged: !reset false, cap_add: !reset [], ports: !reset []}}": [],
    "services: {agent: {privileged: !reset true, cap_add: !reset null, ports: !override ['127.0.0.1:8080:80']}}": [],
    "services:\n  agent:\n    privileged: false\n    cap_add: !override\n      - NET_ADMIN\n    ports: !reset": [
        "SBX103"
    ],
    "services: {agent: !reset null}": [],
    "services: {agent: !override {image: x}}": None,
    "services: !reset {}": [],
}


@pytest.mark.parametrize("text", RESETS)
def test_reset_and_override(text: str, tmp_path: Path) -> None:
    told = project(tmp_path, WIDE, text)
    wanted = RESETS[text]
    assert "SBX101" not in told
    assert told == wanted if wanted is not None else "SBX108" in told


def test_what_is_reset_can_be_set_again(tmp_path: Path) -> None:
    reset = "services: {agent: {cap_add: !reset []}}"
    again = "services: {agent: {privileged: false, ports: !reset [], cap_add: [NET_ADMIN]}}"
    assert project(tmp_path, WIDE, reset, again) == ["SBX103"]


def test_reset_of_what_is_extended(tmp_path: Path) -> None:
    text = "  base: {cap_drop: [ALL], privileged: true}\n" + "  agent2: {extends: base, privileged: !reset null}\n"
    assert "SBX101" not in project(tmp_path, "services:\n" + text.replace("privileged: true", "pid: host"))
    verdict = reviewed(tmp_path, "services:\n" + text, "compose.yaml")
    assert [one.subjects for one in verdict.findings if one.rule == "SBX101"] == [("base",)]


def test_later_documents_override_earlier_ones(tmp_path: Path) -> None:
    more = "---\nservices: {agent: {privileged: true}}\n---\n"
    assert found(tmp_path, closed("") + more) == ["SBX101"]
    last = "services: {agent: {privileged: false, cap_add: !reset [], ports: !reset []}}\n"
    assert found(tmp_path, WIDE + "---\n" + last) == []


def test_includes_that_multiply_end(tmp_path: Path) -> None:
    for number in range(9):
        names = ", ".join([f"'{number + 1}.yaml'"] * 50)
        (tmp_path / f"{number}.yaml").write_text(f"include: [{names}]\nservices: {{s{number}: {{image: x}}}}\n")
    (tmp_path / "9.yaml").write_text("include: ['0.yaml']\nservices: {}\n")
    verdict = review(targets([tmp_path / "0.yaml"])[0], ReviewTerms(today=TODAY))
    assert any("include goes in a circle" in gap.why for gap in verdict.gaps)


GAPS = [
    "version: '3'",
    "services:",
    "services: [a]",
    "services: {a: text}",
    "include: other.yaml\nservices: {a: {image: x}}",
]


@pytest.mark.parametrize("text", GAPS)
def test_what_is_no_compose_file_is_not_clean(text: str, tmp_path: Path) -> None:
    assert len(reviewed(tmp_path, text, "compose.yaml").gaps) == 1


def test_the_first_format_of_compose(tmp_path: Path) -> None:
    verdict = reviewed(tmp_path, "web:\n  image: x\n  net: host\n  privileged: true\n", "docker-compose.yml")
    assert {"SBX101", "SBX125"} <= set(rules_of(verdict))
    assert verdict.subjects == ("web",)
    assert verdict.gaps == ()


@pytest.mark.parametrize("text", ["services: [", "services: {a: {image: x}}\n---\n[]", "a: &a [*a]\nservices: {}"])
def test_a_file_that_cannot_be_read_is_a_gap(text: str, tmp_path: Path) -> None:
    assert len(reviewed(tmp_path, text, "compose.yaml").gaps) == 1


def test_a_directory_is_searched(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/compose.yml").write_text("services: {a: {image: x, privileged: true}}\n")
    (tmp_path / "a/docker-compose.override.yml").write_text("services: {}\n")
    (tmp_path / "agents.yaml").write_text("sandboxes: {b: {image: x}}\n")
    (tmp_path / "other.yaml").write_text("kind: Other\n")
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules/compose.yml").write_text("services: {c: {image: x}}\n")
    every, gaps = targets([tmp_path])
    assert gaps == ()
    assert [str(target.paths[0].relative_to(tmp_path)) for target in every] == ["agents.yaml", "a/compose.yml"]
    assert review(every, ReviewTerms(today=TODAY)).subjects == ("b", "a")
