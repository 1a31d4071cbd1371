"""What Datadog's own tools say of the files: `ddev validate`, and the models of its API."""

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

# Not among them: `http` wants all of the Agent's HTTP options in the example, which work without being there, and
# `openmetrics` wants no limit of series, for whose integration is not billed. `manifest` is no command any more.
VALIDATIONS = ['config', 'dashboards', 'service-checks', 'metadata', 'package', 'readmes', 'imports', 'dep']
MONITORS = sorted(ROOT.glob('assets/monitors/*.json'))


@pytest.fixture(scope='module')
def ddev(tmp_path_factory):
    """Runs it in a repository that has this integration alone, as it wants one."""
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


@pytest.mark.parametrize('what', VALIDATIONS)
def test_ddev_finds_nothing_wrong(ddev, what):
    code, said = ddev('validate', what, 'memsensor')
    assert code == 0, said


@pytest.mark.parametrize(
    'what, file, was, becomes',
    [
        ('config', 'datadog_checks/memsensor/data/conf.yaml.example', 'Seconds between', 'Hours between'),
        ('dashboards', 'assets/dashboards/host.json', '"description"', '"describes"'),
        ('service-checks', 'assets/service_checks.json', '"warning"', '"warn"'),
        ('metadata', 'metadata.csv', 'ready,gauge', 'ready,gouge'),
        ('package', 'pyproject.toml', '"datadog-memsensor"', '"memsensor"'),
        ('readmes', 'README.md', '## Setup', '## Set up'),
    ],
)
def test_ddev_finds_what_is_wrong(ddev, what, file, was, becomes):
    """A validation that finds nothing is none."""
    path = ddev.copy / file
    text = path.read_text()
    assert was in text
    path.write_text(text.replace(was, becomes))
    try:
        code, said = ddev('validate', what, 'memsensor')
    finally:
        path.write_text(text)
    assert code != 0, said


def is_of(model, content):
    """Whether the API's own model takes it, to the last key and value."""
    return validate_and_convert_types(content, (model,), ['it'], True, True, Configuration())


def unknown_parts(model, path='it'):
    """Where the model kept something that it has no name or no type for."""
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
def test_a_dashboard_is_one_to_the_api(file):
    content = json.loads(file.read_text())
    assert list(unknown_parts(is_of(Dashboard, content))) == []
    content['widgets'][1]['definition']['type'] = 'query_valve'
    assert list(unknown_parts(is_of(Dashboard, content))), 'a model that takes everything is none'


@pytest.mark.parametrize('file', sorted(ROOT.glob('assets/dashboards/*.json')), ids=lambda file: file.name)
def test_no_two_widgets_of_a_dashboard_lie_on_each_other(file):
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
def test_a_monitor_is_one_to_the_api(name):
    content = definitions()[name]
    assert list(unknown_parts(is_of(Monitor, content))) == []
    content['type'] = 'query alarm'
    assert list(unknown_parts(is_of(Monitor, content))), 'a model that takes everything is none'


@pytest.mark.parametrize('name', definitions())
def test_a_monitor_tells_a_person_what_to_do(name):
    monitor = definitions()[name]
    message = monitor['message']
    assert '{{host.name}}' in message and len(message) > 150
    for block in ('is_alert', 'is_warning', 'is_no_data', 'is_recovery'):
        assert message.count(f'{{{{#{block}}}}}') == message.count(f'{{{{/{block}}}}}')
    warns = 'warning' in monitor['options'].get('thresholds', {})
    assert warns == ('{{#is_warning}}' in message), 'who is warned is told of what'
    if (threshold := monitor['options'].get('thresholds', {}).get('critical')) and monitor['type'] == 'query alert':
        assert float(monitor['query'].split()[-1]) == threshold


def test_silence_after_pressure_is_told_though_it_is_no_data():
    # To Datadog `A && B` of an alert and of no data is no data, which a composite keeps to itself unless asked.
    found = definitions()
    assert found['silent.json']['options']['on_missing_data'] == 'show_and_notify_no_data'
    assert found['unrecoverable.json']['options']['notify_no_data'] is True
    assert '{{#is_no_data}}' in found['unrecoverable.json']['message']


def test_the_manifest_names_every_asset_and_none_else():
    assets = json.loads((ROOT / 'manifest.json').read_text())['assets']
    named = [*assets['dashboards'].values(), *assets['monitors'].values()]
    there = [str(path.relative_to(ROOT)) for path in ROOT.glob('assets/*/*.json')]
    assert sorted(named) == sorted(there)
    titles = {path: json.loads((ROOT / path).read_text())['title'] for path in named}
    assert {path: title for title, path in {**assets['dashboards'], **assets['monitors']}.items()} == titles


def test_the_package_is_built_and_has_what_the_agent_needs(tmp_path):
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
