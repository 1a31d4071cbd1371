//! Runs the live screen: asks the daemon once a second, and draws.

use std::time::{Duration, Instant};

use anyhow::Result;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};

use super::{screen::Screen, sort::By};
use crate::serve::admin_protocol::Top;

/// Time between two requests.
const INTERVAL: Duration = Duration::from_secs(1);

/// Runs until a key quits. `ask` asks the daemon. Its first failure ends the screen; later ones are shown on
/// it, because the daemon may be restarted.
pub fn run(by: By, mut ask: impl FnMut() -> Result<Top>) -> Result<()> {
    let mut screen = Screen::new(by);
    let mut top = ask()?;
    screen.update(&mut top);
    let mut terminal = ratatui::try_init()?;
    let ended = (|| {
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
            match ask() {
                Ok(answer) => {
                    (top, error) = (answer, None);
                    screen.update(&mut top);
                }
                Err(e) => error = Some(format!("{e:#}")),
            }
        }
    })();
    ratatui::try_restore()?;
    ended
}
