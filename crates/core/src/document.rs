//! Documents that people write: YAML in which every value knows its place, read with every diagnostic at
//! once.
//!
//! What a document means is for its reader to say, of a policy in [`crate::policy`]; here is what all of
//! them share.

mod diagnostic;
mod json;
pub(crate) mod yaml;

use std::ops::Range;

use crate::report::printable;

pub(crate) use diagnostic::Places;
pub use diagnostic::{Diagnostic, Severity};
pub(crate) use yaml::{Node, Value};

/// A file with more errors than this is wrong as a whole; what follows would only hide the first.
const MAX_DIAGNOSTICS: usize = 200;

/// Reads the nodes of one file, and keeps what is wrong with them.
pub(crate) struct Reader<'a> {
    pub(crate) file: &'a str,
    pub(crate) places: &'a Places<'a>,
    pub(crate) diagnostics: Vec<Diagnostic>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(file: &'a str, places: &'a Places<'a>) -> Self {
        Self {
            file,
            places,
            diagnostics: Vec::new(),
        }
    }

    fn report(
        &mut self,
        severity: Severity,
        span: &Range<usize>,
        message: String,
        help: Option<String>,
    ) {
        let (line, column) = self.places.line_and_column(span.start);
        self.keep(Diagnostic {
            severity,
            // A key may have lines, which are quoted here.
            message: printable(&message),
            file: self.file.to_owned(),
            span: span.clone(),
            line,
            column,
            help,
        });
    }

    /// Keep it after those that were found before, if there is room.
    pub(crate) fn keep(&mut self, mut diagnostic: Diagnostic) {
        let before = self.diagnostics.len();
        if before > MAX_DIAGNOSTICS
            || before == MAX_DIAGNOSTICS && diagnostic.severity == Severity::Warning
        {
            return;
        }
        if before == MAX_DIAGNOSTICS {
            diagnostic.message = "more errors follow; mend those above first".to_owned();
        }
        self.diagnostics.push(diagnostic);
    }

    pub(crate) fn error(
        &mut self,
        span: &Range<usize>,
        message: impl Into<String>,
        help: Option<String>,
    ) {
        self.report(Severity::Error, span, message.into(), help);
    }

    pub(crate) fn warning(
        &mut self,
        span: &Range<usize>,
        message: impl Into<String>,
        help: Option<String>,
    ) {
        self.report(Severity::Warning, span, message.into(), help);
    }

    /// The pairs of a document that is a mapping. `start` says how one begins.
    pub(crate) fn mapping(&mut self, root: Node, start: &str) -> Option<Vec<(Node, Node)>> {
        match root.value {
            Value::Mapping(pairs) => return Some(pairs),
            Value::Null => {
                let at = root.span.start..root.span.start;
                self.error(&at, "the document is empty", Some(start.to_owned()));
            }
            other => self.error(
                &root.span,
                format!("expected a mapping, found {}", other.kind()),
                Some(start.to_owned()),
            ),
        }
        None
    }

    /// Does a document say of itself what it ought to? `key` is `apiVersion` or `kind`, `node` what stands
    /// there, `start` where the document begins.
    pub(crate) fn says(
        &mut self,
        key: &str,
        wanted: &str,
        node: Option<&Node>,
        start: usize,
    ) -> bool {
        let help = Some(format!("write `{key}: {wanted}`"));
        let Some(node) = node else {
            self.error(&(start..start), format!("`{key}` is missing"), help);
            return false;
        };
        let Some(text) = self.text(key, node) else {
            return false;
        };
        if text == wanted {
            return true;
        }
        let message = format!("`{key}` is {text:?}, this version reads only {wanted:?}");
        self.error(&node.span, message, help);
        false
    }

    /// The items of a list; nothing there is an empty one. `help` says how it is written.
    pub(crate) fn list(&mut self, key: &str, node: Node, help: &str) -> Vec<Node> {
        match node.value {
            Value::Sequence(items) => return items,
            Value::Null => {}
            other => self.error(
                &node.span,
                format!("`{key}` takes a list, found {}", other.kind()),
                Some(help.to_owned()),
            ),
        }
        Vec::new()
    }

    /// The known keys of a mapping, each once, with its key's span. Whatever else stands there is an error.
    pub(crate) fn keys<'k>(
        &mut self,
        pairs: Vec<(Node, Node)>,
        known: &[&'k str],
        owner: &str,
    ) -> Vec<(&'k str, Range<usize>, Node)> {
        let mut found: Vec<(&'k str, Range<usize>, Node)> =
            Vec::with_capacity(pairs.len().min(known.len()));
        for (key, value) in pairs {
            let Value::Text(text) = &key.value else {
                self.error(
                    &key.span,
                    format!("a key is text, found {}", key.value.kind()),
                    None,
                );
                continue;
            };
            if let Some((_, first, _)) = found.iter().find(|(name, ..)| name == text) {
                let (line, _) = self.places.line_and_column(first.start);
                let help = format!("it stands first in line {line}; keep one of the two");
                self.error(&key.span, format!("`{text}` stands twice"), Some(help));
            } else if let Some(name) = known.iter().find(|name| *name == text) {
                found.push((name, key.span, value));
            } else {
                let help = match nearest(text, known) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("the keys of {owner} are {}", listed(known)),
                };
                self.error(
                    &key.span,
                    format!("`{text}` is not a key of {owner}"),
                    Some(help),
                );
            }
        }
        found
    }

    pub(crate) fn text<'n>(&mut self, key: &str, node: &'n Node) -> Option<&'n str> {
        match &node.value {
            Value::Text(text) => return Some(text),
            Value::Bool(_) => self.error(
                &node.span,
                format!("`{key}` takes text, found a boolean"),
                Some("put it in quotes if the word is meant".to_owned()),
            ),
            other => self.error(
                &node.span,
                format!("`{key}` takes text, found {}", other.kind()),
                None,
            ),
        }
        None
    }

    pub(crate) fn choice<T: Copy>(
        &mut self,
        key: &str,
        node: &Node,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let text = self.text(key, node)?;
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let help = match nearest(text, &words) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("write {}", listed(&words)),
        };
        self.error(
            &node.span,
            format!("`{key}` cannot be {text:?}"),
            Some(help),
        );
        None
    }
}

/// The word that was probably meant.
pub(crate) fn nearest<'w>(text: &str, words: &[&'w str]) -> Option<&'w str> {
    nearest_of(text, words.iter().copied())
}

/// The same for words that are not in a slice.
pub(crate) fn nearest_of<'w>(
    text: &str,
    words: impl IntoIterator<Item = &'w str>,
) -> Option<&'w str> {
    // Comparing is quadratic in the lengths, and nothing long is near any of our words.
    if text.len() > 64 {
        return None;
    }
    let text = text.to_lowercase();
    let length = text.chars().count();
    words
        .into_iter()
        .filter_map(|word| {
            let most = 1 + word.len() / 4;
            // Words of other lengths are further away than that, and are most of a large catalog.
            if word.chars().count().abs_diff(length) > most {
                return None;
            }
            let distance = strsim::damerau_levenshtein(&text, &word.to_lowercase());
            (distance <= most).then_some((distance, word))
        })
        .min()
        .map(|(_, word)| word)
}

pub(crate) fn listed(words: &[&str]) -> String {
    words
        .iter()
        .map(|word| format!("`{word}`"))
        .collect::<Vec<_>>()
        .join(", ")
}
