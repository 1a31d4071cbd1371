"""The service check of every state, and an event for every change."""

import pytest

from datadog_checks.memsensor import metrics, standing

STATES = ('ready', 'degraded', 'draining', 'maintenance', 'blind', 'stale', 'starting')


def exposition(state, scope='host', weight=0.5, reasons=(), changes=0):
    lines = ['# TYPE memsensor_weight_ratio gauge', f'memsensor_weight_ratio{{scope="{scope}"}} {weight}']
    lines += ['# TYPE memsensor_state gauge']
    lines += [f'memsensor_state{{scope="{scope}",state="{s}"}} {float(s == state)}' for s in STATES]
    lines += ['# TYPE memsensor_verdict_reason gauge']
    known = ('stalled', 'filling')
    lines += [f'memsensor_verdict_reason{{scope="{scope}",reason="{r}"}} {float(r in reasons)}' for r in known]
    lines += ['# TYPE memsensor_state_transitions_total counter']
    lines += [f'memsensor_state_transitions_total{{scope="{scope}",from="ready",to="draining"}} {changes}']
    return '\n'.join(lines) + '\n'


@pytest.fixture
def seen(fake, checks, dd_run_check, aggregator):
    """Runs a check on this exposition; what was sent as service checks by scope, and as events."""
    fake.check = checks(fake.url)

    def run(text, restart=False):
        if restart:
            fake.check = checks(fake.url)
        fake.answers['/metrics'] = text
        aggregator.reset()
        try:
            dd_run_check(fake.check)
        except Exception as why:
            assert text is None, why
        told = aggregator.service_checks('memsensor.readiness')
        by_scope = {tag: (check.status, check.message) for check in told for tag in check.tags if 'scope:' in tag}
        assert len(by_scope) == len(told), 'one for each scope'
        return by_scope, aggregator.events

    return run


@pytest.mark.parametrize('state', STATES)
def test_every_state_has_its_status(seen, state):
    [(status, message)] = seen(exposition(state, reasons=['stalled']))[0].values()
    known = {'ready': 0, 'degraded': 1, 'maintenance': 1, 'draining': 2, 'stale': 2, 'starting': 2, 'blind': 3}
    assert status == known[state]
    wanted = '' if state == 'ready' else f'host\\x3a {state}, weight 50 percent, because of stalled'
    assert message == wanted


def test_the_states_are_those_of_the_sensor():
    from conftest import REPOSITORY

    text = (REPOSITORY / 'sensor-user/src/serve/state.rs').read_text()
    states = text.split('pub enum Standing {')[1].split('}')[0]
    named = [line.strip(' ,').lower() for line in states.splitlines() if line.strip() and '///' not in line]
    assert sorted(named) == sorted(standing.STATUS) == sorted(standing.MEANING) == sorted(STATES)


def test_of_states_and_reasons_only_those_that_hold_are_billed(seen, aggregator):
    seen(exposition('degraded', reasons=['filling']))
    [state], [reason] = aggregator.metrics('memsensor.state'), aggregator.metrics('memsensor.verdict_reason')
    assert (state.value, reason.value) == (1, 1)
    assert 'state:degraded' in state.tags and 'reason:filling' in reason.tags


def test_a_change_is_an_event_and_no_change_is_none(seen):
    assert seen(exposition('ready', weight=1))[1] == []
    [event] = seen(exposition('draining', weight=0, reasons=['stalled', 'filling'], changes=1))[1]
    assert event['msg_title'] == 'memsensor: host is draining (was ready)'
    assert 'weight 0 percent, because of stalled, filling' in event['msg_text']
    assert event['alert_type'] == 'error'
    assert {'scope:host', 'state:draining', 'previous_state:ready'} < set(event['tags'])
    assert seen(exposition('draining', weight=0, changes=1))[1] == []
    # Also over a restart of the Agent.
    assert seen(exposition('draining', weight=0, changes=1), restart=True)[1] == []
    [event] = seen(exposition('ready', weight=1, changes=2), restart=True)[1]
    assert (event['msg_title'], event['alert_type']) == ('memsensor: host is ready (was draining)', 'success')


def test_what_changed_and_changed_back_between_two_checks_is_told(seen):
    seen(exposition('ready'))
    [event] = seen(exposition('ready', changes=4))[1]
    assert event['msg_title'] == 'memsensor: host is ready again: it changed 4 times between two checks'
    # A sensor that starts anew counts from 0.
    assert seen(exposition('ready', changes=0))[1] == []


def test_what_the_verdict_does_beneath_an_operators_drain_is_no_event(seen):
    seen(exposition('maintenance', weight=0, changes=1))
    assert seen(exposition('maintenance', weight=0, changes=5))[1] == []
    [event] = seen(exposition('draining', weight=0, changes=5))[1]
    assert event['msg_title'] == 'memsensor: host is draining (was maintenance)'


def test_a_sensor_that_cannot_be_asked_leaves_every_scope_unknown(seen):
    both = exposition('ready') + exposition('ready', scope='web')
    assert {status for status, _ in seen(both)[0].values()} == {0}
    told, events = seen(None)
    assert {scope: status for scope, (status, _) in told.items()} == {'scope:host': 3, 'scope:web': 3}
    assert 'cannot be asked' in told['scope:host'][1] and events == []
    assert {status for status, _ in seen(both)[0].values()} == {0}


def test_who_says_nothing_of_readiness_is_unknown_and_not_ready(seen):
    assert seen('up 1\n')[0]['scope:host'][0] == 3


def test_hostile_scopes_are_harmless_and_bounded(seen, datadog_agent):
    text = ''.join(exposition('draining', scope=f'@pagerduty %%% {n}') for n in range(200))
    told, _ = seen(text)
    assert len(told) <= standing.MOST_SCOPES + 1
    assert not any('@' in word or '%' in word for scope, (_, said) in told.items() for word in (scope, said))
    text = ''.join(exposition('ready', scope=f'@pagerduty %%% {n}') for n in range(200))
    events = seen(text)[1]
    assert 0 < len(events) <= standing.MOST_SCOPES
    assert not any(c in event[key] for event in events for key in ('msg_title', 'msg_text') for c in '@%')


@pytest.mark.parametrize('cache', ['', '[]', '{"host": 1}', 'x', '{"host": ["ready", "x"]}'])
def test_a_cache_that_is_damaged_is_an_empty_one(cache):
    assert standing.remembered(cache) == {}


def test_excluded_metrics_are_not_read_either(fake, checks, dd_run_check, aggregator):
    dd_run_check(checks(fake.url, exclude_metrics=[f'^{metrics.REASON}$']))
    assert aggregator.metrics('memsensor.verdict_reason') == []
