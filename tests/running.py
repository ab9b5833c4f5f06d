"""Whether a process is running."""

from pathlib import Path


def is_running(pid: int) -> bool:
    """False for one that has ended, although nobody has asked for its status."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
