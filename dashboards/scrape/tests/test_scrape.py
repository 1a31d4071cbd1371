"""The configurations with a running memsensor: the series that each keeps. The programs themselves are not available,
so the tests use the parts of them that select series.

`cargo xtask test scrape --level live` provides a sensor. Without it, the tests that need one are reported as skipped.
"""

import json
import os
import re
import subprocess
import time
import tomllib
import urllib.request
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import pyvrl
import yaml

SCRAPE = Path(__file__).resolve().parents[1]
REPOSITORY = SCRAPE.parents[1]
# Series of a host with one scope, one NUMA node and the default senders: from the minimum on every kernel to the
# maximum with every probe and a forecast.
SERIES = range(48, 52)
# The buckets of two histograms.
BUCKETS = 2 * 13


@pytest.fixture(scope='module')
def url():
    if 'MEMSENSOR_URL' not in os.environ:
        pytest.skip('needs a running memsensor: cargo xtask test scrape --level live')
    return os.environ['MEMSENSOR_URL']


@pytest.fixture(scope='module')
def series(url):
    """The name of every series of the running sensor."""
    with urllib.request.urlopen(f'{url}/metrics', timeout=5) as response:
        lines = response.read().decode().split('\n')
    return [re.split(r'[ {]', line)[0] for line in lines if line and not line.startswith('#')]


def telegraf():
    [prometheus] = tomllib.loads((SCRAPE / 'telegraf.toml').read_text())['inputs']['prometheus']
    return prometheus


def scrape_config():
    config = yaml.safe_load((SCRAPE / 'otelcol.yaml').read_text())
    return config['receivers']['prometheus/memsensor']['config']


def otelcol_keeps(name):
    [job] = scrape_config()['scrape_configs']
    [keep] = job['metric_relabel_configs']
    return re.fullmatch(keep['regex'], name)


def vector_condition():
    condition = yaml.safe_load((SCRAPE / 'vector.yaml').read_text())['transforms']['memsensor_bounded']['condition']
    assert condition['type'] == 'vrl'
    return pyvrl.Transform(condition['source'])


def known():
    """The metrics of the generated table in docs/metrics.md, with the series of histograms."""
    text = (REPOSITORY / 'docs/metrics.md').read_text()
    rows = text.split('<!-- metrics:begin -->')[1].split('<!-- metrics:end -->')[0]
    names = dict(re.findall(r'^\| `(\w+)` \| (\w+) ', rows, re.M))
    histograms = {name for name, kind in names.items() if kind == 'histogram'}
    return names.keys() | {f'{name}_{part}' for name in histograms for part in ('sum', 'count', 'bucket')}


def test_all_three_keep_the_same_metrics():
    telegraf_names = set(telegraf()['fieldinclude'])
    otelcol_names = {name for name in known() if otelcol_keeps(name)}
    vector = vector_condition()
    vector_names = {name for name in known() if vector.remap({'name': name})}
    assert telegraf_names == otelcol_names
    assert {name.removesuffix('_sum').removesuffix('_count') for name in telegraf_names} == vector_names
    # A misspelt name would be in none of the sets.
    assert len(re.findall('memsensor_', (SCRAPE / 'vector.yaml').read_text())) == len(vector_names) + 2


def test_every_name_is_a_metric_of_the_sensor():
    assert set(telegraf()['fieldinclude']) <= known()


def test_telegraf_keeps_a_limited_number_of_series(series):
    """With the globs of Telegraf's documentation, because Telegraf is not available."""
    kept = [name for name in series if any(fnmatchcase(name, glob) for glob in telegraf()['fieldinclude'])]
    assert len(kept) in SERIES


def test_vector_keeps_a_limited_number_of_series(series):
    condition = vector_condition()

    def event_name(name):
        # In Vector a histogram is one event.
        return re.sub(r'_(bucket|sum|count)$', '', name) if re.search(r'seconds_(bucket|sum|count)$', name) else name

    kept = [name for name in series if condition.remap({'name': event_name(name)})]
    assert len(kept) - BUCKETS in SERIES
    assert not condition.remap({'name': 'memsensor_process_growth_bytes_per_second'})


def test_prometheus_scrapes_with_the_configuration_of_the_receiver(url, series, tmp_path):
    """The receiver embeds the scraper of Prometheus, so Prometheus with the same configuration tests it."""
    config = scrape_config()
    [job] = config['scrape_configs']
    assert job['static_configs'] == [{'targets': ['localhost:9817']}]
    job['static_configs'] = [{'targets': [url.removeprefix('http://')]}]
    job['scrape_interval'], job['scrape_timeout'] = '1s', '1s'
    file = tmp_path / 'prometheus.yml'
    file.write_text(yaml.safe_dump(config))
    subprocess.run(['promtool', 'check', 'config', str(file)], check=True, capture_output=True, text=True)
    address = free_address()
    command = ['prometheus', f'--config.file={file}', f'--storage.tsdb.path={tmp_path}/data']
    with open(tmp_path / 'log', 'w') as log:
        prometheus = subprocess.Popen([*command, f'--web.listen-address={address}'], stderr=log, stdout=log)
    try:
        names = scraped(address, tmp_path / 'log')
    finally:
        prometheus.terminate()
        prometheus.wait(20)
    # A forecast may start or end between two scrapes.
    kept, names = ([name for name in group if 'exhaustion' not in name] for group in (series, names))
    assert sorted(names) == sorted(name for name in kept if otelcol_keeps(name))
    assert len(names) in SERIES


def free_address():
    import socket

    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        return '127.0.0.1:%d' % listener.getsockname()[1]


def scraped(address, log):
    """The names of the series in this Prometheus, after its first scrape."""
    query = f'http://{address}/api/v1/query?query=%7B__name__=~%22memsensor_.%2B%22%7D'
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(query, timeout=5) as response:
                result = json.load(response)['data']['result']
        except OSError:
            result = []
        if result:
            return [entry['metric']['__name__'] for entry in result]
        time.sleep(0.2)
    raise AssertionError(f'no scrape: {log.read_text()}')


@pytest.mark.parametrize('file', ['telegraf.toml', 'otelcol.yaml', 'vector.yaml'])
def test_every_scrape_has_a_timeout_of_5_seconds(file):
    assert re.search(r'timeout\w*(:| =) "?5', (SCRAPE / file).read_text())


def test_pipelines_use_only_defined_components():
    config = yaml.safe_load((SCRAPE / 'otelcol.yaml').read_text())
    for pipeline in config['service']['pipelines'].values():
        for kind, names in pipeline.items():
            assert set(names) <= config[kind].keys()
    vector = yaml.safe_load((SCRAPE / 'vector.yaml').read_text())
    [transform] = vector['transforms'].values()
    assert set(transform['inputs']) <= vector['sources'].keys()
