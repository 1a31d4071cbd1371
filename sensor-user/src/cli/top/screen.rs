//! The live screen of `memsensor top`: handles keys and draws. Needs no terminal, so tests cover
//! all of it.
//!
//! Not here: the terminal and its event loop (`live`).

use std::collections::BTreeMap;

use ratatui::{
    Frame,
    crossterm::event::KeyCode,
    layout::{Alignment, Constraint, Layout, Rect},
    style::{Modifier, Style},
    text::{Line, Span, Text},
    widgets::{Cell, Paragraph, Row, Table},
};

use sensor_core::{
    model::memory_usage::{CgroupUsage, ProcessUsage},
    verdict::signals::Signal,
};

use super::{
    sort::{By, sort},
    tables::process_cells,
};
use crate::{
    cli::format::{self, age, growth_mib, mib},
    serve::admin_protocol::{HostSummary, Top},
};

/// The list on the screen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum View {
    /// Processes.
    #[default]
    Processes,
    /// Cgroups.
    Cgroups,
}

/// State of the screen.
#[derive(Debug)]
pub(crate) struct Screen {
    pub(super) view: View,
    pub(super) by: By,
    /// The first visible row.
    pub(super) first_row: usize,
    pub(super) paused: bool,
    help: bool,
    /// Time of the last reading of the stall clock, and the stalled seconds of each cgroup at that
    /// time.
    clock: Option<(f64, BTreeMap<u64, f64>)>,
    /// Average number of stalled tasks of each cgroup between the last two readings.
    stalled: BTreeMap<u64, f64>,
}

const HELP: &str = "\
Tab p c   processes, cgroups
M         sort by own memory: anonymous and shared, in memory or in swap
1 2 3     sort by growth in a minute, ten minutes, an hour
S         sort cgroups by stalled tasks
< >       sort by the previous, next column
Up Down PgUp PgDn Home End (k j g G)   scroll
Space     pause, continue
h ?       this help
q Esc     quit

* marks processes that were started since the host was last calm. 'stalled' is the number of tasks
of a cgroup in reclaim, compaction or throttling, averaged between the last two readings, which are
ten samples apart; descendant cgroups are not included.";

/// Columns that can be sorted by, from left to right.
const ORDER: [By; 5] = [By::Memory, By::Minute, By::TenMinutes, By::Hour, By::Stall];

impl Screen {
    pub(crate) fn new(by: By) -> Self {
        Self {
            view: View::default(),
            by,
            first_row: 0,
            paused: false,
            help: false,
            clock: None,
            stalled: BTreeMap::new(),
        }
    }

    /// Handles a key; returns false to quit.
    pub(crate) fn key(&mut self, key: KeyCode, page: usize) -> bool {
        let at = ORDER.iter().position(|by| *by == self.by).unwrap_or(0);
        match key {
            KeyCode::Char('q' | 'Q') | KeyCode::F(10) => return false,
            KeyCode::Esc if !self.help => return false,
            KeyCode::Char('h' | '?') | KeyCode::F(1) => self.help = !self.help,
            KeyCode::Esc => self.help = false,
            KeyCode::Tab => {
                let other =
                    if self.view == View::Processes { View::Cgroups } else { View::Processes };
                self.show(other);
            }
            KeyCode::Char('p') => self.show(View::Processes),
            KeyCode::Char('c') => self.show(View::Cgroups),
            KeyCode::Char('M' | 'm') => self.sort(By::Memory),
            KeyCode::Char('1') => self.sort(By::Minute),
            KeyCode::Char('2') => self.sort(By::TenMinutes),
            KeyCode::Char('3') => self.sort(By::Hour),
            KeyCode::Char('S' | 's') => {
                self.show(View::Cgroups);
                self.sort(By::Stall);
            }
            KeyCode::Char('<') => self.sort(ORDER[at.saturating_sub(1)]),
            KeyCode::Char('>') => self.sort(ORDER[(at + 1).min(ORDER.len() - 1)]),
            KeyCode::Char(' ') => self.paused = !self.paused,
            KeyCode::Up | KeyCode::Char('k') => self.first_row = self.first_row.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => self.first_row = self.first_row.saturating_add(1),
            KeyCode::PageUp => self.first_row = self.first_row.saturating_sub(page),
            KeyCode::PageDown => self.first_row = self.first_row.saturating_add(page),
            KeyCode::Home | KeyCode::Char('g') => self.first_row = 0,
            KeyCode::End | KeyCode::Char('G') => self.first_row = usize::MAX,
            _ => {}
        }
        true
    }

    fn show(&mut self, view: View) {
        (self.view, self.first_row) = (view, 0);
    }

    fn sort(&mut self, by: By) {
        (self.by, self.first_row) = (by, 0);
    }

    /// Applies an answer of the daemon.
    pub(crate) fn update(&mut self, top: &mut Top) {
        if let Some(now) = top.stall_clock_seconds {
            self.read_clock(now, top.usage.cgroups.iter().map(|c| (c.cgroup, c.stall_seconds)));
        }
        self.order(top);
    }

    /// Computes rates from two readings of the stall clock. The daemon reads the clock less often
    /// than the screen requests it: a rate is over the time between two readings, not between two
    /// answers.
    fn read_clock(&mut self, now: f64, seconds: impl Iterator<Item = (u64, f64)>) {
        match &mut self.clock {
            // The same reading, perhaps with cgroups that were not in the last answer.
            Some((then, known)) if now <= *then => known.extend(seconds),
            clock => {
                let seconds: BTreeMap<_, _> = seconds.collect();
                if let Some((then, before)) = clock.replace((now, seconds.clone())) {
                    let rate = |(id, seconds): (u64, f64)| {
                        let rise = before.get(&id).map_or(0.0, |old| (seconds - old).max(0.0));
                        (id, rise / (now - then))
                    };
                    self.stalled = seconds.into_iter().map(rate).collect();
                }
            }
        }
    }

    fn stalled(&self, cgroup: u64) -> f64 {
        self.stalled.get(&cgroup).copied().unwrap_or(0.0)
    }

    /// Sorts processes and cgroups.
    pub(crate) fn order(&self, top: &mut Top) {
        if self.by == By::Stall {
            let stalled = |id: u64| self.stalled(id);
            top.usage.cgroups.sort_by(|a, b| stalled(b.cgroup).total_cmp(&stalled(a.cgroup)));
            top.usage.processes.sort_by(|a, b| stalled(b.cgroup).total_cmp(&stalled(a.cgroup)));
        } else {
            sort(top, self.by);
        }
    }

    /// Rows of the list that fit into a terminal of this height.
    pub(crate) fn page(height: u16) -> usize {
        usize::from(height.saturating_sub(5))
    }

    pub(crate) fn draw(&mut self, frame: &mut Frame<'_>, top: &Top, error: Option<&str>) {
        let [head, body, foot] =
            Layout::vertical([Constraint::Length(3), Constraint::Min(1), Constraint::Length(1)])
                .areas(frame.area());
        frame.render_widget(Paragraph::new(self.head(top)), head);
        if self.help {
            frame.render_widget(Paragraph::new(HELP), body);
        } else {
            self.list(frame, body, top);
        }
        let keys = "Tab processes/cgroups  M 1 2 3 S sort  Space pause  h help  q quit";
        let foot_line = match error {
            Some(error) => Line::styled(error.escape_debug().to_string(), Modifier::BOLD),
            None if self.paused => Line::styled("paused; Space continues", Modifier::REVERSED),
            None => Line::styled(keys, Modifier::DIM),
        };
        frame.render_widget(Paragraph::new(foot_line), foot);
    }

    fn head(&self, top: &Top) -> Text<'static> {
        let HostSummary { state, weight, signals } = &top.host;
        let percent = |signal: Signal| {
            signals
                .get(signal.name())
                .map_or("-".to_owned(), |share| format!("{:.1} %", share * 100.0))
        };
        let verdict = format!(" {} ", if state.is_empty() { "no verdict" } else { state });
        let style = if state == "ready" { Style::new() } else { Style::new().reversed().bold() };
        let calm = match top.usage.calm_seconds_ago {
            Some(ago) => format!("last calm {} ago, * started since", age(ago)),
            None => "calm".to_owned(),
        };
        Text::from(vec![
            Line::from(vec![
                Span::raw("host "),
                Span::styled(verdict, style),
                Span::raw(format!(" weight {:.0} %, {calm}", weight * 100.0)),
            ]),
            Line::raw(format!(
                "waiting for memory: some {} / {}, all {} / {} of 1 / 10 s; available {}",
                percent(Signal::Some1s),
                percent(Signal::Some10s),
                percent(Signal::Full1s),
                percent(Signal::Full10s),
                percent(Signal::Available),
            )),
            Line::raw(format!(
                "{} processes in {} cgroups, {:.1} s ago{}; by {}",
                top.usage.seen,
                top.usage.cgroups_seen,
                top.seen_seconds_ago,
                if top.usage.usage_from_proc { ", read from /proc" } else { "" },
                self.by.label(),
            )),
        ])
    }

    fn list(&mut self, frame: &mut Frame<'_>, area: Rect, top: &Top) {
        let (processes, cgroups) = (&top.usage.processes, &top.usage.cgroups);
        let count = if self.view == View::Processes { processes.len() } else { cgroups.len() };
        let room = usize::from(area.height.saturating_sub(1));
        self.first_row = self.first_row.min(count.saturating_sub(room));
        let table = if self.view == View::Processes {
            let rows = processes.iter().skip(self.first_row).take(room).map(process_row);
            let header = ["own MiB", "swap", "file", "1 min", "10 min", "1 h", "pid", "age", "adj"];
            let widths = [9, 8, 8, 9, 9, 9, 8, 8, 5];
            table(rows.collect(), &header, &widths, &["name", "cgroup"], &[18])
        } else {
            let rows = cgroups.iter().skip(self.first_row).take(room);
            let rows = rows.map(|cgroup| cgroup_row(cgroup, self.stalled(cgroup.cgroup)));
            let header = ["own MiB", "swap", "1 min", "10 min", "1 h", "stalled", "processes"];
            table(rows.collect(), &header, &[9, 8, 9, 9, 9, 8, 9], &["cgroup"], &[])
        };
        frame.render_widget(table, area);
    }
}

fn number(text: String) -> Cell<'static> {
    Cell::from(Text::from(text).alignment(Alignment::Right))
}

fn process_row(process: &ProcessUsage) -> Row<'static> {
    let [numbers @ .., name, cgroup] = process_cells(process);
    Row::new(numbers.map(number).into_iter().chain([Cell::from(name), Cell::from(cgroup)]))
}

fn cgroup_row(cgroup: &CgroupUsage, stalled: f64) -> Row<'static> {
    let [minute, ten, hour] = growth_mib(cgroup.growth);
    let stalled = if stalled > 0.0 { format!("{stalled:.2}") } else { String::new() };
    let numbers = [
        mib(cgroup.own_bytes),
        mib(cgroup.swap_bytes),
        minute,
        ten,
        hour,
        stalled,
        cgroup.processes.to_string(),
    ];
    Row::new(
        numbers
            .map(number)
            .into_iter()
            .chain([Cell::from(format::cgroup(cgroup.cgroup, cgroup.cgroup_path.as_deref()))]),
    )
}

/// A table with columns of numbers, then of names; the last column has the remaining width.
fn table(
    rows: Vec<Row<'static>>,
    numbers: &[&'static str],
    widths: &[u16],
    names: &[&'static str],
    name_widths: &[u16],
) -> Table<'static> {
    let heads = numbers.iter().map(|head| number((*head).to_owned()));
    let header = Row::new(heads.chain(names.iter().map(|head| Cell::from(*head))));
    let widths = widths.iter().chain(name_widths).map(|width| Constraint::Length(*width));
    let widths = widths.chain([Constraint::Min(10)]);
    Table::new(rows, widths).header(header.style(Modifier::REVERSED))
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};

    use super::{super::sort::tests::top, *};

    fn drawn(screen: &mut Screen, top: &Top) -> String {
        let mut terminal = Terminal::new(TestBackend::new(120, 12)).expect("a terminal");
        terminal.draw(|frame| screen.draw(frame, top, None)).expect("draws");
        terminal.backend().to_string()
    }

    fn press(screen: &mut Screen, keys: &[KeyCode]) {
        for key in keys {
            assert!(screen.key(*key, 5), "{key:?} quits");
        }
    }

    #[test]
    fn it_shows_the_verdict_processes_and_cgroups() {
        let mut top = top();
        let mut screen = Screen::new(By::Memory);
        screen.update(&mut top);
        let text = drawn(&mut screen, &top);
        for part in
            ["degraded", "weight 35 %", "all - / 12.5 %", "large", "*grew", "\\u{1b}[31mleaks"]
        {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert!(!text.contains('\u{1b}'), "{text}");
        press(&mut screen, &[KeyCode::Char('c')]);
        let text = drawn(&mut screen, &top);
        assert!(text.contains("processes") && text.contains("owned"), "{text}");
        press(&mut screen, &[KeyCode::Char('h')]);
        assert!(drawn(&mut screen, &top).contains("sort by own memory"));
        press(&mut screen, &[KeyCode::Esc]);
        assert!(!drawn(&mut screen, &top).contains("sort by own memory"));
    }

    #[test]
    fn keys_sort_move_and_quit() {
        let mut top = top();
        let mut screen = Screen::new(By::Memory);
        let first = |screen: &Screen, top: &mut Top| {
            screen.order(top);
            top.usage.processes[0].pid
        };
        assert_eq!(first(&screen, &mut top), 1);
        press(&mut screen, &[KeyCode::Char('1')]);
        assert_eq!(first(&screen, &mut top), 2);
        press(&mut screen, &[KeyCode::Char('>'), KeyCode::Char('>')]);
        assert_eq!((screen.by, first(&screen, &mut top)), (By::Hour, 3));
        press(
            &mut screen,
            &[KeyCode::Char('<'), KeyCode::Char('<'), KeyCode::Char('<'), KeyCode::Char('<')],
        );
        assert_eq!(screen.by, By::Memory);
        // The list does not scroll if all rows fit.
        press(&mut screen, &[KeyCode::End, KeyCode::Down]);
        drawn(&mut screen, &top);
        assert_eq!(screen.first_row, 0);
        press(&mut screen, &[KeyCode::Char(' '), KeyCode::Tab]);
        assert!(screen.paused && screen.view == View::Cgroups);
        assert!(drawn(&mut screen, &top).contains("Space continues"));
        assert!(!screen.key(KeyCode::Char('q'), 5) && !screen.key(KeyCode::Esc, 5));
    }

    #[test]
    fn stalls_are_rates_between_two_readings() {
        let mut top = top();
        let mut screen = Screen::new(By::Stall);
        for (case, clock, stall_seconds, stalled) in [
            ("not read yet", None, 0.0, 0.0),
            ("the first reading", Some(10.0), 100.0, 0.0),
            ("the same reading", Some(10.0), 100.0, 0.0),
            ("ten seconds later", Some(20.0), 115.0, 1.5),
            ("the same reading keeps the last rate", Some(20.0), 115.0, 1.5),
            ("and again", Some(20.0), 115.0, 1.5),
            ("a restarted daemon without a reading", None, 0.0, 1.5),
            ("a second later, under pressure", Some(21.0), 117.5, 2.5),
            ("no stall since", Some(22.0), 117.5, 0.0),
            ("a restarted daemon counts from 0", Some(32.0), 3.0, 0.0),
            ("its second reading", Some(42.0), 8.0, 0.5),
        ] {
            top.stall_clock_seconds = clock;
            top.usage.cgroups[0].stall_seconds = stall_seconds;
            screen.update(&mut top);
            assert!((screen.stalled(1) - stalled).abs() < 1e-9, "{case}: {}", screen.stalled(1));
        }
        press(&mut screen, &[KeyCode::Char('S')]);
        assert!(drawn(&mut screen, &top).contains("0.50"));
    }

    #[test]
    fn a_cgroup_listed_late_is_compared_with_the_same_reading() {
        let mut screen = Screen::new(By::Stall);
        screen.read_clock(10.0, [(1, 1.0)].into_iter());
        screen.read_clock(10.0, [(2, 7.0)].into_iter());
        screen.read_clock(20.0, [(1, 3.0), (2, 8.0), (3, 9.0)].into_iter());
        for (id, stalled) in [(1, 0.2), (2, 0.1), (3, 0.0)] {
            assert!((screen.stalled(id) - stalled).abs() < 1e-9, "{id}: {}", screen.stalled(id));
        }
    }

    #[test]
    fn any_terminal_size_is_drawn() {
        let (top, mut screen) = (top(), Screen::new(By::Memory));
        for (width, height) in [(1, 1), (20, 2), (40, 5), (300, 100)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
            terminal
                .draw(|frame| screen.draw(frame, &top, Some("connection lost")))
                .expect("draws");
        }
    }
}
