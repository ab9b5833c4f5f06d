"""The log of what had to be repaired in an export."""

import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from segtune.exports.split_source import Place

MAX_EXAMPLES = 5  # per rule


@dataclass(frozen=True)
class Example:
    """A record that was repaired, and what it held before."""

    file: str  # relative to the export
    record: str
    original: object  # JSON


@dataclass(frozen=True)
class Repair:
    """A rule with the number of records that it was applied to."""

    rule: str
    count: int
    examples: tuple[Example, ...]


@dataclass
class Repairs:
    """What was changed in an export: a count per rule, and the first examples."""

    root: Path  # of the export
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    examples: dict[str, list[Example]] = field(default_factory=lambda: defaultdict(list))

    def log(self, rule: str, place: Place, original: object) -> None:
        """Count a repair, and remember where it was made and what was there before."""
        self.counts[rule] += 1
        if len(self.examples[rule]) < MAX_EXAMPLES:
            # Polygons are arrays here, and the log is JSON.
            plain = json.loads(json.dumps(original, default=list))
            self.examples[rule].append(Example(self._relative(place.file), place.record, plain))

    def by_rule(self) -> list[Repair]:
        """The log, sorted by rule."""
        return [
            Repair(rule, count, tuple(self.examples[rule]))
            for rule, count in sorted(self.counts.items())
        ]

    def _relative(self, file: Path) -> str:
        # People pass the log on, and the machine's paths should not go with it.
        return file.relative_to(self.root).as_posix()
