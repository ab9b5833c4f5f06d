"""Damaged versions of real files, and a runner that notices every way of not coping with them.

A mutation is made from a seed, so a failure can be repeated. The runner works in a process of
its own: a crash ends that, and not the tests.
"""

import contextlib
import gc
import io
import json
import random
import re
import resource
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from tests.forked import Forked, Target

MAX_SECONDS = 5
MAX_GROWTH = 2**20  # kB of memory
MAX_SPACE = 2**33  # bytes of addresses; every thread takes some that it never uses
TOKENS = re.compile(rb'"[^"\n]{0,200}"|-?\d+(?:\.\d+)?|\w+')
NASTY: list[Any] = [
    None, True, False, "", " ", [], {}, [[]], {"a": None}, 0, -1, 1.5, 2**31, 2**63, -(2**63) - 1,
    10**18, 10**400, float("nan"), float("inf"), -float("inf"), 1e308, 1e9, 1e6, -1e6, 1e-320,
    "nan", "1e999", "no", "~", "2024-01-01", "0x10", "1_000", "\u0661", "\x00", "\x1b[2J", "\ud800",
    "\u202e", "a\nb", "../../x", "/etc/passwd", "C:\\x", ".", "..", "a" * 300, "a" * 70_000,
    "9" * 5000, "ooooooooooooooooooooooooo", "P" * 50, [1e9, -1e9] * 4, [0] * 5000, [1] * 3,
    {"size": [30, 40], "counts": [2**40]}, {"size": [30, 40], "counts": "o" * 60},
    {"size": [10**9, 10**9], "counts": [10**18]}, {"size": [30, 40], "counts": [0] * 999 + [1200]},
    [[float(i % 7), float(i % 11)] for i in range(50)], [[0, 0, 1e6, 0, 0, 1e6] * 400],
]  # fmt: skip
NASTY_BYTES = [
    b"", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"[" * 3000, b'{"a":' * 3000,
    b"<a>" * 3000, b"- " * 3000, b"*a", b"&a [*a]", b"<!DOCTYPE a>", b"<!ENTITY a 'b'>", b'"', b"'",
    b",", b"\n", b"\r", b"1e999", b"NaN", b"-Infinity", b"9" * 5000, b"!!python/object:os.system",
    b"<<", b"? ", b"\x1b[2J", b"%s%n", b"\\ud800", b"&#x1b;", b"]]>", b"<![CDATA[",
]  # fmt: skip


class TooSlowError(BaseException):
    """Not an Exception, so that no boundary takes it for damaged bytes."""


def mutated(content: bytes, rng: random.Random, name: str = "") -> bytes:
    """One to three mutations of a file; of its values too where it is JSON."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        content = _mutated_json(content, rng) if _is_json(name, rng) else _mutated(content, rng)
    return content


def run_inputs(
    names: list[str],
    run: Callable[[str, random.Random], object],
    seeds: range,
) -> None:
    """Run inputs, and print a line for each that is not handled; the first line is a count.

    Args:
        names: of what is mutated; the seeds go around them.
        run: makes and handles one input; raises AssertionError for a wrong answer.
        seeds: of the inputs.
    """
    warnings.simplefilter("ignore", append=True)  # after those that segtune itself relies on
    signal.signal(signal.SIGALRM, _too_slow)
    # Whoever asks for everything gets an error, and not the memory of the whole machine.
    limit = MAX_SPACE + 1024 * int(_status("VmSize"))
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    gc.freeze()  # what torch has brought, or else every collection goes through it
    before = _memory()
    for seed in seeds:
        name = names[seed % len(names)]
        print(f"input {name} {seed}", flush=True)
        signal.setitimer(signal.ITIMER_REAL, MAX_SECONDS)
        try:
            run(name, random.Random(f"{name}/{seed}"))
        except BaseException:
            last = " | ".join(traceback.format_exc().strip().splitlines()[-5:])
            print(f"FAILED {name} {seed}: {last[:2000]}", flush=True)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if _memory() > before + MAX_GROWTH:
            before = _memory()
            print(f"FAILED {name} {seed}: memory", flush=True)
    print("finished", flush=True)


def failures(target: Target, arguments: list[str], seconds: float) -> list[str]:
    """What a process that calls `run_inputs` could not handle, the input that ended it included."""
    process = Forked(target, arguments)
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.1)
    hung = process.returncode is None
    if hung:
        process.send_signal(signal.SIGKILL)
    lines = process.communicate()[0].splitlines()
    found = [line for line in lines if line.startswith("FAILED")]
    if not lines or lines[-1] != "finished":
        last = next((line for line in reversed(lines) if line.startswith("input")), "nothing")
        how = "hung" if hung else f"ended with {process.returncode}"
        found.append(f"{how} at {last}: {' | '.join(lines[-3:])}")
    return found


def exit_message(main: Callable[[list[str]], None], arguments: list[str]) -> str | None:
    """The error of a command, which must be one plain line; None where it succeeds."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            main(arguments)
        except SystemExit as raised:
            assert raised.code == 1, raised.code
        else:
            return None
    line = errors.getvalue()
    assert line.endswith("\n") and line[:-1].isprintable() and len(line) < 4000, repr(line[:500])
    return line


def _mutated(content: bytes, rng: random.Random) -> bytes:
    start, end = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    end = min(end, start + rng.choice((1, 4, 40, 4000)))
    piece = content[start:end]
    choice = rng.randrange(8)
    if choice == 0:  # a bit
        at = rng.randrange(len(content) or 1)
        bits = bytes(b ^ (1 << rng.randrange(8)) for b in content[at : at + 1])
        return content[:at] + bits + content[at + 1 :]
    if choice == 1:
        return content[:start]
    if choice == 2:
        return content[:start] + content[end:]
    if choice == 3:
        return content[:end] + piece * rng.choice((1, 2, 50)) + content[end:]
    if choice == 4:
        at = rng.randrange(len(content) + 1)
        return content[:at] + piece + content[at:]
    if choice == 5:
        return content[:start] + rng.randbytes(len(piece)) + content[end:]
    return _with_other_token(content, rng)


def _with_other_token(content: bytes, rng: random.Random) -> bytes:
    places = [match.span() for match in TOKENS.finditer(content[:200_000])]
    start, end = rng.choice(places) if places else (0, 0)
    value = rng.choice(NASTY)
    text = json.dumps(value) if rng.random() < 0.5 else str(value)[:70_000]
    nasty = rng.choice((text.encode("utf-8", "surrogatepass"), rng.choice(NASTY_BYTES)))
    return content[:start] + nasty + content[end:]


def _is_json(name: str, rng: random.Random) -> bool:
    return name.lower().endswith((".json", ".yaml")) and rng.random() < 0.6


def _mutated_json(content: bytes, rng: random.Random) -> bytes:
    """The same JSON with another value, without one, or with one in place of another."""
    try:
        values = json.loads(content)
        places = list(_places(values))
    except (ValueError, RecursionError):
        return _mutated(content, rng)
    if not places:
        return json.dumps(rng.choice(NASTY)).encode()
    parent, key = rng.choice(places)
    other, other_key = rng.choice(places)
    choice = rng.randrange(6)
    if choice == 0:
        del parent[key]
    elif choice == 1:
        parent[key] = json.loads(json.dumps(other[other_key]))
    elif choice == 2 and isinstance(parent, list):
        parent.extend([json.loads(json.dumps(parent[key]))] * rng.choice((1, 300)))
    else:
        parent[key] = rng.choice(NASTY)
    return json.dumps(values).encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(items):
        yield value, key
        if isinstance(inner, dict | list):
            yield from _places(inner)


def _status(name: str) -> str:
    text = Path("/proc/self/status").read_text()
    return next(line.split()[1] for line in text.splitlines() if line.startswith(name))


def _memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _too_slow(number: int, frame: FrameType | None) -> None:
    raise TooSlowError


def files_in(folder: Path) -> list[str]:
    """The files of a folder, relative to it, by name."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
