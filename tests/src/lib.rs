//! What the tests share: scopes (cgroups) that clean up after themselves, workloads, the daemon.
