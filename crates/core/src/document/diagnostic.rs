//! What is wrong with a document, and where.

use std::fmt;
use std::ops::Range;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// The document is usable; its author ought to look.
    Warning,
    /// The document is not usable.
    Error,
}

/// One thing that is wrong, with its place in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad.
    pub severity: Severity,
    /// What and why. Lower case, one line.
    pub message: String,
    /// The file.
    pub file: String,
    /// Byte range in the text.
    pub span: Range<usize>,
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1, in characters.
    pub column: usize,
    /// What to do.
    pub help: Option<String>,
}

/// One line, as compilers print it: `file:line:column: error: message (help)`.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        write!(
            f,
            "{}:{}:{}: {severity}: {}",
            self.file, self.line, self.column, self.message
        )?;
        if let Some(help) = &self.help {
            write!(f, " ({help})")?;
        }
        Ok(())
    }
}

/// Where a text's lines and characters begin.
pub(crate) struct Places<'a> {
    text: &'a str,
    /// Byte offset of each line's first character.
    lines: Vec<usize>,
    /// Byte offset of each character; none if the text is ASCII, where both count the same.
    characters: Option<Vec<usize>>,
}

impl<'a> Places<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        let lines = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(at, _)| at + 1))
            .collect();
        let characters =
            (!text.is_ascii()).then(|| text.char_indices().map(|(at, _)| at).collect());
        Self {
            text,
            lines,
            characters,
        }
    }

    /// The byte offset of the character with this index.
    pub(crate) fn byte_of(&self, character: usize) -> usize {
        match &self.characters {
            None => character.min(self.text.len()),
            Some(offsets) => offsets.get(character).copied().unwrap_or(self.text.len()),
        }
    }

    /// The byte offset of a byte of a line, both counted from 1.
    pub(crate) fn byte_at(&self, line: usize, byte: usize) -> usize {
        let start = self.lines.get(line.saturating_sub(1)).copied();
        let at = start.unwrap_or(self.text.len()) + byte.saturating_sub(1);
        let at = at.min(self.text.len());
        (0..=at)
            .rev()
            .find(|at| self.text.is_char_boundary(*at))
            .unwrap_or(0)
    }

    /// Line and column, both from 1, of a byte offset.
    pub(crate) fn line_and_column(&self, byte: usize) -> (usize, usize) {
        let line = self.lines.partition_point(|&start| start <= byte).max(1);
        let start = self.lines[line - 1];
        let before = self.text.get(start..byte).map_or(0, |t| t.chars().count());
        (line, before + 1)
    }
}
