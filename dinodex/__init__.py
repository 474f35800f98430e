"""dinodex: a folder of images in, your own DINO backbone and a search service out."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dinodex.client import Client

__all__ = ["Client"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:  # noqa: ANN401 - as PEP 562 has it
    if name == "Client":  # loaded when asked for, so that `dinodex --help` does not wait for an HTTP library
        from dinodex.client import Client

        return Client
    raise AttributeError(f"module 'dinodex' has no attribute {name!r}")
