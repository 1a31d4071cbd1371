//! Runs the live screen: requests data from the daemon once a second, and draws.

use std::time::{Duration, Instant};

use anyhow::Result;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};

use super::{screen::Screen, sort::By};
use crate::serve::admin_protocol::Top;

/// Time between two requests.
const INTERVAL: Duration = Duration::from_secs(1);

/// Runs until a key quits. `fetch` requests data from the daemon. A first failure is an error;
/// later failures are shown on the screen, because the daemon may restart.
pub fn run(by: By, mut fetch: impl FnMut() -> Result<Top>) -> Result<()> {
    let mut screen = Screen::new(by);
    let mut top = fetch()?;
    screen.update(&mut top);
    let mut terminal = ratatui::try_init()?;
    let result = (|| {
        let (mut error, mut due) = (None, Instant::now() + INTERVAL);
        loop {
            let size = terminal.size()?;
            terminal.draw(|frame| screen.draw(frame, &top, error.as_deref()))?;
            if event::poll(due.saturating_duration_since(Instant::now()))? {
                if let Event::Key(key) = event::read()?
                    && key.kind == KeyEventKind::Press
                {
                    let interrupt = key.modifiers.contains(KeyModifiers::CONTROL)
                        && key.code == KeyCode::Char('c');
                    if interrupt || !screen.key(key.code, Screen::page(size.height)) {
                        return Ok(());
                    }
                    screen.order(&mut top);
                }
                continue;
            }
            due = Instant::now() + INTERVAL;
            if screen.paused {
                continue;
            }
            match fetch() {
                Ok(new_top) => {
                    (top, error) = (new_top, None);
                    screen.update(&mut top);
                }
                Err(e) => error = Some(format!("{e:#}")),
            }
        }
    })();
    ratatui::try_restore()?;
    result
}
