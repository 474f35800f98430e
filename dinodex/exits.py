"""The exit codes of errors, in one place: 2 usage, 65 bad data, 74 input or output, 75 locked, 78 configuration, 143 SIGTERM.

The numbers are those of BSD's sysexits.h, so that a shell script or a scheduler can tell "try again" from "give up".
"""

from __future__ import annotations

from backbone import errors as backbone
from dinodex import errors as client
from service import errors as service
from training import errors as training

USAGE, BAD_DATA, IO, LOCKED, CONFIG, TERMINATED = 2, 65, 74, 75, 78, 143

# The first class that fits decides; a root at the end of its block catches what is left of its tree.
_TABLE: tuple[tuple[type[Exception], int], ...] = (
    (backbone.PathMissing, IO),
    (backbone.StorageFailed, IO),
    (backbone.OutputNotEmpty, IO),
    (backbone.DirectoryLocked, LOCKED),
    (backbone.NotInstalled, CONFIG),
    (backbone.ArchitectureInvalid, CONFIG),
    (backbone.BackboneError, BAD_DATA),
    (training.ConfigInvalid, CONFIG),
    (training.LoadingFailed, IO),
    (training.PeerLost, IO),
    (training.TrainingError, BAD_DATA),
    (service.SettingsInvalid, CONFIG),
    (service.CannotStart, IO),  # the port is in use
    (service.Storage, IO),
    (service.ServiceError, BAD_DATA),
    (client.FileUnreadable, IO),
    (client.ServiceUnreachable, IO),
    (client.Unavailable, IO),
    (client.NotAllowed, CONFIG),
    (client.KeyInvalid, CONFIG),
    (client.ClientError, BAD_DATA),
)

EXPECTED = (backbone.BackboneError, training.TrainingError, service.ServiceError, client.ClientError)


def exit_code(error: Exception) -> int:
    """Return the exit code for an error of one of dinodex's trees."""
    return next(code for kind, code in _TABLE if isinstance(error, kind))
