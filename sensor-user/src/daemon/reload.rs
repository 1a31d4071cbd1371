//! Reads the configuration again while the daemon runs, and replaces the settings that need neither
//! the rights of the start nor other threads or memory. A mistake in the configuration changes
//! nothing.
//!
//! Not here: who asks for it (`run` for SIGHUP, `serve/admin` for `memsensor reload`).

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, Result};
use arc_swap::{ArcSwap, ArcSwapOption};
use toml::{Table, Value};

use super::config::Config;
use crate::{
    collect::sampler::Replaced,
    serve::state::{reload::Reload, settings::Served},
};

/// Keys that a reload replaces; a table stands for all of its keys.
const RELOADED: [&str; 9] = [
    "pressed_interval",
    "stale_after",
    "on_unknown",
    "http.head_timeout",
    "http.deadline",
    "verdict",
    "rules",
    "buckets",
    "growing_processes",
];

/// Whether a reload replaces the setting of this path, such as `http.deadline`.
pub fn is_reloaded(path: &str) -> bool {
    let is_below = |key: &str| path.strip_prefix(key).is_some_and(|rest| rest.starts_with('.'));
    RELOADED.iter().any(|key| path == *key || is_below(key))
}

/// Reads the configuration again, with the options of the command line.
pub type Reread = Box<dyn Fn() -> Result<Config> + Send + Sync>;

/// Replaces settings of the running daemon.
pub(crate) struct Reloader {
    reread: Reread,
    /// The configuration in effect.
    current: Mutex<Config>,
    served: Arc<ArcSwap<Served>>,
    sampled: Arc<ArcSwapOption<Replaced>>,
}

impl fmt::Debug for Reloader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloader").field("current", &self.current).finish_non_exhaustive()
    }
}

impl Reloader {
    /// Replaces what the servers (`served`) and the sensing thread (`sampled`) use.
    pub(crate) fn new(
        current: Config,
        reread: Reread,
        served: Arc<ArcSwap<Served>>,
        sampled: Arc<ArcSwapOption<Replaced>>,
    ) -> Self {
        Self { reread, current: Mutex::new(current), served, sampled }
    }
}

impl Reload for Reloader {
    fn reload(&self) -> Result<String> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let new = (self.reread)()?;
        let Merged { config, changed, ignored } = Merged::of(&current, &new)?;
        let policy = config.policy()?;
        self.sampled.store(Some(Arc::new(Replaced {
            evaluation: config.scopes(Arc::clone(&policy)),
            pressed_interval: config.pressed_interval,
        })));
        self.served.store(Arc::new(config.served(policy)));
        *current = config;
        let reloaded = match &changed.join(", ")[..] {
            "" => "no setting to reload has changed".to_owned(),
            changed => format!("reloaded: {changed}"),
        };
        Ok(match &ignored.join(", ")[..] {
            "" => reloaded,
            ignored => format!("{reloaded}; changed, but needs a restart: {ignored}"),
        })
    }
}

/// The configuration after a reload.
struct Merged {
    config: Config,
    /// Paths of the settings that were replaced.
    changed: Vec<String>,
    /// Paths of those that differ, but need a restart.
    ignored: Vec<String>,
}

impl Merged {
    /// Takes the settings that can be reloaded from `new`, all others from `old`.
    fn of(old: &Config, new: &Config) -> Result<Self> {
        let table = |config: &Config| {
            // An empty list stands for the defaults, but cannot be written.
            let config = Config { listen: config.listeners(), ..config.clone() };
            Table::try_from(config).context("compare configurations")
        };
        let (mut merged, new) = (table(old)?, table(new)?);
        let (mut changed, mut ignored) = (Vec::new(), Vec::new());
        for path in differences("", &merged, &new) {
            if is_reloaded(&path) {
                replace(&mut merged, &new, &path);
                changed.push(path);
            } else {
                ignored.push(path);
            }
        }
        let config: Config = merged.try_into().context("merge configurations")?;
        // A new value may not fit one that needs a restart.
        config.check().context("together with the settings that need a restart")?;
        Ok(Self { config, changed, ignored })
    }
}

/// Paths of settings with different values; a setting of [`RELOADED`], or a list, is one path.
fn differences(prefix: &str, old: &Table, new: &Table) -> Vec<String> {
    let mut keys: Vec<_> = old.keys().chain(new.keys()).collect();
    keys.sort();
    keys.dedup();
    let mut paths = Vec::new();
    for key in keys {
        let path = format!("{prefix}{key}");
        match (old.get(key), new.get(key)) {
            (before, after) if before == after => {}
            (Some(Value::Table(before)), Some(Value::Table(after))) if !is_reloaded(&path) => {
                paths.extend(differences(&format!("{path}."), before, after));
            }
            _ => paths.push(path),
        }
    }
    paths
}

/// Copies the value of a path, or removes it. All tables above it exist in both.
fn replace(to: &mut Table, from: &Table, path: &str) {
    match path.split_once('.') {
        Some((table, rest)) => {
            if let (Some(Value::Table(to)), Some(Value::Table(from))) =
                (to.get_mut(table), from.get(table))
            {
                replace(to, from, rest);
            }
        }
        None => match from.get(path) {
            Some(value) => _ = to.insert(path.to_owned(), value.clone()),
            None => _ = to.remove(path),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(old: &str, new: &str) -> Result<Merged> {
        Merged::of(&Config::parse(old).expect("valid"), &Config::parse(new).expect("valid"))
    }

    #[test]
    fn only_settings_that_can_be_reloaded_are_replaced() {
        let old = "growing_processes = 1\ninterval = \"2s\"\n[rules.stalled]\nenabled = false";
        let new = "growing_processes = 2\ninterval = \"1s\"\n\
                   [http]\ndeadline = \"5s\"\nmax_connections = 8\n[rules.choking]\n\
                   full_share_1s = 0.4\n[[listen]]\naddress = \"127.0.0.1:1\"\n\
                   routes = [\"metrics\"]";
        let Merged { config, changed, ignored } = merged(old, new).expect("valid");
        assert_eq!(changed, ["growing_processes", "http.deadline", "rules"]);
        assert_eq!(ignored, ["http.max_connections", "interval", "listen"]);
        let (before, after) =
            (Config::parse(old).expect("valid"), Config::parse(new).expect("valid"));
        assert_eq!((config.growing_processes, config.interval), (2, before.interval));
        assert_eq!(config.http.deadline, after.http.deadline);
        assert_eq!(config.http.max_connections, before.http.max_connections);
        assert_eq!(config.rules, after.rules);
        let Merged { config, changed, .. } = merged(new, "").expect("valid");
        assert!(config.rules.is_empty(), "{:?}", config.rules);
        assert!(changed.contains(&"rules".to_owned()), "{changed:?}");
    }

    #[test]
    fn a_value_that_does_not_fit_the_running_ones_is_refused() {
        let (old, new) = ("interval = \"2s\"", "interval = \"100ms\"\nstale_after = \"1s\"");
        let error = format!("{:#}", merged(old, new).err().expect("too short for two intervals"));
        assert!(error.contains("stale_after") && error.contains("a restart"), "{error}");
    }
}
