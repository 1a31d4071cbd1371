"""Asks the sensor with a bound on everything: it may be frozen, and something else may listen at its port."""

import time

from requests.exceptions import ConnectionError, RequestException
from urllib3.exceptions import HTTPError

from datadog_checks.base.checks.openmetrics.v2.scraper import OpenMetricsScraper

# For each wait of a connection, unless `timeout` says otherwise.
TIMEOUT_SECONDS = 5
# For the whole body, however steadily it drips.
BODY_SECONDS = 10
# A thousand cgroups are some 1.5 MiB, a hundred events 200 KiB.
METRICS_BYTES = 4 * 1024 * 1024
EVENTS_BYTES = 1024 * 1024
PIECE = 64 * 1024


class NoAnswer(RequestException):
    """The answer is too large, takes too long, or ends before its end."""


def body(response, most_bytes, most_seconds=BODY_SECONDS):
    """The body, or `NoAnswer`."""
    end = time.monotonic() + most_seconds
    pieces, size = [], 0
    while piece := arrived(response):
        pieces.append(piece)
        size += len(piece)
        if size > most_bytes:
            raise NoAnswer(f'the answer is larger than {most_bytes} bytes')
        if time.monotonic() > end:
            raise NoAnswer(f'the answer takes longer than {most_seconds} s')
    return b''.join(pieces)


def arrived(response):
    """What has arrived, unlike `iter_content`, which waits until a piece is full."""
    try:
        return response.raw.read1(PIECE, decode_content=True)
    except HTTPError as why:
        raise NoAnswer(f'the answer breaks off: {why}') from why


class Scraper(OpenMetricsScraper):
    """The base's, which reads lines for as long as there are any."""

    def stream_connection_lines(self):
        try:
            with self.get_connection() as response:
                self._content_type = response.headers.get('Content-Type', '')
                text = body(response, METRICS_BYTES).decode('utf-8', errors='replace')
        except ConnectionError:
            if self.ignore_connection_errors:
                self.log.warning('%s is not to be reached', self.endpoint)
                return
            raise
        # A line ends with a line feed and nothing else. `splitlines` would also cut at U+2028, and so would
        # whoever has it in the name of a process keep the whole scrape from being read.
        yield from text.split('\n')
