"""The same names everywhere: the metrics table, metrics.py, metadata.csv, dashboards, monitors, openmetrics.yaml."""

import csv
import json
import re

import pytest
import yaml
from conftest import EXPOSITION, OOM_TYPES, REPOSITORY, ROOT, STATES, contexts, metrics_table

from datadog_checks.memsensor import metrics

# Metrics whose value in Datadog differs from the value that is read.
DESCRIPTIONS = {
    'memsensor_state': '1 for the current state; other states are not sent',
    'memsensor_verdict_reason': '1 for each active rule; other rules are not sent',
    'memsensor_last_sample_timestamp_seconds': "Age of the last sample of the kernel's counters",
}
SUFFIXES = {'counter': ['.count'], 'gauge': [''], 'histogram': ['.sum', '.count']}
HISTOGRAM = {'.sum': '; sum', '.count': '; number of observations'}
ASSETS = sorted([*ROOT.glob('assets/dashboards/*.json'), *ROOT.glob('assets/monitors/*.json')])


def table():
    """The sensor's metrics: name without `_total` to type, labels and description."""
    rows = [[cell.strip(' `') for cell in row.strip('|').split(' | ')] for row in metrics_table().splitlines()[2:]]
    return {
        name.removesuffix('_total'): (kind, set(re.findall(r'\w+', labels)), description.rstrip(' |'))
        for name, kind, labels, description in rows
    }


def mapped():
    """Each exposed name, with the name that is sent."""
    names = {}
    for group in (metrics.DEFAULT, metrics.VERDICT, *metrics.GROUPS.values()):
        assert not names.keys() & group.keys(), 'a metric is in two groups'
        names.update(group)
    return names


def sent():
    """Each name that can be sent, with its description, except `process_*`, which the table does not list."""
    names = {}
    for exposed, name in mapped().items():
        if exposed.startswith('process_'):
            continue
        kind, _, description = table()[exposed]
        if isinstance(name, dict):
            if name['type'] == 'metadata':
                continue
            name = name['name']
        for suffix in SUFFIXES[kind]:
            part = HISTOGRAM[suffix] if kind == 'histogram' else ''
            names[f'memsensor.{name}{suffix}'] = DESCRIPTIONS.get(exposed, description) + part
    return names


def metadata():
    with open(ROOT / 'metadata.csv') as file:
        return {row['metric_name']: row for row in csv.DictReader(file)}


def test_every_metric_is_sent_or_listed_as_not_sent():
    known = {name for name in mapped() if name.startswith('memsensor_')}
    assert known | metrics.NOT_SENT.keys() == table().keys()
    assert not known & metrics.NOT_SENT.keys()


def test_names_are_those_of_prometheus_without_the_prefix():
    for exposed, name in mapped().items():
        if isinstance(name, str) and exposed.startswith('memsensor_'):
            assert name == exposed.removeprefix('memsensor_')


def test_metadata_describes_every_metric():
    rows = {name: row['description'] for name, row in metadata().items() if '.process.' not in name}
    assert rows == sent(), 'write_metadata.py updates the descriptions'


def test_metadata_has_the_types_that_are_sent():
    for name, row in metadata().items():
        counted = name.endswith(('.count', '.sum'))
        assert row['metric_type'] == ('count' if counted else 'gauge'), name


def test_the_default_sends_50_series(fake, checks, dd_run_check, aggregator):
    dd_run_check(checks(fake.url))
    assert len(contexts(aggregator)) == 50
    # The rest: groups that are not enabled, buckets, and inactive states and reasons.
    assert EXPOSITION.read_text().count('\nmemsensor_') == 330


@pytest.mark.parametrize('group', [None, *metrics.GROUPS])
def test_metadata_covers_what_is_sent(fake, checks, dd_run_check, aggregator, group):
    dd_run_check(checks(fake.url, metric_groups=[group] if group else []))
    known = {name: {**row, 'unit_name': row['unit_name']} for name, row in metadata().items()}
    aggregator.assert_metrics_using_metadata(known, check_submission_type=True)
    aggregator.assert_no_duplicate_all()


def test_histograms_can_be_sent_as_distributions(fake, checks, dd_run_check, aggregator):
    dd_run_check(checks(fake.url, histogram_buckets_as_distributions=True, collect_counters_with_distributions=True))
    assert aggregator.histogram_bucket('memsensor.direct_reclaim_seconds')
    aggregator.assert_metric('memsensor.direct_reclaim_seconds.count')


def test_labels_with_another_meaning_in_datadog_are_renamed(fake, checks, dd_run_check, aggregator):
    dd_run_check(checks(fake.url))
    aggregator.assert_metric_has_tag('memsensor.kswapd_active_seconds.count', 'numa_node:0')


def test_cgroup_series_have_unit_container_and_pod(fake, checks, dd_run_check, aggregator):
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
    # Also for a cgroup that is created later.
    fake.answers['/metrics'] = fake.answers['/metrics'].replace('/a', '/c').replace('nginx', 'sshd')
    aggregator.reset()
    dd_run_check(check)
    aggregator.assert_metric_has_tags('memsensor.cgroup_memory_bytes', ['cgroup:/c', 'unit:sshd.service'])


def test_the_version_of_the_sensor_is_sent_as_metadata(fake, checks, dd_run_check, datadog_agent):
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
def test_assets_query_only_metrics_that_are_sent_by_default(file):
    text = file.read_text()
    named = set(re.findall(r'\w+:(memsensor\.[a-z_.]+?)(?=\{)', text))
    default = {f'memsensor.{name}' for name in metrics.VERDICT.values()}
    for name in metrics.DEFAULT.values():
        name = name if isinstance(name, str) else name['name']
        default |= {f'memsensor.{name}{suffix}' for suffix in ('', '.count', '.sum')}
    assert named <= default & metadata().keys(), named - (default & metadata().keys())
    checked = set(re.findall(r'"check": "([\w.]+)"', text)) | set(
        re.findall(r'\\"(memsensor\.[a-z_.]+)\\"\.over', text)
    )
    known = {check['check'] for check in json.loads((ROOT / 'assets/service_checks.json').read_text())}
    assert checked <= known
    assert named or checked, 'the asset has no query'


@pytest.mark.parametrize('file', ASSETS, ids=lambda file: file.name)
def test_assets_filter_and_group_by_tags_that_exist(file):
    """By the labels of the metrics table, so that metrics without a series in the recording are checked too."""
    labels = {f'memsensor.{name}': labels for name, labels in labels_sent().items()}
    queries = re.findall(r'(memsensor\.[a-z_.]+)\{([^}]*)\}(?: by \{([^}]*)\})?', file.read_text())
    for name, filters, by in queries:
        name = name.removesuffix('.count').removesuffix('.sum')
        filters = [part for part in filters.split(',') if part not in ('*', '$host', '$scope')]
        filters = dict(part.split(':') for part in filters)
        groups = {part for part in by.split(',') if part}
        assert filters.keys() | groups <= labels[name] | {'host'}, (file.name, name)
        assert filters.get('state', STATES[0]) in STATES, (file.name, name)
        assert filters.get('type', OOM_TYPES[0]) in OOM_TYPES, (file.name, name)
        assert filters.get('scope', 'host') == 'host', (file.name, name)


def labels_sent():
    """Each name that can be sent, without suffix, with its tags."""
    known = table()
    names = {}
    for exposed, name in mapped().items():
        if exposed in known:
            name = name if isinstance(name, str) else name['name']
            names[name] = {metrics.RENAMED_LABELS.get(label, label) for label in known[exposed][1]}
    return names


def test_openmetrics_yaml_sends_the_same_names(fake, dd_run_check, aggregator):
    from datadog_checks.base import OpenMetricsBaseCheckV2

    config = yaml.safe_load((REPOSITORY / 'dashboards/datadog/openmetrics.yaml').read_text())
    [instance] = config['instances']
    instance['openmetrics_endpoint'] = f'{fake.url}/metrics'
    dd_run_check(OpenMetricsBaseCheckV2('openmetrics', config['init_config'] or {}, [instance]))
    aggregator.assert_metrics_using_metadata(metadata())
    names = {key: value for entry in instance['metrics'] for key, value in entry.items()}
    assert names.items() <= {**metrics.DEFAULT, **metrics.VERDICT}.items()
    assert len(contexts(aggregator)) == 39
