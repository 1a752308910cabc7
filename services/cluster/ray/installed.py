"""Whether Ray is there: it is an extra, and whoever asks for it without having it is told what to do."""

from importlib.util import find_spec

from services.domain.errors import ConfigurationInvalid


def require_ray() -> None:
    """Refuse what needs Ray where it is not installed.

    Raises:
        ConfigurationInvalid: says what to install.
    """
    if find_spec("ray") is None:
        raise ConfigurationInvalid(
            key="--on", message="--on ray: Ray is not installed here; pip install 'baton-serve[ray]'"
        )
