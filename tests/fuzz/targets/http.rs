//! HTTP. The first byte selects the reader: `h` the server with all routes, `a` the header
//! `Authorization`, `o` the conversion of OpenMetrics text.
#![no_main]

use std::{cell::LazyCell, sync::Arc};

use libfuzzer_sys::{Corpus, fuzz_target};
use sensor_user::{
    fuzzing,
    serve::{
        http::{Handlers, Site, router, serve},
        listen::Route,
        metrics::classic::from_open_metrics,
        secure::{
            credentials::{Credentials, Decision},
            passwords::{Passwords, Queue},
        },
        state::{app::AppState, settings::Http},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
    sync::watch,
};

const ROUTES: [Route; 3] = [Route::Readiness, Route::Metrics, Route::Events];

fuzz_target!(|data: &[u8]| -> Corpus {
    match data.split_first() {
        Some((b'h', request)) => {
            let answer = answer(request);
            if let Some(head) = answer.get(..12) {
                check_head(head);
            }
        }
        Some((b'a', value)) => authorize(value),
        Some((b'o', text)) => {
            let text = String::from_utf8_lossy(text);
            let classic = from_open_metrics(&text);
            let has_other = classic.lines().any(|l| l == "# EOF" || l.starts_with("# UNIT "));
            assert!(!has_other, "{classic:?}");
        }
        _ => return Corpus::Reject,
    }
    Corpus::Keep
});

type Server = (tokio::runtime::Runtime, AppState, Arc<Passwords>);

thread_local! {
    static SERVER: LazyCell<Server> = LazyCell::new(|| {
        let passwords = Passwords::new(Queue::new().expect("an eventfd"));
        (sensor_fuzz::runtime(), sensor_fuzz::app_state(), passwords)
    });
    static CREDENTIALS: LazyCell<Credentials> = LazyCell::new(fuzzing::credentials);
}

/// Only the token opens the door; a password has to be checked.
fn authorize(value: &[u8]) {
    let decision = CREDENTIALS.with(|known| fuzzing::authorization(known, value));
    if let Some(Decision::Allowed) = decision {
        assert!(value.trim_ascii_end().ends_with(fuzzing::TOKEN.as_bytes()), "{value:?}");
    }
}

/// Sends the bytes, then reads until the server closes the connection.
fn answer(request: &[u8]) -> Vec<u8> {
    SERVER.with(|server| {
        let (runtime, state, passwords) = &**server;
        let (mut client, stream) = duplex(1 << 20);
        let (_stop, stopping) = watch::channel(false);
        let router = router(Handlers::new(state.clone()), &ROUTES);
        let site = Site { router, security: None, passwords: Arc::clone(passwords) };
        let serving = serve(stream, fuzzing::ticket(), site, Http::default(), stopping);
        let asking = async {
            client.write_all(request).await?;
            client.shutdown().await?;
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await?;
            std::io::Result::Ok(answer)
        };
        runtime.block_on(async { tokio::join!(serving, asking) }).1.unwrap_or_default()
    })
}

/// The only errors are the client's, and 503 for a host without traffic.
fn check_head(head: &[u8]) {
    let head = std::str::from_utf8(head).expect("an answer begins with ASCII");
    let status: u16 = head[9..].parse().unwrap_or_else(|e| panic!("{head:?}: {e}"));
    assert!(head.starts_with("HTTP/1."), "{head:?}");
    assert!([200, 503].contains(&status) || (400..500).contains(&status), "{head:?}");
}
