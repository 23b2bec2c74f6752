"""Google Drive, as a folder that appears when it is mounted."""

from pathlib import Path


def mount(mountpoint: str) -> None:
    """Mount it; what was there before is there again."""
    (Path(mountpoint) / "MyDrive").mkdir(parents=True, exist_ok=True)
