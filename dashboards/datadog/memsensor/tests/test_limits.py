"""A sensor that is slow or frozen, or another service at its port, cannot block the check or fill its memory."""

import time

import pytest

from datadog_checks.memsensor import limits


def send_head(handler, length=None):
    handler.send_response(200)
    handler.send_header('Content-Type', 'text/plain; version=0.0.4')
    if length is not None:
        handler.send_header('Content-Length', str(length))
    handler.end_headers()


def slow_body(handler):
    send_head(handler, 1000000)
    while True:
        handler.wfile.write(b'#')
        handler.wfile.flush()
        time.sleep(0.05)


def slow_chunks(handler):
    handler.protocol_version = 'HTTP/1.1'
    handler.send_response(200)
    handler.send_header('Transfer-Encoding', 'chunked')
    handler.end_headers()
    while True:
        handler.wfile.write(b'1\r\n#\r\n')
        handler.wfile.flush()
        time.sleep(0.05)


def endless_body(handler):
    send_head(handler)
    while True:
        handler.wfile.write(b'#' * 100000)


def no_response(handler):
    time.sleep(20)


def incomplete_body(handler):
    send_head(handler, 1000000)
    handler.wfile.write(b'# TYPE')


@pytest.mark.parametrize(
    'answer, message, max_seconds',
    [
        (slow_body, 'longer than', 3),
        (slow_chunks, 'longer than', 3),
        (endless_body, 'larger than', 3),
        (no_response, 'timed out', 3),
        (incomplete_body, '', 3),
    ],
)
@pytest.mark.parametrize('path', ['/metrics', '/api/v1/events'])
def test_every_response_is_limited_in_time_and_size(
    fake, checks, dd_run_check, aggregator, monkeypatch, answer, message, max_seconds, path
):
    # A second and not ten: the test is faster.
    monkeypatch.setattr(limits.read_body, '__defaults__', (1,))
    fake.answers[path] = answer
    check = checks(fake.url, timeout=1)
    start = time.monotonic()
    if path == '/metrics':
        with pytest.raises(Exception, match=message):
            dd_run_check(check)
        [service_check] = aggregator.service_checks('memsensor.readiness')
        assert service_check.status == 3
    else:
        dd_run_check(check)
        assert any(message in warning for warning in check.warnings), check.warnings
        aggregator.assert_metric('memsensor.ready')
    assert time.monotonic() - start < max_seconds


def test_the_default_timeout_is_five_seconds(fake, checks, dd_run_check):
    check = checks(fake.url)
    dd_run_check(check)
    [scraper] = check.scrapers.values()
    assert scraper.http.options['timeout'] == (5, 5)


@pytest.mark.parametrize('separator', ['\u2028', '\u2029', '\x85', '\x0b', '\x0c', '\x1c', '\x1d', '\x1e'])
def test_only_a_line_feed_ends_a_line(fake, checks, dd_run_check, aggregator, separator):
    line = '# TYPE memsensor_process_growth_bytes_per_second gauge\n'
    line += f'memsensor_process_growth_bytes_per_second{{comm="a{separator}b",cgroup=""}} 1\n'
    fake.answers['/metrics'] += line
    dd_run_check(checks(fake.url, metric_groups=['processes']))
    aggregator.assert_metric_has_tag('memsensor.process_growth_bytes_per_second', f'comm:a{separator}b')


def test_the_agents_reader_fails_at_such_a_name(fake, dd_run_check):
    """The reason for our own line reader. If this test fails, the reader can be removed."""
    from datadog_checks.base import OpenMetricsBaseCheckV2

    fake.answers['/metrics'] += 'memsensor_process_growth_bytes_per_second{comm="a\u2028b",cgroup=""} 1\n'
    instance = {'openmetrics_endpoint': f'{fake.url}/metrics', 'namespace': 'x', 'metrics': ['memsensor_ready']}
    with pytest.raises(Exception):
        dd_run_check(OpenMetricsBaseCheckV2('openmetrics', {}, [instance]))


@pytest.mark.parametrize(
    'options, message',
    [
        ({'metric_groups': ['cgroup']}, "unknown group 'cgroup'; known groups: cgroups, processes"),
        ({'metric_groups': 'self'}, "unknown group 'self'"),
        ({'max_events_per_run': 0}, '0 is not a number from 1 to 100'),
        ({'max_events_per_run': '7'}, 'is not a number'),
    ],
)
def test_a_configuration_error_names_the_valid_values(checks, options, message):
    with pytest.raises(Exception, match=message):
        checks('http://localhost:1', **options)


def test_at_most_max_returned_metrics_are_sent(fake, checks, dd_run_check, aggregator):
    from conftest import contexts

    dd_run_check(checks(fake.url, max_returned_metrics=20))
    assert len(contexts(aggregator)) == 20
