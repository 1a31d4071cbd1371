"""What the tests share: the check, servers that answer what a test wants, and the running sensor.

`cargo xtask test datadog --level live` gives them a sensor and a cgroup; without, the tests that need one are
skipped and say so.
"""

import hashlib
import json
import os
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY = ROOT.parents[2]
# Beside the Agent's own packages of that name, which pytest's plugin has imported.
sys.modules['datadog_checks'].__path__.append(str(ROOT / 'datadog_checks'))

EXPOSITION = Path(__file__).parent / 'fixtures' / 'metrics.txt'


class Answers(BaseHTTPRequestHandler):
    """Answers by path, from the server's table: a body, or a function that writes one."""

    def do_GET(self):
        answer = self.server.answers.get(self.path.partition('?')[0])
        self.server.asked.append(self.path)
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
    """One that does not mind who hangs up on it."""

    def handle_error(self, *_):
        pass


@contextmanager
def serving(answers):
    """A server of these answers; they may be changed meanwhile."""
    server = Server(('127.0.0.1', 0), Answers)
    server.daemon_threads = True
    server.answers, server.asked = answers, []
    server.url = f'http://127.0.0.1:{server.server_port}'
    threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.02}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def fake():
    """A sensor as it was recorded, calm and without events."""
    answers = {'/metrics': EXPOSITION.read_text(), '/api/v1/events': json.dumps({'events': []})}
    with serving(answers) as server:
        yield server


@pytest.fixture(autouse=True)
def forgotten(datadog_agent):
    """The Agent's cache is empty at first."""
    datadog_agent.reset()


@pytest.fixture
def checks():
    """Makes a check of this endpoint."""
    from datadog_checks.memsensor import MemsensorCheck

    def make(url, **options):
        instance = {'openmetrics_endpoint': f'{url}/metrics', **options}
        check = MemsensorCheck('memsensor', {}, [instance])
        # The Agent's ends with a digest of the configuration.
        check.check_id = f'memsensor:{hashlib.sha256(json.dumps(instance).encode()).hexdigest()[:16]}'
        return check

    return make


class Sensor:
    """The real one, by what `the_datadog_agent_is_told` says of it."""

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
    """A running memsensor, with a scope `web` in which processes can be killed."""
    if 'MEMSENSOR_URL' not in os.environ:
        pytest.skip('needs a running memsensor: cargo xtask test datadog --level live')
    return Sensor()


def contexts(aggregator):
    """What is billed: names with their tags."""
    names = aggregator.metric_names
    return {(name, tuple(sorted(stub.tags)), stub.hostname) for name in names for stub in aggregator.metrics(name)}
