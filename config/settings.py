"""All settings of Kabar, read from the environment once.

Each is grouped by concern and comes from one named variable; nothing else reads `os.environ`. What is missing or wrong
stops the process here, with a sentence that says what to do. `.env.example` lists the variables.
"""

import ipaddress
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

import environ
from csp.constants import NONE, SELF
from django.core.exceptions import ImproperlyConfigured

from config import secret_key
from jobs.rates import InvalidRate, Rate
from notifications.webhooks.addresses import AllowList, InvalidAllowList

env = environ.Env()

BASE_DIR = Path(__file__).resolve().parent.parent
VERSION = "0.1.0"

# What this process is: "web" (set by config/asgi.py) or anything else. It decides how database connections are kept.
PROCESS = env.str("KABAR_PROCESS", default="command")

# --- State ------------------------------------------------------------------------------------------------------------

DATA = Path(env.str("KABAR_DATA", default=str(BASE_DIR / "var"))).resolve()
try:
    DATA.mkdir(parents=True, exist_ok=True, mode=0o700)
except OSError as error:
    raise ImproperlyConfigured(
        f"KABAR_DATA is {DATA}, which can't be made: {error.strerror}. Name a folder that this user may write to."
    ) from error

# --- Where the web listens, and what it is called ---------------------------------------------------------------------

HOST = env.str("HOST", default="127.0.0.1")
PORT = env.int("PORT", default=8000)


def is_loopback(host: str) -> bool:
    """Tell whether a listening address is reachable from this machine only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def required_in_the_open(name: str) -> None:
    """Refuse to start on a public address without a variable that has no safe default there.

    Raises:
        ImproperlyConfigured: HOST isn't loopback and the variable isn't set.
    """
    if not is_loopback(HOST) and not env.str(name, default=""):
        raise ImproperlyConfigured(
            f"HOST is {HOST}, which others can reach, so {name} must be set. Set it, or leave HOST at 127.0.0.1."
        )


for _name in ("SECRET_KEY", "ALLOWED_HOSTS", "PUBLIC_URL"):
    required_in_the_open(_name)

PUBLIC_URL = env.str("PUBLIC_URL", default=f"http://{HOST}:{PORT}").rstrip("/")
_public = urlsplit(PUBLIC_URL)
if _public.scheme not in ("http", "https") or not _public.hostname or _public.query or _public.fragment:
    raise ImproperlyConfigured(f"PUBLIC_URL is {PUBLIC_URL!r}. It must look like https://kabar.example.org.")

# --- Security ---------------------------------------------------------------------------------------------------------

DEBUG = env.bool("DEBUG", default=False)
SECRET_KEY = env.str("SECRET_KEY", default="") or secret_key.load_or_make(DATA / "secret_key")
SECRET_KEY_FALLBACKS = env.list("SECRET_KEY_FALLBACKS", default=[])
SALT_KEY = "kabar.encrypted-columns"  # of django-fernet-encrypted-fields: makes the columns' key from SECRET_KEY
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["127.0.0.1", "localhost", "[::1]"])
_https = _public.scheme == "https"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = _https
SESSION_COOKIE_HTTPONLY = True
CSRF_TRUSTED_ORIGINS = [f"{_public.scheme}://{_public.netloc}"] if _https else []
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if env.bool("BEHIND_TLS_PROXY", default=False) else None
SECURE_HSTS_SECONDS = 31_536_000 if _https else 0
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
# Pages of elsewhere that may use the API with a token, and open the WebSocket (browsers send their Origin). Over HTTP
# no cookie is taken from them.
CORS_ALLOWED_ORIGINS = env.list("CORS_ALLOWED_ORIGINS", default=[])
CORS_URLS_REGEX = r"^/api/"
CORS_ALLOW_CREDENTIALS = False
CORS_ALLOW_METHODS = ["GET", "HEAD", "POST", "PATCH", "DELETE", "OPTIONS"]
CORS_ALLOW_HEADERS = [
    "accept",
    "authorization",
    "content-type",
    "idempotency-key",
    "if-none-match",
    "last-event-id",
    "prefer",
    "range",
]
CORS_EXPOSE_HEADERS = [
    "Location",
    "Retry-After",
    "ETag",
    "Idempotent-Replayed",
    "Preference-Applied",
    "RateLimit-Policy",
    "RateLimit",
    "WWW-Authenticate",
    "Content-Disposition",
    "Content-Range",
]
CORS_PREFLIGHT_MAX_AGE = 3600
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF],
        "connect-src": [SELF],
        "media-src": [SELF],  # a job's video is played
        "frame-src": [SELF],  # a job's report is shown in a sandboxed frame
        "form-action": [SELF],
        "base-uri": [NONE],
        "frame-ancestors": [NONE],
    }
}
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]

# --- Apps -------------------------------------------------------------------------------------------------------------

# Django apps of the house's owner whose kinds.py adds kinds of jobs.
KABAR_APPS = env.list("KABAR_APPS", default=[])

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "channels",
    "corsheaders",
    "csp",
    "rest_framework",
    "knox",
    "drf_spectacular",
    "encrypted_fields",
    "config",
    "jobs",
    "notifications",
    *KABAR_APPS,
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "corsheaders.middleware.CorsMiddleware",
    "jobs.api.middleware.ApiMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "csp.middleware.CSPMiddleware",
]

ROOT_URLCONF = "config.urls"
ASGI_APPLICATION = "config.asgi.application"
WSGI_APPLICATION = "config.wsgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.template.context_processors.i18n",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    }
]

LOGIN_URL = "signin"
LOGIN_REDIRECT_URL = "jobs"
LOGOUT_REDIRECT_URL = "signin"

# --- Database ---------------------------------------------------------------------------------------------------------

DATABASE_URL = env.str("DATABASE_URL", default=f"sqlite:///{DATA / 'kabar.sqlite3'}")
try:
    _database = environ.Env.db_url_config(DATABASE_URL)
except Exception as error:
    raise ImproperlyConfigured(
        "DATABASE_URL can't be read. It must look like postgres://user:password@host:5432/name or sqlite:////path/to/file."
    ) from error

_options = _database.setdefault("OPTIONS", {})
match _database.get("ENGINE"):
    case "django.db.backends.sqlite3":
        # WAL lets readers and the one writer work side by side; FULL keeps the last commits at power loss; IMMEDIATE
        # takes the write lock at BEGIN, where the busy timeout counts. `config.sqlite` is Django's backend with a queue
        # for writers (docs/decisions/sqlite.md).
        _database["ENGINE"] = "config.sqlite"
        # The tests' database is a file too: in memory it has no WAL, no queue and no second process.
        _database["TEST"] = {"NAME": f"{_database['NAME']}.test"}
        _database["CONN_MAX_AGE"] = None
        _options["transaction_mode"] = "IMMEDIATE"
        _options["timeout"] = 30
        _options["init_command"] = "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA mmap_size=0;"
    case "django.db.backends.postgresql":
        # A server that is cut off without a word is noticed before a lease is over.
        for _name, _seconds in (("connect_timeout", 5), ("keepalives_idle", 10), ("keepalives_interval", 5)):
            _options.setdefault(_name, _seconds)
        _options.setdefault("tcp_user_timeout", 20_000)  # milliseconds
        # The hot statements are prepared, except behind a pooler that doesn't know of it (docs/deployment.md).
        _options.setdefault("prepare_threshold", 0 if env.bool("DATABASE_PREPARE", default=True) else None)
        # Threads that stay keep their connection: a worker's, and those that answer requests (config/one_hop.py).
        _database |= {"CONN_MAX_AGE": None, "CONN_HEALTH_CHECKS": True}
    case _:
        raise ImproperlyConfigured("DATABASE_URL names neither SQLite nor PostgreSQL, the two that Kabar is built for.")

DATABASES = {"default": _database}
# How many requests a web process answers at once, each by a thread with a database connection of its own.
REQUEST_THREADS = env.int("DATABASE_POOL", default=10)
# Whether sure status polls are answered in front of Django (docs/decisions/polls.md).
QUICK_POLLS = env.bool("KABAR_QUICK_POLLS", default=True)
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# --- Redis: broker, channel layer -------------------------------------------------------------------------------------

# The embedded Valkey writes its address where a second terminal finds it.
_embedded = DATA / "valkey.url"
REDIS_URL = env.str("REDIS_URL", default="") or (
    _embedded.read_text().strip() if _embedded.exists() else "redis://127.0.0.1:6379/0"
)
# Two houses may share a Redis: each hears its own news only.
CHANNEL_PREFIX = f"kabar-{sha256(SECRET_KEY.encode()).hexdigest()[:12]}"
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {"hosts": [{"address": REDIS_URL, "socket_connect_timeout": 2}], "prefix": CHANNEL_PREFIX},
    }
}

# --- Celery: the broker is a doorbell, the database is the queue (docs/decisions/doorbell.md) -------------------------

CELERY_BROKER_URL = env.str("BROKER_URL", default=REDIS_URL)
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None  # workers give up after 100 otherwise
CELERY_BROKER_POOL_ACQUIRE_TIMEOUT = 2
CELERY_TASK_PUBLISH_RETRY = False
CELERY_TASK_ACKS_LATE = False  # the lease in the database is the acknowledgement
CELERY_TASK_IGNORE_RESULT = True  # results are rows
CELERY_TASK_DEFAULT_QUEUE = "default"
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_DISABLE_PREFETCH = CELERY_BROKER_URL.startswith("redis")
CELERY_WORKER_SEND_TASK_EVENTS = False
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = False
# Celery closes Django's connections round every task since 5.6; the runner looks after its own (celery/celery#9824).
CELERY_DB_REUSE_MAX = 10**9

# --- Jobs -------------------------------------------------------------------------------------------------------------

MEDIA_ROOT = DATA / "files"
# Where uploads and artifacts lie: any storage of Django's, such as storages.backends.s3.S3Storage, with its options.
STORAGES = {
    "default": {
        "BACKEND": env.str("KABAR_STORAGE", default="django.core.files.storage.FileSystemStorage"),
        "OPTIONS": env.json("KABAR_STORAGE_OPTIONS", default={}),
    },
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
MAX_JSON_BYTES = 1024 * 1024
MAX_UPLOAD_BYTES = env.int("KABAR_MAX_UPLOAD", default=100 * 1024 * 1024)
MAX_RESULT_BYTES = 1024 * 1024
ARTIFACT_URL_SECONDS = env.int("KABAR_ARTIFACT_URL_SECONDS", default=24 * 3600)
# daphne refuses too large bodies before Django sees them (config/web.py); these stand behind it.
DATA_UPLOAD_MAX_MEMORY_SIZE = MAX_JSON_BYTES
FILE_UPLOAD_MAX_MEMORY_SIZE = 0  # uploads go to disk at once
FILE_UPLOAD_HANDLERS = ["django.core.files.uploadhandler.TemporaryFileUploadHandler"]
FILE_UPLOAD_TEMP_DIR = DATA / "incoming"
FILE_UPLOAD_TEMP_DIR.mkdir(exist_ok=True, mode=0o700)
FILE_UPLOAD_PERMISSIONS = 0o600

# --- Webhooks ---------------------------------------------------------------------------------------------------------

WEBHOOK_ALLOW_HOSTS = env.str("KABAR_WEBHOOK_ALLOW_HOSTS", default="")
try:
    AllowList.parse(WEBHOOK_ALLOW_HOSTS)
except InvalidAllowList as error:
    raise ImproperlyConfigured(f"KABAR_WEBHOOK_ALLOW_HOSTS can't be read: {error}") from error
WEBHOOK_RESULT_LIMIT_BYTES = env.int("KABAR_WEBHOOK_RESULT_LIMIT", default=256 * 1024)

# --- The API ----------------------------------------------------------------------------------------------------------

# How often a user may ask: reads, and all that changes something. None unless asked for.
try:
    READ_RATE = Rate.parse(env.str("KABAR_READ_RATE", default=""))
    SUBMIT_RATE = Rate.parse(env.str("KABAR_SUBMIT_RATE", default=""))
except InvalidRate as error:
    raise ImproperlyConfigured(f"KABAR_READ_RATE or KABAR_SUBMIT_RATE can't be read: {error}") from error
# How many unfinished jobs a user may have; 0 is any number.
MAX_UNFINISHED = env.int("KABAR_MAX_UNFINISHED", default=0)

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "jobs.api.authentication.BearerAuthentication",
        "jobs.api.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated", "jobs.api.scopes.HasScope"],
    "DEFAULT_THROTTLE_CLASSES": ["jobs.api.throttling.UserThrottle"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["jobs.api.parsers.StrictJSONParser"],
    "DEFAULT_SCHEMA_CLASS": "config.openapi.operations.OperationSchema",
    "EXCEPTION_HANDLER": "jobs.api.errors.problem_response",
    "UNAUTHENTICATED_USER": "django.contrib.auth.models.AnonymousUser",
    "URL_FORMAT_OVERRIDE": None,
}
KNOX_TOKEN_MODEL = "jobs.Token"  # noqa: S105 - a model's name
# knox's own migrations would make a table that nothing uses, and whose key keeps PostgreSQL from a flush.
MIGRATION_MODULES = {"knox": None}
REST_KNOX = {"TOKEN_TTL": None, "AUTH_HEADER_PREFIX": "Bearer", "TOKEN_MODEL": KNOX_TOKEN_MODEL}
SPECTACULAR_SETTINGS = {
    "TITLE": "Kabar",
    "DESCRIPTION": "Start a job, get its id at once, hear of its end as it suits you.",
    "VERSION": VERSION,
    "OAS_VERSION": "3.1.1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "SCHEMA_PATH_PREFIX": "/api",
    "SERVERS": [{"url": PUBLIC_URL}],
    "LICENSE": {"name": "MIT", "identifier": "MIT"},
    "COMPONENT_SPLIT_REQUEST": True,
    "ENUM_GENERATE_CHOICE_DESCRIPTION": False,
    "CAMELIZE_NAMES": True,
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "config.openapi.responses.add_shared_components",
        "config.openapi.submissions.without_choices_of_one",
    ],
    "ENUM_NAME_OVERRIDES": {
        "JobStatus": "jobs.models.Status",
        "DeliveryStatus": "notifications.models.DeliveryStatus",
        "ReceiptStatus": ["ACCEPTED"],
    },
}

# --- Metrics (docs/metrics.md) ----------------------------------------------------------------------------------------

# Whoever brings it reads GET /metrics; without one, whoever is on this machine.
METRICS_TOKEN = env.str("KABAR_METRICS_TOKEN", default="")
METRICS_DIR = DATA / "metrics"

# --- Language, time, static files -------------------------------------------------------------------------------------

LANGUAGE_CODE = "en"
LANGUAGES = [("en", "English"), ("id", "Bahasa Indonesia")]
LOCALE_PATHS = [BASE_DIR / "locale"]
USE_I18N = True
USE_TZ = True
TIME_ZONE = "UTC"
STATIC_URL = "static/"
STATIC_ROOT = DATA / "static"
STATIC_ROOT.mkdir(exist_ok=True)
WHITENOISE_USE_FINDERS = True  # no collectstatic step
WHITENOISE_AUTOREFRESH = DEBUG

# --- Mail, logs -------------------------------------------------------------------------------------------------------

vars().update(env.email_url("EMAIL_URL", default="consolemail://"))
DEFAULT_FROM_EMAIL = env.str("DEFAULT_FROM_EMAIL", default="kabar@localhost")

LOG_LEVEL = env.str("LOG_LEVEL", default="INFO").upper()
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"job": {"()": "jobs.log_context.JobFilter"}},
    "formatters": {
        "line": {
            "()": "config.redaction.RedactingFormatter",
            "fmt": "%(asctime)s %(levelname)s %(name)s%(job)s: %(message)s",
        }
    },
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["job"]}},
    "root": {"handlers": ["stderr"], "level": LOG_LEVEL},
    "loggers": {
        "daphne": {"level": "WARNING"},
        "kombu": {"level": "WARNING"},
        "celery.worker.strategy": {"level": "WARNING"},
        "celery.app.trace": {"level": "WARNING"},
        "urllib3": {"level": "ERROR"},  # on malformed answers it logs the URL with its query
    },
}

# --- Retention --------------------------------------------------------------------------------------------------------

RETENTION = timedelta(days=env.int("KABAR_RETENTION_DAYS", default=30))
