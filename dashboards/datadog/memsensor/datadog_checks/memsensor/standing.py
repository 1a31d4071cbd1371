"""How each scope stands: a service check, and an event when that has changed.

A scope is the host, or a cgroup that has a verdict of its own. What is not told is unknown, never ready.
"""

import json

from datadog_checks.base import AgentCheck

from . import metrics, plain

SERVICE_CHECK = 'readiness'
EVENT_TYPE = 'memsensor.state_change'
CACHE_KEY = 'standing'
HOST = 'host'
# The sensor has no more than the host and 32.
MOST_SCOPES = 33

STATUS = {
    'ready': AgentCheck.OK,
    'degraded': AgentCheck.WARNING,
    # An operator's own doing pages nobody.
    'maintenance': AgentCheck.WARNING,
    'draining': AgentCheck.CRITICAL,
    'stale': AgentCheck.CRITICAL,
    'starting': AgentCheck.CRITICAL,
    'blind': AgentCheck.UNKNOWN,
}
ALERT = {
    AgentCheck.OK: 'success',
    AgentCheck.WARNING: 'warning',
    AgentCheck.CRITICAL: 'error',
    AgentCheck.UNKNOWN: 'warning',
}
MEANING = {
    'ready': 'It is fit for traffic again.',
    'degraded': 'Balancers are told to send it less.',
    'maintenance': 'An operator has drained it (`memsensor drain`); balancers are told to send it nothing new.',
    'draining': 'It is short of memory, and balancers are told to send it nothing new.',
    'stale': 'The sensor has no fresh sample: it, or the host, stands still.',
    'starting': 'The sensor has no sample yet.',
    'blind': 'Neither PSI nor a probe tells who waits for memory.',
}


class Standing:
    """What was told of the scopes in one run, and what had been before."""

    def __init__(self, check, events):
        self.check = check
        # Whether changes are told as events.
        self.events = events
        # Scope to [state, changes counted]; survives a restart of the Agent.
        self.before = None
        self.begin()

    def begin(self):
        """Before each run: what was told is told no more."""
        self.state, self.weight, self.reasons, self.changes = {}, {}, {}, {}

    def transformers(self):
        """By metric, who reads it."""
        return {
            metrics.STATE: self._read_state,
            metrics.REASON: self._read_reason,
            metrics.WEIGHT: self._read_weight,
            metrics.TRANSITIONS: self._read_transitions,
        }

    def _read_state(self, _, samples, __):
        for sample, tags, hostname in samples:
            if sample.value == 1:
                self.check.gauge(metrics.VERDICT[metrics.STATE], 1, tags=tags, hostname=hostname)
                self.state[scope_of(sample)] = sample.labels.get('state', '')

    def _read_reason(self, _, samples, __):
        for sample, tags, hostname in samples:
            if sample.value == 1:
                self.check.gauge(metrics.VERDICT[metrics.REASON], 1, tags=tags, hostname=hostname)
                self.reasons.setdefault(scope_of(sample), []).append(sample.labels.get('reason', ''))

    def _read_weight(self, _, samples, __):
        for sample, tags, hostname in samples:
            self.check.gauge(metrics.VERDICT[metrics.WEIGHT], sample.value, tags=tags, hostname=hostname)
            self.weight[scope_of(sample)] = sample.value

    def _read_transitions(self, _, samples, runtime):
        name = metrics.VERDICT[metrics.TRANSITIONS] + '.count'
        first = runtime['flush_first_value']
        for sample, tags, hostname in samples:
            self.check.monotonic_count(name, sample.value, tags=tags, hostname=hostname, flush_first_value=first)
            scope = scope_of(sample)
            self.changes[scope] = self.changes.get(scope, 0) + sample.value

    def unreachable(self, why):
        """The sensor was not to be asked: nothing is known of any scope that there was."""
        for scope in sorted({HOST, *self._known()}):
            self._service_check(scope, AgentCheck.UNKNOWN, f'the sensor cannot be asked: {why}')

    def tell(self):
        """The service checks, and an event for each scope that stands otherwise than before."""
        known = self._known()
        for scope in sorted({HOST, *known} - self.state.keys()):
            self._service_check(scope, AgentCheck.UNKNOWN, 'the sensor says nothing of it')
        told = dict(sorted(self.state.items())[:MOST_SCOPES])
        now = {scope: [state, self.changes.get(scope)] for scope, state in told.items()}
        for scope, state in told.items():
            status = STATUS.get(state, AgentCheck.UNKNOWN)
            self._service_check(scope, status, self._sentence(scope))
            if self.events and scope in known:
                self._event(scope, status, *known[scope])
        # A scope of which nothing was told keeps what it had: the change is told when it is back.
        kept = {scope: was for scope, was in known.items() if scope == HOST and scope not in now}
        self._remember({**now, **kept})

    def _sentence(self, scope):
        parts = [self.state[scope]]
        if scope in self.weight:
            parts.append(f'weight {self.weight[scope]:.0%}'.replace('%', ' percent'))
        if self.reasons.get(scope):
            parts.append('because of ' + ', '.join(self.reasons[scope]))
        return ', '.join(parts)

    def _service_check(self, scope, status, message):
        # The Agent wants none with an OK.
        message = None if status == AgentCheck.OK else plain.text(f'{scope}: {message}', 300)
        self.check.service_check(SERVICE_CHECK, status, tags=self._tags(scope), message=message)

    def _tags(self, scope):
        return [*self.check.static_tags(), plain.tag('scope', scope)]

    def _event(self, scope, status, was, counted):
        state, changes = self.state[scope], self.changes.get(scope)
        between = None if counted is None or changes is None else changes - counted
        # The counter is of the sensor's life: one that fell says nothing.
        between = int(between) if between is not None and between > 0 else 0
        if state == was == 'maintenance':
            # The counter is of the verdict, which goes on beneath an operator's drain: nobody is told of it.
            return
        if state == was and between == 0:
            return
        name, state, was = plain.text(scope, 40), plain.text(state, 20), plain.text(was, 20)
        if state == was:
            title = f'{name} is {state} again: it changed {between} times between two checks'
        else:
            title = f'{name} is {state} (was {was})'
        lines = [MEANING.get(state, ''), plain.text(self._sentence(scope), 300)]
        if between > 1:
            lines.append(f'State changes since the last check: {between}.')
        lines.append('On the host, `memsensor explain` says which rules hold, `memsensor top` who has the memory.')
        self.check.event(
            {
                'event_type': EVENT_TYPE,
                'source_type_name': 'memsensor',
                'timestamp': self.check.now(),
                'msg_title': f'memsensor: {title}'[:100],
                'msg_text': '\n'.join(line for line in lines if line),
                'aggregation_key': f'{EVENT_TYPE}:{name}',
                'alert_type': ALERT[status],
                'host': self.check.hostname,
                'tags': [*self._tags(scope), plain.tag('state', state), plain.tag('previous_state', was)],
            }
        )

    def _known(self):
        if self.before is None:
            self.before = remembered(self.check.read_persistent_cache(CACHE_KEY))
        return self.before

    def _remember(self, now):
        if now != self.before:
            self.before = now
            self.check.write_persistent_cache(CACHE_KEY, json.dumps(now))


def scope_of(sample):
    """Which scope a sample is of."""
    return sample.labels.get('scope', HOST)


def remembered(text):
    """What was written, or nothing where it cannot be understood."""
    try:
        entries = json.loads(text or '{}').items()
        known = {scope: [str(state), None if n is None else float(n)] for scope, (state, n) in entries}
    except (AttributeError, TypeError, ValueError):
        return {}
    return dict(list(known.items())[:MOST_SCOPES])
