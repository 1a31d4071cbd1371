"""The service check for every state, and an event for every state change."""

import pytest
from conftest import STATES

from datadog_checks.memsensor import metrics, readiness


def exposition(state, scope='host', weight=0.5, reasons=(), transitions=0):
    lines = ['# TYPE memsensor_weight_ratio gauge', f'memsensor_weight_ratio{{scope="{scope}"}} {weight}']
    lines += ['# TYPE memsensor_state gauge']
    lines += [f'memsensor_state{{scope="{scope}",state="{s}"}} {float(s == state)}' for s in STATES]
    lines += ['# TYPE memsensor_verdict_reason gauge']
    known = ('stalled', 'filling')
    lines += [f'memsensor_verdict_reason{{scope="{scope}",reason="{r}"}} {float(r in reasons)}' for r in known]
    lines += ['# TYPE memsensor_state_transitions_total counter']
    lines += [f'memsensor_state_transitions_total{{scope="{scope}",from="ready",to="overloaded"}} {transitions}']
    return '\n'.join(lines) + '\n'


@pytest.fixture
def run(fake, checks, dd_run_check, aggregator):
    """Runs a check on an exposition; returns the service checks by scope, and the events."""
    fake.check = checks(fake.url)

    def run_check(text, restart=False):
        if restart:
            fake.check = checks(fake.url)
        fake.answers['/metrics'] = text
        aggregator.reset()
        try:
            dd_run_check(fake.check)
        except Exception as error:
            assert text is None, error
        service_checks = aggregator.service_checks('memsensor.readiness')
        by_scope = {t: (check.status, check.message) for check in service_checks for t in check.tags if 'scope:' in t}
        assert len(by_scope) == len(service_checks), 'one service check per scope'
        return by_scope, aggregator.events

    return run_check


@pytest.mark.parametrize('state', STATES)
def test_every_state_has_its_status(run, state):
    [(status, message)] = run(exposition(state, reasons=['stalled']))[0].values()
    expected = {'ready': 0, 'degraded': 1, 'drained': 1, 'overloaded': 2, 'stale': 2, 'starting': 2, 'unknown': 3}
    assert status == expected[state]
    text = '' if state == 'ready' else f'host\\x3a {state}, weight 50 percent, because of stalled'
    assert message == text


def test_every_state_of_the_sensor_has_a_status_and_a_description():
    assert sorted(readiness.STATUS) == sorted(readiness.DESCRIPTION) == sorted(STATES)


def test_only_active_states_and_reasons_are_sent(run, aggregator):
    run(exposition('degraded', reasons=['filling']))
    [state], [reason] = aggregator.metrics('memsensor.state'), aggregator.metrics('memsensor.verdict_reason')
    assert (state.value, reason.value) == (1, 1)
    assert 'state:degraded' in state.tags and 'reason:filling' in reason.tags


def test_an_event_is_sent_only_for_a_state_change(run):
    assert run(exposition('ready', weight=1))[1] == []
    [event] = run(exposition('overloaded', weight=0, reasons=['stalled', 'filling'], transitions=1))[1]
    assert event['msg_title'] == 'memsensor: host is overloaded (was ready)'
    assert 'weight 0 percent, because of stalled, filling' in event['msg_text']
    assert event['alert_type'] == 'error'
    assert {'scope:host', 'state:overloaded', 'previous_state:ready'} < set(event['tags'])
    assert run(exposition('overloaded', weight=0, transitions=1))[1] == []
    # Also after a restart of the Agent.
    assert run(exposition('overloaded', weight=0, transitions=1), restart=True)[1] == []
    [event] = run(exposition('ready', weight=1, transitions=2), restart=True)[1]
    assert (event['msg_title'], event['alert_type']) == ('memsensor: host is ready (was overloaded)', 'success')


def test_changes_between_two_runs_are_counted_in_one_event(run):
    run(exposition('ready'))
    [event] = run(exposition('ready', transitions=4))[1]
    assert event['msg_title'] == 'memsensor: host is ready again: 4 state changes between two checks'
    # A restarted sensor counts from 0.
    assert run(exposition('ready', transitions=0))[1] == []


def test_verdict_changes_under_a_drain_send_no_event(run):
    run(exposition('drained', weight=0, transitions=1))
    assert run(exposition('drained', weight=0, transitions=5))[1] == []
    [event] = run(exposition('overloaded', weight=0, transitions=5))[1]
    assert event['msg_title'] == 'memsensor: host is overloaded (was drained)'


def test_a_failed_scrape_makes_every_known_scope_unknown(run):
    both = exposition('ready') + exposition('ready', scope='web')
    assert {status for status, _ in run(both)[0].values()} == {0}
    service_checks, events = run(None)
    statuses = {scope: status for scope, (status, _) in service_checks.items()}
    assert statuses == {'scope:host': 3, 'scope:web': 3}
    assert 'cannot read the sensor' in service_checks['scope:host'][1] and events == []
    assert {status for status, _ in run(both)[0].values()} == {0}


def test_metrics_without_a_state_are_unknown_not_ready(run):
    assert run('up 1\n')[0]['scope:host'][0] == 3


def test_hostile_scope_names_are_escaped_and_limited(run):
    text = ''.join(exposition('overloaded', scope=f'@pagerduty %%% {n}') for n in range(200))
    service_checks, _ = run(text)
    assert len(service_checks) == readiness.MAX_SCOPES + 1
    texts = [text for scope, (_, message) in service_checks.items() for text in (scope, message)]
    assert not any('@' in text or '%' in text for text in texts)
    text = ''.join(exposition('ready', scope=f'@pagerduty %%% {n}') for n in range(200))
    events = run(text)[1]
    assert 0 < len(events) <= readiness.MAX_SCOPES
    assert not any(c in event[key] for event in events for key in ('msg_title', 'msg_text') for c in '@%')


@pytest.mark.parametrize('cache', ['', '[]', '{"host": 1}', 'x', '{"host": ["ready", "x"]}'])
def test_a_damaged_cache_is_ignored(cache):
    assert readiness.parse_cache(cache) == {}


def test_excluded_verdict_metrics_are_not_sent(fake, checks, dd_run_check, aggregator):
    dd_run_check(checks(fake.url, exclude_metrics=[f'^{metrics.REASON}$']))
    assert aggregator.metrics('memsensor.verdict_reason') == []
