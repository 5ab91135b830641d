//! One rule.

use std::fmt::Write as _;
use std::ops::Range;

use super::super::target::{self, Aim, Wrong};
use super::super::{
    Document, Effect, Failure, Note, Rank, Reaction, Rule, ServiceRule, Target, Written,
};
use super::{File, MODES};
use crate::document::{Node, Value};
use crate::name::Breadth;
use crate::path::Selector;
use crate::report::Mode;
use crate::tables::Protocol;

pub(in super::super) const KEYS: &[&str] = &[
    "allow", "deny", "protocol", "process", "mode", "on_match", "reaction", "final", "reason",
    "fix",
];
const SHAPE: &str = "a rule is written `- deny: TARGET` or `- allow: TARGET`";

pub(in super::super) const PROTOCOLS: &[(&str, Protocol)] =
    &[("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];
pub(in super::super) const REACTIONS: &[(&str, Reaction)] =
    &[("warn", Reaction::Warn), ("fail", Reaction::Fail)];

/// What was found under a rule's keys, as far as it could be read.
#[derive(Default)]
struct Draft {
    protocol: Option<(Protocol, Range<usize>)>,
    process: Option<Selector>,
    mode: Option<Mode>,
    failure: Option<(Failure, Range<usize>)>,
    reaction: Option<Reaction>,
    is_final: bool,
    reason: Option<Box<str>>,
    fix: Option<Box<str>>,
    /// The keys that say something of a refusal.
    of_refusals: Vec<(&'static str, Range<usize>)>,
}

impl File<'_> {
    /// Read a rule into the document.
    pub(super) fn rule(&mut self, item: Node, document: &mut Document) {
        let start = item.span.start;
        let Some(pairs) = self.pairs(item, "a rule", SHAPE) else {
            return;
        };
        let before = self.reader.diagnostics.len();
        let mut written: Option<(Effect, &str, Range<usize>, Node)> = None;
        let mut draft = Draft::default();
        for (key, span, node) in self.reader.keys(pairs, KEYS, "a rule") {
            match key {
                "allow" | "deny" if written.is_some() => {
                    let help = "make them two rules".to_owned();
                    let message = "a rule either allows or denies, this one has both";
                    self.reader.error(&span, message, Some(help));
                }
                "allow" => written = Some((Effect::Allow, key, span, node)),
                "deny" => written = Some((Effect::Deny, key, span, node)),
                _ => self.rule_key(&mut draft, key, span, &node),
            }
        }
        let Some((effect, key, key_span, node)) = written else {
            // An unknown key may well be a mistyped `deny`: then that is the whole story.
            if self.reader.diagnostics.len() == before {
                let message = "the rule neither allows nor denies";
                self.reader
                    .error(&(start..start), message, Some(SHAPE.to_owned()));
            }
            return;
        };
        if effect == Effect::Allow {
            self.refuse_nothing(&draft);
        }
        let Some((text, aim)) = self.aim(key, &key_span, &node) else {
            return;
        };
        if let Aim::Target(Target::Name(pattern), _) = &aim
            && let Breadth::Strangers { suffix } = pattern.breadth()
        {
            self.breadth(effect, text, &suffix, &node.span);
        }
        if let Aim::Target(Target::Unix(_), _) = &aim {
            self.of_a_socket(&draft);
        }
        let mut said = [effect.word(), " ", text].concat();
        qualify(
            &mut said,
            draft.protocol.as_ref().map(|(p, _)| *p),
            draft.process.as_ref(),
        );
        self.keep(
            document,
            effect,
            aim,
            draft,
            said,
            key_span.start..node.span.end,
            &node,
        );
    }

    #[expect(clippy::too_many_arguments, reason = "each is a part of the one rule")]
    fn keep(
        &mut self,
        document: &mut Document,
        effect: Effect,
        aim: Aim,
        draft: Draft,
        said: String,
        span: Range<usize>,
        node: &Node,
    ) {
        let (target, ports, service) = match aim {
            Aim::Target(target, ports) => (target, ports, None),
            Aim::Service(service, ports) => (Target::Any, ports, Some(service)),
        };
        let (line, column) = self.places.line_and_column(span.start);
        let rule = Rule {
            rank: if draft.is_final {
                Rank::Final
            } else {
                Rank::Plain
            },
            ports,
            protocol: draft.protocol.map(|(protocol, _)| protocol),
            process: draft.process,
            mode: draft.mode.unwrap_or(Mode::Observe),
            failure: draft
                .failure
                .map_or(Failure::REFUSE, |(failure, _)| failure),
            reaction: draft.reaction.unwrap_or_default(),
            reason: draft.reason,
            fix: draft.fix,
            text: said.into(),
            file: self.name.clone(),
            line,
            column,
            ..Rule::new(effect, target)
        };
        match service {
            Some(value) => document.service_rules.push(ServiceRule {
                service: Written {
                    value,
                    place: self.place(&node.span),
                },
                like: rule,
                mode: draft.mode,
            }),
            None => {
                // A file is not so long that its bytes could not be counted in 32 bits.
                let offset = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
                document.rules.push(rule);
                document.notes.push(Note {
                    mode: draft.mode,
                    span: offset(span.start)..offset(span.end),
                });
            }
        }
    }

    fn rule_key(&mut self, draft: &mut Draft, key: &'static str, span: Range<usize>, node: &Node) {
        match key {
            "protocol" => {
                let protocol = self.reader.choice(key, node, PROTOCOLS);
                draft.protocol = protocol.map(|protocol| (protocol, span));
                return;
            }
            "process" => {
                draft.process = self.selector(key, node);
                return;
            }
            "final" => {
                draft.is_final = self.boolean(key, node).unwrap_or(false);
                return;
            }
            "reason" => {
                draft.reason = self.reader.text(key, node).map(Box::from);
                return;
            }
            "mode" => draft.mode = self.reader.choice(key, node, MODES),
            "reaction" => draft.reaction = self.reader.choice(key, node, REACTIONS),
            "fix" => draft.fix = self.reader.text(key, node).map(Box::from),
            "on_match" => {
                if let Some(text) = self.reader.text(key, node) {
                    match Failure::parse(text) {
                        Ok(failure) => draft.failure = Some((failure, node.span.clone())),
                        Err(Wrong { message, help }) => {
                            self.reader.error(&node.span, message, help)
                        }
                    }
                }
            }
            _ => {}
        }
        draft.of_refusals.push((key, span));
    }

    /// What is said of refusals in a rule that allows.
    fn refuse_nothing(&mut self, draft: &Draft) {
        for (key, span) in &draft.of_refusals {
            let what = match *key {
                "mode" => "says whether a refusal is enforced",
                "on_match" => "says how a refusal ends",
                "reaction" => "says what a refusal does to the exit code",
                _ => "says what to do instead",
            };
            let message = format!("`{key}` {what}, and an allow refuses nothing");
            self.reader
                .error(span, message, Some("remove it".to_owned()));
        }
    }

    /// What makes no sense of a unix socket.
    fn of_a_socket(&mut self, draft: &Draft) {
        if let Some((_, span)) = &draft.protocol {
            let help = "remove `protocol`".to_owned();
            self.reader
                .error(span, "a unix socket has no protocol", Some(help));
        }
        if let Some((Failure::Blackhole, span)) = &draft.failure {
            let help = "write `refuse`".to_owned();
            let message = "contact with a unix socket is refused at once or not at all: there is nothing on the way that could be lost";
            self.reader.error(span, message, Some(help));
        }
    }

    /// What a key that takes a target is about, and its text.
    pub(super) fn aim<'n>(
        &mut self,
        key: &str,
        key_span: &Range<usize>,
        node: &'n Node,
    ) -> Option<(&'n str, Aim)> {
        let text = match &node.value {
            Value::Text(text) => text.as_str(),
            other => {
                let help = match other {
                    Value::Sequence(_) => Some("write one for each target".to_owned()),
                    Value::Bool(_) => Some("put it in quotes if the name is meant".to_owned()),
                    _ => None,
                };
                let span = if matches!(other, Value::Null) {
                    key_span
                } else {
                    &node.span
                };
                let message = format!("`{key}` takes a target, found {}", other.kind());
                self.reader.error(span, message, help);
                return None;
            }
        };
        match target::aim(text) {
            Ok(aim) => Some((text, aim)),
            Err(Wrong { message, help }) => {
                self.reader.error(&node.span, message, help);
                None
            }
        }
    }

    /// A pattern that takes in names of strangers.
    pub(super) fn breadth(
        &mut self,
        effect: Effect,
        text: &str,
        suffix: &str,
        span: &Range<usize>,
    ) {
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
                self.reader.error(span, message, Some(help));
            }
            Effect::Deny => {
                let help = "deny the names that are meant, or write `default: deny`".to_owned();
                self.reader.warning(span, message, Some(help));
            }
        }
    }

    /// Which processes are meant.
    pub(super) fn selector(&mut self, key: &str, node: &Node) -> Option<Selector> {
        let text = self.reader.text(key, node)?;
        match Selector::parse(text) {
            Ok(selector) => Some(selector),
            Err(error) => {
                let help = "write a program's name (`terraform`), its path (`/usr/bin/git*`), or `ancestor:` and one of these for all that it starts";
                let message = format!("`{key}` cannot be {text:?}: {error}");
                self.reader
                    .error(&node.span, message, Some(help.to_owned()));
                None
            }
        }
    }
}

/// Add to a rule's text what narrows it.
pub(in super::super) fn qualify(
    text: &mut String,
    protocol: Option<Protocol>,
    process: Option<&Selector>,
) {
    match protocol {
        Some(Protocol::Tcp) => text.push_str(", protocol tcp"),
        Some(Protocol::Udp) => text.push_str(", protocol udp"),
        Some(Protocol::Other) | None => {}
    }
    if let Some(process) = process {
        // Writing to a string never fails.
        let _ = write!(text, ", process {process}");
    }
}
