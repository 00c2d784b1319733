"""The WSGI application, for hosts that speak nothing else: no push door, and `?wait=` answers at once."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
application = get_wsgi_application()
