//! The one place that writes to the terminal: data to standard output, the rest to standard error.

use std::io::{IsTerminal, Write};

use serde::Serialize;

use crate::cli::{ColorChoice, Global};
use crate::fact::{Fact, Line, SCHEMA};
use crate::failure::Failure;
use crate::{human, tell, text};

/// How the program speaks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Out {
    json: bool,
    quiet: bool,
    data: Palette,
    talk: Palette,
}

impl Out {
    /// As the options and the environment say.
    pub(crate) fn new(global: &Global) -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty())
            || std::env::var_os("TERM").is_some_and(|v| v == "dumb");
        let color = |is_terminal: bool| match global.color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => is_terminal && !plain,
        };
        Self {
            json: global.json,
            quiet: global.quiet,
            data: Palette { color: color(std::io::stdout().is_terminal()) },
            talk: Palette { color: color(std::io::stderr().is_terminal()) },
        }
    }

    /// JSON without more, for errors before the options are understood.
    pub(crate) fn json() -> Self {
        let plain = Palette { color: false };
        Self { json: true, quiet: false, data: plain, talk: plain }
    }

    /// Whether output is JSON lines.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Whether standard error is coloured.
    pub(crate) fn talks_in_color(&self) -> bool {
        self.talk.is_on()
    }

    /// Colours for standard output.
    pub(crate) fn palette(&self) -> Palette {
        self.data
    }

    /// Tells a fact on standard output.
    ///
    /// # Errors
    /// When nobody reads it.
    pub(crate) fn fact(&self, fact: Fact) -> Result<(), Failure> {
        self.line(&Line::of(fact))
    }

    /// Tells a line on standard output. Facts that have no words for people are left out there.
    ///
    /// # Errors
    /// When nobody reads it.
    pub(crate) fn line(&self, line: &Line) -> Result<(), Failure> {
        if self.json {
            return self.raw(&json(line));
        }
        match human::fact(&line.fact, self.data) {
            Some(text) => self.raw(&text),
            None => Ok(()),
        }
    }

    /// Writes a ready-made text, and a line feed, to standard output.
    ///
    /// # Errors
    /// When nobody reads it.
    pub(crate) fn raw(&self, text: &str) -> Result<(), Failure> {
        // One write for each line: what a reader sees is whole even if this process is killed.
        let mut bytes = Vec::with_capacity(text.len() + 1);
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(b'\n');
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(&bytes)?;
        stdout.flush()?;
        Ok(())
    }

    /// Says something to a person, on standard error. Not with `--json` or `--quiet`.
    pub(crate) fn say(&self, what: impl AsRef<str>) {
        if !self.quiet && !self.json {
            self.talk_raw(what.as_ref());
        }
    }

    /// Says what to do next.
    pub(crate) fn hint(&self, what: impl AsRef<str>) {
        self.say(self.talk.dim(what.as_ref()));
    }

    /// Rewrites the progress line on a terminal.
    pub(crate) fn progress(&self, what: &str) {
        if !self.quiet && !self.json && std::io::stderr().is_terminal() {
            let _ = write!(std::io::stderr(), "\r\x1b[K{what}");
        }
    }

    /// Takes the progress line away.
    pub(crate) fn progress_end(&self) {
        self.progress("");
    }

    /// Says something that must not be overlooked, whatever the options.
    pub(crate) fn alarm(&self, fact: &Fact) {
        if self.json {
            return self.talk_raw(&json(&Line::of(fact.clone())));
        }
        if let Fact::NotAdmitted { peer, code, why } = fact {
            let (peer, why) = (text::line(peer), text::line(why));
            let head = format!("! {peer} does not host you: {why}. Others cannot reach you there");
            self.talk_raw(&self.talk.red(&head));
            self.talk_raw(&format!("  try: {}", tell::admission_help(code)));
        }
        if let Fact::PeerKeyChanged { peer, expected, found } = fact {
            let peer = text::line(peer);
            let frame = "!".repeat(76);
            self.talk_raw(&self.talk.red(&format!(
                "{frame}\n\
                 !! THE RENDEZVOUS PEER {peer} SHOWS ANOTHER KEY THAN BEFORE.\n\
                 !! Either its operator has replaced the key, or somebody stands between.\n\
                 !!   known  {expected}\n\
                 !!   shown  {found}\n\
                 !! Nothing is sent to it. Messages are kept here.\n\
                 {frame}"
            )));
        }
    }

    /// Says why the command failed.
    pub(crate) fn failure(&self, failure: &Failure) {
        if failure.is_silent() {
            return;
        }
        if self.json {
            #[derive(Serialize)]
            struct ErrorLine<'a> {
                schema: u32,
                error: ErrorObject<'a>,
            }
            #[derive(Serialize)]
            struct ErrorObject<'a> {
                code: &'a str,
                message: &'a str,
                retryable: bool,
                help: Option<&'a str>,
                exit: u8,
            }
            let error = ErrorObject {
                code: &failure.code,
                message: &failure.message,
                retryable: failure.exit.is_retryable(),
                help: failure.advice.as_deref(),
                exit: failure.exit.number(),
            };
            return self.talk_raw(&json(&ErrorLine { schema: SCHEMA, error }));
        }
        let head = self.talk.red(&format!("error[{}]", failure.code));
        self.talk_raw(&format!("{head}: {}", text::block(&failure.message)));
        if let Some(advice) = &failure.advice {
            self.talk_raw(&format!("  try: {}", text::block(advice)));
        }
    }

    fn talk_raw(&self, what: &str) {
        // Whoever closed standard error does not want to know.
        let _ = writeln!(std::io::stderr(), "{what}");
    }
}

/// Whether and how to colour.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Palette {
    color: bool,
}

impl Palette {
    /// Without colour.
    #[cfg(test)]
    pub(crate) const PLAIN: Self = Self { color: false };

    /// Whether there is colour.
    pub(crate) fn is_on(self) -> bool {
        self.color
    }

    /// What matters most.
    pub(crate) fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// What matters least.
    pub(crate) fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    /// Good.
    pub(crate) fn green(self, text: &str) -> String {
        self.paint("32", text)
    }

    /// Open.
    pub(crate) fn yellow(self, text: &str) -> String {
        self.paint("33", text)
    }

    /// Bad.
    pub(crate) fn red(self, text: &str) -> String {
        self.paint("1;31", text)
    }

    /// Names.
    pub(crate) fn cyan(self, text: &str) -> String {
        self.paint("36", text)
    }

    fn paint(self, sgr: &str, text: &str) -> String {
        match self.color && !text.is_empty() {
            true => format!("\x1b[{sgr}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }
}

/// One line of JSON in which no character can trick a terminal: what JSON does not escape by
/// itself (bidirectional controls and the like) is escaped too. A parser sees the same text.
pub(crate) fn json<T: Serialize>(value: &T) -> String {
    let plain = serde_json::to_string(value).expect("our own types have text keys");
    if !plain.chars().any(text::is_treacherous) {
        return plain;
    }
    let mut safe = String::with_capacity(plain.len() + 16);
    let mut units = [0; 2];
    for c in plain.chars() {
        if text::is_treacherous(c) {
            // Only inside of strings: between them JSON has no such characters.
            for unit in c.encode_utf16(&mut units) {
                safe.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            safe.push(c);
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::fact::Message;

    fn message(text: &str) -> Line {
        let message = Message {
            from: "anna".into(),
            fingerprint: "f".into(),
            id: "i".into(),
            text: text.into(),
            parent: None,
            via: "direct".into(),
        };
        Line { schema: SCHEMA, fact: Fact::Message(message), mono_ns: 7, cursor: Some(3) }
    }

    #[test]
    fn a_message_line_is_a_promise_to_scripts() {
        assert_eq!(
            json(&message("hi")),
            r#"{"schema":1,"event":"message","from":"anna","fingerprint":"f","id":"i","text":"hi","via":"direct","mono_ns":7,"cursor":3}"#
        );
    }

    #[test]
    fn a_text_cannot_trick_a_terminal_and_is_not_changed() {
        let tricky = "a\u{1b}[2J\u{202e}b\u{9b}\u{e0041}\u{7f}\"\\é";
        let line = json(&message(tricky));
        assert!(!line.chars().any(text::is_treacherous), "{line}");
        let back: Line = serde_json::from_str(&line).unwrap();
        assert_eq!(back, message(tricky));
    }
}
