"""5xx, secrets: where credentials stand, and what a sandbox could do with what it knows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from sandboxrun.audit.credentials import (
    CLOUD,
    LONGEST_COMMAND,
    assigned,
    credential_url,
    form_of,
    in_words,
    is_literal,
    names_secret,
    one_spelling,
)
from sandboxrun.audit.finding import DATA, DIRECT, INDIRECT, STEP, Hit, about, rule
from sandboxrun.audit.subject import Subject


@rule(
    about("SBX501", "Secret in the environment", DATA, DIRECT, cis="4.10", cwe=(798, 526), nist=("3.1.4", "4.1.4")),
    why="The file is in the repository, for all who read it and for ever; the variable is seen by every process "
    "inside, and by whoever may inspect the container.",
    fix="use secrets, and read the file below /run/secrets; then replace the credential, which is known now",
    bad="environment: {API_TOKEN: 9f2c1d7be04a}",
    good="secrets: [api_token]",
)
def literal_environment(s: Subject) -> Iterator[Hit]:
    """A literal credential in environment, by name or by form."""
    for name, value in s.environment.items():
        if value is None:
            continue
        form = form_of(value)
        if form is not None:
            yield Hit("environment", f"{name} holds {form}", item=name)
        elif not credential_url(value) and ((names_secret(name) and is_literal(name, value)) or assigned(value)):
            yield Hit("environment", f"{name} holds a credential in plain text", item=name)


@rule(
    about("SBX502", "Secret in arguments or labels", DATA, DIRECT, cwe=(798, 214), nist="3.1.4"),
    why="Arguments are seen by every process of the machine, labels by whoever may list containers.",
    fix="use secrets, and read the file below /run/secrets; then replace the credential",
    bad="command: [run, --password=hunter2hunter]",
    good="command: [run, --password-file=/run/secrets/password]",
)
def literal_arguments(s: Subject) -> Iterator[Hit]:
    """Credentials in command, entrypoint, labels, build arguments, and options of log and volume drivers."""
    hooks = ((hook.key, hook.command) for hook in s.hooks)
    for key, words in (
        ("command", s.command), ("entrypoint", s.entrypoint), ("healthcheck", s.health_test), *hooks
    ):  # fmt: skip
        yield from (Hit(key, message) for message in dict.fromkeys(in_words(key, words)))
    for hook in s.hooks:
        if any(_held(name, value) for name, value in hook.environment.items()):
            yield Hit(hook.key, f"the environment of {hook.key} holds a credential")
    for name, value in s.labels.items():
        if held := _held(name, value):
            yield Hit("labels", f"the label {name} holds {held}", item=name)
    for name, value in s.build.args.items() if s.build is not None else ():
        if held := _held(name, value):
            yield Hit("build", f"the build argument {name} holds {held}, which stays in the image", item=name)
    for name, value in s.log_options.items():
        if held := _held(name, value):
            yield Hit("logging", f"the log driver's option {name} holds {held}", item=name)
    for note in s.notes:
        if (held := _held(note.name, note.text)) or assigned(note.text):
            yield Hit(note.key, f"{note.what} holds {held or 'a credential'}", item=note.item)


def _held(name: str, value: str | None) -> str:
    """What credential a named text is; "" for none."""
    form = form_of(value) if value else None
    return form or ("a credential" if names_secret(name) and is_literal(name, value) else "")


@rule(
    about("SBX503", "Credential of the caller passed on", DATA, STEP, cwe=(526, 522), nist="3.1.4"),
    why="The container gets the credential of whoever starts it, with all that it opens, and every process inside sees "
    "it.",
    fix="make a credential for the task, with the rights that it needs, and give it as a secret",
    bad="environment: [AWS_SECRET_ACCESS_KEY]",
    good="environment: [CI]",
)
def passed_on(s: Subject) -> Iterator[Hit]:
    """Names without a value, and interpolations of a variable, that hold credentials."""
    for name, value in s.environment.items():
        if name in s.masked:
            continue
        given = s.passed.get(name, ()) if value is not None else (name,)
        source = next((one for one in given if one.upper() in CLOUD or names_secret(one)), None)
        if source is not None:
            yield Hit("environment", f"{name} takes over the caller's {source}", item=name)


@rule(
    about("SBX504", "Secret as a variable", DATA, INDIRECT, cwe=526, nist="3.1.4"),
    why="A variable is inherited by every process and shown by inspect; a file with mode 0400 is not.",
    fix="declare it below secrets, and read /run/secrets/NAME",
    bad="variables: {key: {type: string, sensitive: true, required: false}}\n"
    "sandboxes: {agent: {environment: {API_KEY: \"{{ key or 'unset-key' }}\"}}}",
    good="secrets: [api_key]",
)
def secret_variable(s: Subject) -> Iterator[Hit]:
    """A sensitive value of a template in environment."""
    for name in s.masked:
        yield Hit("environment", f"{name} holds a sensitive value", item=name)


@rule(
    about("SBX505", "Secret readable by others", DATA, INDIRECT, cwe=732, nist="3.1.4"),
    why="With this mode other users inside read the secret.",
    fix="leave out mode: 0400 is the default",
    bad="secrets: [{source: api_key, mode: 0444}]",
    good="secrets: [api_key]",
)
def open_secret(s: Subject) -> Iterator[Hit]:
    """A mode with more than the owner's rights."""
    for secret in s.secrets:
        if secret.mode & 0o077:
            yield Hit("secrets", f"the secret {secret.name} has mode {secret.mode:04o}", item=secret.name)


@rule(
    about("SBX506", "Credential in an address", DATA, DIRECT, cwe=(798, 522), nist="3.1.4"),
    why="Addresses are logged and shown in errors, with the password that stands in them.",
    fix="give the credential by a secret, and leave it out of the address",
    bad="environment: {DATABASE_URL: 'postgres://app:s3cretpass@db.example.com/app'}",
    good="environment: {DATABASE_URL: 'postgres://db.example.com/app'}",
)
def credentials_in_url(s: Subject) -> Iterator[Hit]:
    """URLs with a password, wherever they stand."""
    for name, value in s.environment.items():
        if value is not None and credential_url(value):
            yield Hit("environment", f"{name} holds an address with a password", item=name)
    for key, words in (("command", s.command), ("entrypoint", s.entrypoint)):
        if any(credential_url(word) for word in words):
            yield Hit(key, f"{key} holds an address with a password")
    for name, value in s.labels.items():
        if credential_url(value):
            yield Hit("labels", f"the label {name} holds an address with a password", item=name)
    if s.build is not None and credential_url(s.build.context):
        yield Hit("build", "the build's context is an address with a password")
    for name, value in s.build.args.items() if s.build is not None else ():
        if credential_url(value):
            yield Hit("build", f"the build argument {name} holds an address with a password", item=name)


def _secrets_of(s: Subject) -> list[str]:
    variables = [name for name, value in s.environment.items() if value is None and names_secret(name)]
    return [*(secret.name for secret in s.secrets), *s.masked, *variables]


def _private_data(s: Subject) -> str | None:
    if s.workspace is not None:
        return "the workspace"
    bind = next((mount for mount in s.mounts if mount.kind == "bind"), None)
    return f"{bind.target}" if bind is not None else None


@rule(
    about("SBX507", "Secret, private data and an open way out", DATA, DIRECT, cwe=(200, 923), nist="3.4.2"),
    why="An agent that reads a hostile text can be talked into sending what it holds. With a secret, private files and "
    "every host within reach nothing stands in its way.",
    fix="list the destinations under egress.allow, or take one of the three away",
    bad="secrets: [api_key]\nworkspace: {source: .}\negress: open",
    good="secrets: [api_key]\nworkspace: {source: .}\negress: {allow: ['api.example.com:443']}",
)
def trifecta(s: Subject) -> Iterator[Hit]:
    """The correlation that matters most."""
    held, data = _secrets_of(s), _private_data(s)
    out = s.open_network or (s.reach is not None and s.reach.mode == "open")
    if held and data and out and s.kind != "container":
        key = "egress" if s.reach is not None and s.via("egress") == "" else "network_mode" if s.reach else "networks"
        yield Hit(key, f"holds {held[0]}, reads {data}, and every host can be reached")


@rule(
    about("SBX508", "Secret and private data within reach of others", DATA, INDIRECT, cwe=(200, 923), nist="3.4.2"),
    why="A listed destination that takes uploads from anybody is as good as an open way out.",
    fix="list only destinations whose accounts are yours",
    bad="secrets: [api_key]\nworkspace: {source: .}\negress: {allow: ['gist.github.com:443']}",
    good="secrets: [api_key]\nworkspace: {source: .}\negress: {allow: ['api.example.com:443']}",
)
def upload_anywhere(s: Subject) -> Iterator[Hit]:
    """The same with destinations where anybody may receive."""
    held, data = _secrets_of(s), _private_data(s)
    if not held or not data or s.reach is None:
        return
    for destination in s.reach.allow:
        host = destination.rpartition(":")[0].removeprefix("*.")
        known = host in _UPLOADS or any(host.endswith(f".{name}") for name in _UPLOADS)
        if known or host.partition(".")[0] in _TAKES:
            message = f"holds {held[0]}, reads {data}, and {destination} takes uploads from anybody"
            yield Hit("egress", message, item=destination)


_UPLOADS = (
    "github.com", "gist.github.com", "api.github.com", "uploads.github.com", "gitlab.com", "bitbucket.org",
    "pastebin.com", "s3.amazonaws.com", "storage.googleapis.com", "dropbox.com", "drive.google.com", "slack.com",
    "discord.com", "api.telegram.org", "webhook.site", "transfer.sh", "file.io", "huggingface.co",
)  # fmt: skip
_TAKES = ("registry", "upload", "uploads")  # the first label of a host that packages and images are pushed to


@rule(
    about("SBX509", "Environment file outside of the project", DATA, STEP, cwe=(22, 526), nist="3.1.4"),
    why="What the file holds is not reviewed, and goes into the container as a whole.",
    fix="use a file of the project, with the values that are needed",
    bad="services: {agent: {image: busybox, env_file: ['../other/.env']}}",
    good="services: {agent: {image: busybox, env_file: [agent.env]}}",
)
def outside_env_file(s: Subject) -> Iterator[Hit]:
    """env_file by .., ~ or an absolute path."""
    for path in s.env_files:
        if path.startswith(("/", "~", "$HOME", "${HOME")) or path == ".." or path.startswith("../"):
            yield Hit("env_file", f"env_file {path} is outside of the project", item=path)


@rule(
    about("SBX510", "Secret in a config", DATA, DIRECT, cwe=798, nist="3.1.4"),
    why="The content of a config stands in the file, and in the repository with it.",
    fix="declare it below secrets, with file or environment",
    bad="configs: {app: {content: 'key: AKIA0123456789ABCDEF'}}\nsandboxes: {agent: {configs: [app]}}",
    good="configs: {app: {content: 'debug: false'}}\nsandboxes: {agent: {configs: [app]}}",
)
def secret_config(s: Subject) -> Iterator[Hit]:
    """Inline configs that hold tokens."""
    for config in (*s.configs, *(secret for secret in s.secrets if secret.origin == "content")):
        form = form_of(config.content) or ("an address with a password" if credential_url(config.content) else None)
        if form is None and assigned(config.content):
            form = "a credential in plain text"
        if form is not None:
            key = "configs" if config in s.configs else "secrets"
            yield Hit(key, f"{config.name} holds {form}", item=config.name)


# Settings of common images that let anybody in: variable → the values that do.
_NO_PASSWORD: Mapping[str, tuple[str, ...]] = {
    "MYSQL_ALLOW_EMPTY_PASSWORD": ("yes", "true", "1"),
    "MARIADB_ALLOW_EMPTY_ROOT_PASSWORD": ("yes", "true", "1"),
    "ALLOW_EMPTY_PASSWORD": ("yes", "true", "1"),
    "ALLOW_ANONYMOUS_LOGIN": ("yes", "true", "1"),
    "POSTGRES_HOST_AUTH_METHOD": ("trust",),
    "XPACK_SECURITY_ENABLED": ("false",),
    "DISABLE_SECURITY_PLUGIN": ("true",),
    "PLUGINS_SECURITY_DISABLED": ("true",),
    "NEO4J_AUTH": ("none",),
    "DISABLE_AUTH": ("true", "yes", "1"),
    "MYSQL_ROOT_PASSWORD": ("",),
    "MARIADB_ROOT_PASSWORD": ("",),
    "AUTHENTICATION_ANONYMOUS_ACCESS_ENABLED": ("true",),
    "GF_AUTH_ANONYMOUS_ENABLED": ("true",),
    "JUPYTER_TOKEN": ("",),
}
# A text, which is compiled where a command has options at all: that takes longer than most reviews.
_NO_PASSWORD_OPTIONS = (
    r"--api\.insecure(?:=true)?(?= |$)|--protected-mode +no\b|--skip-grant-tables\b|--noauth\b|--auth[= ]none\b|"
    r"--(?:NotebookApp|ServerApp|IdentityProvider)\.(?:token|password)=(?:''|\"\")?(?= |$)|"
    r"--no-?auth(?:entication)?(?= |$)|--anonymous-auth=true\b"
)


@rule(
    about("SBX511", "Service without a password", DATA, STEP, cwe=(306, 258), nist="3.4.2"),
    why="Whoever reaches the service reads and changes what it holds: other containers on its network, and with a "
    "published port everybody.",
    fix="remove the setting, and give the password as a secret",
    bad="environment: {POSTGRES_HOST_AUTH_METHOD: trust}",
    good="environment: {POSTGRES_PASSWORD_FILE: /run/secrets/password}",
)
def no_password(s: Subject) -> Iterator[Hit]:
    """Variables of common images, and options of common programs, that turn authentication off."""
    for name, value in s.environment.items():
        if value is not None and value.lower() in _NO_PASSWORD.get(one_spelling(name), ()):
            yield Hit("environment", f"{name}: {value} lets anybody in without a password", item=name)
    for key, words in (("command", s.command), ("entrypoint", s.entrypoint)):
        text = " ".join(words)[:LONGEST_COMMAND]
        found = re.search(_NO_PASSWORD_OPTIONS, text) if "--" in text else None
        if found is not None:
            yield Hit(key, f"{found[0].strip()} lets anybody in without a password")
