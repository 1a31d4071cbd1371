"""Text that somebody else chose, made fit for an event or a tag.

Names of threads and cgroups are chosen by whoever makes them. In an event they could be markdown (`%%%`), a
link, or a mention (`@pagerduty`) that pages somebody. So all but a few characters are written as `\\xNN`, the
way systemd does it: nothing is lost, and nothing means anything.
"""

import re

# In words; `:` would make a link and `@` a mention.
_TEXT = re.compile(r'[^A-Za-z0-9 _./=+,-]')
_TAG = re.compile(r'[^A-Za-z0-9_./-]')
ELLIPSIS = '...'


def _written(match):
    code = ord(match.group())
    return f'\\x{code:02x}' if code < 0x100 else f'\\u{{{code:x}}}'


def text(value, most=100):
    """Any value in at most so many characters."""
    # The end is cut before it is written: no escape is cut in two.
    raw = str(value)[: most + 1]
    written = _TEXT.sub(_written, raw)
    if len(written) <= most:
        return written
    end = most - len(ELLIPSIS)
    return re.sub(r'\\(x.?|u(\{[0-9a-f]*)?)?$', '', written[:end]) + ELLIPSIS


def tag(key, value, most=100):
    """`key:value` as Datadog would keep it."""
    return f'{key}:{_TAG.sub("_", str(value)[:most])}'
