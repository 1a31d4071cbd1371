//! The configuration and the state files. The first byte selects the reader: `t` the configuration,
//! `w` the web configuration of a listener, `d` the saved drain, `v` the saved verdict.
#![no_main]

use std::{path::Path, time::Duration};

use libfuzzer_sys::{Corpus, fuzz_target};
use sensor_user::{
    daemon::config::Config,
    fuzzing,
    serve::{secure::web_config::WebConfig, state::drain::Drain},
};

fuzz_target!(|data: &[u8]| -> Corpus {
    match data.split_first() {
        Some((b't', text)) => config(&String::from_utf8_lossy(text)),
        Some((b'w', text)) => {
            web_config(&String::from_utf8_lossy(text));
        }
        Some((b'd', json)) => drop(serde_json::from_slice::<Drain>(json)),
        Some((b'v', json)) => states(json),
        _ => return Corpus::Reject,
    }
    Corpus::Keep
});

/// A valid configuration can be used, and written and read again.
fn config(text: &str) {
    let Ok(config) = Config::parse(text) else { return };
    let policy = config.policy().expect("valid rules make a policy");
    let _ = (config.kernel(), config.sampling(), config.scopes(policy), config.metrics());
    let written = toml::to_string(&config).expect("a valid configuration can be written");
    // Without listeners there are the default ones, and an empty list cannot be read.
    if config.listen.is_empty() {
        return;
    }
    let read: Config = toml::from_str(&written).expect("a written configuration can be read");
    assert_eq!(read, config);
}

/// Passwords can be compared with every hash that is accepted.
fn web_config(text: &str) {
    let Ok(config) = WebConfig::parse(text, Path::new("/nonexistent")) else { return };
    let is_quick = |hash: &&String| hash.get(4..6).is_some_and(|cost| cost <= "05");
    for hash in config.users.values().filter(is_quick).take(4) {
        fuzzing::is_password(hash, b"x").expect("a hash that is accepted can be checked");
    }
}

fn states(json: &[u8]) {
    let Some(states) = fuzzing::saved_states(json, 1 << 40, Duration::from_secs(600)) else {
        return;
    };
    assert!(states.values().all(|state| state.is_sound()));
}
