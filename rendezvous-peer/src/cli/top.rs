//! `rendezvous-peer top`: the running peer's numbers, each second.

use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{LineGauge, Paragraph, Row, Table};
use tokio::signal::unix::{SignalKind, signal};

use super::admin::{Level, State, Status, bytes, client, grouped, span};
use super::failure::{Exit, Failure};
use super::settings::Effective;
use super::status;

/// How often the peer is asked.
const TICK: Duration = Duration::from_secs(1);
/// A way to write a number.
type Show = fn(u64) -> String;

/// What is shown of the counters, with the way to write a number of each.
const RATES: [(&str, &str, Show); 11] = [
    ("connected", "connections welcomed", grouped),
    ("registered", "registrations made", grouped),
    ("looked_up", "look-ups answered", grouped),
    ("dropped", "envelopes accepted", grouped),
    ("pushed", "envelopes pushed", grouped),
    ("acknowledged", "envelopes acknowledged", grouped),
    ("knocks_forwarded", "knocks passed on", grouped),
    ("relayed_frames", "frames relayed", grouped),
    ("relayed_bytes", "bytes relayed", bytes),
    ("echoes", "echo requests answered", grouped),
    ("refused", "requests refused", grouped),
];

/// Shows the numbers until somebody leaves; without a terminal, once.
pub(super) fn top(effective: &Effective) -> Result<Exit, Failure> {
    let place = client::place(effective.admin)?;
    let first = client::status(place)?;
    if effective.json || !io::stdout().is_terminal() {
        status::print(&first, effective.json);
        return Ok(Exit::Ok);
    }
    let failed = |e: io::Error| Failure::of(Exit::Failure, "no-terminal", &e);
    let told_to_stop = hear_sigterm().map_err(failed)?;
    let mut terminal = ratatui::try_init().map_err(failed)?;
    let shown = show(&mut terminal, place, View::of(first), &told_to_stop);
    // Whatever happened, the terminal is the shell's again.
    let restored = ratatui::try_restore();
    shown.and(restored).map_err(failed)?;
    Ok(Exit::Ok)
}

fn show(
    terminal: &mut ratatui::DefaultTerminal,
    place: SocketAddr,
    mut view: View,
    told_to_stop: &AtomicBool,
) -> io::Result<()> {
    let mut next = Instant::now() + TICK;
    while !told_to_stop.load(Ordering::Relaxed) {
        terminal.draw(|frame| view.draw(frame))?;
        let wait = next.saturating_duration_since(Instant::now());
        if event::poll(wait)? {
            if is_leave(&event::read()?) {
                return Ok(());
            }
            continue;
        }
        view.heard(client::status(place).map_err(|e| e.to_string()));
        next = Instant::now() + TICK;
    }
    Ok(())
}

/// Becomes true at SIGTERM, which would leave the terminal as the view needs it.
fn hear_sigterm() -> io::Result<Arc<AtomicBool>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut sigterm = {
        let _inside = runtime.enter();
        signal(SignalKind::terminate())?
    };
    let told = Arc::new(AtomicBool::new(false));
    let tell = Arc::clone(&told);
    std::thread::spawn(move || {
        runtime.block_on(sigterm.recv());
        tell.store(true, Ordering::Relaxed);
    });
    Ok(told)
}

/// `q`, Escape, or Ctrl-C, which is a key like others to a terminal that shows a view.
fn is_leave(event: &Event) -> bool {
    let Event::Key(KeyEvent { code, modifiers, kind: KeyEventKind::Press, .. }) = event else {
        return false;
    };
    match code {
        KeyCode::Char('q') | KeyCode::Esc => true,
        KeyCode::Char('c') => modifiers.contains(KeyModifiers::CONTROL),
        _ => false,
    }
}

/// What is on the screen.
struct View {
    /// The latest numbers.
    now: Status,
    /// Those before, of the same run of the peer.
    before: Option<Status>,
    /// Why there are none since.
    silent: Option<String>,
}

impl View {
    fn of(now: Status) -> Self {
        Self { now, before: None, silent: None }
    }

    fn heard(&mut self, answer: Result<Status, String>) {
        match answer {
            Ok(now) => {
                let earlier = std::mem::replace(&mut self.now, now);
                let same = earlier.facts.pid == self.now.facts.pid
                    && earlier.uptime_ms < self.now.uptime_ms;
                self.before = same.then_some(earlier);
                self.silent = None;
            }
            Err(why) => {
                self.before = None;
                self.silent = Some(why);
            }
        }
    }

    /// How much a counter rose in a second, on average since the numbers before.
    fn rate(&self, counter: &str) -> Option<u64> {
        let before = self.before.as_ref()?;
        let of = |status: &Status| status.counters.get(counter).copied().unwrap_or(0);
        let risen = u128::from(of(&self.now).saturating_sub(of(before)));
        let millis = u128::from(self.now.uptime_ms.saturating_sub(before.uptime_ms));
        let half = millis / 2;
        u64::try_from((risen * 1000 + half).checked_div(millis)?).ok()
    }

    fn draw(&self, frame: &mut Frame<'_>) {
        let [head, levels, rates, incidents, foot] = Layout::vertical([
            Constraint::Length(3),
            Constraint::Length(6),
            Constraint::Length(RATES.len() as u16 + 2),
            Constraint::Min(1),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        frame.render_widget(self.head(), head);
        self.draw_levels(frame, levels);
        frame.render_widget(self.rates(), rates);
        frame.render_widget(self.incidents(), incidents);
        let foot_line = match &self.silent {
            Some(why) => Line::from(why.as_str()).red().bold(),
            None => Line::from("q leaves").dim(),
        };
        frame.render_widget(foot_line, foot);
    }

    fn head(&self) -> Paragraph<'_> {
        let state = match self.now.state {
            State::Accepting => Span::from("accepting").green(),
            State::Draining => Span::from("draining").red(),
        };
        let up = span(Duration::from_millis(self.now.uptime_ms));
        let title = Line::from(vec![
            Span::from(format!("rendezvous-peer {}  ", self.now.version)).bold(),
            state,
            Span::from(format!("  up for {up}  process {}", self.now.facts.pid)),
        ]);
        let address = self.now.facts.addresses.first().map_or("", String::as_str);
        Paragraph::new(vec![title, Line::from(address).dim()])
    }

    fn draw_levels(&self, frame: &mut Frame<'_>, area: Rect) {
        let now = &self.now;
        let files = now.process.open_fds.unwrap_or(0);
        let files = Level { now: files, limit: now.process.max_fds.unwrap_or(0) };
        let levels: [(&str, Level, Show); 5] = [
            ("connections", now.connections, grouped),
            ("registered devices", now.registrations, grouped),
            ("relay channels", now.relay_channels, grouped),
            ("table and mailboxes", now.memory_bytes, bytes),
            ("open files", files, grouped),
        ];
        for ((name, level, text), row) in levels.into_iter().zip(area.rows()) {
            let [label, bar] =
                Layout::horizontal([Constraint::Length(50), Constraint::Min(0)]).areas(row);
            let numbers = format!("{name:<22} {:>11} of {}", text(level.now), text(level.limit));
            frame.render_widget(Line::from(numbers), label);
            frame.render_widget(gauge(level), bar);
        }
    }

    fn rates(&self) -> Table<'_> {
        let rows = RATES.iter().map(|(counter, name, text)| {
            let rate = self.rate(counter).map_or_else(|| "-".to_owned(), text);
            let total = text(self.now.counters.get(*counter).copied().unwrap_or(0));
            Row::new([
                Line::from(*name),
                Line::from(rate).right_aligned(),
                Line::from(total).right_aligned(),
            ])
        });
        let head = Row::new([
            Line::from(""),
            Line::from("in a second").right_aligned(),
            Line::from("since the start").right_aligned(),
        ]);
        let widths = [Constraint::Length(26), Constraint::Length(14), Constraint::Length(20)];
        Table::new(rows, widths).header(head.style(Style::new().bold()))
    }

    fn incidents(&self) -> Paragraph<'_> {
        let kinds = self.now.incidents.iter();
        let kinds = kinds.map(|(kind, n)| format!("{} {}", kind.replace('_', " "), grouped(*n)));
        let kinds: Vec<String> = kinds.collect();
        Paragraph::new(match kinds.is_empty() {
            true => "no incidents".to_owned(),
            false => format!("incidents: {}", kinds.join(", ")),
        })
        .wrap(ratatui::widgets::Wrap { trim: true })
    }
}

fn gauge(level: Level) -> LineGauge<'static> {
    #[allow(clippy::cast_precision_loss, reason = "a bar has some dozen steps")]
    let ratio = match level.limit {
        0 => 0.0,
        limit => (level.now as f64 / limit as f64).min(1.0),
    };
    let style = if ratio < 0.9 { Style::new().green() } else { Style::new().red() };
    LineGauge::default().ratio(ratio).filled_style(style).unfilled_style(Style::new().dim())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::cli::admin::sample;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn screen(view: &View) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        terminal.draw(|frame| view.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer();
        let line = |cells: &[ratatui::buffer::Cell]| {
            cells.iter().map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned()
        };
        buffer.content.chunks(80).map(line).collect()
    }

    fn later(earlier: &Status, millis: u64, bytes: u64) -> Status {
        let mut status = earlier.clone();
        status.uptime_ms += millis;
        *status.counters.get_mut("relayed_bytes").unwrap() += bytes;
        status
    }

    #[test]
    fn everything_fits_on_a_small_screen() {
        let mut view = View::of(sample());
        view.now.incidents.insert("rate_limited".into(), 1_234);
        let lines = screen(&view);
        let has = |text: &str| {
            assert!(lines.iter().any(|l| l.contains(text)), "{text} is not on\n{lines:#?}");
        };
        has("accepting  up for 1d 1h  process 1");
        has("halloo-peer://peer.example/abc");
        has("table and mailboxes            0 B of 300.0 MiB");
        RATES.iter().for_each(|(_, name, _)| has(name));
        has("incidents: rate limited 1,234");
        assert_eq!(lines.last().unwrap(), "q leaves");
    }

    #[test]
    fn rates_are_of_the_peers_own_time() {
        let mut view = View::of(sample());
        assert_eq!(view.rate("relayed_bytes"), None, "one look has no rate");
        view.heard(Ok(later(&view.now, 2_000, 6_144)));
        assert_eq!(view.rate("relayed_bytes"), Some(3_072));
        assert!(screen(&view).iter().any(|l| l.contains("3.0 KiB") && l.contains("6.0 KiB")));
        assert_eq!(view.rate("echoes"), Some(0));
    }

    #[test]
    fn a_restarted_peer_begins_anew_and_a_silent_one_is_named() {
        let mut view = View::of(later(&sample(), 10_000, 5_000));
        view.heard(Ok(sample()));
        assert_eq!(view.rate("relayed_bytes"), None);
        view.heard(Ok(later(&sample(), 1_000, 0)));
        assert_eq!(view.rate("relayed_bytes"), Some(0));
        view.heard(Err("nothing answers".into()));
        assert_eq!(view.rate("relayed_bytes"), None);
        assert_eq!(screen(&view).last().unwrap(), "nothing answers");
    }
}
