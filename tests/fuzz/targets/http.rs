//! HTTP. The first byte selects the reader: `h` the server with all routes, `o` the conversion of
//! OpenMetrics text.
#![no_main]

use std::cell::LazyCell;

use libfuzzer_sys::{Corpus, fuzz_target};
use sensor_user::{
    fuzzing,
    serve::{
        http::{Handlers, router, serve},
        listen::Route,
        metrics::classic::from_open_metrics,
        state::settings::Http,
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

/// Sends the bytes, then reads until the server closes the connection.
fn answer(request: &[u8]) -> Vec<u8> {
    thread_local! {
        static SERVER: LazyCell<(tokio::runtime::Runtime, sensor_user::serve::state::app::AppState)> =
            LazyCell::new(|| (sensor_fuzz::runtime(), sensor_fuzz::app_state()));
    }
    SERVER.with(|server| {
        let (runtime, state) = &**server;
        let (mut client, stream) = duplex(1 << 20);
        let (_stop, stopping) = watch::channel(false);
        let router = router(Handlers::new(state.clone()), &ROUTES);
        let serving = serve(stream, fuzzing::ticket(), router, Http::default(), stopping);
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
