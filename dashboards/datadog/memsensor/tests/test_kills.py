"""Events: each told once, over restarts of Agent and sensor, bounded, and harmless."""

import json

import pytest

from datadog_checks.memsensor import kills, standing

MENTION = '@pagerduty %%%'


@pytest.fixture
def told(fake, checks, dd_run_check, aggregator):
    """Runs a check on these events of the sensor; the events that it sent of them."""
    fake.check = None

    def run(events, restart=False, **options):
        if fake.check is None or restart:
            fake.check = checks(fake.url, **options)
        fake.answers['/api/v1/events'] = json.dumps({'events': events})
        aggregator.reset()
        dd_run_check(fake.check)
        return [event for event in aggregator.events if event['event_type'] != standing.EVENT_TYPE]

    run.fake = fake
    return run


def process(comm='nginx', **more):
    return {'pid': 7, 'tid': 7, 'comm': comm, 'uid': 33, 'oom_score_adj': 0, 'cgroup_id': 1, **more}


def now(check_time=None):
    from datetime import datetime, timedelta, timezone

    at = datetime.now(timezone.utc) - timedelta(seconds=check_time or 0)
    return at.strftime('%Y-%m-%dT%H:%M:%S.') + '123Z'


def kill(seq, ident=None, age=0, **more):
    return {
        'id': ident or f'boot-{seq:x}',
        'seq': seq,
        'time': now(age),
        'event': 'oom_kill',
        'scope': 'memcg',
        'victim': process(cgroup='/web.slice/nginx.service', unit='nginx.service'),
        'trigger': process('agent', pid=9),
        'memory': {'anon_bytes': 63 << 20, 'file_bytes': 0, 'swap_bytes': 0},
        **more,
    }


def exit_(seq):
    return {'id': f'boot-{seq:x}', 'seq': seq, 'time': now(), 'event': 'victim_exit', 'pid': 7, 'seconds': 0.1}


def test_a_kill_is_told_once_with_all_that_is_known(told):
    events = [kill(1, context={'order': 0, 'gfp_flags': '0xcc0', 'constraint': 'memcg'}, memory_back_seconds=0.008)]
    [event] = told(events)
    assert event['msg_title'] == 'OOM kill: nginx of unit nginx.service, a cgroup is out of memory'
    for part in (
        'Victim: 7 "nginx", uid 33',
        'unit nginx.service',
        'cgroup /web.slice/nginx.service',
        'anon 63.0 MiB, file 0.0 MiB, swap 0.0 MiB.',
        'Set off by: 9 "agent"',
        'order 0, gfp_flags 0xcc0, constraint memcg',
        'back after 0.008 s',
        'memsensor event boot-1',
    ):
        assert part in event['msg_text'], event['msg_text']
    assert 'shmem' not in event['msg_text'], 'not measured is absent'
    assert event['aggregation_key'] == 'memsensor.oom_kill:boot-1'
    assert event['alert_type'] == 'error'
    tags = {'oom_scope:memcg', 'victim:nginx', 'trigger:agent', 'unit:nginx.service'}
    assert tags < set(event['tags'])
    assert told(events) == []
    assert len(told([*events, exit_(2), kill(3)])) == 1


def test_an_agent_that_starts_anew_or_is_configured_anew_sends_nothing_again(told):
    assert len(told([kill(1), kill(2)])) == 2
    assert told([kill(1), kill(2)], restart=True, tags=['a:b']) == []
    assert len(told([kill(1), kill(2), kill(3)], restart=True)) == 1


def test_more_than_fit_in_a_run_wait_for_the_next_in_their_order(told):
    events = [kill(seq) for seq in range(1, 26)]
    runs = [[event['aggregation_key'] for event in told(events)] for _ in range(4)]
    assert [len(run) for run in runs] == [10, 10, 5, 0]
    assert sum(runs, []) == [f'memsensor.oom_kill:boot-{seq:x}' for seq in range(1, 26)]


def test_it_asks_for_what_came_after_the_last_that_it_dealt_with(told):
    def asked():
        return [path for path in told.fake.asked if path.startswith('/api/v1/events')][-1]

    told([kill(1), kill(2)])
    assert asked() == '/api/v1/events'
    told([kill(2)])
    assert asked() == '/api/v1/events?after=boot-2'
    # What else may listen there does not make the question as long as it likes.
    told([kill(3, 'x' * 65)])
    told([])
    assert asked() == '/api/v1/events'


def test_what_was_pushed_out_is_told_as_a_number(told):
    assert len(told([kill(1)])) == 1
    sent = told([kill(seq) for seq in range(50, 53)])
    assert [event['event_type'] for event in sent] == [kills.MISSED, *[kills.OOM_KILL] * 3]
    assert sent[0]['msg_title'] == '48 or more events were missed'
    assert told([kill(seq) for seq in range(50, 53)]) == []


def test_those_that_waited_and_were_pushed_out_are_told_as_a_number(told):
    assert len(told([kill(seq) for seq in range(1, 31)])) == 10
    sent = told([kill(seq) for seq in range(21, 31)])
    assert sent[0]['msg_title'] == '10 or more events were missed'
    assert len(sent) == 11


def test_a_sensor_that_starts_anew_counts_anew(told):
    assert len(told([kill(seq) for seq in range(1, 6)])) == 5
    assert told([]) == []
    again = [kill(1, 'boot-f1'), kill(2, 'boot-f2')]
    assert len(told(again)) == 2
    assert told(again) == []
    # And where it has counted as far as before.
    later = [kill(1, 'boot-ff1'), kill(2, 'boot-ff2'), kill(3, 'boot-ff3')]
    assert len(told(later)) == 3


def test_the_first_time_none_is_missed_and_none_is_older_than_datadog_takes(told):
    sent = told([kill(70, age=19 * 3600), kill(71, age=17 * 3600), kill(72)])
    assert [event['aggregation_key'][-2:] for event in sent] == ['47', '48']
    assert told([kill(70), kill(71), kill(72)]) == []


def test_a_kill_by_an_oom_daemon_is_told(told):
    event = {'id': 'boot-1', 'seq': 1, 'time': now(), 'event': 'kill_signal'}
    [sent] = told([{**event, 'sender': process('earlyoom'), 'target': process(pod_name='shop/web-1', pod='u')}])
    assert sent['msg_title'] == 'earlyoom killed nginx of pod shop/web-1'
    assert {'sender:earlyoom', 'kube_namespace:shop', 'pod_name:web-1', 'pod_uid:u'} < set(sent['tags'])


def test_hostile_names_page_nobody_and_stay_within_bounds(told):
    long = MENTION * 1000
    who = process(long, cgroup=long, unit=long, container=long, pod=long, pod_name=long, runtime=long)
    context = {'order': long, 'gfp_flags': long, 'constraint': long}
    [event] = told([kill(1, long, victim=who, trigger=who, scope=MENTION, context=context)])
    words = [event['msg_title'], event['msg_text'], event['aggregation_key'], *event['tags']]
    # The endpoint is the operator's own.
    words = [word for word in words if not word.startswith('endpoint:')]
    assert not any(c in word for word in words for c in '@%'), words
    assert len(event['msg_title']) <= 100 and len(event['msg_text']) <= 4000
    assert all(len(tag) <= 200 for tag in event['tags']), event['tags']


@pytest.mark.parametrize(
    'answer',
    [None, '', 'not found; see /', '[]', '{}', '{"events": 1}', '{"events": [{"seq": "1", "id": 2}, 7]}', '[' * 100000],
)
def test_an_answer_that_is_none_does_not_keep_metrics_from_being_sent(fake, checks, dd_run_check, aggregator, answer):
    fake.answers['/api/v1/events'] = answer
    dd_run_check(checks(fake.url))
    aggregator.assert_metric('memsensor.ready')
    assert aggregator.events == []


@pytest.mark.parametrize('broken', [{'victim': None}, {'memory': 7}, {'scope': []}, {'time': 5}, {'context': 'x'}])
def test_an_event_without_a_part_is_told_without_it(told, broken):
    [event] = told([kill(1, **broken)])
    assert event['event_type'] == kills.OOM_KILL


@pytest.mark.parametrize('cache', ['', '[]', '{"a": 1}', 'x', '[1]', 'null'])
def test_a_cache_that_is_damaged_is_an_empty_one(told, datadog_agent, cache):
    datadog_agent.read_persistent_cache, was = lambda _: cache, datadog_agent.read_persistent_cache
    try:
        assert len(told([kill(1)])) == 1
    finally:
        datadog_agent.read_persistent_cache = was


def test_whoever_wants_no_events_is_sent_none_and_asks_for_none(told):
    assert told([kill(1)], collect_events=False) == []
    assert told.fake.asked == ['/metrics']
