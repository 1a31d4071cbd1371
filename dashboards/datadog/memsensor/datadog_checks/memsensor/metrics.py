"""Which metrics of memsensor are sent, and by which name.

The rule: Datadog's name is Prometheus' without `memsensor_`; the Agent drops `_total` from counters when it
reads them and appends `.count` when it sends them. The exceptions have a comment. Every series is billed, so
only `DEFAULT` is sent unasked: less than 100 series a host, which the tests count.
"""

DEFAULT = {
    # Kills.
    'memsensor_oom_kills': 'oom_kills',
    'memsensor_kill_signals': 'kill_signals',
    'memsensor_oom_victim_exit_seconds': 'oom_victim_exit_seconds',
    # Who waits, for how long.
    'memsensor_stall_seconds': 'stall_seconds',
    'memsensor_direct_reclaim_seconds': 'direct_reclaim_seconds',
    'memsensor_memcg_reclaim_seconds': 'memcg_reclaim_seconds',
    'memsensor_pfmemalloc_throttle_seconds': 'pfmemalloc_throttle_seconds',
    'memsensor_reclaiming_tasks': 'reclaiming_tasks',
    'memsensor_kswapd_active_seconds': 'kswapd_active_seconds',
    'memsensor_reclaim_priority_min': 'reclaim_priority_min',
    'memsensor_alloc_failures': 'alloc_failures',
    'memsensor_alloc_no_progress_loops_max': 'alloc_no_progress_loops_max',
    # What there is, and what the kernel says of pressure.
    'memsensor_memory_some_seconds': 'memory_some_seconds',
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
    # A time as such is of no use there: its age is sent.
    'memsensor_last_sample_timestamp_seconds': {'name': 'last_sample_age_seconds', 'type': 'time_elapsed'},
    # Not a series: it is shown as the version of the integration.
    'memsensor_build_info': {'name': 'version', 'type': 'metadata', 'label': 'version'},
}

# Sent by default as well, but read by `standing.py`, which also makes the service check and events of them.
# Of the first two only the series that are 1 are sent: the zeros would be 27 series a scope.
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

# Asked for by name in `metric_groups`.
GROUPS = {
    # How hard the kernel has to look: what an expert wants to see of a slow host.
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
    # Up to 14 series for each cgroup that memsensor shows: bound them there (`[cgroups] most`). Two more for each kind
    # of reclaim in those that have histograms.
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
        'memsensor_cgroups_created': 'cgroups_created',
        'memsensor_cgroups_removed': 'cgroups_removed',
    },
    # Names of processes as tags: whoever starts a process makes a series.
    'processes': {
        'memsensor_process_growth_bytes_per_second': 'process_growth_bytes_per_second',
    },
    # Whether the sensor itself is well.
    'self': {
        'memsensor_events_lost': 'events_lost',
        'memsensor_probe_attached': 'probe_attached',
        'memsensor_deadline_misses': 'deadline_misses',
        'memsensor_deadline_overrun_max_seconds': 'deadline_overrun_max_seconds',
        'memsensor_scrape_seconds': 'scrape_seconds',
        'memsensor_locked_memory_bytes': 'locked_memory_bytes',
        'memsensor_unknown_scope_requests': 'unknown_scope_requests',
        'memsensor_bpf_map_bytes': 'bpf_map_bytes',
        'memsensor_bpf_run_seconds': 'bpf_run_seconds',
        'memsensor_bpf_runs': 'bpf_runs',
        # Of the sensor's own process; they are of no namespace there.
        'process_resident_memory_bytes': 'process.resident_memory_bytes',
        'process_cpu_seconds': 'process.cpu_seconds',
        'process_open_fds': 'process.open_fds',
    },
}

# Not sent, and why.
NOT_SENT = {
    'memsensor_cgroup_info': 'its labels become tags of the group `cgroups`',
    'memsensor_probe_info': 'its reason is a sentence, which is no tag; `memsensor probes` shows it',
}

# The sensor's labels whose names mean something else to Datadog.
RENAMED_LABELS = {
    'node': 'numa_node',
    'container': 'container_id',
    'pod': 'pod_uid',
}

# What people call a cgroup, as tags of its series. They add no series: there is one of each to a cgroup.
SHARED_LABELS = {
    'memsensor_cgroup_info': {'match': ['cgroup'], 'labels': ['unit', 'container', 'pod'], 'values': [1]},
}
