"""The check: metrics by the Agent's own OpenMetrics reader, readiness as a service check, kills as events."""

import time
from urllib.parse import urlsplit, urlunsplit

from requests.exceptions import RequestException

from datadog_checks.base import ConfigurationError, OpenMetricsBaseCheckV2, is_affirmative

from . import bounded, kills, metrics
from .standing import Standing

MOST_EVENTS = 10


class MemsensorCheck(OpenMetricsBaseCheckV2):
    """Asks one memsensor for everything, once a run."""

    __NAMESPACE__ = 'memsensor'
    # A bound on what can be billed by mistake; with all groups but `cgroups` a host has some 200 series.
    DEFAULT_METRIC_LIMIT = 500

    def __init__(self, name, init_config, instances):
        super().__init__(name, init_config, instances)
        events = is_affirmative(self.instance.get('collect_events', True))
        self.standing = Standing(self, events)
        self.kills = kills.Kills(self, self._most_events()) if events else None
        self.groups = self._groups()

    def _groups(self):
        wanted = self.instance.get('metric_groups') or []
        unknown = [group for group in wanted if group not in metrics.GROUPS] if isinstance(wanted, list) else [wanted]
        if unknown:
            known = ', '.join(sorted(metrics.GROUPS))
            raise ConfigurationError(f'`metric_groups`: no group {unknown[0]!r}; there are: {known}')
        return wanted

    def _most_events(self):
        most = self.instance.get('max_events_per_run', MOST_EVENTS)
        if type(most) is not int or not 1 <= most <= 100:
            raise ConfigurationError(f'`max_events_per_run`: {most!r} is not a number from 1 to 100')
        return most

    def get_default_config(self):
        config = {
            'metrics': [metrics.DEFAULT, *(metrics.GROUPS[group] for group in self.groups)],
            'rename_labels': dict(metrics.RENAMED_LABELS),
            # Histograms as sum and count: with buckets each would be 15 series.
            'collect_histogram_buckets': False,
            'timeout': bounded.TIMEOUT_SECONDS,
        }
        if 'cgroups' in self.groups:
            config['share_labels'] = dict(metrics.SHARED_LABELS)
            # Cgroups come and go.
            config['cache_shared_labels'] = False
        return config

    def create_scraper(self, config):
        scraper = bounded.Scraper(self, self.get_config_with_defaults(config))
        for name, transformer in self.standing.transformers().items():
            scraper.metric_transformer.add_custom_transformer(name, transformer)
        return scraper

    def check(self, instance):
        self.standing.begin()
        try:
            super().check(instance)
        except Exception as why:
            self.standing.unreachable(why)
            raise
        self.standing.tell()
        if self.kills:
            self._tell_kills()

    def _tell_kills(self):
        """A list of events that cannot be had is no reason to have no metrics."""
        for endpoint, scraper in self.scrapers.items():
            try:
                self.kills.tell(scraper.http, events_endpoint(endpoint))
            # An answer that is no JSON, or one nested too deep.
            except (RequestException, ValueError, RecursionError) as why:
                self.warning('no events of memsensor: %s', why)

    def persistent_cache_id(self):
        # By default it is all of the configuration: who adds a tag would be sent every kill anew.
        return str(self.instance.get('openmetrics_endpoint', ''))

    def static_tags(self):
        """The tags of the configuration, and the endpoint."""
        return [tag for scraper in self.scrapers.values() for tag in scraper.static_tags]

    @staticmethod
    def now():
        """Seconds since 1970."""
        return int(time.time())


def events_endpoint(openmetrics_endpoint):
    """Where the same sensor tells its events."""
    return urlunsplit(urlsplit(openmetrics_endpoint)._replace(path=kills.PATH, query='', fragment=''))
