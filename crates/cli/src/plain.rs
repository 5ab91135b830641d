//! What may reach a terminal: text from processes, names and files is made harmless first.

use std::fmt::{self, Display, Write};

/// Shows `self.0` with everything that a terminal would act on, or that would reorder the line,
/// written as an escape. An argv or a DNS name is an attacker's to choose.
pub(crate) struct Plain<'a>(pub(crate) &'a str);

impl Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.0.chars() {
            match letter {
                '\n' => f.write_str("\\n")?,
                '\t' => f.write_str("\\t")?,
                '\r' => f.write_str("\\r")?,
                letter if letter.is_control() => write!(f, "\\x{:02x}", u32::from(letter))?,
                letter if is_invisible(letter) => write!(f, "\\u{{{:x}}}", u32::from(letter))?,
                letter => f.write_char(letter)?,
            }
        }
        Ok(())
    }
}

/// Characters without a shape of their own that change how their neighbours are read: joiners, marks
/// and overrides of direction, line separators, tags.
pub(crate) fn is_invisible(letter: char) -> bool {
    matches!(letter,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// [`Plain`], as a string.
pub(crate) fn plain(text: &str) -> String {
    Plain(text).to_string()
}

/// At most `most` characters, the last one an ellipsis if something was cut.
pub(crate) fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars()
        .take(most.saturating_sub(1))
        .chain(['…'])
        .collect()
}

/// How text is set apart: by colour on a terminal, not at all elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Paint {
    /// As it is.
    None,
    /// With ANSI colours.
    Ansi,
}

impl Paint {
    /// Colours are for a terminal that has them and a person who has not asked for none.
    pub(crate) fn decide(is_terminal: bool, no_color: Option<&str>, term: Option<&str>) -> Self {
        let declined = no_color.is_some_and(|value| !value.is_empty());
        if is_terminal && !declined && term.is_some_and(|term| !term.is_empty() && term != "dumb") {
            Self::Ansi
        } else {
            Self::None
        }
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    pub(crate) fn bad(self, text: &str) -> String {
        self.with("1;31", text)
    }

    pub(crate) fn doubtful(self, text: &str) -> String {
        self.with("33", text)
    }

    pub(crate) fn good(self, text: &str) -> String {
        self.with("32", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        match self {
            Self::None => text.to_owned(),
            Self::Ansi => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_acts_on_gets_through() {
        let nasty = "a\x1b]0;owned\x07b\u{9b}31m\r\nc\u{202e}dex\u{200b}\x7f";
        let shown = plain(nasty);
        assert_eq!(
            shown,
            "a\\x1b]0;owned\\x07b\\x9b31m\\r\\nc\\u{202e}dex\\u{200b}\\x7f"
        );
        assert!(!shown.chars().any(char::is_control));
    }

    #[test]
    fn ordinary_text_is_left_alone() {
        assert_eq!(plain("büro → /opt/x y"), "büro → /opt/x y");
    }

    #[test]
    fn cuts_by_characters() {
        assert_eq!(cut("äöü", 3), "äöü");
        assert_eq!(cut("äöüß", 3), "äö…");
    }

    #[test]
    fn colour_is_for_willing_terminals() {
        assert_eq!(Paint::decide(true, None, Some("xterm")), Paint::Ansi);
        assert_eq!(Paint::decide(true, Some(""), Some("xterm")), Paint::Ansi);
        assert_eq!(Paint::decide(true, Some("1"), Some("xterm")), Paint::None);
        assert_eq!(Paint::decide(true, None, Some("dumb")), Paint::None);
        assert_eq!(Paint::decide(true, None, None), Paint::None);
        assert_eq!(Paint::decide(false, None, Some("xterm")), Paint::None);
    }
}
