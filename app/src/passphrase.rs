//! Where a home's passphrase comes from: a file, or the person at the terminal. Never from the
//! command line, where other users of the machine could read it.

use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use halloo::{Home, HomeKey};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::sync::oneshot;

use crate::failure::Failure;

/// Longest passphrase, bytes.
const MAX_PASSPHRASE: u64 = 1024;
const TERMINAL: &str = "/dev/tty";

/// Where a passphrase comes from.
#[derive(Debug, Clone, Default)]
pub(crate) struct Passphrase {
    /// The file whose first line it is; without one, the terminal is asked.
    pub(crate) file: Option<PathBuf>,
}

impl Passphrase {
    /// What opens the home: what the file holds, or what the person types when it is locked.
    /// `None` opens one that is not locked. Cancel safe: the terminal shows what is typed again.
    ///
    /// # Errors
    /// When the file or the terminal cannot be read, and `home-locked` when there is neither.
    pub(crate) async fn for_home(&self, home: &Path) -> Result<Option<HomeKey>, Failure> {
        match &self.file {
            Some(file) => Ok(Some(Self::key(&from_file(file)?))),
            None if Home::is_locked(home) => ask("Passphrase: ").await.map(Some),
            None => Ok(None),
        }
    }

    /// A new passphrase. A person types it twice.
    ///
    /// # Errors
    /// When it cannot be read, is empty, or was typed in two ways.
    pub(crate) async fn choose(&self) -> Result<HomeKey, Failure> {
        Ok(Self::key(&self.choose_text("New passphrase: ").await?))
    }

    /// The same as it is written, asked for with other words.
    ///
    /// # Errors
    /// Those of [`Passphrase::choose`].
    pub(crate) async fn choose_text(&self, prompt: &'static str) -> Result<Secret, Failure> {
        let text = match &self.file {
            Some(file) => from_file(file)?,
            None => {
                let first = read_terminal(prompt).await?;
                let second = read_terminal("Once more: ").await?;
                if *first != *second {
                    let why = "the two passphrases differ: nothing was changed";
                    return Err(Failure::new("passphrases-differ", why));
                }
                first
            }
        };
        match text.is_empty() {
            true => Err(Failure::new("empty-passphrase", "the passphrase is empty")),
            false => Ok(text),
        }
    }

    /// What opens a backup.
    ///
    /// # Errors
    /// When the file or the terminal cannot be read, and `home-locked` when there is neither.
    pub(crate) async fn for_backup(&self) -> Result<HomeKey, Failure> {
        match &self.file {
            Some(file) => Ok(Self::key(&from_file(file)?)),
            None => ask("Passphrase of the backup: ").await,
        }
    }

    /// A passphrase as what opens a home.
    pub(crate) fn key(text: &Secret) -> HomeKey {
        HomeKey::passphrase(text.to_string())
    }
}

fn from_file(path: &Path) -> Result<Secret, Failure> {
    let refused = |why: String| {
        let why = format!("cannot read the passphrase from {}: {why}", path.display());
        Failure::new("passphrase-file", why)
    };
    let file = File::open(path).map_err(|e| refused(e.to_string()))?;
    first_line(file).map_err(refused)
}

/// Asks the person at the terminal for the passphrase of the home.
async fn ask(prompt: &'static str) -> Result<HomeKey, Failure> {
    read_terminal(prompt).await.map(|line| HomeKey::passphrase(line.to_string()))
}

/// A line that the person types without seeing it. A thread reads it: a blocked read cannot be
/// given up, and the program must be able to end nevertheless.
async fn read_terminal(prompt: &'static str) -> Result<Secret, Failure> {
    let nobody = || {
        let why = "it takes a passphrase, and there is no terminal to ask for it";
        Failure::new("home-locked", why)
    };
    // Standard input may be what is to be sent; a person reads what the program says.
    if !std::io::stderr().is_terminal() {
        return Err(nobody());
    }
    let open = || File::options().read(true).write(true).open(TERMINAL).map_err(|_| nobody());
    let (mut terminal, mut quiet) = (open()?, Quiet::new(open()?)?);
    terminal.write_all(prompt.as_bytes())?;
    let (tell, line) = oneshot::channel();
    std::thread::spawn(move || {
        let _ = tell.send(first_line(&terminal));
    });
    let line = line.await.map_err(|_| Failure::new("interrupted", "interrupted"))?;
    quiet.terminal.write_all(b"\n")?;
    line.map_err(|why| {
        Failure::new("passphrase-file", format!("cannot read the passphrase: {why}"))
    })
}

pub(crate) type Secret = zeroize::Zeroizing<String>;

/// The first line, without its end.
fn first_line(input: impl Read) -> Result<Secret, String> {
    // As large as needed from the beginning: growing would leave copies behind.
    let room = MAX_PASSPHRASE as usize + 2;
    let mut line = zeroize::Zeroizing::new(Vec::with_capacity(room));
    let mut input = BufReader::with_capacity(1, input.take(MAX_PASSPHRASE + 2));
    input.read_until(b'\n', &mut line).map_err(|e| e.to_string())?;
    if line.ends_with(b"\n") {
        line.pop();
    }
    if line.ends_with(b"\r") {
        line.pop();
    }
    if line.len() as u64 > MAX_PASSPHRASE {
        return Err(format!("it is longer than {MAX_PASSPHRASE} bytes"));
    }
    let line = std::str::from_utf8(&line).map_err(|_| "it is not UTF-8 text".to_owned())?;
    Ok(Secret::new(line.to_owned()))
}

/// A terminal that does not show what is typed, until this is dropped.
struct Quiet {
    terminal: File,
    before: Termios,
}

impl Quiet {
    fn new(terminal: File) -> std::io::Result<Self> {
        let before = tcgetattr(&terminal)?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&terminal, OptionalActions::Flush, &quiet)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // The program goes on or ends; a terminal that is gone needs no echo.
        let _ = tcsetattr(&self.terminal, OptionalActions::Flush, &self.before);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_passphrase_is_the_first_line_as_it_stands() {
        for (input, passphrase) in [
            ("correct horse\n", "correct horse"),
            ("correct horse", "correct horse"),
            (" spaces count \r\nnot this\n", " spaces count "),
            ("\n", ""),
            ("", ""),
        ] {
            assert_eq!(*first_line(input.as_bytes()).unwrap(), passphrase);
        }
        assert!(first_line(&b"\xff\n"[..]).is_err());
        assert!(first_line("x".repeat(1024).as_bytes()).is_ok());
        assert!(first_line("x".repeat(1025).as_bytes()).is_err());
    }

    #[tokio::test]
    async fn a_file_is_not_asked_twice_and_an_empty_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("passphrase");
        std::fs::write(&file, "\n").unwrap();
        let from = Passphrase { file: Some(file.clone()) };
        assert_eq!(from.choose().await.unwrap_err().code, "empty-passphrase");
        std::fs::write(&file, "correct horse\n").unwrap();
        assert!(from.choose().await.is_ok());
        std::fs::remove_file(&file).unwrap();
        assert_eq!(from.choose().await.unwrap_err().code, "passphrase-file");
    }
}
