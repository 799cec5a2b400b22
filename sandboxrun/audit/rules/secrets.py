"""5xx, secrets: where credentials stand, and what a sandbox could do with what it knows."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

from sandboxrun.audit.finding import Gain, Hit, How, refers, rule
from sandboxrun.audit.subject import Given, Subject

DATA = Gain.DATA
DIRECT, STEP, INDIRECT = How.DIRECT, How.STEP, How.INDIRECT

# Forms of tokens, by their issuers' documentation. What a pattern matches is never shown.
_FORMS: Mapping[str, str] = {
    "an AWS access key": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{60,})",
    "a GitLab token": r"\bgl(?:pat|rt|dt|cbt|ptt)-[A-Za-z0-9_-]{20,}",
    "a Slack token": r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}",
    "a Slack webhook": r"hooks\.slack\.com/services/T[A-Z0-9]+/B[A-Z0-9]+/[A-Za-z0-9]{20,}",
    "a Google API key": r"\bAIza[A-Za-z0-9_-]{35}",
    "a key of an AI service": r"\bsk-(?:ant-|proj-|or-)?[A-Za-z0-9_-]{32,}",
    "a Stripe key": r"\b[rs]k_(?:live|test)_[A-Za-z0-9]{20,}",
    "an npm token": r"\bnpm_[A-Za-z0-9]{36}",
    "a PyPI token": r"\bpypi-AgEIcHlwaS5vcmc[A-Za-z0-9_-]{50,}",
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}",
    "a Docker Hub token": r"\bdckr_pat_[A-Za-z0-9_-]{20,}",
    "a SendGrid key": r"\bSG\.[A-Za-z0-9_-]{20,}\.[A-Za-z0-9_-]{30,}",
    "a private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY",
    "a JSON web token": r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
    "an Azure storage key": r"AccountKey=[A-Za-z0-9+/]{80,}={0,2}",
    "a Google OAuth secret": r"\bGOCSPX-[A-Za-z0-9_-]{20,}|\bya29\.[A-Za-z0-9_-]{30,}",
    "a Slack app token": r"\bxapp-\d-[A-Z0-9]+-\d+-[A-Za-z0-9]{20,}",
    "a DigitalOcean token": r"\bdo[opr]_v1_[a-f0-9]{64}\b",
    "a Vault token": r"\bhv[sbr]\.[A-Za-z0-9_-]{24,}",
    "a Grafana token": r"\bglsa_[A-Za-z0-9]{32}_[a-f0-9]{8}\b",
    "a Shopify token": r"\bshp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}\b",
    "an Atlassian token": r"\bATATT3[A-Za-z0-9_=-]{60,}",
    "a Tailscale key": r"\btskey-[a-z]+-[A-Za-z0-9]{10,}-[A-Za-z0-9]{20,}",
    "a Postman key": r"\bPMAK-[a-f0-9]{24}-[a-f0-9]{34}\b",
    "a New Relic key": r"\bNRAK-[A-Z0-9]{27}\b",
    "a RubyGems key": r"\brubygems_[a-f0-9]{48}\b",
    "a Telegram token": r"\b\d{8,10}:AA[A-Za-z0-9_-]{33}\b",
    "a Twilio key": r"\bSK[0-9a-f]{32}\b",
    "an age key": r"\bAGE-SECRET-KEY-1[A-Z0-9]{50,}",
    "an authorization header": r"\b(?:[Bb]earer|[Bb]asic) +[A-Za-z0-9._~+/-]{16,}={0,2}(?![A-Za-z0-9])",
}
# One of these is in every such text: looked for first, since compiling the patterns takes longer than most reviews.
_MARKS = (
    "AKIA ASIA ghp_ gho_ ghu_ ghs_ ghr_ github_pat_ gl xox hooks.slack.com AIza sk- rk_ sk_ npm_ pypi- hf_ dckr_pat_ "
    "SG. -----BEGIN eyJ AccountKey= GOCSPX- ya29. xapp- _v1_ hvs. hvb. hvr. glsa_ shp ATATT3 tskey- PMAK- NRAK- "
    "rubygems_ :AA SK AGE- earer asic"
).split()
_URL = re.compile(r"(?<![a-z0-9+.-])[a-z][a-z0-9+.-]{0,30}://([^\s/@:'\"]*):([^\s/@'\"]+)@", re.IGNORECASE)
_TOKEN_URL = re.compile(r"\bhttps?://([A-Za-z0-9_.-]{20,})@", re.IGNORECASE)

_SECRET_WORDS = re.compile(
    r"(?:^|_)(?:PASSWORD|PASSWD|PASSPHRASE|PASS|PASSWRD|PWD|PW|SECRET|TOKEN|KEY|CREDENTIALS?|CREDS|DSN|REQUIREPASS|"
    r"CONNECTION_STRING|WEBHOOK_URL|MASTERAUTH|(?:API|ACCESS|PRIVATE|SECRET|AUTH|ENCRYPTION|SIGNING|MASTER|LICENSE)KEY|"
    r"(?:API|ACCESS|AUTH|BOT|REFRESH|BEARER)TOKEN|[A-Z]+(?:PASSWORD|PASSWD))(?:_\w+)?$"
)
# What such names hold besides: durations, counters, paths, switches.
_HARMLESS_WORDS = re.compile(
    r"_(?:FILE|PATH|DIR|TTL|TIMEOUT|EXPIRY|EXPIRES|EXPIRATION|LIFETIME|LENGTH|SIZE|LIMIT|COUNT|MAX|MIN|URL|URI|HOST|PORT|"
    r"NAME|ID|TYPE|ENABLED|DISABLED|REQUIRED|POLICY|ALGORITHM|ALGO|HEADER|PREFIX|ROTATION|INTERVAL|AGE|VERSION|USER|"
    r"ISSUER|AUDIENCE|ENDPOINT|REGION|FORMAT|MODE|HASH|BUDGET|WINDOW|PER_\w+|REFRESH|SECONDS|MINUTES|HOURS|DAYS)$|"
    r"^(?:MAX|MIN|NUM|TOTAL)_|TOKENS$|^(?:ALLOW|ENABLE|DISABLE|USE|REQUIRE|RANDOM)_|^PWD$|_?PUBLIC_KEY"
)
# In such names a number is a password, and no duration or counter.
_PASSWORD_WORDS = re.compile(r"(?:PASSWORD|PASSWD|PASSPHRASE|_PASS|_PWD|_PIN)$|^PASS$")
_PLACEHOLDER = re.compile(
    r"^(?:|true|false|yes|no|on|off|none|null|\d{1,9}(?:\.\d+)?(?:ms|s|m|h|d|[kmg]b?)?|\$\{?\w+.*|<[^>]*>|\*+|x{3,}|"
    r"\(.*\)|\{\{.*\}\}|/run/secrets/.*|/.*|\./.*)$",
    re.IGNORECASE,
)
_CLOUD = frozenset(
    "AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN GOOGLE_APPLICATION_CREDENTIALS GOOGLE_API_KEY "
    "AZURE_CLIENT_SECRET GH_TOKEN GITHUB_TOKEN GITLAB_TOKEN CI_JOB_TOKEN NPM_TOKEN OPENAI_API_KEY ANTHROPIC_API_KEY "
    "SSH_AUTH_SOCK KUBECONFIG VAULT_TOKEN ACTIONS_ID_TOKEN_REQUEST_TOKEN ACTIONS_RUNTIME_TOKEN".split()
)


_LONGEST_NAME = 200  # characters that are looked at


def _upper(name: str) -> str:
    """`db-password`, `dbPassword` and `db.password` in one spelling."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name[:_LONGEST_NAME]).upper().replace("-", "_").replace(".", "_")


def names_secret(name: str) -> bool:
    """Whether a variable of this name usually holds a credential."""
    upper = _upper(name)
    return bool(_SECRET_WORDS.search(upper)) and not _HARMLESS_WORDS.search(upper)


def form_of(text: str) -> str | None:
    """What a text is by its form: "a GitHub token"; None where nothing is known of it."""
    if len(text) < 16 or not any(mark in text for mark in _MARKS):
        return None
    return next((what for what, form in _FORMS.items() if re.search(form, text)), None)


def credential_url(text: str) -> bool:
    """Whether a text holds a URL with a password or token in it that is not filled in from elsewhere."""
    for user, password in _URL.findall(text):
        if not password.startswith(("$", "{{", "<", "%")) and password not in (
            "x-oauth-basic",
            user and "x-access-token",
        ):
            return True
    return any(not token.startswith("$") and _looks_random(token) for token in _TOKEN_URL.findall(text))


def _looks_random(text: str) -> bool:
    """Whether a text is long, of mixed characters, and spreads over them evenly."""
    if len(text) < 20 or not re.search(r"\d", text) or not re.search(r"[A-Za-z]", text):
        return False
    counts = [text.count(character) for character in set(text)]
    return -sum(n / len(text) * math.log2(n / len(text)) for n in counts) > 3.5


def _is_literal(name: str, value: str | None) -> bool:
    """Whether the value of a variable or option of that name is written out."""
    if value is None:
        return False
    text = value.strip()
    number = re.fullmatch(r"\d{3,}", text) is not None and _PASSWORD_WORDS.search(_upper(name)) is not None
    return number or not _PLACEHOLDER.match(text)


@rule(
    "SBX501",
    "Secret in the environment",
    (DATA, DIRECT),
    refers(cis="4.10", cwe=(798, 526), nist=("3.1.4", "4.1.4")),
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
            yield Hit(key="environment", item=name, message=f"{name} holds {form}")
        elif names_secret(name) and _is_literal(name, value) and not credential_url(value):
            yield Hit(key="environment", item=name, message=f"{name} holds a credential in plain text")


# Options of one letter that are followed by a password.
_SHORT_OPTIONS = re.compile(
    r"\bsshpass +-p *(?P<sshpass>[^\s'\"]+)|"
    r"\b(?:mysql|mysqladmin|mysqldump|mariadb|mariadb-admin)\b[^;|&\n]{0,200}? -p(?P<mysql>[^\s'\"]+)|"
    r"\bredis-cli\b[^;|&\n]{0,200}? -a +(?P<redis>[^\s'\"]+)|"
    r"\b(?:curl|wget)\b[^;|&\n]{0,200}? (?:-u|--user)[ =]+(?P<curl>[^\s:'\"]+:[^\s'\"]+)"
)
_LONGEST_COMMAND = 8192  # characters that are looked at


def _in_words(key: str, words: tuple[str, ...]) -> Iterator[str]:
    """The credentials in a command, those too in a text that a shell runs."""
    text = " ".join(words)[:_LONGEST_COMMAND]
    for found in _SHORT_OPTIONS.finditer(text):
        value = found[found.lastgroup or 0]
        if not value.startswith(("$", "{", "<")) and ":$" not in value:
            yield f"{key} holds a credential in plain text"
    parts = [part.strip("'\"") for part in text.split()]
    for at, word in enumerate(parts):
        form = form_of(word)
        if form is not None:
            yield f"{key} holds {form}"
            continue
        option, equals, value = word.partition("=")
        is_option = option.startswith("-") and names_secret(option.lstrip("-"))
        if not is_option and not (equals and re.fullmatch("[A-Z_][A-Z0-9_]+", option) and names_secret(option)):
            continue
        following = parts[at + 1] if at + 1 < len(parts) else ""
        given = value if equals else ("" if following.startswith("-") else following)
        if _is_literal(option.lstrip("-"), given):
            yield f"{option} is given a credential in plain text"


@rule(
    "SBX502",
    "Secret in arguments or labels",
    (DATA, DIRECT),
    refers(cwe=(798, 214), nist="3.1.4"),
    why="Arguments are seen by every process of the machine, labels by whoever may list containers.",
    fix="use secrets, and read the file below /run/secrets; then replace the credential",
    bad="command: [run, --password=hunter2hunter]",
    good="command: [run, --password-file=/run/secrets/password]",
)
def literal_arguments(s: Subject) -> Iterator[Hit]:
    """Credentials in command, entrypoint, labels and build arguments."""
    for key, words in (("command", s.command), ("entrypoint", s.entrypoint), ("healthcheck", s.health_test)):
        yield from (Hit(key=key, message=message) for message in dict.fromkeys(_in_words(key, words)))
    for name, value in s.labels.items():
        form = form_of(value)
        if form is not None or (names_secret(name) and _is_literal(name, value)):
            yield Hit(key="labels", item=name, message=f"the label {name} holds {form or 'a credential'}")
    for name, value in s.build.args.items() if s.build is not None else ():
        form = form_of(value)
        if form is not None or (names_secret(name) and _is_literal(name, value)):
            message = f"the build argument {name} holds {form or 'a credential'}, which stays in the image"
            yield Hit(key="build", item=name, message=message)


@rule(
    "SBX503",
    "Credential of the caller passed on",
    (DATA, STEP),
    refers(cwe=(526, 522), nist="3.1.4"),
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
        source = next((one for one in given if one.upper() in _CLOUD or names_secret(one)), None)
        if source is not None:
            yield Hit(key="environment", item=name, message=f"{name} takes over the caller's {source}")


@rule(
    "SBX504",
    "Secret as a variable",
    (DATA, INDIRECT),
    refers(cwe=526, nist="3.1.4"),
    why="A variable is inherited by every process and shown by inspect; a file with mode 0400 is not.",
    fix="declare it below secrets, and read /run/secrets/NAME",
    bad="variables: {key: {type: string, sensitive: true, required: false}}\n"
    "sandboxes: {agent: {environment: {API_KEY: \"{{ key or 'unset-key' }}\"}}}",
    good="secrets: [api_key]",
)
def secret_variable(s: Subject) -> Iterator[Hit]:
    """A sensitive value of a template in environment."""
    for name in s.masked:
        yield Hit(key="environment", item=name, message=f"{name} holds a sensitive value")


@rule(
    "SBX505",
    "Secret readable by others",
    (DATA, INDIRECT),
    refers(cwe=732, nist="3.1.4"),
    why="With this mode other users inside read the secret.",
    fix="leave out mode: 0400 is the default",
    bad="secrets: [{source: api_key, mode: 0444}]",
    good="secrets: [api_key]",
)
def open_secret(s: Subject) -> Iterator[Hit]:
    """A mode with more than the owner's rights."""
    for secret in s.secrets:
        if secret.mode & 0o077:
            yield Hit(key="secrets", item=secret.name, message=f"the secret {secret.name} has mode {secret.mode:04o}")


@rule(
    "SBX506",
    "Credential in an address",
    (DATA, DIRECT),
    refers(cwe=(798, 522), nist="3.1.4"),
    why="Addresses are logged and shown in errors, with the password that stands in them.",
    fix="give the credential by a secret, and leave it out of the address",
    bad="environment: {DATABASE_URL: 'postgres://app:s3cretpass@db.example.com/app'}",
    good="environment: {DATABASE_URL: 'postgres://db.example.com/app'}",
)
def credentials_in_url(s: Subject) -> Iterator[Hit]:
    """URLs with a password, wherever they stand."""
    for name, value in s.environment.items():
        if value is not None and credential_url(value):
            yield Hit(key="environment", item=name, message=f"{name} holds an address with a password")
    for key, words in (("command", s.command), ("entrypoint", s.entrypoint)):
        if any(credential_url(word) for word in words):
            yield Hit(key=key, message=f"{key} holds an address with a password")
    for name, value in s.labels.items():
        if credential_url(value):
            yield Hit(key="labels", item=name, message=f"the label {name} holds an address with a password")
    if s.build is not None and credential_url(s.build.context):
        yield Hit(key="build", message="the build's context is an address with a password")


def _secrets_of(s: Subject) -> list[str]:
    variables = [name for name, value in s.environment.items() if value is None and names_secret(name)]
    return [*(secret.name for secret in s.secrets), *s.masked, *variables]


def _private_data(s: Subject) -> str | None:
    if s.workspace is not None:
        return "the workspace"
    bind = next((mount for mount in s.mounts if mount.kind == "bind"), None)
    return f"{bind.target}" if bind is not None else None


@rule(
    "SBX507",
    "Secret, private data and an open way out",
    (DATA, DIRECT),
    refers(cwe=(200, 923), nist="3.4.2"),
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
        yield Hit(key=key, message=f"holds {held[0]}, reads {data}, and every host can be reached")


@rule(
    "SBX508",
    "Secret and private data within reach of others",
    (DATA, INDIRECT),
    refers(cwe=(200, 923), nist="3.4.2"),
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
            yield Hit(key="egress", item="allow", message=message)


_UPLOADS = (
    "github.com", "gist.github.com", "api.github.com", "uploads.github.com", "gitlab.com", "bitbucket.org",
    "pastebin.com", "s3.amazonaws.com", "storage.googleapis.com", "dropbox.com", "drive.google.com", "slack.com",
    "discord.com", "api.telegram.org", "webhook.site", "transfer.sh", "file.io", "huggingface.co",
)  # fmt: skip
_TAKES = ("registry", "upload", "uploads")  # the first label of a host that packages and images are pushed to


@rule(
    "SBX509",
    "Environment file outside of the project",
    (DATA, STEP),
    refers(cwe=(22, 526), nist="3.1.4"),
    why="What the file holds is not reviewed, and goes into the container as a whole.",
    fix="use a file of the project, with the values that are needed",
    bad="services: {agent: {image: busybox, env_file: ['../other/.env']}}",
    good="services: {agent: {image: busybox, env_file: [agent.env]}}",
)
def outside_env_file(s: Subject) -> Iterator[Hit]:
    """env_file by .., ~ or an absolute path."""
    for path in s.env_files:
        if path.startswith(("/", "~", "$HOME", "${HOME")) or path == ".." or path.startswith("../"):
            yield Hit(key="env_file", item=path, message=f"env_file {path} is outside of the project")


@rule(
    "SBX510",
    "Secret in a config",
    (DATA, DIRECT),
    refers(cwe=798, nist="3.1.4"),
    why="The content of a config stands in the file, and in the repository with it.",
    fix="declare it below secrets, with file or environment",
    bad="configs: {app: {content: 'key: AKIA0123456789ABCDEF'}}\nsandboxes: {agent: {configs: [app]}}",
    good="configs: {app: {content: 'debug: false'}}\nsandboxes: {agent: {configs: [app]}}",
)
def secret_config(s: Subject) -> Iterator[Hit]:
    """Inline configs that hold tokens."""
    for config in (*s.configs, *_inline(s.secrets)):
        form = form_of(config.content) or ("an address with a password" if credential_url(config.content) else None)
        if form is not None:
            key = "configs" if config in s.configs else "secrets"
            yield Hit(key=key, item=config.name, message=f"{config.name} holds {form}")


def _inline(secrets: tuple[Given, ...]) -> Iterator[Given]:
    yield from (secret for secret in secrets if secret.origin == "content")


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
}


@rule(
    "SBX511",
    "Service without a password",
    (DATA, STEP),
    refers(cwe=(306, 258), nist="3.4.2"),
    why="Whoever reaches the service reads and changes what it holds: other containers on its network, and with a "
    "published port everybody.",
    fix="remove the variable, and give the password as a secret",
    bad="environment: {POSTGRES_HOST_AUTH_METHOD: trust}",
    good="environment: {POSTGRES_PASSWORD_FILE: /run/secrets/password}",
)
def no_password(s: Subject) -> Iterator[Hit]:
    """Variables of common images that turn authentication off."""
    for name, value in s.environment.items():
        if value is not None and value.lower() in _NO_PASSWORD.get(_upper(name), ()):
            yield Hit(key="environment", item=name, message=f"{name}: {value} lets anybody in without a password")
