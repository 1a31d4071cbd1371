"""Formats numbers with Grafana's units. For the pictures only."""

import math

BYTES = ["B", "KiB", "MiB", "GiB", "TiB"]
NAMES = {"pps": " p/s", "Bps": "/s"}


def format_value(value, unit="none", decimals=None):
    """A number with its unit."""
    if value is None or math.isnan(value):
        return ""
    if unit == "percentunit":
        return f"{_digits(value * 100, decimals)} %"
    if unit in ("bytes", "Bps"):
        return _bytes(value, decimals) + NAMES.get(unit, "")
    if unit == "s":
        return _seconds(value, decimals)
    if abs(value) >= 10_000:
        return f"{_digits(value / 1000, 1)} k{NAMES.get(unit, '')}"
    return _digits(value, decimals) + NAMES.get(unit, "")


def _bytes(value, decimals):
    power = 0
    while abs(value) >= 1024 and power < len(BYTES) - 1:
        value, power = value / 1024, power + 1
    return f"{_digits(value, 0 if power == 0 else decimals)} {BYTES[power]}"


def _seconds(value, decimals):
    size = abs(value)
    if size >= 120:
        return f"{_digits(value / 60, 1)} min"
    if size >= 1 or size == 0:
        return f"{_digits(value, decimals)} s"
    if size >= 1e-3:
        return f"{_digits(value * 1e3, decimals)} ms"
    return f"{_digits(value * 1e6, decimals)} µs"


def _digits(value, decimals):
    if decimals is None:
        size = abs(value)
        decimals = 0 if size >= 100 or value == int(value) else 1 if size >= 1 else 2
    text = f"{value:.{int(decimals)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
