"""Names that somebody chose do nothing in an event or a tag."""

import pytest

from datadog_checks.memsensor import plain


@pytest.mark.parametrize(
    'name, written',
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
def test_a_name_means_nothing(name, written):
    assert plain.text(name) == written


@pytest.mark.parametrize('most', range(10, 40))
@pytest.mark.parametrize('name', ['@' * 500, 'a' * 500, '\u2028' * 500, 'ab@' * 100])
def test_a_long_name_is_cut_and_no_escape_in_two(name, most):
    written = plain.text(name, most)
    assert len(written) <= most
    assert written.endswith('...')
    whole = written[:-3].replace('\\x40', '').replace('\\u{2028}', '')
    assert '\\' not in whole, written


def test_a_tag_is_one_tag():
    assert plain.tag('victim', 'a b,c:d#@e|f') == 'victim:a_b_c_d__e_f'
    assert plain.tag('cgroup', '/a/' + 'b' * 500) == 'cgroup:/a/' + 'b' * 97
