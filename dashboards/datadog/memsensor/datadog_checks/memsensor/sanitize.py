"""Makes text from other users safe for events and tags, and numbers from elsewhere safe for arithmetic.

Any user can choose the names of threads and cgroups. In an event such a name could be markdown (`%%%`), a link, or a
mention (`@pagerduty`) that pages a person. All but a few characters are escaped as `\\xNN`, as systemd does it. The
escape keeps the full name and removes its meaning to Datadog.
"""

import math
import re

# Characters to escape in text. `:` would make a link and `@` a mention.
_UNSAFE_IN_TEXT = re.compile(r'[^A-Za-z0-9 _./=+,-]')
_UNSAFE_IN_TAG = re.compile(r'[^A-Za-z0-9_./-]')
ELLIPSIS = '...'


def _escape(match):
    code = ord(match.group())
    return f'\\x{code:02x}' if code < 0x100 else f'\\u{{{code:x}}}'


def text(value, max_length=100):
    """The escaped value, cut to `max_length` characters."""
    # Cut before escaping: a value may be very long.
    raw = plain(value)[: max_length + 1]
    escaped = _UNSAFE_IN_TEXT.sub(_escape, raw)
    if len(escaped) <= max_length:
        return escaped
    end = max_length - len(ELLIPSIS)
    # Remove an escape that the cut has split.
    return re.sub(r'\\(x.?|u(\{[0-9a-f]*)?)?$', '', escaped[:end]) + ELLIPSIS


def tag(key, value, max_length=100):
    """`key:value` with the characters that Datadog keeps in a tag."""
    return f'{key}:{_UNSAFE_IN_TAG.sub("_", plain(value)[:max_length])}'


def plain(value):
    """A text or a number as text, and `?` for any other value: `str` fails at an array with too many levels."""
    return str(value) if isinstance(value, (str, int, float)) else '?'


def number(value):
    """The value as a finite number, or None. JSON and expositions have integers that are too large for a float."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        value = float(value)
    except OverflowError:
        return None
    return value if math.isfinite(value) else None
