"""Kills as events: by the kernel's OOM killer, and by those in user space.

The sensor keeps its latest events, numbered while it runs. We remember the last one that we sent, also over a
restart of the Agent, and send those after it: none twice, and what was pushed out before we looked is told as a
number. An Agent that dies between sending and remembering sends some again, under the same aggregation key.
"""

import json
from datetime import datetime, timezone

from . import bounded, plain

PATH = '/api/v1/events'
CACHE_KEY = 'kills'
OOM_KILL = 'memsensor.oom_kill'
KILL_SIGNAL = 'memsensor.kill_by_oom_daemon'
MISSED = 'memsensor.events_missed'
# Datadog takes no event that is older.
OLDEST_SECONDS = 18 * 3600
TITLE = 100
LONGEST_ID = 64
MIB = 1024 * 1024
RAN_OUT = {'global': 'the machine is out of memory', 'memcg': 'a cgroup is out of memory'}


class Kills:
    """Sends what is new at each run, so many at most; the rest waits for the next."""

    def __init__(self, check, most):
        self.check = check
        self.most = most
        # Number and id of the last event that was dealt with.
        self.last = None

    def tell(self, http, endpoint):
        """Asks for events and sends those that are new."""
        last = self.last or remembered(self.check.read_persistent_cache(CACHE_KEY))
        # A sensor that does not know that event any more answers with its latest.
        after_last = {'after': last[1]} if last and len(last[1]) <= LONGEST_ID else {}
        with http.get(endpoint, params=after_last, stream=True) as response:
            response.raise_for_status()
            kept = understood(bounded.body(response, bounded.EVENTS_BYTES))
        new, missed = after(kept, last)
        if missed:
            self._tell_missed(missed)
        sent = 0
        for event in new:
            if sent == self.most:
                self.check.log.info('more than %d new events: the rest is sent at the next run', self.most)
                break
            sent += self._send(event)
            last = (event['seq'], event['id'])
        if last and last != self.last:
            self.last = last
            self.check.write_persistent_cache(CACHE_KEY, json.dumps(last))

    def _send(self, event):
        """Whether it was one to be sent."""
        make = {'oom_kill': oom_kill, 'kill_signal': kill_signal}.get(event.get('event'))
        # That a victim is gone is part of its kill.
        if make is None:
            return False
        at = when(event.get('time'), self.check.now())
        if self.check.now() - at > OLDEST_SECONDS:
            return False
        event_type, alert, title, lines, tags = make(event)
        name = plain.text(event['id'], LONGEST_ID)
        lines += [f'Event {name}: on the host, `memsensor event {name}` tells what else was known.']
        self._submit(event_type, alert, at, title, lines, f'{event_type}:{name}', tags)
        return True

    def _tell_missed(self, missed):
        lines = [
            f'{missed} or more records were pushed out of the list of the sensor before this check asked for it:',
            'kills, ends of victims, and signals of OOM daemons. The counters have them all.',
            'On the host, `memsensor events` has more of them.',
        ]
        title = f'{missed} or more events were missed'
        self._submit(MISSED, 'warning', self.check.now(), title, lines, MISSED, [])

    def _submit(self, event_type, alert, at, title, lines, key, tags):
        self.check.event(
            {
                'event_type': event_type,
                'source_type_name': 'memsensor',
                'timestamp': at,
                'msg_title': title if len(title) <= TITLE else title[: TITLE - 3] + '...',
                'msg_text': '\n'.join(lines),
                'aggregation_key': key,
                'alert_type': alert,
                'host': self.check.hostname,
                'tags': [*self.check.static_tags(), *tags],
            }
        )


def understood(body):
    """The events of an answer in their order, without those that have no number and id."""
    answer = json.loads(body)
    events = answer.get('events') if isinstance(answer, dict) else None
    if not isinstance(events, list):
        raise ValueError('no list of events')
    numbered = [e for e in events if isinstance(e, dict) and type(e.get('seq')) is int and type(e.get('id')) is str]
    return sorted(numbered, key=lambda event: event['seq'])


def after(kept, last):
    """Those after the last one, and how many at least were pushed out between."""
    if not kept:
        return [], 0
    first = kept[0]['seq']
    if last is None:
        # Nobody had asked before.
        return kept, 0
    seq, known = last
    if first > seq:
        return kept, first - seq - 1
    same = any(event['seq'] == seq and event['id'] == known for event in kept)
    if same:
        return [event for event in kept if event['seq'] > seq], 0
    # The sensor was restarted, and counts from 1 again.
    return kept, first - 1


def remembered(text):
    """What was written, or nothing where it cannot be understood."""
    try:
        seq, known = json.loads(text or 'null')
        return int(seq), str(known)
    except (TypeError, ValueError):
        return None


def when(text, now):
    """RFC 3339 as seconds; now, where it is not to be understood."""
    try:
        at = datetime.strptime(text, '%Y-%m-%dT%H:%M:%S.%fZ').replace(tzinfo=timezone.utc)
    except (TypeError, ValueError):
        return now
    return int(at.timestamp())


def oom_kill(event):
    """Type, alert, title, lines and tags of a kill by the kernel."""
    victim, trigger, memory = (part(event, key) for key in ('victim', 'trigger', 'memory'))
    scope = str(event.get('scope'))
    lines = [
        f'Victim: {process(victim)}.',
        f'It had {sizes(memory)}.',
        f'Set off by: {process(trigger)}.',
        f'What ran out: {RAN_OUT.get(scope, "not known")}.',
    ]
    if context := part(event, 'context'):
        wanted = ', '.join(f'{key} {plain.text(context[key], 40)}' for key in CONTEXT if key in context)
        lines.append(f'The allocation: {wanted}.')
    back = event.get('memory_back_seconds')
    if isinstance(back, (int, float)):
        lines.append(f'Its memory was back after {back:.3f} s.')
    tags = [plain.tag('oom_scope', scope), *tags_of(victim), plain.tag('trigger', trigger.get('comm', ''))]
    return OOM_KILL, 'error', f'OOM kill: {short(victim)}, {RAN_OUT.get(scope, "")}', lines, tags


def kill_signal(event):
    """The same of a kill by an OOM killer in user space."""
    sender, target = part(event, 'sender'), part(event, 'target')
    lines = [f'Killed: {process(target)}.', f'By: {process(sender)}.']
    tags = [*tags_of(target), plain.tag('sender', sender.get('comm', ''))]
    title = f'{plain.text(sender.get("comm", "?"), 30)} killed {short(target)}'
    return KILL_SIGNAL, 'error', title, lines, tags


CONTEXT = ('order', 'gfp_flags', 'constraint')
SIZES = ('anon', 'file', 'shmem', 'swap', 'page_tables')


def part(event, key):
    """A part of an event, empty where there is none."""
    value = event.get(key)
    return value if isinstance(value, dict) else {}


def sizes(memory):
    """In MiB, those that are known."""
    known = ((name, memory.get(f'{name}_bytes')) for name in SIZES)
    told = [f'{name.replace("_", " ")} {n / MIB:.1f} MiB' for name, n in known if isinstance(n, (int, float))]
    return ', '.join(told) or 'a size that is not known'


def process(who):
    """A process in words."""
    words = [f'{plain.text(who.get("pid", "?"), 10)} "{plain.text(who.get("comm", "?"), 64)}"']
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
        if who.get(key) is not None:
            words.append(f'{name} {plain.text(who[key], 300 if key == "cgroup" else 100)}')
    return ', '.join(words)


def short(who):
    """What people would call it: its name, and that of its pod, container or unit."""
    name = plain.text(who.get('comm', '?'), 30)
    for key, word in (('pod_name', 'pod'), ('container', 'container'), ('unit', 'unit')):
        if who.get(key):
            return f'{name} of {word} {plain.text(who[key], 40)}'
    return name


def tags_of(victim):
    """Tags by which a victim is found; named as Datadog names them."""
    tags = [plain.tag('victim', victim.get('comm', ''))]
    for key, name in (('unit', 'unit'), ('container', 'container_id'), ('pod', 'pod_uid'), ('cgroup', 'cgroup')):
        if victim.get(key):
            tags.append(plain.tag(name, victim[key], 200 - len(name) - 1))
    namespace, slash, pod = str(victim.get('pod_name') or '').partition('/')
    if slash:
        tags += [plain.tag('kube_namespace', namespace), plain.tag('pod_name', pod)]
    return tags
