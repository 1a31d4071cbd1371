"""Shared by the tests: the check, servers with canned responses, and the running sensor.

`cargo xtask test datadog --level live` provides a sensor and a cgroup. Without them, the tests that need a sensor are
reported as skipped.
"""

import hashlib
import json
import os
import re
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY = ROOT.parents[2]
# Our package, in addition to the Agent's packages of the same name, which pytest's plugin has imported.
sys.modules['datadog_checks'].__path__.append(str(ROOT / 'datadog_checks'))

EXPOSITION = Path(__file__).parent / 'fixtures' / 'metrics.txt'


def label_values(metric, label, exposition=None):
    """The values of a label in an exposition, by default the recorded one."""
    exposition = EXPOSITION.read_text() if exposition is None else exposition
    return tuple(dict.fromkeys(re.findall(rf'^{metric}\{{(?:.*,)?{label}="([^"]+)"', exposition, re.M)))


# `test_live.py` compares the recorded values with those of the running sensor.
STATES = label_values('memsensor_state', 'state')
OOM_TYPES = label_values('memsensor_oom_kills_total', 'type')


def metrics_table():
    """The generated table of the sensor's metrics, in docs/metrics.md."""
    text = (REPOSITORY / 'docs/metrics.md').read_text()
    return text.split('<!-- metrics:begin -->')[1].split('<!-- metrics:end -->')[0].strip()


class Handler(BaseHTTPRequestHandler):
    """Responds by path, from the server's table: a body, or a function that writes the response."""

    def do_GET(self):
        answer = self.server.answers.get(self.path.partition('?')[0])
        self.server.requests.append(self.path)
        if callable(answer):
            answer(self)
            return
        self.send_response(404 if answer is None else 200)
        body = (answer or '').encode()
        self.send_header('Content-Type', 'text/plain; version=0.0.4; charset=utf-8')
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    """A server that ignores clients that disconnect."""

    def handle_error(self, *_):
        pass


@contextmanager
def serving(answers):
    """A server of these responses. A test may change them while it runs."""
    server = Server(('127.0.0.1', 0), Handler)
    server.daemon_threads = True
    server.answers, server.requests = answers, []
    server.url = f'http://127.0.0.1:{server.server_port}'
    threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.02}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def fake():
    """The recorded sensor: ready, and without events."""
    answers = {'/metrics': EXPOSITION.read_text(), '/api/v1/events': json.dumps({'events': []})}
    with serving(answers) as server:
        yield server


@pytest.fixture(autouse=True)
def empty_cache(datadog_agent):
    """Every test starts with an empty Agent cache."""
    datadog_agent.reset()


@pytest.fixture
def checks():
    """Creates a check of an endpoint."""
    from datadog_checks.memsensor import MemsensorCheck

    def make(url, **options):
        # The fake sensor and the one of the tests have one port for everything.
        endpoints = {'openmetrics_endpoint': f'{url}/metrics', 'events_endpoint': f'{url}/api/v1/events'}
        instance = {**endpoints, **options}
        check = MemsensorCheck('memsensor', {}, [instance])
        # As in the Agent, the id ends with a digest of the configuration.
        check.check_id = f'memsensor:{hashlib.sha256(json.dumps(instance).encode()).hexdigest()[:16]}'
        return check

    return make


class Sensor:
    """The running sensor, from the environment that `tests/tests/live/serving/datadog.rs` sets."""

    def __init__(self):
        self.url = os.environ['MEMSENSOR_URL']
        self.socket = os.environ['MEMSENSOR_SOCKET']
        self.pid = int(os.environ['MEMSENSOR_PID'])
        self.program = os.environ['MEMSENSOR_PROGRAM']
        self.hog = os.environ['MEMSENSOR_HOG']
        self.groups = os.environ['MEMSENSOR_CGROUPS'].split(':')
        self.cgroup = os.environ['MEMSENSOR_CGROUP']


@pytest.fixture
def sensor():
    """A running memsensor, with a scope `web` in which a test can have processes killed."""
    if 'MEMSENSOR_URL' not in os.environ:
        pytest.skip('needs a running memsensor: cargo xtask test datadog --level live')
    return Sensor()


def contexts(aggregator):
    """What is billed: each name with each set of tags."""
    names = aggregator.metric_names
    return {(name, tuple(sorted(stub.tags)), stub.hostname) for name in names for stub in aggregator.metrics(name)}
