"""One name for one thing: the sensor's README, metrics.py, metadata.csv, dashboards, monitors, the plain check."""

import csv
import json
import re

import pytest
import yaml
from conftest import EXPOSITION, REPOSITORY, ROOT, contexts

from datadog_checks.memsensor import metrics

# What is sent means something else than what is read.
MEANS = {
    'memsensor_state': '1 for the state that balancers are told; the others are not sent',
    'memsensor_verdict_reason': '1 for each rule that speaks against full traffic now; the others are not sent',
    'memsensor_last_sample_timestamp_seconds': "How long ago the kernel's counters were last read",
}
SUFFIXES = {'counter': ['.count'], 'gauge': [''], 'histogram': ['.sum', '.count']}
ADDED = {'.sum': '; summed', '.count': '; how often'}
ASSETS = sorted([*ROOT.glob('assets/dashboards/*.json'), *ROOT.glob('assets/monitors/*.json')])


def table():
    """The README's: name without `_total` to type and meaning."""
    text = (REPOSITORY / 'README.md').read_text()
    rows = text.split('<!-- metrics:begin -->')[1].split('<!-- metrics:end -->')[0].strip().splitlines()[2:]
    cells = [[cell.strip(' `') for cell in row.strip('|').split(' | ')] for row in rows]
    return {name.removesuffix('_total'): (kind, meaning.rstrip(' |')) for name, kind, _, meaning in cells}


def mapped():
    """Each exposed name with the name that is sent."""
    named = {}
    for group in (metrics.DEFAULT, metrics.VERDICT, *metrics.GROUPS.values()):
        assert not named.keys() & group.keys(), 'a metric is in one group'
        named.update(group)
    return named


def sent():
    """What can be sent, with its meaning; none of the sensor's own process, which the README has not."""
    names = {}
    for exposed, name in mapped().items():
        if exposed.startswith('process_'):
            continue
        kind, meaning = table()[exposed]
        if isinstance(name, dict):
            if name['type'] == 'metadata':
                continue
            name = name['name']
        for suffix in SUFFIXES[kind]:
            more = ADDED[suffix] if kind == 'histogram' else ''
            names[f'memsensor.{name}{suffix}'] = MEANS.get(exposed, meaning) + more
    return names


def metadata():
    with open(ROOT / 'metadata.csv') as file:
        return {row['metric_name']: row for row in csv.DictReader(file)}


def test_every_metric_of_the_sensor_is_sent_or_has_a_reason_not_to_be():
    known = {name for name in mapped() if name.startswith('memsensor_')}
    assert known | metrics.NOT_SENT.keys() == table().keys()
    assert not known & metrics.NOT_SENT.keys()


def test_names_follow_the_rule():
    for exposed, name in mapped().items():
        if isinstance(name, str) and exposed.startswith('memsensor_'):
            assert name == exposed.removeprefix('memsensor_')


def test_metadata_says_what_the_readme_says():
    rows = {name: row['description'] for name, row in metadata().items() if '.process.' not in name}
    assert rows == sent()


def test_metadata_has_the_type_of_what_is_sent():
    for name, row in metadata().items():
        counted = name.endswith(('.count', '.sum'))
        assert row['metric_type'] == ('count' if counted else 'gauge'), name


def test_the_default_is_that_of_a_host(fake, checks, dd_run_check, aggregator):
    dd_run_check(checks(fake.url))
    assert len(contexts(aggregator)) == 50
    # The others are what the groups would add, buckets, and zeros.
    assert EXPOSITION.read_text().count('\nmemsensor_') == 333


@pytest.mark.parametrize('group', [None, *metrics.GROUPS])
def test_metadata_covers_what_is_sent(fake, checks, dd_run_check, aggregator, group):
    dd_run_check(checks(fake.url, metric_groups=[group] if group else []))
    known = {name: {**row, 'unit_name': row['unit_name']} for name, row in metadata().items()}
    aggregator.assert_metrics_using_metadata(known, check_submission_type=True)
    aggregator.assert_no_duplicate_all()


def test_histograms_are_distributions_for_whoever_wants_them(fake, checks, dd_run_check, aggregator):
    dd_run_check(checks(fake.url, histogram_buckets_as_distributions=True, collect_counters_with_distributions=True))
    assert aggregator.histogram_bucket('memsensor.direct_reclaim_seconds')
    aggregator.assert_metric('memsensor.direct_reclaim_seconds.count')


def test_labels_that_mean_something_else_to_datadog_are_renamed(fake, checks, dd_run_check, aggregator):
    dd_run_check(checks(fake.url))
    aggregator.assert_metric_has_tag('memsensor.kswapd_active_seconds.count', 'numa_node:0')


def test_a_cgroup_is_called_what_people_call_it(fake, checks, dd_run_check, aggregator):
    fake.answers['/metrics'] = (
        '# TYPE memsensor_cgroup_info gauge\n'
        'memsensor_cgroup_info{cgroup="/a",unit="nginx.service"} 1\n'
        'memsensor_cgroup_info{cgroup="/b",container="0123",pod="4567"} 1\n'
        '# TYPE memsensor_cgroup_memory_bytes gauge\n'
        'memsensor_cgroup_memory_bytes{cgroup="/a"} 1\n'
        'memsensor_cgroup_memory_bytes{cgroup="/b"} 2\n'
    )
    check = checks(fake.url, metric_groups=['cgroups'])
    dd_run_check(check)
    by_value = {stub.value: set(stub.tags) for stub in aggregator.metrics('memsensor.cgroup_memory_bytes')}
    assert {'cgroup:/a', 'unit:nginx.service'} < by_value[1]
    assert {'cgroup:/b', 'container_id:0123', 'pod_uid:4567'} < by_value[2]
    assert not any(tag.startswith('unit:') for tag in by_value[2])
    # Also one that was not there before.
    fake.answers['/metrics'] = fake.answers['/metrics'].replace('/a', '/c').replace('nginx', 'sshd')
    aggregator.reset()
    dd_run_check(check)
    aggregator.assert_metric_has_tags('memsensor.cgroup_memory_bytes', ['cgroup:/c', 'unit:sshd.service'])


def test_the_version_of_the_sensor_is_that_of_the_integration(fake, checks, dd_run_check, datadog_agent):
    check = checks(fake.url)
    dd_run_check(check)
    datadog_agent.assert_metadata(
        check.check_id,
        {
            'version.scheme': 'semver',
            'version.major': '0',
            'version.minor': '1',
            'version.patch': '0',
            'version.raw': '0.1.0',
        },
    )


@pytest.mark.parametrize('file', ASSETS, ids=lambda file: file.name)
def test_dashboards_and_monitors_name_what_is_sent(file):
    text = file.read_text()
    named = set(re.findall(r'\w+:(memsensor\.[a-z_.]+?)(?=\{)', text))
    default = {f'memsensor.{name}' for name in metrics.VERDICT.values()}
    for name in metrics.DEFAULT.values():
        name = name if isinstance(name, str) else name['name']
        default |= {f'memsensor.{name}{suffix}' for suffix in ('', '.count', '.sum')}
    # What nobody asked for is not there either.
    assert named <= default & metadata().keys(), named - (default & metadata().keys())
    checked = set(re.findall(r'"check": "([\w.]+)"', text)) | set(
        re.findall(r'\\"(memsensor\.[a-z_.]+)\\"\.over', text)
    )
    known = {check['check'] for check in json.loads((ROOT / 'assets/service_checks.json').read_text())}
    assert checked <= known
    assert named or checked, 'something is asked for'


@pytest.mark.parametrize('file', ASSETS, ids=lambda file: file.name)
def test_dashboards_and_monitors_ask_by_tags_that_there_are(file, fake, checks, dd_run_check, aggregator):
    dd_run_check(checks(fake.url))
    queries = re.findall(r'(memsensor\.[a-z_.]+)\{([^}]*)\}(?: by \{([^}]*)\})?', file.read_text())
    for name, only, by in queries:
        keys = {tag.split(':')[0] for stub in aggregator.metrics(name) for tag in stub.tags}
        asked = {part.split(':')[0] for part in only.split(',')} | set(by.split(','))
        # Of a rule that speaks, and of what is absent here, nothing was sent.
        if keys:
            assert asked - {'', '*', 'host', '$host', '$scope'} <= keys, (name, asked, keys)


def test_the_plain_check_sends_the_same_names(fake, dd_run_check, aggregator):
    from datadog_checks.base import OpenMetricsBaseCheckV2

    config = yaml.safe_load((REPOSITORY / 'dashboards/datadog/openmetrics.yaml').read_text())
    [instance] = config['instances']
    instance['openmetrics_endpoint'] = f'{fake.url}/metrics'
    dd_run_check(OpenMetricsBaseCheckV2('openmetrics', config['init_config'] or {}, [instance]))
    aggregator.assert_metrics_using_metadata(metadata())
    named = {key: value for entry in instance['metrics'] for key, value in entry.items()}
    assert named.items() <= {**metrics.DEFAULT, **metrics.VERDICT}.items()
    assert len(contexts(aggregator)) == 39
