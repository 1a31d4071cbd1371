"""Events: each is sent once, also over restarts of Agent and sensor; their number and their text are limited."""

import json

import pytest
from conftest import OOM_TYPES

from datadog_checks.memsensor import kills, readiness

MENTION = '@pagerduty %%%'


@pytest.fixture
def run(fake, checks, dd_run_check, aggregator):
    """Runs a check on these events of the sensor; returns the events that it sent for them."""
    fake.check = None

    def run_check(events, restart=False, **options):
        if fake.check is None or restart:
            fake.check = checks(fake.url, **options)
        fake.answers['/api/v1/events'] = json.dumps({'events': events})
        aggregator.reset()
        dd_run_check(fake.check)
        return [event for event in aggregator.events if event['event_type'] != readiness.EVENT_TYPE]

    run_check.fake = fake
    return run_check


def process(comm='nginx', **more):
    return {'pid': 7, 'tid': 7, 'comm': comm, 'uid': 33, 'oom_score_adj': 0, 'cgroup_id': 1, **more}


def timestamp(age=0):
    from datetime import datetime, timedelta, timezone

    at = datetime.now(timezone.utc) - timedelta(seconds=age)
    return at.strftime('%Y-%m-%dT%H:%M:%S.') + '123Z'


def kill(seq, ident=None, age=0, **more):
    return {
        'id': ident or f'boot-{seq:x}',
        'seq': seq,
        'time': timestamp(age),
        'event': 'oom_kill',
        'type': 'memcg',
        'victim': process(cgroup='/web.slice/nginx.service', unit='nginx.service'),
        'trigger': process('agent', pid=9),
        'memory': {'anon_bytes': 63 << 20, 'file_bytes': 0, 'swap_bytes': 0},
        **more,
    }


def exit_(seq):
    return {'id': f'boot-{seq:x}', 'seq': seq, 'time': timestamp(), 'event': 'victim_exit', 'pid': 7, 'seconds': 0.1}


def test_a_kill_is_sent_once_with_all_details(run):
    events = [kill(1, context={'order': 0, 'gfp_flags': '0xcc0', 'constraint': 'memcg'}, memory_back_seconds=0.008)]
    [event] = run(events)
    assert event['msg_title'] == 'OOM kill: nginx of unit nginx.service, a cgroup is out of memory'
    for part in (
        'Victim: 7 "nginx", uid 33',
        'unit nginx.service',
        'cgroup /web.slice/nginx.service',
        'anon 63.0 MiB, file 0.0 MiB, swap 0.0 MiB.',
        'Triggered by: 9 "agent"',
        'order 0, gfp_flags 0xcc0, constraint memcg',
        'freed after 0.008 s',
        'memsensor event boot-1',
    ):
        assert part in event['msg_text'], event['msg_text']
    assert 'shmem' not in event['msg_text'], 'a size that was not measured is absent'
    assert event['aggregation_key'] == 'memsensor.oom_kill:boot-1'
    assert event['alert_type'] == 'error'
    tags = {'oom_type:memcg', 'victim:nginx', 'trigger:agent', 'unit:nginx.service'}
    assert tags < set(event['tags'])
    assert run(events) == []
    assert len(run([*events, exit_(2), kill(3)])) == 1


def test_a_restart_or_new_configuration_sends_nothing_again(run):
    assert len(run([kill(1), kill(2)])) == 2
    assert run([kill(1), kill(2)], restart=True, tags=['a:b']) == []
    assert len(run([kill(1), kill(2), kill(3)], restart=True)) == 1


def test_kills_of_a_group_are_one_aggregate(run):
    group = {'first': 'boot-1', 'cgroup': '/web.slice@x'}
    sent = run([kill(1, oom_group=group), kill(2, oom_group=group), kill(3), kill(4, oom_group={'first': 'b\n'})])
    keys = [event['aggregation_key'] for event in sent]
    assert keys == [f'memsensor.oom_kill:boot-{seq}' for seq in (1, 1, 3, 4)], 'an id that is none is no key'
    line = r'Killed with all processes of /web.slice\x40x (memory.oom.group); the first kill is event boot-1.'
    assert [line in event['msg_text'] for event in sent] == [True, True, False, False]


def test_more_events_than_the_limit_follow_in_the_next_runs(run):
    events = [kill(seq) for seq in range(1, 26)]
    runs = [[event['aggregation_key'] for event in run(events)] for _ in range(4)]
    assert [len(run) for run in runs] == [10, 10, 5, 0]
    assert sum(runs, []) == [f'memsensor.oom_kill:boot-{seq:x}' for seq in range(1, 26)]


def test_the_check_requests_events_after_the_last_one(run):
    def last_request():
        return [path for path in run.fake.requests if path.startswith('/api/v1/events')][-1]

    run([kill(1), kill(2)])
    assert last_request() == '/api/v1/events'
    run([kill(2)])
    assert last_request() == '/api/v1/events?after=boot-2'
    # Another service at this port cannot make the request arbitrarily long.
    run([kill(3, 'x' * 65)])
    run([])
    assert last_request() == '/api/v1/events'


def test_the_number_of_dropped_events_is_sent(run):
    assert len(run([kill(1)])) == 1
    sent = run([kill(seq) for seq in range(50, 53)])
    assert [event['event_type'] for event in sent] == [kills.MISSED, *[kills.OOM_KILL] * 3]
    assert sent[0]['msg_title'] == '48 or more events were missed'
    assert run([kill(seq) for seq in range(50, 53)]) == []


def test_waiting_events_that_were_dropped_are_counted(run):
    assert len(run([kill(seq) for seq in range(1, 31)])) == 10
    sent = run([kill(seq) for seq in range(21, 31)])
    assert sent[0]['msg_title'] == '10 or more events were missed'
    assert len(sent) == 11


def test_events_of_a_restarted_sensor_are_sent(run):
    assert len(run([kill(seq) for seq in range(1, 6)])) == 5
    assert run([]) == []
    again = [kill(1, 'boot-f1'), kill(2, 'boot-f2')]
    assert len(run(again)) == 2
    assert run(again) == []
    # Also if the new numbers reach the old ones.
    later = [kill(1, 'boot-ff1'), kill(2, 'boot-ff2'), kill(3, 'boot-ff3')]
    assert len(run(later)) == 3


def test_the_first_run_sends_only_events_that_datadog_accepts(run):
    sent = run([kill(70, age=19 * 3600), kill(71, age=17 * 3600), kill(72)])
    assert [event['aggregation_key'][-2:] for event in sent] == ['47', '48']
    assert run([kill(70), kill(71), kill(72)]) == []


def test_every_type_of_oom_kill_has_a_cause():
    assert sorted(OOM_TYPES) == sorted(kills.OOM_TYPE)


def test_a_kill_by_an_oom_daemon_is_sent(run):
    event = {'id': 'boot-1', 'seq': 1, 'time': timestamp(), 'event': 'kill_signal'}
    [sent] = run([{**event, 'sender': process('earlyoom'), 'target': process(pod_name='shop/web-1', pod='u')}])
    assert sent['msg_title'] == 'earlyoom killed nginx of pod shop/web-1'
    assert 'Killed: ' in sent['msg_text']
    assert {'sender:earlyoom', 'kube_namespace:shop', 'pod_name:web-1', 'pod_uid:u'} < set(sent['tags'])


def test_a_process_that_is_asked_to_end_was_not_killed(run):
    event = {'id': 'boot-1', 'seq': 1, 'time': timestamp(), 'event': 'kill_signal', 'signal': 'SIGTERM'}
    [sent] = run([{**event, 'sender': process('earlyoom'), 'target': process()}])
    assert sent['msg_title'].startswith('earlyoom sent SIGTERM to nginx')
    assert 'Asked to end (SIGTERM): ' in sent['msg_text']
    assert 'illed' not in sent['msg_title'] + sent['msg_text']


def test_hostile_names_are_escaped_and_limited(run):
    long = MENTION * 1000
    hostile = process(long, cgroup=long, unit=long, container=long, pod=long, pod_name=long, runtime=long)
    context = {'order': long, 'gfp_flags': long, 'constraint': long}
    [event] = run([kill(1, long, victim=hostile, trigger=hostile, type=MENTION, context=context)])
    words = [event['msg_title'], event['msg_text'], event['aggregation_key'], *event['tags']]
    # The operator chooses the endpoint.
    words = [word for word in words if not word.startswith('endpoint:')]
    assert not any(c in word for word in words for c in '@%'), words
    assert len(event['msg_title']) <= 100 and len(event['msg_text']) <= 4000
    assert all(len(tag) <= 200 for tag in event['tags']), event['tags']


@pytest.mark.parametrize(
    'answer',
    [None, '', 'not found; see /', '[]', '{}', '{"events": 1}', '{"events": [{"seq": "1", "id": 2}, 7]}', '[' * 100000],
)
def test_an_invalid_response_does_not_affect_the_metrics(fake, checks, dd_run_check, aggregator, answer):
    fake.answers['/api/v1/events'] = answer
    dd_run_check(checks(fake.url))
    aggregator.assert_metric('memsensor.ready')
    assert aggregator.events == []


@pytest.mark.parametrize('broken', [{'victim': None}, {'memory': 7}, {'type': []}, {'time': 5}, {'context': 'x'}])
def test_an_event_with_a_missing_part_is_sent(run, broken):
    [event] = run([kill(1, **broken)])
    assert event['event_type'] == kills.OOM_KILL


@pytest.mark.parametrize('cache', ['', '[]', '{"a": 1}', 'x', '[1]', 'null'])
def test_a_damaged_cache_is_ignored(run, datadog_agent, cache):
    datadog_agent.read_persistent_cache, was = lambda _: cache, datadog_agent.read_persistent_cache
    try:
        assert len(run([kill(1)])) == 1
    finally:
        datadog_agent.read_persistent_cache = was


def test_no_events_are_requested_if_they_are_disabled(run):
    assert run([kill(1)], collect_events=False) == []
    assert run.fake.requests == ['/metrics']


@pytest.mark.parametrize(
    'metrics, events',
    [
        ('http://localhost:9817/metrics', 'http://localhost:9819/api/v1/events'),
        ('http://[2001:db8::1]:80/a/metrics?b#c', 'http://[2001:db8::1]:9819/api/v1/events'),
        ('https://user:password@web-01/metrics', 'https://web-01:9819/api/v1/events'),
    ],
)
def test_by_default_events_are_on_a_port_of_the_same_host(checks, metrics, events):
    assert checks('http://localhost', events_endpoint=None).events_endpoint(metrics) == events
