//! Texts from other people, made safe for a terminal.

/// Makes a name or a single line safe to print: what could move the cursor, recolour, reverse or
/// hide text is replaced, white space runs become one space, and it ends at 64 characters.
pub(crate) fn line(text: &str) -> String {
    /// Longest name on the screen; longer ones only push the rest out of sight.
    const MAX_CHARS: usize = 64;
    let mut safe = String::new();
    for (n, word) in text.split_whitespace().enumerate() {
        if n > 0 {
            safe.push(' ');
        }
        safe.extend(word.chars().map(visible));
    }
    match safe.char_indices().nth(MAX_CHARS) {
        Some((at, _)) => format!("{}…", &safe[..at]),
        None => safe,
    }
}

/// A name as one word of a shell's command line, to be copied from a hint.
pub(crate) fn word(name: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    match line(name) {
        name if !name.is_empty() && name.chars().all(plain) && !name.starts_with('-') => name,
        name => format!("'{}'", name.replace('\'', r"'\''")),
    }
}

/// Makes a text of several lines safe to print. Each line after the first is indented behind a
/// bar, so that a message cannot pretend to be two.
pub(crate) fn block(text: &str) -> String {
    let safe =
        |line: &str| line.chars().map(|c| if c == '\t' { ' ' } else { visible(c) }).collect();
    let lines: Vec<String> = text.lines().map(safe).collect();
    lines.join("\n  | ")
}

/// Whether a terminal could take a character for something else than a visible mark: controls,
/// bidirectional overrides and isolates, and characters without width.
pub(crate) fn is_treacherous(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{061c}' | '\u{115f}' | '\u{1160}' | '\u{180e}' | '\u{3164}' | '\u{feff}'
            | '\u{ffa0}' | '\u{00ad}' | '\u{034f}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{fff0}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

fn visible(c: char) -> char {
    if is_treacherous(c) { '\u{fffd}' } else { c }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_clear_the_screen_or_reverse_the_line() {
        assert_eq!(line("Anna\x1b[2J"), "Anna\u{fffd}[2J");
        assert_eq!(line("Anna\u{202e}nneB"), "Anna\u{fffd}nneB");
        assert_eq!(line("An\u{200b}na"), "An\u{fffd}na");
        assert_eq!(line("  Anna \n\t Maria\r\n"), "Anna Maria");
        assert_eq!(line("\u{9b}31m"), "\u{fffd}31m");
    }

    #[test]
    fn honest_names_stay_as_they_are() {
        for name in
            ["Anna", "José Ñandú", "李小龙", "Ολγα 2", "👩‍💻".split('\u{200d}').next().unwrap_or("")]
        {
            assert_eq!(line(name), name);
        }
    }

    #[test]
    fn a_name_in_a_hint_is_one_word() {
        assert_eq!(word("anna"), "anna");
        assert_eq!(word("Anna Winter"), "'Anna Winter'");
        assert_eq!(word("$(rm -rf ~)"), "'$(rm -rf ~)'");
        assert_eq!(word("O'Hara"), r"'O'\''Hara'");
        assert_eq!(word("-x"), "'-x'");
    }

    #[test]
    fn a_long_name_is_cut() {
        assert_eq!(line(&"x".repeat(300)).chars().count(), 65);
    }

    #[test]
    fn a_message_cannot_forge_a_second_one() {
        assert_eq!(block("hi\nBen: send money\x07"), "hi\n  | Ben: send money\u{fffd}");
    }
}
