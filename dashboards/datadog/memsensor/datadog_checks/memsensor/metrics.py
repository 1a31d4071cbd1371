"""The metrics that the check sends, and their names in Datadog.

The rule: Datadog's name is Prometheus' name without `memsensor_`. The Agent drops `_total` from counters when it reads
them and appends `.count` when it sends them. Exceptions have a comment. Every series is billed, so only `DEFAULT` is
sent unless the configuration names more: less than 100 series per host, which the tests count.
"""

DEFAULT = {
    # Kills.
    'memsensor_oom_kills': 'oom_kills',
    'memsensor_kill_signals': 'kill_signals',
    'memsensor_oom_victim_exit_seconds': 'oom_victim_exit_seconds',
    # Stalls and reclaim.
    'memsensor_stall_seconds': 'stall_seconds',
    'memsensor_direct_reclaim_seconds': 'direct_reclaim_seconds',
    'memsensor_memcg_reclaim_seconds': 'memcg_reclaim_seconds',
    'memsensor_pfmemalloc_throttle_seconds': 'pfmemalloc_throttle_seconds',
    'memsensor_reclaiming_tasks': 'reclaiming_tasks',
    'memsensor_kswapd_active_seconds': 'kswapd_active_seconds',
    'memsensor_reclaim_priority_min': 'reclaim_priority_min',
    'memsensor_alloc_failures': 'alloc_failures',
    'memsensor_alloc_no_progress_loops_max': 'alloc_no_progress_loops_max',
    # Available memory, and pressure as the kernel reports it.
    'memsensor_memory_some_seconds': 'memory_some_seconds',
    'memsensor_limit_stall_seconds': 'limit_stall_seconds',
    'memsensor_memory_full_seconds': 'memory_full_seconds',
    'memsensor_io_full_seconds': 'io_full_seconds',
    'memsensor_refaulted_bytes': 'refaulted_bytes',
    'memsensor_swapped_in_bytes': 'swapped_in_bytes',
    'memsensor_swapped_out_bytes': 'swapped_out_bytes',
    'memsensor_memory_total_bytes': 'memory_total_bytes',
    'memsensor_memory_available_bytes': 'memory_available_bytes',
    'memsensor_memory_unused_bytes': 'memory_unused_bytes',
    'memsensor_swap_free_bytes': 'swap_free_bytes',
    'memsensor_above_low_watermark_bytes': 'above_low_watermark_bytes',
    'memsensor_exhaustion_seconds': 'exhaustion_seconds',
    # The verdict.
    'memsensor_ready': 'ready',
    'memsensor_drained': 'drained',
    # Datadog has no function for the current time, so the age is sent and not the timestamp.
    'memsensor_last_sample_timestamp_seconds': {'name': 'last_sample_age_seconds', 'type': 'time_elapsed'},
    # Metadata, not a series: Datadog shows it as the version of the integration.
    'memsensor_build_info': {'name': 'version', 'type': 'metadata', 'label': 'version'},
}

# Also sent by default. `readiness.py` reads them, and derives the service check and the events from them. Of the first
# two it sends only the series with the value 1: the zeros would be 27 series per scope.
STATE = 'memsensor_state'
REASON = 'memsensor_verdict_reason'
WEIGHT = 'memsensor_weight_ratio'
TRANSITIONS = 'memsensor_state_transitions'
VERDICT = {
    STATE: 'state',
    REASON: 'verdict_reason',
    WEIGHT: 'weight_ratio',
    TRANSITIONS: 'state_transitions',
}

# Optional: named in `metric_groups`.
GROUPS = {
    # Details of reclaim and compaction, for an analysis of a slow host.
    'reclaim': {
        'memsensor_direct_reclaim_pages': 'direct_reclaim_pages',
        'memsensor_memcg_reclaim_pages': 'memcg_reclaim_pages',
        'memsensor_softlimit_reclaim_pages': 'softlimit_reclaim_pages',
        'memsensor_softlimit_reclaim_seconds': 'softlimit_reclaim_seconds',
        'memsensor_kswapd_wakeups': 'kswapd_wakeups',
        'memsensor_reclaim_scanned_pages': 'reclaim_scanned_pages',
        'memsensor_reclaim_stolen_pages': 'reclaim_stolen_pages',
        'memsensor_reclaim_throttle_seconds': 'reclaim_throttle_seconds',
        'memsensor_compaction_stall_seconds': 'compaction_stall_seconds',
        'memsensor_compaction_results': 'compaction_results',
        'memsensor_alloc_retries': 'alloc_retries',
    },
    # Up to 14 series for each cgroup that memsensor shows; limit them with `[cgroups] most`. A cgroup with histograms
    # has two more for each kind of reclaim.
    'cgroups': {
        'memsensor_cgroup_memory_bytes': 'cgroup_memory_bytes',
        'memsensor_cgroup_memory_limit_bytes': 'cgroup_memory_limit_bytes',
        'memsensor_cgroup_swap_bytes': 'cgroup_swap_bytes',
        'memsensor_cgroup_memory_some_seconds': 'cgroup_memory_some_seconds',
        'memsensor_cgroup_memory_full_seconds': 'cgroup_memory_full_seconds',
        'memsensor_cgroup_refaulted_bytes': 'cgroup_refaulted_bytes',
        'memsensor_cgroup_limit_hits': 'cgroup_limit_hits',
        'memsensor_cgroup_oom_kills': 'cgroup_oom_kills',
        'memsensor_cgroup_stall_seconds': 'cgroup_stall_seconds',
        'memsensor_cgroup_reclaim_seconds': 'cgroup_reclaim_seconds',
        'memsensor_cgroups_omitted': 'cgroups_omitted',
        'memsensor_dropped_cgroup_paths': 'dropped_cgroup_paths',
        'memsensor_cgroups_created': 'cgroups_created',
        'memsensor_cgroups_removed': 'cgroups_removed',
    },
    # Process names are tags: any user who can start a process can create a series.
    'processes': {
        'memsensor_process_growth_bytes_per_second': 'process_growth_bytes_per_second',
    },
    # Health of the sensor itself.
    'self': {
        'memsensor_events_lost': 'events_lost',
        'memsensor_probe_attached': 'probe_attached',
        'memsensor_deadline_misses': 'deadline_misses',
        'memsensor_deadline_overrun_max_seconds': 'deadline_overrun_max_seconds',
        'memsensor_scrape_seconds': 'scrape_seconds',
        'memsensor_locked_memory_bytes': 'locked_memory_bytes',
        'memsensor_unknown_scope_requests': 'unknown_scope_requests',
        'memsensor_connections': 'connections',
        'memsensor_current_connections': 'current_connections',
        'memsensor_log_lines_lost': 'log_lines_lost',
        'memsensor_record_written_bytes': 'record_written_bytes',
        'memsensor_record_entries_lost': 'record_entries_lost',
        'memsensor_record_writable': 'record_writable',
        'memsensor_bpf_map_bytes': 'bpf_map_bytes',
        'memsensor_bpf_maps_readable': 'bpf_maps_readable',
        'memsensor_bpf_run_seconds': 'bpf_run_seconds',
        'memsensor_bpf_runs': 'bpf_runs',
        # Of the sensor's process; these metrics have no `memsensor_` prefix.
        'process_resident_memory_bytes': 'process.resident_memory_bytes',
        'process_cpu_seconds': 'process.cpu_seconds',
        'process_open_fds': 'process.open_fds',
    },
}

# Metrics that are not sent, with the reason.
NOT_SENT = {
    'memsensor_cgroup_info': 'its labels are tags of the metrics in the group `cgroups`',
    'memsensor_record_synced_timestamp_seconds': 'Datadog cannot subtract it from the present time',
    'memsensor_probe_info': 'its reason is a sentence and does not fit in a tag; `memsensor probes` shows it',
}

# Labels of memsensor whose names have another meaning in Datadog.
RENAMED_LABELS = {
    'node': 'numa_node',
    'container': 'container_id',
    'pod': 'pod_uid',
}

# systemd unit, container and pod of a cgroup, as tags of its series. A cgroup has one of each, so they add no series.
SHARED_LABELS = {
    'memsensor_cgroup_info': {'match': ['cgroup'], 'labels': ['unit', 'container', 'pod'], 'values': [1]},
}
