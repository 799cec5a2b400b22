"""What credentials look like: forms of tokens, names of what holds one, addresses, texts and commands with one in them.

Owns the patterns. Each runs in linear time on any text. What matches is never shown.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

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
    return any(not token.startswith("$") and _looks_random(token) for token in _TOKEN_URL.findall(text))


def _looks_random(text: str) -> bool:
    """Whether a text is long, of mixed characters, and spreads over them evenly."""
    if len(text) < 20 or not re.search(r"\d", text) or not re.search(r"[A-Za-z]", text):
        return False
    counts = [text.count(character) for character in set(text)]
    return -sum(n / len(text) * math.log2(n / len(text)) for n in counts) > 3.5


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
