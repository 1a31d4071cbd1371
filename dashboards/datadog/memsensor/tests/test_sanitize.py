"""Names that other users choose have no meaning in an event or a tag."""

import pytest

from datadog_checks.memsensor import sanitize


@pytest.mark.parametrize(
    'name, escaped',
    [
        ('nginx', 'nginx'),
        ('/web.slice/getty@tty1.service', '/web.slice/getty\\x40tty1.service'),
        ('%%%', '\\x25\\x25\\x25'),
        ('@pagerduty-web', '\\x40pagerduty-web'),
        ('[a](http://b)', '\\x5ba\\x5d\\x28http\\x3a//b\\x29'),
        ('a\\x40', 'a\\x5cx40'),
        ('a\nb\u2028c\x1b[2J', 'a\\x0ab\\u{2028}c\\x1b\\x5b2J'),
        ('{{#is_alert}}', '\\x7b\\x7b\\x23is_alert\\x7d\\x7d'),
    ],
)
def test_special_characters_are_escaped(name, escaped):
    assert sanitize.text(name) == escaped


@pytest.mark.parametrize('max_length', range(10, 40))
@pytest.mark.parametrize('name', ['@' * 500, 'a' * 500, '\u2028' * 500, 'ab@' * 100])
def test_a_long_name_is_not_cut_within_an_escape(name, max_length):
    escaped = sanitize.text(name, max_length)
    assert len(escaped) <= max_length
    assert escaped.endswith('...')
    rest = escaped[:-3].replace('\\x40', '').replace('\\u{2028}', '')
    assert '\\' not in rest, escaped


def test_a_tag_has_no_separators_in_its_value():
    assert sanitize.tag('victim', 'a b,c:d#@e|f') == 'victim:a_b_c_d__e_f'
    assert sanitize.tag('cgroup', '/a/' + 'b' * 500) == 'cgroup:/a/' + 'b' * 97
