"""What is wrong with a setting, for a message."""

from pydantic_core import ErrorDetails

from segtune.core.errors import MAX_SHOWN

# Keys of earlier versions -> today's.
RENAMED = {
    "carved_share": "holdout_fraction",
    "carve_seed": "holdout_seed",
    "smallest_scale": "min_scale",
    "colour_jitter": "color_jitter",
    "repeat_threshold": "repeat_factor_threshold",
    "rank_stabilised": "rank_stabilized",
    "score_threshold": "confidence_threshold",
    "false_alarm_score": "confidence_threshold",
    "outside_prompts": "ood_prompts",
}
RENAMED_VALUES = {("missing_test", "carve"): "hold_out"}


def problem_of(details: ErrorDetails) -> str:
    """One problem with its dotted path, and today's name where an old one was used."""
    path = ".".join(map(str, details["loc"]))[:MAX_SHOWN] or "settings"
    key = details["loc"][-1] if details["loc"] else ""
    if details["type"] == "extra_forbidden":
        old, new = key, RENAMED.get(str(key))
    else:
        old, new = details["input"], RENAMED_VALUES.get((str(key), str(details["input"])))
    return f"{path}: {old!r} is now called {new!r}" if new else f"{path}: {details['msg']}"
