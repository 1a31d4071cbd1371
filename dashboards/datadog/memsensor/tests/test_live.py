"""A real memsensor, real kills in a cgroup, and the Agent's own library, in the order of an incident."""

import os
import signal
import subprocess
import time

import pytest
import yaml
from conftest import REPOSITORY, contexts

from datadog_checks.memsensor import kills, metrics, standing

PATIENCE = 20
HOST, WEB = 'scope:host', 'scope:web'
READY, WARNING, CRITICAL, UNKNOWN = range(4)


@pytest.fixture
def run(sensor, checks, dd_run_check, aggregator):
    """Runs a check, the same one each time."""

    def once(anew=False, **options):
        if anew or once.check is None:
            once.check = checks(sensor.url, **options)
        aggregator.reset()
        dd_run_check(once.check)
        return aggregator

    once.check = None
    return once


def readiness(aggregator):
    told = aggregator.service_checks('memsensor.readiness')
    return {tag: check.status for check in told for tag in check.tags if tag.startswith('scope:')}


def until(what, done):
    """Waits for what the sensor needs a sample for."""
    end = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < end, f'never {what}'
        time.sleep(0.1)


def killed(sensor):
    """Has a process killed in the sensor's scope `web`; its id."""

    def enter():
        for group in sensor.groups:
            with open(f'{group}/cgroup.procs', 'w') as file:
                file.write(str(os.getpid()))

    hog = subprocess.Popen([sensor.hog, 'anon', '32'], preexec_fn=enter, stderr=subprocess.DEVNULL)
    assert hog.wait(PATIENCE) == -signal.SIGKILL, 'it should have been killed'
    return hog.pid


def asked(sensor, *words):
    """Runs a command of memsensor."""
    command = [sensor.program, *words, '--socket', sensor.socket]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE).stdout


def test_a_calm_host_is_ready_and_costs_less_than_100_series(run):
    aggregator = run()
    assert readiness(aggregator) == {HOST: READY, WEB: READY}
    aggregator.assert_service_check('memsensor.openmetrics.health', READY)
    of_host = {context for context in contexts(aggregator) if WEB not in context[1]}
    names = {name for name, _, _ in of_host}
    print(f'{len(of_host)} series of the host, {len(contexts(aggregator)) - len(of_host)} of a further scope')
    # With all that a host under pressure has besides: a forecast, and every rule.
    reasons = 21
    assert len(of_host) + reasons + 1 < 100
    for name in ('ready', 'weight_ratio', 'oom_kills.count', 'stall_seconds.count', 'memory_available_bytes'):
        assert f'memsensor.{name}' in names
    assert aggregator.events == []
    [age] = aggregator.metrics('memsensor.last_sample_age_seconds')
    assert -1 < age.value < 5


def test_every_group_has_what_it_says(run):
    default = {name for name, _, _ in contexts(run())}
    for group, named in metrics.GROUPS.items():
        more = {name for name, _, _ in contexts(run(anew=True, metric_groups=[group]))} - default
        wanted = {f'memsensor.{name}' for name in named.values()}
        assert more and {name.removesuffix('.count').removesuffix('.sum') for name in more} <= wanted
        print(f'{group}: {len(more)} of {len(wanted)} names')


def test_the_agents_own_check_sends_the_shipped_set(sensor, dd_run_check, aggregator):
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


def test_a_kill_is_an_event_once_and_a_change_of_state_is_one(run, sensor, aggregator):
    run()
    pid = killed(sensor)
    seen = []
    until('degraded', lambda: seen.extend(run().events) or readiness(aggregator)[WEB] == WARNING)
    until('told', lambda: any(e['event_type'] == kills.OOM_KILL for e in seen) or seen.extend(run().events))
    [kill] = [event for event in seen if event['event_type'] == kills.OOM_KILL]
    unit = sensor.cgroup.rpartition('/')[2]
    assert kill['msg_title'].startswith(f'OOM kill: hog of unit {unit}'[:60])
    for part in (f'Victim: {pid} "hog"', f'Set off by: {pid} "hog"', f'cgroup {sensor.cgroup}', 'a cgroup is out of'):
        assert part in kill['msg_text'], kill['msg_text']
    assert {'oom_scope:memcg', 'victim:hog', f'unit:{unit}', f'cgroup:{sensor.cgroup}'} < set(kill['tags'])
    # By its id the sensor tells the rest.
    name = kill['aggregation_key'].removeprefix(f'{kills.OOM_KILL}:')
    assert str(pid) in asked(sensor, 'event', name)
    assert abs(kill['timestamp'] - time.time()) < PATIENCE
    [change] = [event for event in seen if event['event_type'] == standing.EVENT_TYPE]
    assert change['msg_title'] == 'memsensor: web is degraded (was ready)'
    assert 'oom_kill' in change['msg_text']

    # Neither again, and not by an Agent that starts anew.
    assert [e for e in run().events if e['event_type'] == kills.OOM_KILL] == []
    assert [e for e in run(anew=True).events if e['event_type'] == kills.OOM_KILL] == []

    # A second one takes the scope out of service; those within a second are one.
    time.sleep(1.3)
    second, seen = killed(sensor), []
    until('draining', lambda: seen.extend(run().events) or readiness(aggregator)[WEB] == CRITICAL)
    until('told', lambda: any(e['event_type'] == kills.OOM_KILL for e in seen) or seen.extend(run().events))
    [kill] = [event for event in seen if event['event_type'] == kills.OOM_KILL]
    assert f'Victim: {second} "hog"' in kill['msg_text']
    changes = [event for event in seen if event['event_type'] == standing.EVENT_TYPE]
    assert changes[-1]['msg_title'] == 'memsensor: web is draining (was degraded)'
    assert readiness(aggregator)[HOST] == READY


def test_a_host_that_an_operator_drained_says_so(run, sensor):
    assert readiness(run())[HOST] == READY
    asked(sensor, 'drain', '--reason', 'kernel update', '--for', '10m')
    try:
        aggregator = run()
        assert readiness(aggregator)[HOST] == WARNING
        changes = [event for event in aggregator.events if HOST in event['tags']]
        assert [event['msg_title'] for event in changes] == ['memsensor: host is maintenance (was ready)']
        [weight] = [stub for stub in aggregator.metrics('memsensor.weight_ratio') if HOST in stub.tags]
        [drained] = aggregator.metrics('memsensor.drained')
        # What the monitor of draining adds up, so as to be silent now.
        assert (weight.value, drained.value) == (0, 1)
    finally:
        asked(sensor, 'undrain')
    assert readiness(run())[HOST] == READY


def test_a_frozen_sensor_is_unknown_within_the_timeout(run, sensor, aggregator):
    run(anew=True, timeout=1)
    os.kill(sensor.pid, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        with pytest.raises(Exception, match='timed out'):
            run()
        assert time.monotonic() - begun < 3
    finally:
        os.kill(sensor.pid, signal.SIGCONT)
    assert readiness(aggregator) == {HOST: UNKNOWN, WEB: UNKNOWN}
    aggregator.assert_service_check('memsensor.openmetrics.health', CRITICAL)
    until('back', lambda: readiness(run())[HOST] == READY)


def test_a_sensor_that_is_gone_is_unknown(run, sensor, aggregator):
    """The last: it is not started again."""
    run()
    os.kill(sensor.pid, signal.SIGTERM)

    def gone():
        try:
            run()
        except Exception:
            return True
        return False

    until('gone', gone)
    assert readiness(aggregator) == {HOST: UNKNOWN, WEB: UNKNOWN}
    aggregator.assert_service_check('memsensor.openmetrics.health', CRITICAL)
    assert aggregator.metric_names == []
    assert aggregator.events == []
