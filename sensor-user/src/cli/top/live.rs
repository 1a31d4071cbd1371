//! Runs the live screen: asks the daemon once a second, and draws.

use std::time::{Duration, Instant};

use anyhow::Result;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};

use super::{By, Top, screen::Screen};

/// Between two questions.
const EVERY: Duration = Duration::from_secs(1);

/// Until somebody quits. `ask` asks the daemon; only its first failure ends the screen, later ones are shown
/// on it, for a daemon may be started anew.
pub fn run(by: By, mut ask: impl FnMut() -> Result<Top>) -> Result<()> {
    let mut screen = Screen::new(by);
    let mut top = ask()?;
    screen.take_in(&mut top);
    let mut terminal = ratatui::try_init()?;
    let ended = (|| {
        let (mut trouble, mut due) = (None, Instant::now() + EVERY);
        loop {
            let size = terminal.size()?;
            terminal.draw(|frame| screen.draw(frame, &top, trouble.as_deref()))?;
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
            due = Instant::now() + EVERY;
            if screen.paused {
                continue;
            }
            match ask() {
                Ok(answer) => {
                    (top, trouble) = (answer, None);
                    screen.take_in(&mut top);
                }
                Err(e) => trouble = Some(format!("{e:#}")),
            }
        }
    })();
    ratatui::try_restore()?;
    ended
}
