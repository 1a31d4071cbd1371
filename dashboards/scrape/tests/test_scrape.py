"""The snippets against a running memsensor: what each keeps of its real exposition, as far as their programs, or
the parts of them that decide it, are to be had.

`cargo xtask test scrape --level live` gives them the sensor; without, those that need one say that they skip.
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
# Of a host with one scope, one node of memory and the usual names of senders: from what every kernel tells to what
# the best does, and while there is a forecast.
SERIES = range(48, 52)
# Of two histograms.
BUCKETS = 2 * 13


@pytest.fixture(scope='module')
def url():
    if 'MEMSENSOR_URL' not in os.environ:
        pytest.skip('needs a running memsensor: cargo xtask test scrape --level live')
    return os.environ['MEMSENSOR_URL']


@pytest.fixture(scope='module')
def series(url):
    """Names of the real series, each as often as there are some."""
    with urllib.request.urlopen(f'{url}/metrics', timeout=5) as answer:
        lines = answer.read().decode().split('\n')
    return [re.split(r'[ {]', line)[0] for line in lines if line and not line.startswith('#')]


def telegraf():
    [prometheus] = tomllib.loads((SCRAPE / 'telegraf.toml').read_text())['inputs']['prometheus']
    return prometheus


def scrape_config():
    config = yaml.safe_load((SCRAPE / 'otelcol.yaml').read_text())
    return config['receivers']['prometheus/memsensor']['config']


def keeps_of_otelcol(name):
    [job] = scrape_config()['scrape_configs']
    [keep] = job['metric_relabel_configs']
    return re.fullmatch(keep['regex'], name)


def condition_of_vector():
    condition = yaml.safe_load((SCRAPE / 'vector.yaml').read_text())['transforms']['memsensor_bounded']['condition']
    assert condition['type'] == 'vrl'
    return pyvrl.Transform(condition['source'])


def known():
    """The README's metrics, with what a histogram has."""
    rows = (REPOSITORY / 'README.md').read_text().split('<!-- metrics:begin -->')[1].split('<!-- metrics:end -->')[0]
    names = dict(re.findall(r'^\| `(\w+)` \| (\w+) ', rows, re.M))
    histograms = {name for name, kind in names.items() if kind == 'histogram'}
    return names.keys() | {f'{name}_{part}' for name in histograms for part in ('sum', 'count', 'bucket')}


def test_the_three_keep_the_same():
    of_telegraf = set(telegraf()['fieldinclude'])
    of_otelcol = {name for name in known() if keeps_of_otelcol(name)}
    vector = condition_of_vector()
    of_vector = {name for name in known() if vector.remap({'name': name})}
    assert of_telegraf == of_otelcol
    assert {name.removesuffix('_sum').removesuffix('_count') for name in of_telegraf} == of_vector
    # A name that is misspelt would be in none of them.
    assert len(re.findall('memsensor_', (SCRAPE / 'vector.yaml').read_text())) == len(of_vector) + 2


def test_each_name_is_one_of_the_sensor():
    assert set(telegraf()['fieldinclude']) <= known()


def test_telegraf_would_keep_a_bounded_set(series):
    """By Telegraf's documented globs; Telegraf itself is not here."""
    kept = [name for name in series if any(fnmatchcase(name, glob) for glob in telegraf()['fieldinclude'])]
    assert len(kept) in SERIES


def test_vectors_own_language_keeps_a_bounded_set(series):
    condition = condition_of_vector()

    def name_of_event(name):
        # Vector has a histogram as one event.
        return re.sub(r'_(bucket|sum|count)$', '', name) if re.search(r'seconds_(bucket|sum|count)$', name) else name

    kept = [name for name in series if condition.remap({'name': name_of_event(name)})]
    assert len(kept) - BUCKETS in SERIES
    assert not condition.remap({'name': 'memsensor_process_growth_bytes_per_second'})


def test_prometheus_scrapes_by_the_collectors_receiver(url, series, tmp_path):
    """The receiver embeds Prometheus' scraper: this is that, with the same configuration."""
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
    # A forecast comes and goes between two scrapes.
    kept, names = ([name for name in some if 'exhaustion' not in name] for some in (series, names))
    assert sorted(names) == sorted(name for name in kept if keeps_of_otelcol(name))
    assert len(names) in SERIES


def free_address():
    import socket

    with socket.socket() as one:
        one.bind(('127.0.0.1', 0))
        return '127.0.0.1:%d' % one.getsockname()[1]


def scraped(address, log):
    """Names of what this Prometheus has, once it has scraped."""
    query = f'http://{address}/api/v1/query?query=%7B__name__=~%22memsensor_.%2B%22%7D'
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(query, timeout=5) as answer:
                result = json.load(answer)['data']['result']
        except OSError:
            result = []
        if result:
            return [one['metric']['__name__'] for one in result]
        time.sleep(0.2)
    raise AssertionError(f'never scraped: {log.read_text()}')


@pytest.mark.parametrize('file', ['telegraf.toml', 'otelcol.yaml', 'vector.yaml'])
def test_every_wait_for_the_sensor_is_bounded(file):
    assert re.search(r'timeout\w*(:| =) "?5', (SCRAPE / file).read_text())


def test_the_pipelines_name_what_there_is():
    config = yaml.safe_load((SCRAPE / 'otelcol.yaml').read_text())
    for pipeline in config['service']['pipelines'].values():
        for kind, names in pipeline.items():
            assert set(names) <= config[kind].keys()
    vector = yaml.safe_load((SCRAPE / 'vector.yaml').read_text())
    [transform] = vector['transforms'].values()
    assert set(transform['inputs']) <= vector['sources'].keys()
