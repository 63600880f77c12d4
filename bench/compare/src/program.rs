//! A process that is spoken with in lines.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::run::{Places, Role};

/// A process. It ends with this value.
pub struct Program {
    child: Child,
    to: ChildStdin,
    lines: Receiver<String>,
    until: Instant,
}

impl Program {
    /// Starts it. Whatever it says has to be said within `patience`.
    pub fn start(
        mut command: Command,
        places: &dyn Places,
        role: Role,
        patience: Duration,
    ) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let name = command.get_program().to_string_lossy().into_owned();
        let child = places.spawn(role, &mut command);
        let mut child = child.with_context(|| format!("cannot start {name}"))?;
        let (to, out) = (child.stdin.take(), child.stdout.take());
        let (Some(to), Some(out)) = (to, out) else { bail!("{name} has no pipes") };
        let (tx, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if tx.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, to, lines, until: Instant::now() + patience })
    }

    /// Its number in the system.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line.
    pub fn line(&mut self) -> Result<String> {
        let left = self.until.saturating_duration_since(Instant::now());
        Ok(self.lines.recv_timeout(left)?)
    }

    /// The words of the next line, which has to begin with `first`.
    pub fn heard(&mut self, first: &str) -> Result<Vec<String>> {
        let line = self.line().with_context(|| format!("never {first}"))?;
        let mut words = line.split_whitespace().map(str::to_owned);
        if words.next().as_deref() != Some(first) {
            bail!("{line:?} where {first:?} was expected");
        }
        Ok(words.collect())
    }

    pub fn tell(&mut self, line: &str) -> Result<()> {
        writeln!(self.to, "{line}").context("a side has ended")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program that is built into the same folder.
pub fn beside_me(program: &str) -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(program);
    if !path.exists() {
        bail!("{} is not built: see bench/README.md", path.display());
    }
    Ok(path)
}
