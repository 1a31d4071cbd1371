"""The files, checked by Datadog's tools: `ddev validate`, and the models of its API."""

import json
import os
import subprocess
import sys
import tomllib
import zipfile

import pytest
from conftest import REPOSITORY, ROOT
from datadog_api_client.model_utils import validate_and_convert_types
from datadog_api_client.configuration import Configuration
from datadog_api_client.v1.model.dashboard import Dashboard
from datadog_api_client.v1.model.monitor import Monitor

# Not used: `http` requires all HTTP options of the Agent in the example, although they work without it. `openmetrics`
# forbids a limit of series, because Datadog's own integrations are not billed. `manifest` was removed from ddev.
VALIDATIONS = ['config', 'dashboards', 'service-checks', 'metadata', 'package', 'readmes', 'imports', 'dep']
MONITORS = sorted(ROOT.glob('assets/monitors/*.json'))


@pytest.fixture(scope='module')
def ddev(tmp_path_factory):
    """Runs ddev in a repository that contains only this integration, because ddev requires a repository."""
    import shutil

    home = tmp_path_factory.mktemp('home')
    repository = home / 'integrations-extras'
    copy = repository / 'memsensor'
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns('__pycache__'))
    subprocess.run(['git', 'init', '--quiet', str(repository)], check=True)
    env = {**os.environ, 'HOME': str(home), 'XDG_CONFIG_HOME': str(home), 'NO_COLOR': '1', 'COLUMNS': '200'}

    def run(*words):
        command = [sys.executable, '-m', 'ddev', *words]
        out = subprocess.run(command, cwd=repository, env=env, capture_output=True, text=True, timeout=120)
        return out.returncode, out.stdout + out.stderr

    run('config', 'set', 'repos.extras', str(repository))
    run('config', 'set', 'repo', 'extras')
    run.copy = copy
    return run


@pytest.mark.parametrize('validation', VALIDATIONS)
def test_ddev_accepts_the_integration(ddev, validation):
    code, output = ddev('validate', validation, 'memsensor')
    assert code == 0, output


@pytest.mark.parametrize(
    'validation, file, old, new',
    [
        ('config', 'datadog_checks/memsensor/data/conf.yaml.example', 'Seconds between', 'Hours between'),
        ('dashboards', 'assets/dashboards/host.json', '"description"', '"describes"'),
        ('service-checks', 'assets/service_checks.json', '"warning"', '"warn"'),
        ('metadata', 'metadata.csv', 'ready,gauge', 'ready,gouge'),
        ('package', 'pyproject.toml', '"datadog-memsensor"', '"memsensor"'),
        ('readmes', 'README.md', '## Setup', '## Set up'),
    ],
)
def test_ddev_finds_mistakes(ddev, validation, file, old, new):
    """Shows that each validation can fail."""
    path = ddev.copy / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    try:
        code, output = ddev('validate', validation, 'memsensor')
    finally:
        path.write_text(text)
    assert code != 0, output


def parse(model, content):
    """Parses it with a model of the API."""
    return validate_and_convert_types(content, (model,), ['it'], True, True, Configuration())


def unknown_parts(model, path='it'):
    """Paths of keys and values that the model does not define."""
    if isinstance(model, list):
        for at, item in enumerate(model):
            yield from unknown_parts(item, f'{path}[{at}]')
    elif hasattr(model, '_data_store'):
        if getattr(model, '_unparsed', False):
            yield path
        for key, value in model._data_store.items():
            if key in (model.additional_properties or {} if hasattr(model, 'additional_properties') else {}):
                yield f'{path}.{key}'
            yield from unknown_parts(value, f'{path}.{key}')
    elif type(model).__name__ == 'UnparsedObject':
        yield path


@pytest.mark.parametrize('file', sorted(ROOT.glob('assets/dashboards/*.json')), ids=lambda file: file.name)
def test_the_api_model_accepts_a_dashboard(file):
    content = json.loads(file.read_text())
    assert list(unknown_parts(parse(Dashboard, content))) == []
    content['widgets'][1]['definition']['type'] = 'query_valve'
    assert list(unknown_parts(parse(Dashboard, content))), 'the model accepts a wrong type'


@pytest.mark.parametrize('file', sorted(ROOT.glob('assets/dashboards/*.json')), ids=lambda file: file.name)
def test_widgets_do_not_overlap(file):
    taken = {}
    for widget in json.loads(file.read_text())['widgets']:
        at = widget['layout']
        assert at['x'] + at['width'] <= 12
        for x in range(at['x'], at['x'] + at['width']):
            for y in range(at['y'], at['y'] + at['height']):
                assert taken.setdefault((x, y), widget['id']) == widget['id']


def definitions():
    found = {file.name: json.loads(file.read_text())['definition'] for file in MONITORS}
    composite = REPOSITORY / 'dashboards/datadog/unrecoverable.json'
    return {**found, composite.name: json.loads(composite.read_text())}


@pytest.mark.parametrize('name', definitions())
def test_the_api_model_accepts_a_monitor(name):
    content = definitions()[name]
    assert list(unknown_parts(parse(Monitor, content))) == []
    content['type'] = 'query alarm'
    assert list(unknown_parts(parse(Monitor, content))), 'the model accepts a wrong type'


@pytest.mark.parametrize('name', definitions())
def test_monitor_messages_match_their_thresholds(name):
    monitor = definitions()[name]
    message = monitor['message']
    assert '{{host.name}}' in message and len(message) > 150
    for block in ('is_alert', 'is_warning', 'is_no_data', 'is_recovery'):
        assert message.count(f'{{{{#{block}}}}}') == message.count(f'{{{{/{block}}}}}')
    warns = 'warning' in monitor['options'].get('thresholds', {})
    assert warns == ('{{#is_warning}}' in message), 'a warning threshold needs a warning message'
    if (threshold := monitor['options'].get('thresholds', {}).get('critical')) and monitor['type'] == 'query alert':
        assert float(monitor['query'].split()[-1]) == threshold


def test_the_composite_monitor_notifies_on_no_data():
    # Datadog evaluates `A && B` of an alert and no data as no data. A composite does not notify on that by default.
    found = definitions()
    assert found['silent.json']['options']['on_missing_data'] == 'show_and_notify_no_data'
    assert found['unrecoverable.json']['options']['notify_no_data'] is True
    assert '{{#is_no_data}}' in found['unrecoverable.json']['message']


def test_the_manifest_lists_every_asset():
    assets = json.loads((ROOT / 'manifest.json').read_text())['assets']
    listed = [*assets['dashboards'].values(), *assets['monitors'].values()]
    files = [str(path.relative_to(ROOT)) for path in ROOT.glob('assets/*/*.json')]
    assert sorted(listed) == sorted(files)
    titles = {path: json.loads((ROOT / path).read_text())['title'] for path in listed}
    assert {path: title for title, path in {**assets['dashboards'], **assets['monitors']}.items()} == titles


def test_the_wheel_contains_every_source_file(tmp_path):
    command = [sys.executable, '-m', 'hatchling', 'build', '-t', 'wheel', '-d', str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=120)
    [wheel] = tmp_path.glob('*.whl')
    names = zipfile.ZipFile(wheel).namelist()
    package = {name for name in names if name.startswith('datadog_checks/')}
    source = ROOT / 'datadog_checks/memsensor'
    files = {str(file.relative_to(ROOT)) for file in source.rglob('*') if file.suffix in ('.py', '.example')}
    assert package == files
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
    assert wheel.name.startswith(project['name'].replace('-', '_'))
