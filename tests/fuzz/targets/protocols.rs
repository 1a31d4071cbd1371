//! Questions and answers of our own protocols. The first byte selects the reader: `a` a question of
//! an agent-check, `r` a request on the admin socket, `p` one in parts of as many bytes as the second
//! byte says, `o` a configuration that a request to reload finds, `l` lines of the daemon's answer as
//! the commands read and print them, `c` an answer of `/readyz` as `check` reads it.
#![no_main]

use std::{cell::LazyCell, fmt::Display, sync::Arc, thread, time::Duration};

use anyhow::anyhow;
use arc_swap::ArcSwap;
use libfuzzer_sys::{Corpus, fuzz_target};
use sensor_core::model::{event::EventKind, readiness::FailOn};
use sensor_fuzz::assert_printable;
use sensor_user::{
    cli::{
        check::{outcome, percent},
        dispatch::shown,
        exit::error_line,
        format::event as show_event,
        top::{
            sort::{By, keep_first},
            tables,
        },
    },
    daemon::config::Config,
    fuzzing,
    serve::{
        admin::Admin,
        admin_protocol::{Request, Response},
        agent_check::line,
        state::app::AppState,
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    sync::watch,
    task::yield_now,
};

thread_local! {
    static SERVER: LazyCell<(tokio::runtime::Runtime, AppState)> =
        LazyCell::new(|| {
            let state = sensor_fuzz::app_state();
            let drain = Arc::clone(&state.drain);
            // As the daemon's thread that writes files: a request to drain waits for it.
            thread::spawn(move || {
                loop {
                    drain.write_if_requested();
                    thread::sleep(Duration::from_millis(1));
                }
            });
            (sensor_fuzz::runtime(), state)
        });
}

fuzz_target!(|data: &[u8]| -> Corpus {
    match data.split_first() {
        Some((b'a', question)) => agent(question),
        Some((b'r', request)) => drop(admin(request, request.len().max(1))),
        Some((b'p', [size, request @ ..])) => drop(admin(request, usize::from(*size).max(1))),
        Some((b'o', text)) => reload(&String::from_utf8_lossy(text)),
        Some((b'l', answer)) => answer_lines(&String::from_utf8_lossy(answer)),
        Some((b'c', body)) => check(body),
        _ => return Corpus::Reject,
    }
    Corpus::Keep
});

fn agent(question: &[u8]) {
    SERVER.with(|server| {
        let (runtime, state) = &**server;
        let Some((scope, fail_on)) = runtime.block_on(fuzzing::question(question, state)) else {
            return;
        };
        let health = state.health(scope).with_fail_on(fail_on);
        let answer = line(health, &mut [0; 16]).to_vec();
        assert!(answer.starts_with(b"up ") && answer.ends_with(b"%\n"), "{answer:?}");
    });
}

/// Sends parts of a request. The commands can read and print every line that the daemon answers, and
/// every command that it records. Returns the answer.
fn admin(request: &[u8], part: usize) -> String {
    SERVER.with(|server| {
        let (runtime, state) = &**server;
        let (answer, _) = runtime.block_on(async {
            let (mut client, server) = UnixStream::pair().expect("two sockets");
            let (_stop, stopping) = watch::channel(false);
            let admin = Arc::new(Admin::new(state.clone(), stopping));
            let asking = async {
                for part in request.chunks(part) {
                    // It fails when the daemon has closed the connection.
                    let _ = client.write_all(part).await;
                    yield_now().await;
                }
                let _ = client.shutdown().await;
                let mut answer = String::new();
                // It may be reset when the daemon has not read all of a request.
                let _ = client.read_to_string(&mut answer).await;
                answer
            };
            tokio::join!(asking, admin.answer(server))
        });
        state.drain.end();
        answer_lines(&answer);
        assert!(answer.is_empty() || answer.ends_with('\n'), "{answer:?}");
        for line in answer.lines() {
            serde_json::from_str::<Response>(line).unwrap_or_else(|e| panic!("{line:?}: {e}"));
        }
        if let Some(event) = state.published.events.events().last()
            && let EventKind::Operator { .. } = event.kind
        {
            assert_single_line(show_event::line(event));
            assert_printable(&serde_json::to_string(event).expect("JSON"));
        }
        answer
    })
}

/// Settings change only if the configuration is valid, and the answer is a line in any case.
fn reload(text: &str) {
    SERVER.with(|server| {
        let state = &server.1;
        let served = Arc::new(ArcSwap::new(state.settings.load_full()));
        let (file, before) = (text.to_owned(), served.load_full());
        let reread = Box::new(move || Config::parse(&file));
        let result = fuzzing::reloader(reread, Arc::clone(&served)).reload();
        let is_same = Arc::ptr_eq(&before, &served.load());
        match result {
            Ok(done) => {
                assert!(!is_same && Config::parse(text).is_ok(), "{done}");
                assert_single_line(shown(&Response::Done { done }));
            }
            Err(e) => assert!(is_same, "{e:#}"),
        }
    });
}

/// For any answer, a command prints lines without control characters.
fn answer_lines(answer: &str) {
    for line in answer.lines() {
        if let Ok(request) = serde_json::from_str::<Request>(line) {
            let _ = request.timeout();
        }
        let Ok(response) = serde_json::from_str::<Response>(line) else { continue };
        assert_printable(&shown(&response));
        match response {
            Response::Event(event) => {
                assert_single_line(show_event::line(&event));
                assert_printable(&show_event::report(&event));
            }
            Response::Top(mut top) => {
                keep_first(&mut top, 10, By::Stall);
                assert_printable(&tables::text(&top));
            }
            Response::Error { error } => assert_single_line(error_line(&anyhow!(error))),
            _ => {}
        }
    }
}

fn assert_single_line(text: impl Display) {
    let text = text.to_string();
    assert_printable(&text);
    assert!(!text.trim_end_matches('\n').contains('\n'), "more than a line: {text:?}");
}

fn check(body: &[u8]) {
    let answer = serde_json::from_slice(body).map_err(Into::into);
    for fail_on in FailOn::ALL {
        let (_, line) = outcome(&answer, Some(fail_on));
        assert_printable(&line);
        assert!(line.is_ascii() && !line.contains('\n') && line.starts_with("MEMSENSOR "));
        assert!(percent(&answer, fail_on).is_none_or(|percent| percent <= 100));
    }
}
