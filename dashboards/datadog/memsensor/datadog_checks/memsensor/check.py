"""The check: metrics with the Agent's OpenMetrics reader, readiness as a service check, kills as events."""

import time
from urllib.parse import urlsplit, urlunsplit

from datadog_checks.base import ConfigurationError, OpenMetricsBaseCheckV2, is_affirmative

from . import kills, limits, metrics
from .readiness import Readiness

DEFAULT_MAX_EVENTS = 10


class MemsensorCheck(OpenMetricsBaseCheckV2):
    """Reads metrics and events of one memsensor in each run."""

    __NAMESPACE__ = 'memsensor'
    # Limits what a mistake can cost. A host has about 200 series with all groups except `cgroups`.
    DEFAULT_METRIC_LIMIT = 500

    def __init__(self, name, init_config, instances):
        super().__init__(name, init_config, instances)
        send_events = is_affirmative(self.instance.get('collect_events', True))
        self.readiness = Readiness(self, send_events)
        self.kills = kills.Kills(self, self._max_events()) if send_events else None
        self.groups = self._groups()

    def _groups(self):
        groups = self.instance.get('metric_groups') or []
        unknown = [group for group in groups if group not in metrics.GROUPS] if isinstance(groups, list) else [groups]
        if unknown:
            known = ', '.join(sorted(metrics.GROUPS))
            raise ConfigurationError(f'`metric_groups`: unknown group {unknown[0]!r}; known groups: {known}')
        return groups

    def _max_events(self):
        max_events = self.instance.get('max_events_per_run', DEFAULT_MAX_EVENTS)
        if type(max_events) is not int or not 1 <= max_events <= 100:
            raise ConfigurationError(f'`max_events_per_run`: {max_events!r} is not a number from 1 to 100')
        return max_events

    def get_default_config(self):
        config = {
            'metrics': [metrics.DEFAULT, *(metrics.GROUPS[group] for group in self.groups)],
            'rename_labels': dict(metrics.RENAMED_LABELS),
            # Histograms as sum and count. With buckets each would be 15 series.
            'collect_histogram_buckets': False,
            'timeout': limits.TIMEOUT_SECONDS,
        }
        if 'cgroups' in self.groups:
            config['share_labels'] = dict(metrics.SHARED_LABELS)
            # Cgroups are created and removed between runs.
            config['cache_shared_labels'] = False
        return config

    def create_scraper(self, config):
        scraper = limits.Scraper(self, self.get_config_with_defaults(config))
        for name, transformer in self.readiness.transformers().items():
            scraper.metric_transformer.add_custom_transformer(name, transformer)
        return scraper

    def check(self, instance):
        self.readiness.start_run()
        try:
            super().check(instance)
        except Exception as error:
            self.readiness.submit_unreachable(error)
            raise
        self.readiness.submit()
        if self.kills:
            self._submit_kills()

    def _submit_kills(self):
        """Sends new kills. An error here must not discard the metrics, so it is a warning."""
        for endpoint, scraper in self.scrapers.items():
            try:
                self.kills.submit(scraper.http, self.events_endpoint(endpoint))
            # Any exception: the list of errors that another program's response can cause is never complete.
            except Exception as error:
                reason = str(error) or type(error).__name__
                self.warning('cannot read events of memsensor (see `events_endpoint`): %s', reason)

    def events_endpoint(self, openmetrics_endpoint):
        """The URL of the same sensor's events; by default on the same host, where they have a port of their own."""
        if configured := self.instance.get('events_endpoint'):
            return configured
        url = urlsplit(openmetrics_endpoint)
        host = f'[{url.hostname}]' if ':' in url.hostname else url.hostname
        return urlunsplit(url._replace(netloc=f'{host}:{kills.PORT}', path=kills.PATH, query='', fragment=''))

    def persistent_cache_id(self):
        # The default is a digest of the whole configuration: a new tag would send every kill again.
        return str(self.instance.get('openmetrics_endpoint', ''))

    def static_tags(self):
        """The configured tags, and the endpoint."""
        return [tag for scraper in self.scrapers.values() for tag in scraper.static_tags]

    @staticmethod
    def now():
        """Seconds since 1970."""
        return int(time.time())
