//! Where a home's passphrase comes from: a file, another program such as the keychain of the
//! platform, or the person at the terminal. Never from the command line, where other users of the
//! machine could read it.

use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

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
    /// The file whose first line it is.
    pub(crate) file: Option<PathBuf>,
    /// The shell command that prints it. With neither, the terminal is asked.
    pub(crate) command: Option<String>,
}

impl Passphrase {
    /// What opens the home: what the file holds, or what the person types when it is locked.
    /// `None` opens one that is not locked. Cancel safe: the terminal shows what is typed again.
    ///
    /// # Errors
    /// When the file or the terminal cannot be read, and `home-locked` when there is neither.
    pub(crate) async fn for_home(&self, home: &Path) -> Result<Option<HomeKey>, Failure> {
        match self.given().await? {
            Some(text) => Ok(Some(Self::key(&text))),
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
        let text = match self.given().await? {
            Some(text) => text,
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
        match self.given().await? {
            Some(text) => Ok(Self::key(&text)),
            None => ask("Passphrase of the backup: ").await,
        }
    }

    /// What the file or the command says, if there is one.
    async fn given(&self) -> Result<Option<Secret>, Failure> {
        match (&self.file, &self.command) {
            (Some(file), _) => from_file(file).map(Some),
            (None, Some(command)) => from_command(command).await.map(Some),
            (None, None) => Ok(None),
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

/// What a command prints. It may ask the person: it has the terminal, and as much time as it takes. A
/// thread waits for it, as for [`read_terminal`].
async fn from_command(command: &str) -> Result<Secret, Failure> {
    let (tell, said) = oneshot::channel();
    let shell_line = command.to_owned();
    std::thread::spawn(move || {
        let _ = tell.send(first_line_of(&shell_line));
    });
    let said = said.await.map_err(|_| Failure::new("interrupted", "interrupted"))?;
    said.map_err(|why| {
        Failure::new("passphrase-command", format!("the command for the passphrase {why}"))
    })
}

fn first_line_of(shell_line: &str) -> Result<Secret, String> {
    let mut child = Command::new("/bin/sh")
        .args(["-c", shell_line])
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("cannot be run: {e}"))?;
    let mut output = child.stdout.take().ok_or("has no output")?;
    let line = first_line(&mut output);
    // What else it prints is of no use, and must not stop it.
    let _ = std::io::copy(&mut output, &mut std::io::sink());
    let ended = child.wait().map_err(|e| format!("cannot be waited for: {e}"))?;
    match ended.success() {
        true => line.map_err(|why| format!("prints none: {why}")),
        false => Err(format!("failed: {ended}")),
    }
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
        let from = Passphrase { file: Some(file.clone()), command: None };
        assert_eq!(from.choose().await.unwrap_err().code, "empty-passphrase");
        std::fs::write(&file, "correct horse\n").unwrap();
        assert!(from.choose().await.is_ok());
        std::fs::remove_file(&file).unwrap();
        assert_eq!(from.choose().await.unwrap_err().code, "passphrase-file");
    }

    #[tokio::test]
    async fn a_command_says_it_or_why_not() {
        let from = |command: &str| Passphrase { file: None, command: Some(command.to_owned()) };
        for good in ["echo correct horse; echo more", "printf 'correct horse'"] {
            let said = from(good).given().await.unwrap().unwrap();
            assert_eq!(*said, "correct horse", "{good}");
        }
        for bad in ["exit 3", "echo correct horse; exit 3", "/no/such/program"] {
            assert_eq!(from(bad).given().await.unwrap_err().code, "passphrase-command", "{bad}");
        }
        assert_eq!(from("true").choose().await.unwrap_err().code, "empty-passphrase");
    }
}
