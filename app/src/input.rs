//! Standard input, line by line or as a whole.

use std::io::{BufRead, Read};

use tokio::sync::mpsc;

use crate::failure::Failure;

/// Longest line and longest text: what a message may hold, and some more so that the library says
/// by how much it is too long.
const MAX_INPUT: u64 = 64 * 1024;

/// Lines of standard input, read by a thread of their own: a blocked read cannot be given up, and
/// the program must be able to end nevertheless.
pub(crate) struct Lines(mpsc::Receiver<Result<String, Failure>>);

impl Lines {
    /// Begins to read.
    pub(crate) fn stdin() -> Self {
        let (tell, lines) = mpsc::channel(16);
        std::thread::spawn(move || {
            let mut stdin = std::io::stdin().lock();
            loop {
                let mut line = Vec::new();
                let read = stdin.by_ref().take(MAX_INPUT).read_until(b'\n', &mut line);
                let line = match read {
                    Ok(0) => break,
                    Ok(n) if n as u64 == MAX_INPUT && line.last() != Some(&b'\n') => {
                        Err(Failure::new("text-too-long", "a line of the input is too long"))
                    }
                    Ok(_) => text(line).map(|l| l.trim_end_matches(['\n', '\r']).to_owned()),
                    Err(e) => Err(e.into()),
                };
                let last = line.is_err();
                if tell.blocking_send(line).is_err() || last {
                    break;
                }
            }
        });
        Self(lines)
    }

    /// The next line; `None` at the end. Cancel safe.
    ///
    /// # Errors
    /// When the input cannot be read, is not UTF-8, or a line is too long.
    pub(crate) async fn next(&mut self) -> Result<Option<String>, Failure> {
        self.0.recv().await.transpose()
    }
}

/// All of standard input as one text, without the line feed at its end.
///
/// # Errors
/// When it cannot be read, is not UTF-8, or is too long.
pub(crate) fn whole() -> Result<String, Failure> {
    let mut bytes = Vec::new();
    std::io::stdin().lock().take(MAX_INPUT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_INPUT {
        return Err(Failure::new("text-too-long", "the input is too long for one message"));
    }
    let mut text = text(bytes)?;
    if text.ends_with('\n') {
        text.pop();
    }
    Ok(text)
}

fn text(bytes: Vec<u8>) -> Result<String, Failure> {
    String::from_utf8(bytes).map_err(|_| Failure::new("not-text", "the input is not UTF-8 text"))
}
