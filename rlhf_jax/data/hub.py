"""What the Hugging Face hub has, as a folder on this disk, with errors for people."""

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from rlhf_jax.config import ConfigError


def folder_of_hub(name: str, what: str, patterns: Sequence[str], repo_type: str = "model") -> Path:
    """The files of a repository that match `patterns`, downloaded where the hub's cache has them not.

    Raises ConfigError, in which `what` says what was looked for, and OSError where the disk is full.
    """
    try:
        return Path(snapshot_download(name, repo_type=repo_type, allow_patterns=list(patterns)))
    except HFValidationError:
        raise ConfigError(f"{what} {name!r}: neither a folder nor a name on the hub") from None
    except Exception as error:  # of the hub's library and of the one below it that speaks HTTP
        if isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError):
            place = error.filename or HF_HUB_CACHE  # a full disk does not name it
            raise OSError(error.errno, error.strerror, place) from None
        raise ConfigError(f"{what} {name!r}: {_told(error)}") from None


def _told(error: Exception) -> str:
    """What went wrong at the hub."""
    answer = error if isinstance(error, HfHubHTTPError) else error.__cause__
    response = getattr(answer, "response", None)
    if response is not None and response.status_code in (401, 403, 404):
        return (
            f"the hub does not give it to us ({response.status_code}); check the name, and HF_TOKEN if its "
            "owner asks for a licence"
        )
    if response is not None:
        return f"the hub answers with {response.status_code} and gives nothing; try again later"
    if isinstance(error, LocalEntryNotFoundError):
        return "no such folder, and the hub cannot be reached to look there"
    if isinstance(error, ValueError):
        return "what answers is not the hub; perhaps this network asks to log in first"
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"the download broke off ({reason}); run again; the files that came whole are kept"
