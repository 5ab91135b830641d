//! From YAML to a [`Document`], with every diagnostic at once.

mod case;
mod rule;
mod waiver;

use std::ops::Range;
use std::sync::Arc;

use super::{Document, Effect, LeaseLife, MAX_INSPECTED, Place, UnitPattern, Written, limits};
use crate::document::{Diagnostic, Node, Places, Reader, Severity, Value, yaml};
use crate::report::Mode;

pub(super) use rule::qualify;
#[cfg(test)]
pub(super) use {
    case::{KEYS as CASE_KEYS, VERDICTS},
    rule::{KEYS as RULE_KEYS, PROTOCOLS, REACTIONS},
    waiver::KEYS as WAIVER_KEYS,
};

/// The only `apiVersion` that this version reads.
pub const API_VERSION: &str = "blackstart.dev/v1";
/// Longest file that is read.
pub const MAX_BYTES: usize = 16 << 20;

pub(super) const KEYS: &[&str] = &[
    "apiVersion",
    "kind",
    "service",
    "mode",
    "default",
    "lease",
    "inspect",
    "hidden",
    "include",
    "protect",
    "follow",
    "rules",
    "waivers",
    "limits",
    "tests",
];

pub(super) const MODES: &[(&str, Mode)] = &[("observe", Mode::Observe), ("enforce", Mode::Enforce)];
pub(super) const LEASES: &[(&str, LeaseLife)] = &[("run", LeaseLife::Run), ("ttl", LeaseLife::Ttl)];
pub(super) const EFFECTS: &[(&str, Effect)] = &[("allow", Effect::Allow), ("deny", Effect::Deny)];

/// A file that could be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// What stands in it.
    pub document: Document,
    /// What its author ought to look at.
    pub warnings: Vec<Diagnostic>,
}

/// Read one file of a policy. `file` is only for the diagnostics; nothing is opened.
///
/// On failure, every error that was found, warnings included, in the order of the text.
pub fn parse(text: &str, file: &str) -> Result<Parsed, Vec<Diagnostic>> {
    let (document, diagnostics) = read(text, file);
    if diagnostics.iter().any(|d| d.severity == Severity::Error) {
        return Err(diagnostics);
    }
    Ok(Parsed {
        document,
        warnings: diagnostics,
    })
}

/// The same for whoever goes on to find what else is wrong: where something could not be read, the document lacks
/// it.
pub fn read(text: &str, file: &str) -> (Document, Vec<Diagnostic>) {
    let places = Places::new(if text.len() > MAX_BYTES { "" } else { text });
    let mut file = File {
        name: Arc::from(file),
        reader: Reader::new(file, &places),
        places: &places,
    };
    let document = file.read(text);
    let mut diagnostics = file.reader.diagnostics;
    diagnostics.sort_by_key(|d| (d.span.start, d.span.end));
    (document, diagnostics)
}

/// The reading of one file.
struct File<'a> {
    name: Arc<str>,
    reader: Reader<'a>,
    places: &'a Places<'a>,
}

impl File<'_> {
    fn place(&self, span: &Range<usize>) -> Place {
        let (line, column) = self.places.line_and_column(span.start);
        Place {
            file: Arc::clone(&self.name),
            span: span.clone(),
            line,
            column,
        }
    }

    fn read(&mut self, text: &str) -> Document {
        let mut document = Document::default();
        if text.len() > MAX_BYTES {
            self.reader.error(
                &(0..0),
                format!("the file is larger than {} MiB", MAX_BYTES >> 20),
                Some("split it, and `include:` the parts".to_owned()),
            );
            return document;
        }
        let places = self.places;
        let read = yaml::read(text, places, "policy", "rules", &mut |item| {
            self.rule(item, &mut document);
        });
        let root = match read {
            Ok(root) => root,
            Err(refusal) => {
                // Of a text that is no YAML nobody can say what it means, not even up to there.
                document = Document::default();
                self.reader.diagnostics.clear();
                self.reader
                    .error(&refusal.span, refusal.message, refusal.help);
                return document;
            }
        };
        // What is wrong with the rules is told in its turn: only so many diagnostics are kept.
        let mut of_rules = std::mem::take(&mut self.reader.diagnostics);
        let start = format!("a policy begins with `apiVersion: {API_VERSION}` and `kind: Policy`");
        let Some(root) = root.filter(|root| !matches!(root.value, Value::Null)) else {
            self.reader.error(&(0..0), "the file is empty", Some(start));
            return document;
        };
        let Value::Mapping(pairs) = root.value else {
            self.reader.error(
                &root.span,
                format!("expected a mapping, found {}", root.value.kind()),
                Some(start),
            );
            return document;
        };
        let top = self.reader.keys(pairs, KEYS, "a policy");
        for (key, wanted) in [("apiVersion", API_VERSION), ("kind", "Policy")] {
            match top.iter().find(|(name, ..)| *name == key) {
                None => self.reader.error(
                    &(root.span.start..root.span.start),
                    format!("`{key}` is missing"),
                    Some(format!("write `{key}: {wanted}`")),
                ),
                Some((_, _, node)) => {
                    if let Some(text) = self.reader.text(key, node)
                        && text != wanted
                    {
                        let message =
                            format!("`{key}` is {text:?}, this version reads only {wanted:?}");
                        self.reader.error(
                            &node.span,
                            message,
                            Some(format!("write `{key}: {wanted}`")),
                        );
                    }
                }
            }
        }
        for (key, _, node) in top {
            self.read_key(&mut document, key, node);
            if key == "rules" {
                for diagnostic in std::mem::take(&mut of_rules) {
                    self.reader.keep(diagnostic);
                }
            }
        }
        document
    }

    fn read_key(&mut self, document: &mut Document, key: &str, node: Node) {
        let place = self.place(&node.span);
        match key {
            "service" => {
                document.service = self.word(key, &node).map(|value| Written { value, place });
            }
            "mode" => {
                let mode = self.reader.choice(key, &node, MODES);
                document.mode = mode.map(|value| Written { value, place });
            }
            "default" => {
                let effect = self.reader.choice(key, &node, EFFECTS);
                document.default = effect.map(|value| Written { value, place });
            }
            "lease" => {
                let lease = self.reader.choice(key, &node, LEASES);
                document.lease = lease.map(|value| Written { value, place });
            }
            "inspect" => {
                let ports = self.ports(key, node);
                document.inspect = Some(Written {
                    value: ports,
                    place,
                });
            }
            "hidden" => {
                let effect = self.reader.choice(key, &node, EFFECTS);
                document.hidden = effect.map(|value| Written { value, place });
            }
            "include" => {
                let help = "write `include: [base.yaml]`, or one `- FILE` a line";
                document.include = self.words(key, node, help);
            }
            "protect" => {
                let help = "write `protect: [github]`, or one `- SERVICE` a line";
                document.protect = self.words(key, node, help);
            }
            "follow" => {
                let help = "write `follow: [mysql.service]`, or one `- UNIT` a line";
                let words = self.words(key, node, help);
                document.follow = words
                    .into_iter()
                    .filter_map(|word| self.unit(key, word))
                    .collect();
            }
            "rules" => {
                let help = "write `rules: []` for none, or one `- deny: …` or `- allow: …` a line";
                // Its items were read while the text was.
                self.list(key, node, help);
            }
            "waivers" => {
                for item in self.list(key, node, waiver::SHAPE) {
                    document.waivers.extend(self.waiver(item));
                }
            }
            "limits" => {
                let (limits, wrong) = limits::read(&node, self.reader.places);
                document.limits = limits;
                for complaint in wrong {
                    self.reader
                        .error(&complaint.span, complaint.message, complaint.help);
                }
            }
            "tests" => {
                for item in self.list(key, node, case::SHAPE) {
                    document.tests.extend(self.case(item));
                }
            }
            _ => {}
        }
    }

    /// Text that is not empty.
    fn word(&mut self, key: &str, node: &Node) -> Option<String> {
        let text = self.reader.text(key, node)?;
        if text.trim().is_empty() {
            self.reader
                .error(&node.span, format!("`{key}` is empty"), None);
            return None;
        }
        Some(text.to_owned())
    }

    /// A list of such texts, each once.
    fn words(&mut self, key: &str, node: Node, help: &str) -> Vec<Written<String>> {
        let mut words: Vec<Written<String>> = Vec::new();
        for item in self.list(key, node, help) {
            let Some(value) = self.word(key, &item) else {
                continue;
            };
            let place = self.place(&item.span);
            if let Some(first) = words.iter().find(|word| word.value == value) {
                let message = format!("{value:?} stands twice");
                let help = format!("it stands first in line {}", first.place.line);
                self.reader.warning(&item.span, message, Some(help));
                continue;
            }
            words.push(Written { value, place });
        }
        words
    }

    /// Services of systemd.
    fn unit(&mut self, key: &str, word: Written<String>) -> Option<Written<UnitPattern>> {
        match UnitPattern::parse(&word.value) {
            Ok(value) => Some(Written {
                value,
                place: word.place,
            }),
            Err(error) => {
                let message = format!("`{key}` takes names of services, {}", error.why);
                self.reader
                    .error(&word.place.span, message, Some(error.help));
                None
            }
        }
    }

    /// A list of ports, sorted, each once.
    fn ports(&mut self, key: &str, node: Node) -> Vec<u16> {
        const HELP: &str = "write `inspect: [80, 443]`, or `inspect: []` for none";
        let span = node.span.clone();
        let mut ports = Vec::new();
        for item in self.list(key, node, HELP) {
            let read = match &item.value {
                Value::Text(text) => text.parse().ok(),
                _ => None,
            };
            match read.filter(|port| *port != 0) {
                Some(port) => ports.push(port),
                None => {
                    let message = format!("`{key}` takes ports, from 1 to 65535");
                    self.reader
                        .error(&item.span, message, Some(HELP.to_owned()));
                }
            }
        }
        ports.sort_unstable();
        ports.dedup();
        if ports.len() > MAX_INSPECTED {
            let message = format!("`{key}` has more than {MAX_INSPECTED} ports");
            self.reader.error(&span, message, None);
        }
        ports
    }

    /// The items of a list; nothing there is an empty one. `help` says how it is written.
    fn list(&mut self, key: &str, node: Node, help: &str) -> Vec<Node> {
        match node.value {
            Value::Sequence(items) => return items,
            Value::Null => {}
            other => self.reader.error(
                &node.span,
                format!("`{key}` takes a list, found {}", other.kind()),
                Some(help.to_owned()),
            ),
        }
        Vec::new()
    }

    fn boolean(&mut self, key: &str, node: &Node) -> Option<bool> {
        if let Value::Bool(value) = node.value {
            return Some(value);
        }
        let message = format!(
            "`{key}` takes `true` or `false`, found {}",
            node.value.kind()
        );
        let help = match &node.value {
            Value::Text(_) => Some("write it without quotes".to_owned()),
            _ => None,
        };
        self.reader.error(&node.span, message, help);
        None
    }

    /// The pairs of one item of a list.
    fn pairs(&mut self, item: Node, what: &str, shape: &str) -> Option<Vec<(Node, Node)>> {
        match item.value {
            Value::Mapping(pairs) => Some(pairs),
            other => {
                let message = format!("expected {what}, found {}", other.kind());
                self.reader
                    .error(&item.span, message, Some(shape.to_owned()));
                None
            }
        }
    }
}
