"""5xx, secrets: where credentials stand, and what a sandbox could do with what it knows.

Owns what credentials look like: forms of tokens, names of what holds one, addresses, texts and commands with one in
them. Each pattern runs in linear time on any text. What matches is never shown.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

from sandboxrun.audit.finding import DATA, DIRECT, INDIRECT, STEP, Hit, about, rule
from sandboxrun.audit.subject import Subject

# Forms of tokens, by their issuers' documentation. What a pattern matches is never shown.
FORMS: Mapping[str, str] = {
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
# What such names hold besides, by their last word: durations, counters, paths, switches, names of things.
_HARMLESS_ENDS = frozenset(
    """FILE PATH DIR TTL TIMEOUT EXPIRY EXPIRES EXPIRATION LIFETIME LENGTH SIZE LIMIT COUNT MAX MIN URL URI HOST PORT
    NAME ID TYPE ENABLED DISABLED REQUIRED POLICY ALGORITHM ALGO HEADER PREFIX ROTATION INTERVAL AGE VERSION USER
    ISSUER AUDIENCE ENDPOINT REGION FORMAT MODE HASH BUDGET WINDOW REFRESH SECONDS MINUTES HOURS DAYS ARN HASHER
    ENCODER ENCODING ENCRYPTION STRATEGY PROVIDER STORE STORAGE BACKEND DRIVER METHOD CLASS FIELD COLUMN PATTERN
    REGEX RULES CHARSET SEPARATOR LABEL TEMPLATE SERVICE SERVER MANAGER SOURCE SCOPE SCOPES STATUS TOPIC QUEUE TABLE
    BUCKET LOCATION ALIAS USAGE LEVEL STRENGTH COMPLEXITY HISTORY NAMESPACE BITS ROUNDS ITERATIONS CACHE EXCHANGE
    MOUNT FOLDER DOMAIN CONTEXT CHECK CHECKS VALIDATION VALIDATOR VALIDATORS TOKENS""".split()
)
# Keys that open nothing: of databases, caches, queues, trackers.
_HARMLESS_KEYS = frozenset(
    """PARTITION SORT PRIMARY FOREIGN UNIQUE CACHE HASH ROUTING IDEMPOTENCY OBJECT MESSAGE GROUP INDEX LOOKUP
    TRANSLATION SHARD ROW RANGE CLUSTER JOIN DEDUP DEDUPLICATION HOT SHORTCUT REGISTRY ANSWER ENTRY FEATURE ISSUE
    PROJECT HOST PUBLIC""".split()
)
_HARMLESS_WORDS = re.compile(
    r"^(?:MAX|MIN|NUM|TOTAL|ALLOW|ENABLE|DISABLE|USE|REQUIRE|RANDOM)_|_PER_|TOKENS$|^PWD$|_?PUBLIC_KEY"
)
# In such names a number is a password, and no duration or counter.
_PASSWORD_WORDS = re.compile(r"(?:PASSWORD|PASSWD|PASSPHRASE|_PASS|_PWD|_PIN)$|^PASS$")
_PLACEHOLDER = re.compile(
    r"^(?:|true|false|yes|no|on|off|none|null|\d{1,9}(?:\.\d+)?(?:ms|s|m|h|d|[kmg]b?)?|\$\{?\w+.*|<[^>]*>|\*+|x{3,}|"
    r"\(.*\)|\{\{.*\}\}|/run/secrets/.*|/.*|\./.*)$",
    re.IGNORECASE,
)
CLOUD = frozenset(
    "AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN GOOGLE_APPLICATION_CREDENTIALS GOOGLE_API_KEY "
    "AZURE_CLIENT_SECRET GH_TOKEN GITHUB_TOKEN GITLAB_TOKEN CI_JOB_TOKEN NPM_TOKEN OPENAI_API_KEY ANTHROPIC_API_KEY "
    "SSH_AUTH_SOCK KUBECONFIG VAULT_TOKEN ACTIONS_ID_TOKEN_REQUEST_TOKEN ACTIONS_RUNTIME_TOKEN".split()
)


_LONGEST_NAME = 200  # characters that are looked at


def one_spelling(name: str) -> str:
    """`db-password`, `dbPassword` and `db.password` in one spelling."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name[:_LONGEST_NAME]).upper().replace("-", "_").replace(".", "_")


def names_secret(name: str) -> bool:
    """Whether a variable of this name usually holds a credential."""
    spelled = one_spelling(name)
    if not _SECRET_WORDS.search(spelled) or _HARMLESS_WORDS.search(spelled):
        return False
    *_, before, last = ("", *spelled.split("_"))
    return not ((last in _HARMLESS_ENDS and before) or (last == "KEY" and before in _HARMLESS_KEYS))


def form_of(text: str) -> str | None:
    """What a text is by its form: "a GitHub token"; None where nothing is known of it."""
    if len(text) < 16 or not any(mark in text for mark in _MARKS):
        return None
    return next((what for what, form in FORMS.items() if re.search(form, text)), None)


def credential_url(text: str) -> bool:
    """Whether a text holds a URL with a password or token in it that is not filled in from elsewhere."""
    for user, password in _URL.findall(text):
        if not password.startswith(("$", "{{", "<", "%")) and password not in (
            "x-oauth-basic",
            user and "x-access-token",
        ):
            return True
    # in a name's place: one that is long, of mixed characters, and spreads over them evenly
    tokens = (one for one in _TOKEN_URL.findall(text) if re.search(r"\d", one) and re.search(r"[A-Za-z]", one))
    shares = ([token.count(character) / len(token) for character in set(token)] for token in tokens)
    return any(-sum(share * math.log2(share) for share in each) > 3.5 for each in shares)


def is_literal(name: str, value: str | None) -> bool:
    """Whether the value of a variable or option of that name is written out."""
    if value is None:
        return False
    text = value.strip()
    number = re.fullmatch(r"\d{3,}", text) is not None and _PASSWORD_WORDS.search(one_spelling(name)) is not None
    return number or not _PLACEHOLDER.match(text)


# `Password=…` in a connection string, an option of Java, a setting of a file.
_ASSIGNED = (  # a text: few need it
    r"[\"']? ?(?:=|: ) ?(\"[^\"\n]{0,500}\"|'[^'\n]{0,500}'|[^;&,\s\"']{3,500})"
)
_IN_NAMES = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"
_LONGEST_TEXT = 64 * 1024  # characters that are looked at


def assigned(text: str) -> bool:
    """Whether a text gives a credential to a name in it: `Password=…`, `db.token: …`."""
    if "=" not in text and ": " not in text:
        return False
    for found in re.finditer(_ASSIGNED, text[:_LONGEST_TEXT]):
        before = text[max(0, found.start() - _LONGEST_NAME) : found.start()]
        name, value = before[len(before.rstrip(_IN_NAMES)) :].lstrip("-."), found[1].strip("\"'")
        if (names_secret(name) or name.upper() == "PWD") and is_literal(name, value) and not credential_url(value):
            return True
    return False


# Options of one letter that are followed by a password.
_SHORT_OPTIONS = re.compile(
    r"\bsshpass +-p *(?P<sshpass>[^\s'\"]+)|"
    r"\b(?:mysql|mysqladmin|mysqldump|mariadb|mariadb-admin)\b[^;|&\n]{0,200}? -p(?P<mysql>[^\s'\"]+)|"
    r"\bredis-cli\b[^;|&\n]{0,200}? -a +(?P<redis>[^\s'\"]+)|"
    r"\b(?:curl|wget)\b[^;|&\n]{0,200}? (?:-u|--user)[ =]+(?P<curl>[^\s:'\"]+:[^\s'\"]+)"
)
LONGEST_COMMAND = 8192  # characters that are looked at


def in_words(key: str, words: tuple[str, ...]) -> Iterator[str]:
    """The credentials in a command, those too in a text that a shell runs."""
    text = " ".join(words)[:LONGEST_COMMAND]
    for found in _SHORT_OPTIONS.finditer(text):
        value = found[found.lastgroup or 0]
        if not value.startswith(("$", "{", "<")) and ":$" not in value:
            yield f"{key} holds a credential in plain text"
    form = form_of(text)
    if form is not None:
        yield f"{key} holds {form}"
    parts = [part.strip("'\"") for part in text.split()]
    for at, word in enumerate(parts):
        if form is not None and form_of(word) is not None:
            continue
        option, equals, value = word.partition("=")
        is_option = option.startswith("-") and names_secret(option.lstrip("-"))
        if not is_option and not (equals and re.fullmatch("[A-Z_][A-Z0-9_]+", option) and names_secret(option)):
            continue
        following = parts[at + 1] if at + 1 < len(parts) else ""
        given = value if equals else ("" if following.startswith("-") else following)
        if is_literal(option.lstrip("-"), given) and not credential_url(given):
            yield f"{option} is given a credential in plain text"


# -- the rules


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
    for config in s.configs:
        if config.origin == "environment" and (config.source.upper() in CLOUD or names_secret(config.source)):
            yield Hit("configs", f"the config {config.name} takes over the caller's {config.source}", item=config.name)


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
    work = ["the workspace"] if s.workspace is not None else []
    return ", ".join(work + [mount.target for mount in s.mounts if mount.kind == "bind"]) or None


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
        yield Hit(key, f"holds {', '.join(held)}, reads {data}, and every host can be reached")


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
            message = f"holds {', '.join(held)}, reads {data}, and {destination} takes uploads from anybody"
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
    for path in filter(_is_outside, s.env_files):
        yield Hit("env_file", f"env_file {path} is outside of the project", item=path)


@rule(
    about("SBX512", "Label file outside of the project", DATA, STEP, cwe=(22, 214), nist="3.1.4"),
    why="What the file holds is not reviewed, and whoever may list containers reads it: the lines of a .env or of "
    "credentials, say, become labels.",
    fix="use a file of the project, or write the labels out",
    bad="services: {agent: {image: busybox, label_file: ['~/.aws/credentials']}}",
    good="services: {agent: {image: busybox, label_file: [agent.labels]}}",
)
def outside_label_file(s: Subject) -> Iterator[Hit]:
    """label_file by .., ~ or an absolute path."""
    for path in filter(_is_outside, s.label_files):
        yield Hit("label_file", f"label_file {path} is outside of the project", item=path)


def _is_outside(path: str) -> bool:
    return path.startswith(("/", "~", "$HOME", "${HOME", "../")) or path == ".."


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
    **dict.fromkeys(
        "MYSQL_ALLOW_EMPTY_PASSWORD MARIADB_ALLOW_EMPTY_ROOT_PASSWORD ALLOW_EMPTY_PASSWORD ALLOW_ANONYMOUS_LOGIN "
        "DISABLE_AUTH".split(),
        ("yes", "true", "1"),
    ),
    **dict.fromkeys(
        "DISABLE_SECURITY_PLUGIN PLUGINS_SECURITY_DISABLED AUTHENTICATION_ANONYMOUS_ACCESS_ENABLED "
        "GF_AUTH_ANONYMOUS_ENABLED".split(),
        ("true",),
    ),
    **dict.fromkeys(("MYSQL_ROOT_PASSWORD", "MARIADB_ROOT_PASSWORD", "JUPYTER_TOKEN"), ("",)),
    "POSTGRES_HOST_AUTH_METHOD": ("trust",),
    "XPACK_SECURITY_ENABLED": ("false",),
    "NEO4J_AUTH": ("none",),
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
