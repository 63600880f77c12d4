//! `rendezvous-peer config show` and `rendezvous-peer config example`

use clap::{Args, Command};
use serde_json::{Map, Value, json};

use super::failure::{Exit, Failure};
use super::output;
use super::settings::{self, Effective, Settings};

/// Columns of an example.
const WIDTH: usize = 78;

const HEAD: &str = "\
# Settings of rendezvous-peer. All are optional; what stands here behind a `#` is the default.
# `rendezvous-peer config check FILE` looks at a file before the peer does.
#
# A setting has three spellings: `max_memory` here, --max-memory on the command line, and
# RENDEZVOUS_PEER_MAX_MEMORY in the environment. The command line wins over the environment, and
# the environment over this file.
";

/// Prints the settings in force, as a file with them would look.
pub(super) fn show(effective: &Effective) -> Result<Exit, Failure> {
    if effective.json {
        let settings: Map<String, Value> =
            effective.rows.iter().map(|row| (row.name.to_owned(), json!(row.written))).collect();
        let object = json!({ "schema": output::SCHEMA, "settings": settings });
        output::line(&object.to_string());
    } else {
        let lines = effective.rows.iter().map(|row| format!("{} = {}", row.name, row.written));
        lines.for_each(|line| output::line(&line));
    }
    Ok(Exit::Ok)
}

/// Prints a file with every setting, its meaning and its default, all commented out.
pub(super) fn example() -> Result<Exit, Failure> {
    output::text(&text()?);
    Ok(Exit::Ok)
}

fn text() -> Result<String, Failure> {
    let command = Settings::augment_args(Command::new("settings"));
    let defaults = settings::defaults()?;
    let mut text = HEAD.to_owned();
    for row in defaults.rows {
        let arg = command.get_arguments().find(|arg| arg.get_id() == row.name);
        let help = arg.and_then(|arg| arg.get_long_help().or(arg.get_help()));
        text += "\n";
        for line in wrapped(&help.map(ToString::to_string).unwrap_or_default()) {
            text += &format!("# {line}\n");
        }
        text += &format!("#{} = {}\n", row.name, row.written);
    }
    Ok(text)
}

/// Lines that are no longer than fits behind a `# `, unless one word is.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + word.chars().count() + 3 <= WIDTH => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_example_without_its_comments_is_the_defaults() {
        let text = text().unwrap();
        let settings: Vec<&str> = text
            .lines()
            .filter_map(|l| l.strip_prefix('#'))
            .filter(|l| l.contains(" = "))
            .collect();
        let settings: Vec<&str> = settings.into_iter().filter(|l| !l.starts_with(' ')).collect();
        let defaults = settings::defaults().unwrap();
        assert_eq!(settings.len(), defaults.rows.len());
        let given = settings::of_text(&settings.join("\n")).unwrap();
        let shown =
            |e: &Effective| e.rows.iter().map(|r| (r.name, r.value.clone())).collect::<Vec<_>>();
        assert_eq!(shown(&given), shown(&defaults));
        assert_eq!(given.config.limits, defaults.config.limits);
        assert!(given.rows.iter().all(|r| given.is_given(r.name)), "each is in the file");
    }

    #[test]
    fn an_example_explains_every_setting() {
        let text = text().unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for (i, line) in lines.iter().enumerate() {
            assert!(line.chars().count() <= 100, "{line}");
            if line.starts_with('#') && !line.starts_with("# ") && line.len() > 1 {
                assert!(lines[i - 1].starts_with("# "), "{line} has no explanation");
            }
        }
    }
}
