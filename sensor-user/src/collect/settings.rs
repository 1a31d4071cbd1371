//! How often samples are taken, and which cgroups have a verdict of their own.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result, ensure};
use sensor_core::verdict::scope::{HOST, MAX_SCOPE_NAME, is_scope_name};
use serde::{Deserialize, Serialize};

use crate::host::cgroup::path;

/// Highest number of scopes beside the host: each is read at every sample.
const MAX_SCOPES: usize = 32;

/// Times of the sensing loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Time between two samples.
    pub interval: Duration,
    /// Time between two samples under pressure.
    pub pressed_interval: Duration,
    /// Time over which `_min` and `_max` gauges hold the lowest and highest value.
    pub window: Duration,
    /// Age of the last sample from which on readiness fails.
    pub stale_after: Duration,
}

impl Settings {
    /// An error if a time is out of range, or does not fit another.
    pub fn check(&self) -> Result<()> {
        let Self { interval, pressed_interval, window, stale_after } = *self;
        let text = humantime::format_duration;
        ensure!(
            (50..=60_000).contains(&interval.as_millis()),
            "interval: {} is not between 50ms and 1m",
            text(interval)
        );
        ensure!(
            (20..=60_000).contains(&pressed_interval.as_millis()),
            "pressed_interval: {} is not between 20ms and 1m",
            text(pressed_interval)
        );
        ensure!(
            stale_after >= interval * 2,
            "stale_after: {} is less than two intervals: every late sample would look stale",
            text(stale_after)
        );
        ensure!(
            window >= interval && window.as_millis() <= 3_600_000,
            "window: {} is not between interval and 1h",
            text(window)
        );
        // Each sample of the window is kept, at 13 KiB.
        ensure!(window <= interval * 600, "window: {} is more than 600 intervals", text(window));
        Ok(())
    }
}

/// A cgroup with a verdict of its own.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ScopeSettings {
    /// Name of the scope: in `/readyz/NAME`, HAProxy's `agent-send`, `memsensor check --scope NAME`
    /// and the label `scope`. 1 to 64 ASCII letters, digits, `-`, `_` and `.`; each name once, and
    /// not `host`.
    #[cfg_attr(feature = "schema", schemars(example = &"web"))]
    pub name: String,
    /// Path of the cgroup below the root of the cgroup hierarchy, as /proc/PID/cgroup has it: not
    /// below /sys/fs/cgroup, without `..`, `//`, `*` and a slash at the end. Write a path with a
    /// backslash, such as systemd's `\x2d`, in single quotes. It need not exist when memsensor
    /// starts. While it does not, the state of the scope is `unknown`.
    #[cfg_attr(
        feature = "schema",
        schemars(extend("format" = "path"), example = &"/system.slice/nginx.service")
    )]
    pub cgroup: String,
}

/// An error if there are too many scopes, a name is not valid or used twice, or no cgroup can have
/// a path.
pub fn check_scopes(scopes: &[ScopeSettings]) -> Result<()> {
    let count = scopes.len();
    ensure!(count <= MAX_SCOPES, "scope: {count} scopes, at most {MAX_SCOPES}");
    let mut names = BTreeSet::from([HOST]);
    for ScopeSettings { name, cgroup } in scopes {
        ensure!(
            is_scope_name(name),
            "scope: {name:?} is not a valid name: letters, digits, `-`, `_`, `.`, at most \
             {MAX_SCOPE_NAME}"
        );
        ensure!(names.insert(name), "scope: {name:?} twice (\"{HOST}\" is the machine)");
        path::check(cgroup).with_context(|| format!("scope {name}: cgroup"))?;
        ensure!(
            !cgroup.contains('*'),
            "scope {name}: cgroup {cgroup:?} contains `*`, but a scope is one cgroup; patterns are \
             for [cgroups]"
        );
    }
    Ok(())
}
