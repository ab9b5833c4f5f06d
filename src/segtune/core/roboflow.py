"""What every command that connects to Roboflow needs: the key, the vendor's client, redaction.

The API key is part of the URLs that are requested, so the text of an exception is always redacted
before it is shown.
"""

import os
import re
from importlib import import_module
from types import ModuleType
from urllib.parse import quote

from segtune.core.errors import ExportError

KEY = "ROBOFLOW_API_KEY"
# The names become part of a URL as they are: no characters with a meaning there.
NAME = r"([\w-][\w.-]*)"


def api_key() -> str:
    """The user's key, from the environment.

    Raises:
        ExportError: when there is none.
    """
    key = os.environ.get(KEY, "").strip()
    if not key:
        raise ExportError(
            "no API key for Roboflow",
            fix=f"Set the environment variable {KEY} to the private API key of your workspace",
        )
    return key


def vendor_client() -> ModuleType:
    """The vendor's client, an optional dependency.

    Raises:
        ExportError: when it is not installed.
    """
    # By its name, so that type checks pass whether or not the package is installed.
    try:
        return import_module("roboflow.adapters.rfapi")
    except ImportError as error:
        raise ExportError(
            f"Roboflow's client cannot be imported ({error})",
            fix="Install it in this environment: pip install 'roboflow>=1.7.3,<2'",
        ) from None


def api_address() -> str:
    """Where Roboflow's API is: `API_URL` of the environment, as for the client, or the client's.

    Raises:
        ExportError: when neither is known.
    """
    return (os.environ.get("API_URL") or str(vendor_client().API_URL)).rstrip("/")


def redacted(text: str, key: str = "") -> str:
    """The text without the key, in any encoding, and without the value of any `key=`."""
    for secret in {key, quote(key), quote(key, safe="")} - {""}:
        text = text.replace(secret, "***")
    return re.sub(r"(key=)[^&\s\"'<>]*", r"\1***", text, flags=re.IGNORECASE)
