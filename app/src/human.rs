//! Facts in words for people. What comes from others passes through [`text`](crate::text).

use std::time::Duration;

use crate::duration;
use crate::fact::{Check, ContactCard, Fact, Message, PathTo, State, Summary};
use crate::output::Palette;
use crate::text::{block, line};

/// The code of a hindrance that is somebody's doing.
pub(crate) const KEYS_REFUSED: &str = "keys-refused";

/// A fact for people, or `None` when there is nothing to say to them on standard output.
pub(crate) fn fact(fact: &Fact, p: Palette) -> Option<String> {
    Some(match fact {
        Fact::Identity(identity) => identity.address.clone(),
        Fact::Home { locked: true } => {
            format!("{} the home is locked: keys, contacts and messages", p.green("✓"))
        }
        Fact::Home { locked: false } => {
            p.yellow("· the home is not locked: whoever can read its files has what is in them")
        }
        Fact::Backup { file, bytes } => {
            format!("{} {} ({} KiB)", p.green("✓"), line(file), bytes.div_ceil(1024))
        }
        // Said on standard error, by the alarm and by the commands themselves.
        Fact::Ready(_)
        | Fact::PeerKeyChanged { .. }
        | Fact::NotAdmitted { .. }
        | Fact::Progress(_) => return None,
        Fact::Online { peer, machine } if peer == machine => {
            p.dim(&format!("· online at {}", line(peer)))
        }
        Fact::Online { peer, machine } => {
            p.dim(&format!("· online at {} ({})", line(peer), line(machine)))
        }
        Fact::Offline { peer, why } => {
            p.yellow(&format!("· not reachable through {}: {}", line(peer), block(why)))
        }
        Fact::Request { from, given_name, note, .. } => request(from, given_name, note, p),
        Fact::Accepted { contact, .. } => {
            format!("{} {} is a contact", p.green("✓"), name(contact, p))
        }
        Fact::Message(message) => message_line(message, p),
        Fact::AtPeer { to, id, until_unix_s, .. } => {
            p.dim(&format!("· {} for {} waits {}", short(id), line(to), until(*until_unix_s)))
        }
        Fact::Delivered { to, id, via } => {
            p.dim(&format!("✓ {} delivered to {} ({via})", short(id), line(to)))
        }
        Fact::Undeliverable { to, code, why } if code == KEYS_REFUSED => {
            p.red(&format!("✗ nothing goes to {}: {}", line(to), block(why)))
        }
        Fact::Undeliverable { to, why, .. } => {
            p.dim(&format!("· what is for {} waits here: {}", line(to), block(why)))
        }
        Fact::Failed { to, id, why } => {
            p.red(&format!("✗ {} for {} failed: {}", short(id), line(to), line(why)))
        }
        Fact::Cancelled { id } => {
            p.dim(&format!("· {} is cancelled: it does not leave", short(id)))
        }
        Fact::Path(path) => p.dim(&format!("· {}", path_line(path))),
        Fact::Safety { contact, state } => safety(contact, state, p)?,
        Fact::Undecryptable { from } => p.dim(&format!(
            "· a message from {} could not be read and was asked for again",
            line(from)
        )),
        Fact::BeganAgain { contact, .. } => p.yellow(&format!(
            "! {} has begun again, with a new, restored or older home. If they say that they did \
             not, somebody else may have their keys",
            line(contact)
        )),
        Fact::SetBack { contact, .. } => p.red(&format!(
            "! {} knows messages of yours that this home does not: it was set back to an earlier \
             state, or a copy of it is in use. What they have not confirmed is sent again",
            line(contact)
        )),
        Fact::Lagged { dropped } => p.dim(&format!("· {dropped} passing events were left out")),
        Fact::Other { what } => p.dim(&format!("· {}", line(what))),
        Fact::Contact(card) => contact(card, p),
        Fact::Sent(sent) => {
            format!(
                "{} {} to {}: {}",
                state_mark(&sent.state, p),
                short(&sent.id),
                name(&sent.to, p),
                state(&sent.state)
            )
        }
        // The screen of `verify`.
        Fact::Code(_) => return None,
        Fact::Checked { contact, checked, verified } => match checked {
            true => format!("{} {} is {verified}", p.green("✓"), name(contact, p)),
            false => format!("{} {} is {verified}", p.yellow("?"), name(contact, p)),
        },
        Fact::SafetyNumber { number, .. } => number.clone(),
        Fact::Pong { seq, contact, rtt_ms, via } => {
            format!("{seq:>4}  {}  {:>9}  {via}", name(contact, p), milliseconds(*rtt_ms))
        }
        Fact::Lost { seq, contact, why } => {
            format!("{seq:>4}  {}  {}", name(contact, p), p.red(&line(why)))
        }
        // The demo tells its story itself.
        Fact::Step(_) => return None,
        Fact::Check(check) => check_lines(check, p),
        Fact::Summary(summary) => summary_lines(summary, p)?,
    })
}

/// A contact's name.
pub(crate) fn name(text: &str, p: Palette) -> String {
    p.cyan(&line(text))
}

/// Where a message stands.
pub(crate) fn state(state: &State) -> String {
    match state {
        State::Waiting => "waiting here".to_owned(),
        State::AtPeer { until_unix_s } => until(*until_unix_s),
        State::Delivered => "delivered".to_owned(),
        State::Failed { why } => format!("failed: {}", line(why)),
    }
}

/// Milliseconds as people write them.
pub(crate) fn milliseconds(ms: f64) -> String {
    duration::human(Duration::try_from_secs_f64(ms / 1e3).unwrap_or_default())
}

/// Bytes as people write them.
pub(crate) fn bytes(n: u64) -> String {
    match n {
        0..1024 => format!("{n} B"),
        1024..1_048_576 => format!("{:.1} KiB", n as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", n as f64 / 1_048_576.0),
        _ => format!("{:.2} GiB", n as f64 / 1_073_741_824.0),
    }
}

/// The table of contacts.
pub(crate) fn contacts(cards: &[ContactCard], p: Palette) -> String {
    let rows: Vec<[String; 4]> = cards
        .iter()
        .map(|c| {
            [line(&c.name), state_words(&c.state).to_owned(), c.verified.clone(), short_address(c)]
        })
        .collect();
    let width = |i: usize| rows.iter().map(|r| r[i].chars().count()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2)];
    let pad = |text: &str, i: usize| " ".repeat(widths[i].saturating_sub(text.chars().count()));
    let line = |(row, card): (&[String; 4], &ContactCard)| {
        let [name, state, verified, address] = row;
        format!(
            "{} {}{}  {}{}  {}{}  {}",
            mark(card, p),
            p.cyan(name),
            pad(name, 0),
            state,
            pad(state, 1),
            verified,
            pad(verified, 2),
            p.dim(address)
        )
    };
    rows.iter().zip(cards).map(line).collect::<Vec<_>>().join("\n")
}

fn contact(card: &ContactCard, p: Palette) -> String {
    let given = line(&card.given_name);
    let given = match given.is_empty() || given == line(&card.name) {
        true => String::new(),
        false => format!(" (calls themselves “{given}”)"),
    };
    format!(
        "{} {}{given}  {}, {}",
        mark(card, p),
        name(&card.name, p),
        state_words(&card.state),
        card.verified
    )
}

fn mark(card: &ContactCard, p: Palette) -> String {
    match (card.checked, card.verified.as_str()) {
        (true, _) => p.green("✓"),
        (false, "key changed") => p.red("!"),
        (false, _) => p.yellow("?"),
    }
}

fn state_words(state: &str) -> &str {
    match state {
        "incoming" => "wants to talk",
        "requested" => "asked, not answered",
        other => other,
    }
}

/// An address for the screen: who reads it cannot look anybody up with it.
fn short_address(card: &ContactCard) -> String {
    match card.address.split_once('/') {
        Some((host, fingerprint)) => {
            format!("{}/{}…", line(host), fingerprint.chars().take(8).collect::<String>())
        }
        None => line(&card.address),
    }
}

fn message_line(message: &Message, p: Palette) -> String {
    let via = match message.via.as_str() {
        "" => String::new(),
        via => p.dim(&format!("  ({via})")),
    };
    format!("{}: {}{via}", name(&message.from, p), block(&message.text))
}

fn request(from: &str, given_name: &str, note: &str, p: Palette) -> String {
    let given = match line(given_name) {
        given if given.is_empty() || given == line(from) => String::new(),
        given => format!(" (calls themselves “{given}”)"),
    };
    let note = match block(note) {
        note if note.is_empty() => String::new(),
        note => format!(": {note}"),
    };
    format!("{} {}{given} wants to talk{note}", p.yellow("?"), name(from, p))
}

fn path_line(path: &PathTo) -> String {
    let mut text = format!("the path to {} is {}", line(&path.contact), path.via);
    if let Some(addr) = &path.addr {
        text.push_str(&format!(": {addr}"));
    }
    if let Some(rtt) = path.rtt_ms {
        text.push_str(&format!(", {}", milliseconds(rtt)));
    }
    if let Some(technique) = &path.technique {
        text.push_str(&format!(", found by {technique}"));
    }
    if let Some(why) = &path.why {
        text.push_str(&format!(": {}", line(why)));
    }
    text
}

fn check_lines(check: &Check, p: Palette) -> String {
    let mark = match check.ok {
        Some(true) => p.green("✓"),
        Some(false) => p.red("✗"),
        None => p.dim("·"),
    };
    let what = block(&check.what);
    match &check.help {
        Some(help) => format!("{mark} {what}\n    try: {}", block(help)),
        None => format!("{mark} {what}"),
    }
}

fn safety(contact: &str, state: &str, p: Palette) -> Option<String> {
    let who = name(contact, p);
    Some(match state {
        "started-by-them" => format!("{} {who} wants to compare the safety code", p.yellow("?")),
        "verified" => format!("{} {who} is checked", p.green("✓")),
        "mismatch" => p.red(&format!(
            "✗ the safety codes of {} and this side differ: somebody may stand between",
            line(contact)
        )),
        "cancelled" => p.dim(&format!("· the comparison with {} was put off", line(contact))),
        _ => return None,
    })
}

fn summary_lines(summary: &Summary, p: Palette) -> Option<String> {
    Some(match summary {
        Summary::Ping(ping) => {
            let after = |ms: Option<f64>| match ms {
                None => "never".to_owned(),
                Some(0.0) => "at once".to_owned(),
                Some(ms) => format!("after {}", milliseconds(ms)),
            };
            let times = match (ping.min_ms, ping.median_ms, ping.max_ms) {
                (Some(min), Some(median), Some(max)) => format!(
                    "; fastest {}, median {}, slowest {}",
                    milliseconds(min),
                    milliseconds(median),
                    milliseconds(max)
                ),
                _ => String::new(),
            };
            format!(
                "{} of {} answered{times}\nfirst answer {}, direct {}, path {}",
                ping.received,
                ping.sent,
                after(ping.first_reply_ms),
                after(ping.direct_ms),
                ping.path.as_deref().unwrap_or("none")
            )
        }
        Summary::Perf(perf) => format!(
            "{} {} {} in {:.1} s: {} ({})",
            bytes(perf.bytes),
            if perf.direction == "up" { "to" } else { "from" },
            name(&perf.contact, p),
            perf.seconds,
            p.bold(&format!("{:.1} MiB/s", perf.mib_per_s)),
            perf.path
        ),
        Summary::Demo { .. } => return None,
        Summary::Doctor { online, failed, .. } => {
            let online = match online {
                true => p.green("online"),
                false => p.red("not online"),
            };
            match failed {
                0 => format!("{online}, and nothing to mend"),
                1 => format!("{online}, and one thing is not as it should be"),
                n => format!("{online}, and {n} things are not as they should be"),
            }
        }
    })
}

fn state_mark(state: &State, p: Palette) -> String {
    match state {
        State::Delivered => p.green("✓"),
        State::Failed { .. } => p.red("✗"),
        State::Waiting | State::AtPeer { .. } => p.yellow("…"),
    }
}

fn until(unix_s: u64) -> String {
    halloo::Delivery::AtPeer { until_unix_s: unix_s }.to_string()
}

/// The beginning of a message's id, to tell lines apart.
fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(name: &str, state: &str) -> ContactCard {
        ContactCard {
            name: name.into(),
            address: "peer.example/0123456789abcdef".into(),
            fingerprint: "0123456789abcdef".into(),
            state: state.into(),
            verified: "not checked".into(),
            checked: false,
            given_name: "Anna\x1b[31m".into(),
            note: String::new(),
            via: "mailbox".into(),
        }
    }

    #[test]
    fn contacts_stand_in_columns() {
        assert_eq!(
            contacts(&[card("anna", "accepted"), card("benedikt", "incoming")], Palette::PLAIN),
            "? anna      accepted       not checked  peer.example/01234567…\n\
             ? benedikt  wants to talk  not checked  peer.example/01234567…"
        );
    }

    #[test]
    fn what_others_call_themselves_is_quoted_and_harmless() {
        assert_eq!(
            contact(&card("anna", "incoming"), Palette::PLAIN),
            "? anna (calls themselves “Anna\u{fffd}[31m”)  wants to talk, not checked"
        );
    }

    #[test]
    fn sizes_are_written_in_the_unit_that_fits() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(5 << 20), "5.0 MiB");
        assert_eq!(bytes(3 << 30), "3.00 GiB");
    }
}
