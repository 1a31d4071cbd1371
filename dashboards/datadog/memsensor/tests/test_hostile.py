"""Responses with any value in any field: another service may have the port, and the sensor may have a bug.

An event that cannot be read must not stop the metrics, nor the events after it, in this run or in any later one.
"""

import copy
import json
import re

import pytest
from conftest import EXPOSITION
from test_kills import kill, process
from test_readiness import exposition

from datadog_checks.memsensor import kills, readiness, sanitize


def nested(levels):
    """An array in an array, and so on. `json.dumps` would fail at many levels."""
    return '[' * levels + ']' * levels


# JSON of values that a field must not have. Python also reads NaN and Infinity.
VALUES = {
    'null': 'null',
    'true': 'true',
    'negative': '-1',
    'fraction': '1.5',
    '400 digits': '9' * 400,
    'minus 400 digits': '-' + '9' * 400,
    '4000 digits': '9' * 4000,
    'NaN': 'NaN',
    'Infinity': 'Infinity',
    'minus Infinity': '-Infinity',
    '1e999': '1e999',
    'empty text': '""',
    'long text': json.dumps('%%% @all ' * 1000),
    'half a surrogate pair': '"\\ud800"',
    'controls': '"\\u0000\\n\\u001b[2J\\u2028"',
    'year 9999': '"9999-12-31T23:59:59.999999Z"',
    'year 1': '"0001-01-01T00:00:00.000Z"',
    'empty array': '[]',
    'array of objects': '[{}, {"a": [1]}]',
    'empty object': '{}',
    'object': '{"comm": {"comm": []}, "pid": [7]}',
    '400 levels': nested(400),
}
# The parser refuses more levels.
TOO_DEEP = {'900 levels': nested(900), '100000 levels': nested(100000)}
FULL = {
    'context': {'order': 0, 'gfp_flags': '0xcc0', 'constraint': 'memcg'},
    'memory_back_seconds': 0.01,
    'memory': {f'{name}_bytes': 1 << 20 for name in kills.SIZES},
    'victim': process(cgroup='/a', unit='a', container='b', pod='c', pod_name='shop/web-1', runtime='docker'),
}
SIGNAL = {'event': 'kill_signal', 'sender': process('earlyoom'), 'target': process(unit='a', pod_name='shop/web-1')}
PLACE = '<the value>'


def paths(event, before=()):
    """The path of each field."""
    for key, value in event.items():
        yield (*before, key)
        if isinstance(value, dict):
            yield from paths(value, (*before, key))


def with_place(event, path):
    """A copy of the event with a placeholder in this field."""
    event = copy.deepcopy(event)
    *parents, last = path
    section = event
    for key in parents:
        section = section[key]
    section[last] = PLACE
    return event


def hostile_events():
    """An event for each field, with a placeholder in it."""
    for event in (kill(1, **FULL), {**kill(1), **SIGNAL}):
        yield from (with_place(event, path) for path in paths(event))


@pytest.fixture
def run(fake, checks, dd_run_check, aggregator):
    """Runs one check on a body of events; returns the kills that it sent. The metrics must have been sent too."""
    check = checks(fake.url, max_events_per_run=100)

    def run_check(events):
        fake.answers['/api/v1/events'] = events
        aggregator.reset()
        dd_run_check(check)
        aggregator.assert_metric('memsensor.ready')
        return [event for event in aggregator.events if event['event_type'] != readiness.EVENT_TYPE]

    run_check.check = check
    return run_check


def body(events, value):
    return json.dumps({'events': events}).replace(json.dumps(PLACE), value)


def assert_safe(event):
    """What Datadog gets has a bounded length, is valid UTF-8, and contains no markdown and no mention."""
    assert len(event['msg_title']) <= 100 and len(event['msg_text']) <= 4000
    assert type(event['timestamp']) is int and 0 <= event['timestamp'] < 1 << 40
    words = [event['msg_title'], event['msg_text'], event['aggregation_key'], *event['tags']]
    for word in (word for word in words if not word.startswith('endpoint:')):
        word.encode()
        assert not any(c in word for c in '@%\0'), word


@pytest.mark.parametrize('value', VALUES.values(), ids=VALUES)
def test_any_value_in_any_field_of_an_event_stops_nothing(run, value):
    events = list(hostile_events())
    assert len(events) > 50
    for seq, event in enumerate(events, 1):
        if event['seq'] != PLACE:
            event['seq'] = seq
        if event['id'] != PLACE:
            event['id'] = f'boot-{seq:x}'
    good = kill(len(events) + 1, 'boot-good')
    sent = run(body([*events, good], value))
    keys = [event['aggregation_key'] for event in sent]
    assert keys.count('memsensor.oom_kill:boot-good') == 1
    assert len(set(keys)) > len(events) // 2, 'events with one wrong field are sent'
    for event in sent:
        assert_safe(event)
    assert run.check.warnings == []
    # Nothing is sent again, and later events are sent.
    later = kill(len(events) + 2, 'boot-later')
    again = [event['aggregation_key'] for event in run(body([*events, good, later], value))]
    assert again == ['memsensor.oom_kill:boot-later']


@pytest.mark.parametrize('value', [*VALUES.values(), *TOO_DEEP.values()], ids=[*VALUES, *TOO_DEEP])
@pytest.mark.parametrize('place', ['{}', '{{"events": {}}}', '{{"events": [{}]}}'])
def test_any_value_around_the_events_stops_nothing(run, value, place):
    assert run(place.format(value)) == []
    assert len(run(json.dumps({'events': [kill(1)]}))) == 1


@pytest.mark.parametrize('seq', [0, -7, 1 << 64, 10**400])
def test_a_number_that_no_sensor_has_is_not_kept(run, seq):
    run(json.dumps({'events': [kill(1), kill(2)]}))
    assert run(json.dumps({'events': [kill(2), kill(3), kill(seq, 'x')]}))[-1]['aggregation_key'].endswith('boot-3')
    assert run(json.dumps({'events': [kill(3)]})) == []


def test_an_id_that_no_sensor_has_is_not_part_of_a_request(run, fake):
    run(json.dumps({'events': [kill(1, 'a\ud800 b&c')]}))
    run(json.dumps({'events': []}))
    assert fake.requests[-1] == '/api/v1/events' and run.check.warnings == []


# As above, and numbers whose sum or difference is not finite.
NUMBERS = ['9' * 400, '-' + '9' * 400, '9' * 308, '1e308', '1e999', 'NaN', '+Inf', '-Inf', '-1', '1.5', '5e-324']
SCRAPED = [
    'state',
    'weight_ratio',
    'verdict_reason',
    'state_transitions_total',
    'last_sample_timestamp_seconds',
    'oom_kills_total',
    'ready',
    'build_info',
    'oom_victim_exit_seconds_bucket',
    'oom_victim_exit_seconds_sum',
]


@pytest.mark.parametrize('number', NUMBERS, ids=lambda text: f'{text[:5]} ({len(text)})')
@pytest.mark.parametrize('metric', SCRAPED)
def test_any_number_in_a_metric_does_not_affect_the_others(fake, checks, dd_run_check, aggregator, metric, number):
    recorded = EXPOSITION.read_text()
    hostile, replaced = re.subn(rf'^(memsensor_{metric}(\{{.*\}})?) .*$', rf'\1 {number}', recorded, flags=re.M)
    assert replaced
    check = checks(fake.url)
    for text, statuses in ((hostile, {0, 3}), (recorded, {0}), (hostile, {0, 3})):
        fake.answers['/metrics'] = text
        aggregator.reset()
        dd_run_check(check)
        aggregator.assert_metric('memsensor.memory_total_bytes')
        [service_check] = aggregator.service_checks('memsensor.readiness')
        assert service_check.status in statuses, service_check.message


@pytest.mark.parametrize(
    'line',
    [
        'memsensor_ready',
        'memsensor_ready x',
        'memsensor_ready{',
        'memsensor_ready{a="\\',
        'memsensor_ready 1_0',
        'memsensor_build_info 1',
        '# TYPE',
        '# TYPE memsensor_ready',
        '{} 1',
        '\0',
        pytest.param('memsensor_ready 1 ' + '9' * 400, id='a time of 400 digits'),
    ],
)
def test_a_scrape_that_fails_is_unknown_and_not_ready(fake, checks, dd_run_check, aggregator, line):
    fake.answers['/metrics'] = f'{line}\n' + exposition('ready')
    failed = False
    try:
        dd_run_check(checks(fake.url))
    except Exception:
        failed = True
    [service_check] = aggregator.service_checks('memsensor.readiness')
    assert service_check.status == (3 if failed else 0)


CACHES = {**VALUES, **TOO_DEEP, '5000 digits': '9' * 5000}


def caches(template):
    """Each value alone, and in this place."""
    texts = {**CACHES, **{f'in place: {name}': template % value for name, value in CACHES.items()}}
    return pytest.mark.parametrize('cache', texts.values(), ids=texts)


@caches('[%s, "a"]')
def test_any_number_of_the_last_event_in_the_cache_is_accepted_or_ignored(cache):
    seq, event_id = kills.parse_cache(cache) or (1, 'a')
    assert type(seq) is int and type(event_id) is str
    kills.new_events([{'seq': 1, 'id': 'b'}], (seq, event_id))


@caches('{"host": ["ready", %s]}')
def test_any_number_of_changes_in_the_cache_is_accepted_or_ignored(fake, checks, dd_run_check, datadog_agent, cache):
    datadog_agent.read_persistent_cache, was = lambda _: cache, datadog_agent.read_persistent_cache
    try:
        dd_run_check(checks(fake.url))
    finally:
        datadog_agent.read_persistent_cache = was


@pytest.mark.parametrize('value', [None, True, '1', [], 10**400, -(10**400), float('nan'), float('inf')])
def test_what_is_no_finite_number_is_none(value):
    assert sanitize.number(value) is None


def test_finite_numbers_are_floats():
    assert [sanitize.number(value) for value in (0, -1, 1.5, 10**300)] == [0.0, -1.0, 1.5, 1e300]
