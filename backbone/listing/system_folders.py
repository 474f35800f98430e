"""Names of the files and folders that systems leave among a person's own: recycle bins, snapshots, thumbnails, a Mac's second forks.

Upper and lower case are one, since Windows and Macs write them either way; a name that begins with a dot (`.Trash-1000`,
`.Spotlight-V100`, `.@__thumb`, `._a.jpg`) is hidden anyway. Names that are words of a language (`recycled`, `trashbox`) may be classes
of images, and are not here: `exclude` is for them.
"""

from __future__ import annotations

import re

_FOLDERS = (
    *("@eaDir", "@tmp", "@sharesnap", "@quarantine", "@SynoFinder.*", "#recycle", "#snapshot"),  # Synology's DSM
    *("@Recycle", "@Recently-Snapshot", "@Transcode", ":2e.*"),  # QNAP; netatalk's spelling of a dot in front
    *(
        r"\$RECYCLE\.BIN",
        "RECYCLER",
        "System Volume Information",
        r"found\.\d{3}",
    ),  # Windows: bins, restore points, chkdsk
    *(r"\$Extend", r"\$WinREAgent", r"\$SysReset", r"\$GetCurrent", r"\$Windows\.~\w+", r"Config\.Msi", "MSOCache"),
    *(
        "__MACOSX",
        "Network Trash Folder",
        "Temporary Items",
        "TheVolumeSettingsFolder",
        "TheFindByContentFolder",
    ),  # macOS
    *(r"lost\+found", r"~snapshot", r"LOST\.DIR"),  # fsck; NetApp; Android's cards
)
_FILES = (
    *(r"Thumbs\.db", r"ehthumbs(_vista)?\.db", r"desktop\.ini", r"WPSettings\.dat", "IndexerVolumeGuid"),  # Windows
    *("Icon\r", "Desktop D[BF]", ":2e.*"),  # macOS
    r"FSCK\d{4}\.REC",  # dosfsck
)
_FOLDER = re.compile("|".join(_FOLDERS), re.IGNORECASE | re.DOTALL)
_FILE = re.compile("|".join(_FILES), re.IGNORECASE | re.DOTALL)


def is_system_folder(name: str) -> bool:
    """Tell whether a system leaves folders of this name."""
    return _FOLDER.fullmatch(name) is not None


def is_system_file(name: str) -> bool:
    """Tell whether a system leaves files of this name."""
    return _FILE.fullmatch(name) is not None
