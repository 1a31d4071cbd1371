"""Readiness of each scope: a service check per run, and an event when the state changes.

A scope is the host, or a cgroup with its own verdict. A scope without data is unknown, never ready.
"""

import json

from datadog_checks.base import AgentCheck

from . import metrics, sanitize

SERVICE_CHECK = 'readiness'
EVENT_TYPE = 'memsensor.state_change'
CACHE_KEY = 'readiness'
HOST = 'host'
# memsensor supports 32 named scopes.
MAX_SCOPES = 33

STATUS = {
    'ready': AgentCheck.OK,
    'degraded': AgentCheck.WARNING,
    # A planned drain must not page.
    'drained': AgentCheck.WARNING,
    'overloaded': AgentCheck.CRITICAL,
    'stale': AgentCheck.CRITICAL,
    'starting': AgentCheck.CRITICAL,
    'unknown': AgentCheck.UNKNOWN,
}
ALERT_TYPE = {
    AgentCheck.OK: 'success',
    AgentCheck.WARNING: 'warning',
    AgentCheck.CRITICAL: 'error',
    AgentCheck.UNKNOWN: 'warning',
}
DESCRIPTION = {
    'ready': 'The scope can take full traffic again.',
    'degraded': 'memsensor asks load balancers to send less traffic.',
    'drained': 'An operator has drained the host (`memsensor drain`). Load balancers send no new traffic.',
    'overloaded': 'The scope is short of memory. memsensor asks load balancers to send no new traffic.',
    'stale': 'The sensor has no recent sample: the sensor or the host is stuck.',
    'starting': 'The sensor has not taken a sample yet.',
    'unknown': 'Neither PSI nor a probe measures memory pressure here.',
}


class Readiness:
    """The state of each scope in this run and in the previous run."""

    def __init__(self, check, send_events):
        self.check = check
        self.send_events = send_events
        # Scope to [state, number of transitions]; loaded from the Agent's cache at first use.
        self.previous = None
        self.start_run()

    def start_run(self):
        """Clears what the last run collected."""
        self.states, self.weights, self.reasons, self.transitions = {}, {}, {}, {}

    def transformers(self):
        """The function that reads each metric of the verdict."""
        return {
            metrics.STATE: self._read_states,
            metrics.REASON: self._read_reasons,
            metrics.WEIGHT: self._read_weights,
            metrics.TRANSITIONS: self._read_transitions,
        }

    def _read_states(self, _, samples, __):
        for sample, tags, hostname in samples:
            if sample.value == 1:
                self.check.gauge(metrics.VERDICT[metrics.STATE], 1, tags=tags, hostname=hostname)
                self.states[scope_of(sample)] = sample.labels.get('state', '')

    def _read_reasons(self, _, samples, __):
        for sample, tags, hostname in samples:
            if sample.value == 1:
                self.check.gauge(metrics.VERDICT[metrics.REASON], 1, tags=tags, hostname=hostname)
                self.reasons.setdefault(scope_of(sample), []).append(sample.labels.get('reason', ''))

    def _read_weights(self, _, samples, __):
        for sample, tags, hostname in samples:
            self.check.gauge(metrics.VERDICT[metrics.WEIGHT], sample.value, tags=tags, hostname=hostname)
            self.weights[scope_of(sample)] = sample.value

    def _read_transitions(self, _, samples, runtime):
        name = metrics.VERDICT[metrics.TRANSITIONS] + '.count'
        flush = runtime['flush_first_value']
        for sample, tags, hostname in samples:
            self.check.monotonic_count(name, sample.value, tags=tags, hostname=hostname, flush_first_value=flush)
            scope = scope_of(sample)
            self.transitions[scope] = self.transitions.get(scope, 0) + float(sample.value)

    def submit_unreachable(self, error):
        """Reports every known scope as unknown because the scrape failed."""
        for scope in sorted({HOST, *self._previous()}):
            self._service_check(scope, AgentCheck.UNKNOWN, f'cannot read the sensor: {error}')

    def submit(self):
        """Sends the service checks, and an event for each scope whose state changed."""
        previous = self._previous()
        for scope in sorted({HOST, *previous} - self.states.keys()):
            self._service_check(scope, AgentCheck.UNKNOWN, 'the sensor does not report this scope')
        states = dict(sorted(self.states.items())[:MAX_SCOPES])
        current = {scope: [state, sanitize.number(self.transitions.get(scope))] for scope, state in states.items()}
        for scope, state in states.items():
            status = STATUS.get(state, AgentCheck.UNKNOWN)
            self._service_check(scope, status, self._summary(scope))
            if self.send_events and scope in previous:
                self._state_change(scope, status, *previous[scope])
        # Keep the host's last state while it is not reported, so that the change is sent when it is back.
        kept = {scope: entry for scope, entry in previous.items() if scope == HOST and scope not in current}
        self._save({**current, **kept})

    def _summary(self, scope):
        parts = [self.states[scope]]
        if scope in self.weights:
            parts.append(f'weight {self.weights[scope]:.0%}'.replace('%', ' percent'))
        if self.reasons.get(scope):
            parts.append('because of ' + ', '.join(self.reasons[scope]))
        return ', '.join(parts)

    def _service_check(self, scope, status, message):
        # The Agent rejects a message with OK.
        message = None if status == AgentCheck.OK else sanitize.text(f'{scope}: {message}', 300)
        self.check.service_check(SERVICE_CHECK, status, tags=self._tags(scope), message=message)

    def _tags(self, scope):
        return [*self.check.static_tags(), sanitize.tag('scope', scope)]

    def _state_change(self, scope, status, old, old_transitions):
        state = self.states[scope]
        count = self._transitions_since(scope, old_transitions)
        # Under a drain the verdict continues, but no load balancer sees it.
        if state == old and (count == 0 or state == 'drained'):
            return
        name, state, old = sanitize.text(scope, 40), sanitize.text(state, 20), sanitize.text(old, 20)
        if state == old:
            title = f'{name} is {state} again: {count} state changes between two checks'
        else:
            title = f'{name} is {state} (was {old})'
        lines = [DESCRIPTION.get(state, ''), sanitize.text(self._summary(scope), 300)]
        if count > 1:
            lines.append(f'State changes since the last check: {count}.')
        lines.append('On the host, `memsensor explain` shows the rules and `memsensor top` the memory usage.')
        self.check.event(
            {
                'event_type': EVENT_TYPE,
                'source_type_name': 'memsensor',
                'timestamp': self.check.now(),
                'msg_title': f'memsensor: {title}'[:100],
                'msg_text': '\n'.join(line for line in lines if line),
                'aggregation_key': f'{EVENT_TYPE}:{name}',
                'alert_type': ALERT_TYPE[status],
                'host': self.check.hostname,
                'tags': [*self._tags(scope), sanitize.tag('state', state), sanitize.tag('previous_state', old)],
            }
        )

    def _transitions_since(self, scope, old):
        """State changes since the previous run; 0 after a restart of the sensor, which resets the counter."""
        new = self.transitions.get(scope)
        # The sum of finite numbers, and their difference, may not be finite.
        changes = None if old is None or new is None else sanitize.number(new - old)
        return 0 if changes is None else max(0, int(changes))

    def _previous(self):
        if self.previous is None:
            self.previous = parse_cache(self.check.read_persistent_cache(CACHE_KEY))
        return self.previous

    def _save(self, current):
        if current != self.previous:
            self.previous = current
            self.check.write_persistent_cache(CACHE_KEY, json.dumps(current))


def scope_of(sample):
    """The scope of a sample."""
    return sample.labels.get('scope', HOST)


def parse_cache(text):
    """The states of the previous run, or none if the cache is damaged."""
    try:
        entries = json.loads(text or '{}').items()
        valid = [(scope, state, n) for scope, (state, n) in entries if n is None or sanitize.number(n) is not None]
        states = {scope: [sanitize.plain(state), sanitize.number(n)] for scope, state, n in valid}
    except (AttributeError, TypeError, ValueError, RecursionError):
        return {}
    return dict(list(states.items())[:MAX_SCOPES])
