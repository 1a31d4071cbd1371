"""A sensor that is slow, frozen, or something else altogether holds up nobody and fills no memory."""

import time

import pytest

from datadog_checks.memsensor import bounded


def head(handler, length=None):
    handler.send_response(200)
    handler.send_header('Content-Type', 'text/plain; version=0.0.4')
    if length is not None:
        handler.send_header('Content-Length', str(length))
    handler.end_headers()


def dripping(handler):
    head(handler, 1000000)
    while True:
        handler.wfile.write(b'#')
        handler.wfile.flush()
        time.sleep(0.05)


def dripping_in_pieces(handler):
    handler.protocol_version = 'HTTP/1.1'
    handler.send_response(200)
    handler.send_header('Transfer-Encoding', 'chunked')
    handler.end_headers()
    while True:
        handler.wfile.write(b'1\r\n#\r\n')
        handler.wfile.flush()
        time.sleep(0.05)


def endless(handler):
    head(handler)
    while True:
        handler.wfile.write(b'#' * 100000)


def silent(handler):
    time.sleep(20)


def cut_short(handler):
    head(handler, 1000000)
    handler.wfile.write(b'# TYPE')


@pytest.mark.parametrize(
    'answer, says, most',
    [
        (dripping, 'longer than', 3),
        (dripping_in_pieces, 'longer than', 3),
        (endless, 'larger than', 3),
        (silent, 'timed out', 3),
        (cut_short, '', 3),
    ],
)
@pytest.mark.parametrize('path', ['/metrics', '/api/v1/events'])
def test_no_answer_takes_longer_than_it_may(
    fake, checks, dd_run_check, aggregator, monkeypatch, answer, says, most, path
):
    # As in earnest, in a fraction of the time.
    monkeypatch.setattr(bounded.body, '__defaults__', (1,))
    fake.answers[path] = answer
    check = checks(fake.url, timeout=1)
    begun = time.monotonic()
    if path == '/metrics':
        with pytest.raises(Exception, match=says):
            dd_run_check(check)
        [told] = aggregator.service_checks('memsensor.readiness')
        assert told.status == 3
    else:
        dd_run_check(check)
        assert any(says in warning for warning in check.warnings), check.warnings
        aggregator.assert_metric('memsensor.ready')
    assert time.monotonic() - begun < most


def test_the_timeout_is_short_where_nobody_sets_one(fake, checks, dd_run_check):
    check = checks(fake.url)
    dd_run_check(check)
    [scraper] = check.scrapers.values()
    assert scraper.http.options['timeout'] == (bounded.TIMEOUT_SECONDS, bounded.TIMEOUT_SECONDS)


@pytest.mark.parametrize('separator', ['\u2028', '\u2029', '\x85', '\x0b', '\x0c', '\x1c', '\x1d', '\x1e'])
def test_what_others_take_for_a_line_break_in_a_name_is_none(fake, checks, dd_run_check, aggregator, separator):
    line = '# TYPE memsensor_process_growth_bytes_per_second gauge\n'
    line += f'memsensor_process_growth_bytes_per_second{{comm="a{separator}b",cgroup=""}} 1\n'
    fake.answers['/metrics'] += line
    dd_run_check(checks(fake.url, metric_groups=['processes']))
    aggregator.assert_metric_has_tag('memsensor.process_growth_bytes_per_second', f'comm:a{separator}b')


def test_the_agents_own_reader_stops_at_such_a_name(fake, dd_run_check):
    """Why this one reads lines by itself; when this fails, it need not any longer."""
    from datadog_checks.base import OpenMetricsBaseCheckV2

    fake.answers['/metrics'] += 'memsensor_process_growth_bytes_per_second{comm="a\u2028b",cgroup=""} 1\n'
    instance = {'openmetrics_endpoint': f'{fake.url}/metrics', 'namespace': 'x', 'metrics': ['memsensor_ready']}
    with pytest.raises(Exception):
        dd_run_check(OpenMetricsBaseCheckV2('openmetrics', {}, [instance]))


@pytest.mark.parametrize(
    'options, says',
    [
        ({'metric_groups': ['cgroup']}, "no group 'cgroup'; there are: cgroups, processes"),
        ({'metric_groups': 'self'}, "no group 'self'"),
        ({'max_events_per_run': 0}, '0 is not a number from 1 to 100'),
        ({'max_events_per_run': '7'}, 'is not a number'),
    ],
)
def test_a_mistake_in_the_configuration_says_what_is_allowed(checks, options, says):
    with pytest.raises(Exception, match=says):
        checks('http://localhost:1', **options)


def test_not_more_series_than_the_limit_are_sent(fake, checks, dd_run_check, aggregator):
    from conftest import contexts

    dd_run_check(checks(fake.url, max_returned_metrics=20))
    assert len(contexts(aggregator)) == 20
