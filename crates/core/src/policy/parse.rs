//! From YAML to a [`Policy`], with every diagnostic at once.

use std::collections::HashMap;
use std::ops::Range;

use super::diagnostic::{Diagnostic, Places, Severity};
use super::yaml::{self, Node, Value};
use super::{Effect, Policy, Rule, Target, limits, target};
use crate::name::Breadth;
use crate::report::Mode;
use crate::tables::{BUILTIN, Protocol};

/// The only `apiVersion` that this version reads.
pub const API_VERSION: &str = "blackstart.dev/v1";
/// Longest policy that is read.
pub const MAX_BYTES: usize = 32 << 20;
/// A file with more errors than this is wrong as a whole; what follows would only hide the first.
const MAX_DIAGNOSTICS: usize = 200;

const TOP_KEYS: &[&str] = &[
    "apiVersion",
    "kind",
    "service",
    "mode",
    "default",
    "rules",
    "limits",
];
const TOP_KEYS_LATER: &[&str] = &["protect", "waivers", "tests", "final", "lease"];
const RULE_KEYS: &[&str] = &["allow", "deny", "protocol", "reason", "fix"];
const RULE_KEYS_LATER: &[&str] = &["mode", "on_match", "reaction", "process", "final", "lease"];

/// A policy that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// The policy.
    pub policy: Policy,
    /// What its author ought to look at.
    pub warnings: Vec<Diagnostic>,
}

/// Read a policy. `file` is only for the diagnostics; nothing is opened.
///
/// On failure, every error that was found, warnings included, in the order of the text.
pub fn parse(text: &str, file: &str) -> Result<Parsed, Vec<Diagnostic>> {
    let places = Places::new(if text.len() > MAX_BYTES { "" } else { text });
    let mut reader = Reader {
        file,
        places: &places,
        diagnostics: Vec::new(),
    };
    let policy = reader.read(text);
    let mut diagnostics = reader.diagnostics;
    diagnostics.sort_by_key(|d| (d.span.start, d.span.end));
    if diagnostics.iter().any(|d| d.severity == Severity::Error) {
        return Err(diagnostics);
    }
    Ok(Parsed {
        policy,
        warnings: diagnostics,
    })
}

struct Reader<'a> {
    file: &'a str,
    places: &'a Places<'a>,
    diagnostics: Vec<Diagnostic>,
}

impl Reader<'_> {
    fn report(
        &mut self,
        severity: Severity,
        span: &Range<usize>,
        message: String,
        help: Option<String>,
    ) {
        if self.diagnostics.len() >= MAX_DIAGNOSTICS && severity == Severity::Warning {
            return;
        }
        if self.diagnostics.len() > MAX_DIAGNOSTICS {
            return;
        }
        let message = if self.diagnostics.len() == MAX_DIAGNOSTICS {
            "more errors follow; mend those above first".to_owned()
        } else {
            message
        };
        let (line, column) = self.places.line_and_column(span.start);
        let file = self.file.to_owned();
        self.diagnostics.push(Diagnostic {
            severity,
            message,
            file,
            span: span.clone(),
            line,
            column,
            help,
        });
    }

    fn error(&mut self, span: &Range<usize>, message: impl Into<String>, help: Option<String>) {
        self.report(Severity::Error, span, message.into(), help);
    }

    fn warning(&mut self, span: &Range<usize>, message: impl Into<String>, help: Option<String>) {
        self.report(Severity::Warning, span, message.into(), help);
    }

    fn read(&mut self, text: &str) -> Policy {
        let mut policy = Policy::default();
        if text.len() > MAX_BYTES {
            self.error(
                &(0..0),
                format!(
                    "the file is larger than {} MiB, which no policy is",
                    MAX_BYTES >> 20
                ),
                None,
            );
            return policy;
        }
        let root = match yaml::read(text, self.places) {
            Ok(root) => root,
            Err(refusal) => {
                self.error(&refusal.span, refusal.message, refusal.help);
                return policy;
            }
        };
        let start = format!("a policy begins with `apiVersion: {API_VERSION}` and `kind: Policy`");
        let Some(root) = root.filter(|root| !matches!(root.value, Value::Null)) else {
            self.error(&(0..0), "the file is empty", Some(start));
            return policy;
        };
        let Value::Mapping(pairs) = root.value else {
            self.error(
                &root.span,
                format!("expected a mapping, found {}", root.value.kind()),
                Some(start),
            );
            return policy;
        };
        let top = self.keys(pairs, TOP_KEYS, TOP_KEYS_LATER, "a policy");
        for (key, wanted) in [("apiVersion", API_VERSION), ("kind", "Policy")] {
            match top.iter().find(|(name, ..)| *name == key) {
                None => self.error(
                    &(root.span.start..root.span.start),
                    format!("`{key}` is missing"),
                    Some(format!("write `{key}: {wanted}`")),
                ),
                Some((_, _, node)) => {
                    if let Some(text) = self.text(key, node)
                        && text != wanted
                    {
                        let message =
                            format!("`{key}` is {text:?}, this version reads only {wanted:?}");
                        self.error(
                            &node.span,
                            message,
                            Some(format!("write `{key}: {wanted}`")),
                        );
                    }
                }
            }
        }
        for (key, _, node) in top {
            match key {
                "service" => policy.service = self.text(key, &node).map(str::to_owned),
                "mode" => {
                    let modes = [("observe", Mode::Observe), ("enforce", Mode::Enforce)];
                    policy.mode = self.choice(key, &node, &modes).unwrap_or(policy.mode);
                }
                "default" => {
                    let effects = [("allow", Effect::Allow), ("deny", Effect::Deny)];
                    policy.default = self.choice(key, &node, &effects).unwrap_or(policy.default);
                }
                "rules" => policy.rules = self.rules(node),
                "limits" => {
                    let (limits, wrong) = limits::read(&node, self.places);
                    policy.limits = limits;
                    for complaint in wrong {
                        self.error(&complaint.span, complaint.message, complaint.help);
                    }
                }
                _ => {}
            }
        }
        policy
    }

    /// The known keys of a mapping, each once, with its key's span. Whatever else stands there is an error.
    fn keys<'k>(
        &mut self,
        pairs: Vec<(Node, Node)>,
        known: &[&'k str],
        later: &[&str],
        owner: &str,
    ) -> Vec<(&'k str, Range<usize>, Node)> {
        let mut found: Vec<(&'k str, Range<usize>, Node)> = Vec::new();
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
            } else if later.contains(&text.as_str()) {
                let message = format!("`{text}` is not supported by this version");
                self.error(
                    &key.span,
                    message,
                    Some("remove it: this version would not act on it".to_owned()),
                );
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

    fn text<'n>(&mut self, key: &str, node: &'n Node) -> Option<&'n str> {
        match &node.value {
            Value::Text(text) => return Some(text),
            Value::Bool => self.error(
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

    fn choice<T: Copy>(&mut self, key: &str, node: &Node, choices: &[(&str, T)]) -> Option<T> {
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

    fn rules(&mut self, node: Node) -> Vec<Rule> {
        let items = match node.value {
            Value::Sequence(items) => items,
            Value::Null => return Vec::new(),
            other => {
                let help = Some(
                    "write `rules: []` for none, or one `- deny: …` or `- allow: …` a line"
                        .to_owned(),
                );
                self.error(
                    &node.span,
                    format!("`rules` takes a list, found {}", other.kind()),
                    help,
                );
                return Vec::new();
            }
        };
        let mut rules: Vec<Rule> = Vec::with_capacity(items.len());
        let mut spans = Vec::with_capacity(items.len());
        for item in items {
            let Some((rule, span)) = self.rule(item) else {
                continue;
            };
            rules.push(rule);
            spans.push(span);
        }
        if rules.len() >= BUILTIN as usize {
            self.error(
                &node.span,
                "there are more rules than can be numbered",
                None,
            );
        }
        self.compare(&rules, &spans);
        rules
    }

    /// A rule and the span of its target.
    fn rule(&mut self, item: Node) -> Option<(Rule, Range<usize>)> {
        let shape = "a rule is written `- deny: TARGET` or `- allow: TARGET`";
        let Value::Mapping(pairs) = item.value else {
            let message = format!("expected a rule, found {}", item.value.kind());
            self.error(&item.span, message, Some(shape.to_owned()));
            return None;
        };
        let before = self.diagnostics.len();
        let keys = self.keys(pairs, RULE_KEYS, RULE_KEYS_LATER, "a rule");
        let mut written: Option<(Effect, &str, Range<usize>, Node)> = None;
        let mut protocol = None;
        let mut reason = None;
        let mut fix = None;
        for (key, key_span, node) in keys {
            match key {
                "allow" | "deny" if written.is_some() => {
                    let help = "make them two rules".to_owned();
                    self.error(
                        &key_span,
                        "a rule either allows or denies, this one has both",
                        Some(help),
                    );
                }
                "allow" => written = Some((Effect::Allow, key, key_span, node)),
                "deny" => written = Some((Effect::Deny, key, key_span, node)),
                "protocol" => {
                    protocol = self.choice(
                        key,
                        &node,
                        &[("tcp", Protocol::Tcp), ("udp", Protocol::Udp)],
                    );
                }
                "reason" => reason = self.text(key, &node).map(str::to_owned),
                "fix" => fix = self.text(key, &node).map(str::to_owned),
                _ => {}
            }
        }
        let Some((effect, key, key_span, node)) = written else {
            // An unknown key may well be a mistyped `deny`: then that is the whole story.
            if self.diagnostics.len() == before {
                let at = item.span.start..item.span.start;
                self.error(
                    &at,
                    "the rule neither allows nor denies",
                    Some(shape.to_owned()),
                );
            }
            return None;
        };
        let text = match &node.value {
            Value::Text(text) => text.as_str(),
            other => {
                let help = match other {
                    Value::Sequence(_) => Some("write one rule for each target".to_owned()),
                    Value::Bool => Some("put it in quotes if the name is meant".to_owned()),
                    _ => None,
                };
                let span = if matches!(other, Value::Null) {
                    &key_span
                } else {
                    &node.span
                };
                self.error(
                    span,
                    format!("`{key}` takes a target, found {}", other.kind()),
                    help,
                );
                return None;
            }
        };
        let (target, ports) = match target::parse(text) {
            Ok(parsed) => parsed,
            Err(wrong) => {
                self.error(&node.span, wrong.message, wrong.help);
                return None;
            }
        };
        if let Target::Name(pattern) = &target
            && let Breadth::Strangers { suffix } = pattern.breadth()
        {
            let suffix = if suffix == "." {
                "the root".to_owned()
            } else {
                format!("the public suffix `{suffix}`")
            };
            let message =
                format!("`{text}` lies at or above {suffix}, so it takes in names of strangers");
            match effect {
                Effect::Allow => {
                    let help = "allow the names that are needed, such as `.example.com`".to_owned();
                    self.error(&node.span, message, Some(help));
                }
                Effect::Deny => {
                    let help = "deny the names that are meant, or write `default: deny`".to_owned();
                    self.warning(&node.span, message, Some(help));
                }
            }
        }
        let (line, column) = self.places.line_and_column(key_span.start);
        let suffix = match protocol {
            Some(Protocol::Tcp) => ", protocol tcp",
            Some(Protocol::Udp) => ", protocol udp",
            _ => "",
        };
        let text = format!("{effect} {text}{suffix}");
        let file = self.file.to_owned();
        Some((
            Rule {
                effect,
                target,
                ports,
                protocol,
                reason,
                fix,
                text,
                file,
                line,
                column,
            },
            node.span,
        ))
    }

    /// Warn of rules about exactly the same thing.
    fn compare(&mut self, rules: &[Rule], spans: &[Range<usize>]) {
        let mut first: HashMap<_, &Rule> = HashMap::with_capacity(rules.len());
        for (rule, span) in rules.iter().zip(spans) {
            let same = (&rule.target, rule.ports, rule.protocol);
            let Some(earlier) = first.get(&same) else {
                first.insert(same, rule);
                continue;
            };
            let line = earlier.line;
            if earlier.effect == rule.effect {
                let help = "keep one of the two".to_owned();
                self.warning(
                    span,
                    format!("`{}` says the same as line {line}", rule.text),
                    Some(help),
                );
            } else {
                let help =
                    "the deny holds, whichever comes first; remove one of the two".to_owned();
                self.warning(
                    span,
                    format!(
                        "`{}` contradicts line {line}, `{}`",
                        rule.text, earlier.text
                    ),
                    Some(help),
                );
            }
        }
    }
}

/// The word that was probably meant.
pub(super) fn nearest<'w>(text: &str, words: &[&'w str]) -> Option<&'w str> {
    // Comparing is quadratic in the lengths, and nothing long is near any of our words.
    if text.len() > 64 {
        return None;
    }
    let text = text.to_lowercase();
    words
        .iter()
        .map(|word| {
            (
                strsim::damerau_levenshtein(&text, &word.to_lowercase()),
                *word,
            )
        })
        .filter(|(distance, word)| *distance <= 1 + word.len() / 4)
        .min()
        .map(|(_, word)| word)
}

pub(super) fn listed(words: &[&str]) -> String {
    words
        .iter()
        .map(|word| format!("`{word}`"))
        .collect::<Vec<_>>()
        .join(", ")
}
