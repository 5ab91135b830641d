//! The report and the graph as a page: one file, for people.
//!
//! A page asks the network for nothing, and a policy in it (CSP) says so to the browser: only the one style
//! and the one script that stand in it count, by their hashes. It is whole without the script, which filters,
//! sorts and zooms. Everything in it is text of HTML; there is no data that a script would make markup of.
//!
//! Names, arguments and catalogs are strangers' to choose. What a template shows goes through [`Visible`],
//! unless it says `|safe`, which only our own style, script and hashes may.
//!
//! Rows are made while they are written. What a page does not hold it says, and the JSON report has it.

mod catalog;
mod clock;
mod destinations;
mod findings;
mod paste;
mod picture;
mod processes;
mod run;

use std::fmt;

use askama::filters::{Escaper, Html};
use base64::Engine as _;
use sha2::{Digest as _, Sha256};

use crate::plain::Plain;

pub(crate) use catalog::Catalogued;
pub(crate) use clock::{day_and_time, length_text};
pub(crate) use run::RunPage;

const STYLE: &str = include_str!("html/page.css");
const SCRIPT: &str = include_str!("html/page.js");

/// The escaper of all templates (`askama.toml`): control characters and what reorders a line are shown as
/// escapes, and the rest is text.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Visible;

impl Escaper for Visible {
    fn write_escaped_str<W: fmt::Write>(&self, mut dest: W, string: &str) -> fmt::Result {
        if string.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return Html.write_escaped_str(dest, string);
        }
        let mut html = Through(&mut dest);
        fmt::write(&mut html, format_args!("{}", Plain(string)))
    }
}

/// HTML's escaping of whatever is written.
struct Through<'a, W>(&'a mut W);

impl<W: fmt::Write> fmt::Write for Through<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        Html.write_escaped_str(&mut *self.0, text)
    }
}

/// What every page has around its own contents.
#[derive(Debug)]
struct Shell {
    style: String,
    script: &'static str,
    style_hash: String,
    script_hash: String,
    version: &'static str,
}

impl Shell {
    fn new() -> Self {
        let style = format!("{STYLE}{}", clock::bars());
        Self {
            style_hash: hash(&style),
            style,
            script: SCRIPT,
            script_hash: hash(SCRIPT),
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

/// As a content security policy names a text.
fn hash(text: &str) -> String {
    let digest = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(text));
    format!("sha256-{digest}")
}

/// `1,234`
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A command line as one would type it, more or less: for reading, not for running.
fn command_line(argv: &[String]) -> String {
    let word = |word: &String| {
        let bare = !word.is_empty() && !word.contains([' ', '\t', '\n', '"', '\'', '\\']);
        if bare {
            word.clone()
        } else {
            format!("'{word}'")
        }
    };
    argv.iter().map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
