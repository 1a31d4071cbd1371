"""A real memsensor, real kills in a cgroup, and the Agent's library, in the order of an incident."""

import os
import signal
import subprocess
import time
import urllib.request

import pytest
import yaml
from conftest import REPOSITORY, contexts, label_values

from datadog_checks.memsensor import kills, metrics
from datadog_checks.memsensor.readiness import EVENT_TYPE as STATE_CHANGE

TIMEOUT_SECONDS = 20
HOST, WEB = 'scope:host', 'scope:web'
READY, WARNING, CRITICAL, UNKNOWN = range(4)


@pytest.fixture
def run(sensor, checks, dd_run_check, aggregator):
    """Runs the check; `new` creates it again, as after a restart of the Agent."""

    def run_check(new=False, **options):
        if new or run_check.check is None:
            run_check.check = checks(sensor.url, **options)
        aggregator.reset()
        dd_run_check(run_check.check)
        return aggregator

    run_check.check = None
    return run_check


def readiness(aggregator):
    service_checks = aggregator.service_checks('memsensor.readiness')
    return {tag: check.status for check in service_checks for tag in check.tags if tag.startswith('scope:')}


def wait_until(name, done):
    """Waits for a condition that takes the sensor a sample or more."""
    end = time.monotonic() + TIMEOUT_SECONDS
    while not done():
        assert time.monotonic() < end, f'timeout: {name}'
        time.sleep(0.1)


def kill_in_scope(sensor):
    """Makes the kernel kill a process in the scope `web`. Returns its pid."""

    def enter():
        for group in sensor.groups:
            with open(f'{group}/cgroup.procs', 'w') as file:
                file.write(str(os.getpid()))

    hog = subprocess.Popen([sensor.hog, 'anon', '32'], preexec_fn=enter, stderr=subprocess.DEVNULL)
    assert hog.wait(TIMEOUT_SECONDS) == -signal.SIGKILL, 'the process was not killed'
    return hog.pid


def memsensor(sensor, *words):
    """Runs a command of memsensor."""
    command = [sensor.program, *words, '--socket', sensor.socket]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT_SECONDS).stdout


def test_a_ready_host_sends_less_than_100_series(run):
    aggregator = run()
    assert readiness(aggregator) == {HOST: READY, WEB: READY}
    aggregator.assert_service_check('memsensor.openmetrics.health', READY)
    of_host = {context for context in contexts(aggregator) if WEB not in context[1]}
    names = {name for name, _, _ in of_host}
    print(f'{len(of_host)} series of the host, {len(contexts(aggregator)) - len(of_host)} of a further scope')
    # A host under pressure also has a forecast, and a series for each active rule.
    reasons = 21
    assert len(of_host) + reasons + 1 < 100
    for name in ('ready', 'weight_ratio', 'oom_kills.count', 'stall_seconds.count', 'memory_available_bytes'):
        assert f'memsensor.{name}' in names
    assert aggregator.events == []
    [age] = aggregator.metrics('memsensor.last_sample_age_seconds')
    assert -1 < age.value < 5


@pytest.mark.parametrize(
    'metric, label',
    [
        ('memsensor_state', 'state'),
        ('memsensor_state_transitions_total', 'from'),
        ('memsensor_state_transitions_total', 'to'),
        ('memsensor_oom_kills_total', 'type'),
        ('memsensor_kill_signals_total', 'sender'),
    ],
)
def test_the_recording_has_the_label_values_of_the_sensor(sensor, metric, label):
    """Other tests compare queries in rules and dashboards with the recording."""
    with urllib.request.urlopen(f'{sensor.url}/metrics', timeout=5) as response:
        running = label_values(metric, label, response.read().decode())
    assert running and set(running) == set(label_values(metric, label))


def test_every_group_sends_its_metrics(run):
    default = {name for name, _, _ in contexts(run())}
    for group, named in metrics.GROUPS.items():
        more = {name for name, _, _ in contexts(run(new=True, metric_groups=[group]))} - default
        expected = {f'memsensor.{name}' for name in named.values()}
        assert more and {name.removesuffix('.count').removesuffix('.sum') for name in more} <= expected
        print(f'{group}: {len(more)} of {len(expected)} names')


def test_openmetrics_yaml_sends_the_shipped_metrics(sensor, dd_run_check, aggregator):
    from datadog_checks.base import OpenMetricsBaseCheckV2

    config = yaml.safe_load((REPOSITORY / 'dashboards/datadog/openmetrics.yaml').read_text())
    [instance] = config['instances']
    instance['openmetrics_endpoint'] = f'{sensor.url}/metrics'
    check = OpenMetricsBaseCheckV2('openmetrics', {}, [instance])
    dd_run_check(check)
    aggregator.assert_metric('memsensor.oom_kills.count')
    of_host = [context for context in contexts(aggregator) if WEB not in context[1]]
    print(f'{len(of_host)} series of the host')
    assert 30 < len(of_host) < 60


def test_a_kill_and_a_state_change_are_sent_once(run, sensor, aggregator):
    run()
    pid = kill_in_scope(sensor)
    seen = []
    wait_until('degraded', lambda: seen.extend(run().events) or readiness(aggregator)[WEB] == WARNING)
    wait_until('kill event', lambda: any(e['event_type'] == kills.OOM_KILL for e in seen) or seen.extend(run().events))
    [kill] = [event for event in seen if event['event_type'] == kills.OOM_KILL]
    unit = sensor.cgroup.rpartition('/')[2]
    assert kill['msg_title'].startswith(f'OOM kill: hog of unit {unit}'[:60])
    for part in (f'Victim: {pid} "hog"', f'Triggered by: {pid} "hog"', f'cgroup {sensor.cgroup}', 'a cgroup is out of'):
        assert part in kill['msg_text'], kill['msg_text']
    assert {'oom_type:memcg', 'victim:hog', f'unit:{unit}', f'cgroup:{sensor.cgroup}'} < set(kill['tags'])
    # The id identifies the full report on the host.
    name = kill['aggregation_key'].removeprefix(f'{kills.OOM_KILL}:')
    assert str(pid) in memsensor(sensor, 'event', name)
    assert abs(kill['timestamp'] - time.time()) < TIMEOUT_SECONDS
    [change] = [event for event in seen if event['event_type'] == STATE_CHANGE]
    assert change['msg_title'] == 'memsensor: web is degraded (was ready)'
    assert 'oom_kill' in change['msg_text']

    # No event is sent twice, also not after a restart of the Agent.
    assert [e for e in run().events if e['event_type'] == kills.OOM_KILL] == []
    assert [e for e in run(new=True).events if e['event_type'] == kills.OOM_KILL] == []

    # A second kill makes the scope overloaded. Kills within a second count as one.
    time.sleep(1.3)
    second, seen = kill_in_scope(sensor), []
    wait_until('overloaded', lambda: seen.extend(run().events) or readiness(aggregator)[WEB] == CRITICAL)
    wait_until('kill event', lambda: any(e['event_type'] == kills.OOM_KILL for e in seen) or seen.extend(run().events))
    [kill] = [event for event in seen if event['event_type'] == kills.OOM_KILL]
    assert f'Victim: {second} "hog"' in kill['msg_text']
    changes = [event for event in seen if event['event_type'] == STATE_CHANGE]
    assert changes[-1]['msg_title'] == 'memsensor: web is overloaded (was degraded)'
    assert readiness(aggregator)[HOST] == READY


def test_a_drained_host_is_a_warning(run, sensor):
    assert readiness(run())[HOST] == READY
    memsensor(sensor, 'drain', '--reason', 'kernel update', '--for', '10m')
    try:
        aggregator = run()
        assert readiness(aggregator)[HOST] == WARNING
        changes = [event for event in aggregator.events if HOST in event['tags']]
        assert [event['msg_title'] for event in changes] == ['memsensor: host is drained (was ready)']
        [weight] = [stub for stub in aggregator.metrics('memsensor.weight_ratio') if HOST in stub.tags]
        [drained] = aggregator.metrics('memsensor.drained')
        # The monitor overloaded.json adds these two and must not alert now.
        assert (weight.value, drained.value) == (0, 1)
    finally:
        memsensor(sensor, 'undrain')
    assert readiness(run())[HOST] == READY


def test_a_frozen_sensor_is_unknown_within_the_timeout(run, sensor, aggregator):
    run(new=True, timeout=1)
    os.kill(sensor.pid, signal.SIGSTOP)
    try:
        start = time.monotonic()
        with pytest.raises(Exception, match='timed out'):
            run()
        assert time.monotonic() - start < 3
    finally:
        os.kill(sensor.pid, signal.SIGCONT)
    assert readiness(aggregator) == {HOST: UNKNOWN, WEB: UNKNOWN}
    aggregator.assert_service_check('memsensor.openmetrics.health', CRITICAL)
    wait_until('back', lambda: readiness(run())[HOST] == READY)


def test_a_stopped_sensor_is_unknown(run, sensor, aggregator):
    """The last test: the sensor is not started again."""
    run()
    os.kill(sensor.pid, signal.SIGTERM)

    def stopped():
        try:
            run()
        except Exception:
            return True
        return False

    wait_until('stopped', stopped)
    assert readiness(aggregator) == {HOST: UNKNOWN, WEB: UNKNOWN}
    aggregator.assert_service_check('memsensor.openmetrics.health', CRITICAL)
    assert aggregator.metric_names == []
    assert aggregator.events == []
