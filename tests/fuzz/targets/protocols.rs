//! Questions and answers of our own protocols. The first byte selects the reader: `a` a question of
//! an agent-check, `r` a request on the admin socket, `l` lines of the daemon's answer as the
//! commands read them, `c` an answer of `/readyz` as `check` reads it.
#![no_main]

use std::{cell::LazyCell, sync::Arc, thread, time::Duration};

use libfuzzer_sys::{Corpus, fuzz_target};
use sensor_core::model::readiness::FailOn;
use sensor_fuzz::assert_printable;
use sensor_user::{
    cli::{
        check::{outcome, percent},
        show_event,
    },
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
        Some((b'r', request)) => admin(request),
        Some((b'l', answer)) => answer_lines(answer),
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

/// The commands can read every line that the daemon answers.
fn admin(request: &[u8]) {
    SERVER.with(|server| {
        let (runtime, state) = &**server;
        let answer = runtime.block_on(async {
            let (mut client, server) = UnixStream::pair()?;
            let (_stop, stopping) = watch::channel(false);
            let admin = Arc::new(Admin::new(state.clone(), stopping));
            let asking = async {
                client.write_all(request).await?;
                client.shutdown().await?;
                let mut answer = String::new();
                client.read_to_string(&mut answer).await?;
                std::io::Result::Ok(answer)
            };
            tokio::join!(admin.answer(server), asking).1
        });
        state.drain.end();
        for line in answer.unwrap_or_default().lines() {
            serde_json::from_str::<Response>(line).unwrap_or_else(|e| panic!("{line:?}: {e}"));
        }
    });
}

fn answer_lines(answer: &[u8]) {
    for line in String::from_utf8_lossy(answer).lines() {
        if let Ok(Response::Event(event)) = serde_json::from_str(line) {
            let _ = (show_event::line(&event), show_event::report(&event));
        }
        if let Ok(request) = serde_json::from_str::<Request>(line) {
            let _ = request.timeout();
        }
    }
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
