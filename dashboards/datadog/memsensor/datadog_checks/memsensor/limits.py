"""Reads responses with limits on time, size and numbers: the sensor may be frozen, or the port another service's."""

import time

from requests.exceptions import ConnectionError, RequestException
from urllib3.exceptions import HTTPError

from datadog_checks.base.checks.openmetrics.v2.scraper import OpenMetricsScraper

from . import sanitize

# Timeout of each connect and each read, unless `timeout` is set.
TIMEOUT_SECONDS = 5
# Timeout of the whole body, also if it arrives steadily in small pieces.
BODY_SECONDS = 10
# A thousand cgroups take about 1.5 MiB, a hundred events 200 KiB.
MAX_METRICS_BYTES = 4 * 1024 * 1024
MAX_EVENTS_BYTES = 1024 * 1024
CHUNK_BYTES = 64 * 1024


class ResponseError(RequestException):
    """The response is too large, too slow, or incomplete."""


def read_body(response, max_bytes, max_seconds=BODY_SECONDS):
    """The body; raises `ResponseError` at a limit."""
    end = time.monotonic() + max_seconds
    chunks, size = [], 0
    while chunk := read_chunk(response):
        chunks.append(chunk)
        size += len(chunk)
        if size > max_bytes:
            raise ResponseError(f'the response is larger than {max_bytes} bytes')
        if time.monotonic() > end:
            raise ResponseError(f'the response takes longer than {max_seconds} s')
    return b''.join(chunks)


def read_chunk(response):
    """The bytes that have arrived. `iter_content` would wait until the chunk is full."""
    try:
        return response.raw.read1(CHUNK_BYTES, decode_content=True)
    except HTTPError as error:
        raise ResponseError(f'the response is incomplete: {error}') from error


class Scraper(OpenMetricsScraper):
    """Replaces the reader of the base class, which reads lines without a limit."""

    def stream_connection_lines(self):
        try:
            with self.get_connection() as response:
                self._content_type = response.headers.get('Content-Type', '')
                text = read_body(response, MAX_METRICS_BYTES).decode('utf-8', errors='replace')
        except ConnectionError:
            if self.ignore_connection_errors:
                self.log.warning('cannot connect to %s', self.endpoint)
                return
            raise
        # Only a line feed ends a line. `splitlines` also splits at U+2028, so a process with that character in its
        # name would make the scrape fail.
        yield from text.split('\n')

    def generate_sample_data(self, metric):
        """Without samples that are not finite: the base class fails at an integer that is too large for a float."""
        metric.samples = [sample for sample in metric.samples if sanitize.number(sample.value) is not None]
        yield from super().generate_sample_data(metric)
