//! How the story is told: in chapters, each with truths that are checked.

use std::time::{Duration, Instant};

use halloo::Via;
use serde_json::{Map, Value};

use super::person::PATIENCE;
use super::untrue;
use crate::fact::{Fact, Step, Summary};
use crate::failure::Failure;
use crate::output::Out;

/// Columns of the story on the screen.
const WIDTH: usize = 78;

/// The story so far.
pub(super) struct Story {
    out: Out,
    begun: Instant,
    chapter: u32,
    steps: u32,
    messages: Vec<[String; 4]>,
}

impl Story {
    /// Begins to tell.
    pub(super) fn begin(out: Out) -> Result<Self, Failure> {
        let story = Self { out, begun: Instant::now(), chapter: 0, steps: 0, messages: Vec::new() };
        let title =
            story.out.palette().bold("Halloo: two people, one rendezvous peer, this machine");
        story.words(&title)?;
        Ok(story)
    }

    /// A chapter, and what it is about.
    pub(super) fn chapter(&mut self, title: &str, about: &str) -> Result<(), Failure> {
        self.chapter += 1;
        let p = self.out.palette();
        self.words("")?;
        self.words(&p.bold(&p.cyan(&format!("{}. {title}", self.chapter))))?;
        for line in wrap(about, WIDTH - 3) {
            self.words(&format!("   {}", p.dim(&line)))?;
        }
        Ok(())
    }

    /// Something to look at.
    pub(super) fn line(&self, what: &str) -> Result<(), Failure> {
        self.words(&format!("     {what}"))
    }

    /// Somebody says something.
    pub(super) fn said(&self, who: &str, what: &str) -> Result<(), Failure> {
        self.words(&format!("   {} “{what}”", self.out.palette().bold(&format!("{who}:"))))
    }

    /// Tells a truth.
    ///
    /// # Errors
    /// `demo-untrue`, naming the step, when it is none.
    pub(super) fn check(&mut self, step: &str, ok: bool, what: &str) -> Result<(), Failure> {
        self.check_with(step, ok, what, [])
    }

    /// Tells a truth with figures.
    ///
    /// # Errors
    /// Like [`Story::check`].
    pub(super) fn check_with<const N: usize>(
        &mut self,
        step: &str,
        ok: bool,
        what: &str,
        figures: [(&str, f64); N],
    ) -> Result<(), Failure> {
        self.steps += 1;
        if self.out.is_json() {
            let figures: Map<String, Value> =
                figures.into_iter().map(|(name, n)| (name.to_owned(), n.into())).collect();
            self.out.fact(Fact::Step(Step {
                chapter: self.chapter,
                step: step.to_owned(),
                what: what.to_owned(),
                ok,
                figures,
            }))?;
        }
        let p = self.out.palette();
        let mark = if ok { p.green("✓") } else { p.red("✗") };
        for (i, line) in wrap(what, WIDTH - 5).iter().enumerate() {
            let lead = if i == 0 { mark.as_str() } else { " " };
            self.words(&format!("   {lead} {line}"))?;
        }
        if ok { Ok(()) } else { Err(untrue(step, &format!("this is not true: {what}"))) }
    }

    /// Keeps a message for the table at the end.
    pub(super) fn remember(&mut self, from: &str, text: &str, via: Via, took: &str) {
        self.messages.push([from.into(), format!("“{text}”"), way(via).into(), took.into()]);
    }

    /// The table of messages.
    pub(super) fn messages(&mut self) -> Result<(), Failure> {
        self.chapter += 1;
        let p = self.out.palette();
        self.words("")?;
        self.words(
            &p.bold(&p.cyan(&format!("{}. Every message, its time and its path", self.chapter))),
        )?;
        let width =
            |i: usize| self.messages.iter().map(|m| m[i].chars().count()).max().unwrap_or(0);
        let (who, what) = (width(0), width(1));
        for [from, text, path, took] in &self.messages {
            self.words(&format!("     {from:<who$}  {text:<what$}"))?;
            self.words(&format!("     {:<who$}  {}", "", p.dim(&format!("{took}, {path}"))))?;
        }
        Ok(())
    }

    /// Ends the story.
    pub(super) fn end(&mut self, ok: bool) -> Result<(), Failure> {
        let seconds = (self.begun.elapsed().as_secs_f64() * 1e3).round() / 1e3;
        if self.out.is_json() {
            let summary = Summary::Demo { steps: self.steps, ok, seconds };
            return self.out.fact(Fact::Summary(summary));
        }
        if ok {
            let p = self.out.palette();
            self.words("")?;
            let what = format!("All {} truths held, in {seconds:.1} seconds.", self.steps);
            self.words(&p.bold(&p.green(&what)))?;
            self.out.hint("next: halloo init --peer HOST --name YOUR-NAME");
        }
        Ok(())
    }

    /// Words are for people; programs get the steps.
    fn words(&self, what: &str) -> Result<(), Failure> {
        if self.out.is_json() { Ok(()) } else { self.out.raw(what) }
    }
}

/// What something comes to, within the time that a step may take.
pub(super) async fn within<T>(something: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(PATIENCE, something).await.ok()
}

/// Looks again and again until something is true, for as long as a step may take.
pub(super) async fn eventually(is_true: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while !is_true() {
        if Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    true
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("it begins with one line");
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

/// How something travelled, for people.
pub(super) fn way(via: Via) -> &'static str {
    match via {
        Via::Direct => "direct",
        Via::Relay => "relay",
        Via::Mailbox => "through the peer's mailbox",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_wrapped_between_words() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("unbreakable", 3), ["", "unbreakable"][1..]);
        assert_eq!(wrap("", 3), [""]);
    }
}
