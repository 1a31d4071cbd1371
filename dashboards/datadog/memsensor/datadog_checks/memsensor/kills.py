"""Kills as events: by the kernel's OOM killer, and by OOM daemons in user space.

The sensor keeps its latest events and numbers them from its start. The check saves the last event that it processed
in the Agent's cache and requests the later ones, so no event is sent twice. If the sensor dropped events before the
check read them, the check sends their number. An Agent that is killed between sending and saving sends up to one run
of events again, under the same aggregation keys.
"""

import json
import re
from datetime import datetime, timezone

from . import limits, sanitize

PATH = '/api/v1/events'
PORT = 9819
CACHE_KEY = 'kills'
OOM_KILL = 'memsensor.oom_kill'
KILL_SIGNAL = 'memsensor.kill_by_oom_daemon'
MISSED = 'memsensor.events_missed'
# Datadog rejects older events.
MAX_AGE_SECONDS = 18 * 3600
MAX_TITLE = 100
MAX_TEXT = 4000
MAX_ID = 64
# An id of the sensor. Only such an id is part of a request.
ID = re.compile(rf'[0-9A-Za-z-]{{1,{MAX_ID}}}')
# The sensor numbers its events from 1, with 64 bits.
MAX_SEQ = 2**64 - 1
MIB = 1024 * 1024
OOM_TYPE = {'global': 'the machine is out of memory', 'memcg': 'a cgroup is out of memory'}


class Kills:
    """Sends new kills, at most `max_events` in a run; the rest follows in the next runs."""

    def __init__(self, check, max_events):
        self.check = check
        self.max_events = max_events
        # Number and id of the last event that was processed.
        self.last = None

    def submit(self, http, endpoint):
        """Requests events and sends the new ones."""
        last = self.last or parse_cache(self.check.read_persistent_cache(CACHE_KEY))
        # If the sensor no longer has this event, it returns its latest events.
        params = {'after': last[1]} if last and ID.fullmatch(last[1]) else {}
        with http.get(endpoint, params=params, stream=True) as response:
            response.raise_for_status()
            events = parse_events(limits.read_body(response, limits.MAX_EVENTS_BYTES))
        new, missed = new_events(events, last)
        if missed:
            self._submit_missed(missed)
        sent = 0
        for event in new:
            if sent == self.max_events:
                self.check.log.info('more than %d new events: the rest is sent in the next run', self.max_events)
                break
            sent += self._submit_event(event)
            last = (event['seq'], event['id'])
        if last and last != self.last:
            self.last = last
            self.check.write_persistent_cache(CACHE_KEY, json.dumps(last))

    def _submit_event(self, event):
        """Sends a kill that is not too old. Returns whether it was sent."""
        # `victim_exit` is not sent: its data is also in the kill.
        describe = {'oom_kill': oom_kill, 'kill_signal': kill_signal}.get(sanitize.plain(event.get('event')))
        if describe is None:
            return False
        timestamp = parse_time(event.get('time'), self.check.now())
        if self.check.now() - timestamp > MAX_AGE_SECONDS:
            return False
        event_type, alert_type, title, lines, tags = describe(event)
        event_id = sanitize.text(event['id'], MAX_ID)
        # The kills of a memory.oom.group are one aggregate.
        first = section(event, 'oom_group').get('first')
        key = first if type(first) is str and ID.fullmatch(first) else event_id
        lines += [f'Event {event_id}: on the host, `memsensor event {event_id}` shows the full report.']
        self._submit(event_type, alert_type, timestamp, title, lines, f'{event_type}:{key}', tags)
        return True

    def _submit_missed(self, missed):
        lines = [
            f'The sensor dropped {missed} or more records from its list before this check read them: kills, exits of',
            'victims, and signals of OOM daemons. The counters include all of them.',
            'On the host, `memsensor events` lists more records.',
        ]
        title = f'{missed} or more events were missed'
        self._submit(MISSED, 'warning', self.check.now(), title, lines, MISSED, [])

    def _submit(self, event_type, alert_type, timestamp, title, lines, aggregation_key, tags):
        self.check.event(
            {
                'event_type': event_type,
                'source_type_name': 'memsensor',
                'timestamp': timestamp,
                'msg_title': title if len(title) <= MAX_TITLE else title[: MAX_TITLE - 3] + '...',
                'msg_text': '\n'.join(lines)[:MAX_TEXT],
                'aggregation_key': aggregation_key,
                'alert_type': alert_type,
                'host': self.check.hostname,
                'tags': [*self.check.static_tags(), *tags],
            }
        )


def parse_events(body):
    """The events of a response in order of their number; events without a number and an id are ignored."""
    response = json.loads(body)
    events = response.get('events') if isinstance(response, dict) else None
    if not isinstance(events, list):
        raise ValueError('the response has no list of events')
    valid = [e for e in events if isinstance(e, dict) and is_seq(e.get('seq')) and type(e.get('id')) is str]
    return sorted(valid, key=lambda event: event['seq'])


def is_seq(value):
    """Whether this can be the number of an event."""
    return type(value) is int and 1 <= value <= MAX_SEQ


def new_events(events, last):
    """The events after the last one, and the lowest possible number of dropped events."""
    if not events:
        return [], 0
    first = events[0]['seq']
    if last is None:
        # The first run: nothing was missed.
        return events, 0
    seq, event_id = last
    if first > seq:
        return events, first - seq - 1
    if any(event['seq'] == seq and event['id'] == event_id for event in events):
        return [event for event in events if event['seq'] > seq], 0
    # The sensor was restarted and counts from 1 again.
    return events, first - 1


def parse_cache(text):
    """Number and id of the last event, or None if the cache is empty or damaged."""
    try:
        seq, event_id = json.loads(text or 'null')
    except (TypeError, ValueError, RecursionError):
        return None
    return (seq, event_id) if is_seq(seq) and type(event_id) is str else None


def parse_time(text, now):
    """RFC 3339 as seconds since 1970; `now` if the text is not valid, or in the future."""
    try:
        time = datetime.strptime(text, '%Y-%m-%dT%H:%M:%S.%fZ').replace(tzinfo=timezone.utc)
    except (TypeError, ValueError):
        return now
    return min(int(time.timestamp()), now)


def oom_kill(event):
    """Type, alert type, title, lines and tags of a kill by the kernel."""
    victim, trigger, memory = (section(event, key) for key in ('victim', 'trigger', 'memory'))
    oom_type = sanitize.plain(event.get('type'))
    lines = [
        f'Victim: {process(victim)}.',
        f'Memory of the victim: {sizes(memory)}.',
        f'Triggered by: {process(trigger)}.',
        f'Cause: {OOM_TYPE.get(oom_type, "not known")}.',
    ]
    if group := section(event, 'oom_group'):
        cgroup, first = (sanitize.text(group.get(key, '?'), length) for key, length in (('cgroup', 300), ('first', MAX_ID)))
        lines.append(f'Killed with all processes of {cgroup} (memory.oom.group); the first kill is event {first}.')
    if context := section(event, 'context'):
        fields = ', '.join(f'{key} {sanitize.text(context[key], 40)}' for key in CONTEXT if key in context)
        lines.append(f'Allocation: {fields}.')
    if (seconds := sanitize.number(event.get('memory_back_seconds'))) is not None:
        lines.append(f'The memory was freed after {seconds:.3f} s.')
    tags = [sanitize.tag('oom_type', oom_type), *victim_tags(victim), sanitize.tag('trigger', trigger.get('comm', ''))]
    return OOM_KILL, 'error', f'OOM kill: {short_name(victim)}, {OOM_TYPE.get(oom_type, "")}', lines, tags


def kill_signal(event):
    """The same for a kill by an OOM daemon in user space."""
    sender, target = section(event, 'sender'), section(event, 'target')
    # SIGTERM asks for the end: the target may clean up first, or ignore it.
    is_asked = event.get('signal') == 'SIGTERM'
    receiver, verb = ('Asked to end (SIGTERM)', 'sent SIGTERM to') if is_asked else ('Killed', 'killed')
    lines = [f'{receiver}: {process(target)}.', f'By: {process(sender)}.']
    tags = [*victim_tags(target), sanitize.tag('sender', sender.get('comm', ''))]
    title = f'{sanitize.text(sender.get("comm", "?"), 30)} {verb} {short_name(target)}'
    return KILL_SIGNAL, 'error', title, lines, tags


CONTEXT = ('order', 'gfp_flags', 'constraint')
SIZES = ('anon', 'file', 'shmem', 'swap', 'page_tables')


def section(event, key):
    """An object in an event; empty if the event has none."""
    value = event.get(key)
    return value if isinstance(value, dict) else {}


def sizes(memory):
    """The measured sizes in MiB."""
    measured = ((name, sanitize.number(memory.get(f'{name}_bytes'))) for name in SIZES)
    parts = [f'{name.replace("_", " ")} {n / MIB:.1f} MiB' for name, n in measured if n is not None]
    return ', '.join(parts) or 'not known'


def process(fields):
    """A process in words."""
    words = [f'{sanitize.text(fields.get("pid", "?"), 10)} "{sanitize.text(fields.get("comm", "?"), 64)}"']
    for key, name in (
        ('uid', 'uid'),
        ('oom_score_adj', 'oom_score_adj'),
        ('unit', 'unit'),
        ('pod_name', 'pod'),
        ('pod', 'pod uid'),
        ('runtime', 'runtime'),
        ('container', 'container'),
        ('cgroup', 'cgroup'),
    ):
        if fields.get(key) is not None:
            words.append(f'{name} {sanitize.text(fields[key], 300 if key == "cgroup" else 100)}')
    return ', '.join(words)


def short_name(fields):
    """The name of a process, and that of its pod, container or unit."""
    name = sanitize.text(fields.get('comm', '?'), 30)
    for key, word in (('pod_name', 'pod'), ('container', 'container'), ('unit', 'unit')):
        if fields.get(key):
            return f'{name} of {word} {sanitize.text(fields[key], 40)}'
    return name


def victim_tags(victim):
    """Tags that identify a victim, with Datadog's names."""
    tags = [sanitize.tag('victim', victim.get('comm', ''))]
    for key, name in (('unit', 'unit'), ('container', 'container_id'), ('pod', 'pod_uid'), ('cgroup', 'cgroup')):
        if victim.get(key):
            tags.append(sanitize.tag(name, victim[key], 200 - len(name) - 1))
    namespace, slash, pod = sanitize.plain(victim.get('pod_name')).partition('/')
    if slash:
        tags += [sanitize.tag('kube_namespace', namespace), sanitize.tag('pod_name', pod)]
    return tags
