//! One waiver.

use super::super::target::Aim;
use super::super::{Day, Effect, Rank, Rule, Target, Waiver, Written};
use super::File;
use super::rule::qualify;
use crate::document::Node;
use crate::name::Breadth;

pub(in super::super) const KEYS: &[&str] = &["for", "process", "owner", "reason", "expires"];
pub(super) const SHAPE: &str =
    "a waiver is written `- { for: TARGET, owner: …, reason: …, expires: YYYY-MM-DD }`";

impl File<'_> {
    pub(super) fn waiver(&mut self, item: Node) -> Option<Waiver> {
        let start = item.span.start;
        let pairs = self.pairs(item, "a waiver", SHAPE)?;
        let before = self.reader.diagnostics.len();
        let keys = self.reader.keys(pairs, KEYS, "a waiver");
        // An unknown key may well be one of these, mistyped: then that is the whole story.
        if self.reader.diagnostics.len() == before {
            for (key, why) in [
                ("for", "what may be reached nevertheless"),
                ("owner", "who answers for the exception"),
                ("reason", "why there is one"),
                ("expires", "the last day on which it holds"),
            ] {
                if !keys.iter().any(|(name, ..)| *name == key) {
                    let help = format!("write `{key}:` and {why}");
                    let message = format!("`{key}` is missing in this waiver");
                    self.reader.error(&(start..start), message, Some(help));
                }
            }
        }
        let (mut process, mut owner, mut reason, mut expires, mut about) = Default::default();
        for (key, span, node) in keys {
            match key {
                "for" => about = self.exception(key, span, node),
                "process" => process = self.selector(key, &node),
                "owner" => owner = self.word(key, &node),
                "reason" => reason = self.word(key, &node),
                "expires" => expires = self.day(key, node),
                _ => {}
            }
        }
        // Whatever of these is not there has been complained of.
        let (text, aim, place) = about?;
        let (expires, day, until) = expires?;
        let (owner, reason) = (owner?, reason?);
        let (target, ports, service) = match aim {
            Aim::Target(target, ports) => (target, ports, None),
            Aim::Service(value, ports) => {
                let place = place.clone();
                (Target::Any, ports, Some(Written { value, place }))
            }
        };
        let mut said = format!("waiver for {text}");
        qualify(&mut said, None, process.as_ref());
        Some(Waiver {
            rule: Rule {
                rank: Rank::Waiver,
                ports,
                process,
                reason: Some(reason.into()),
                owner: Some(owner.into()),
                expires: Some(expires.into()),
                text: said.into(),
                file: self.name.clone(),
                line: place.line,
                column: place.column,
                ..Rule::new(Effect::Allow, target)
            },
            service,
            expires: day,
            until,
            place,
        })
    }

    fn exception(
        &mut self,
        key: &str,
        span: std::ops::Range<usize>,
        node: Node,
    ) -> Option<(String, Aim, super::Place)> {
        let (text, aim) = self.aim(key, &span, &node)?;
        if let Aim::Target(Target::Name(pattern), _) = &aim
            && let Breadth::Strangers { suffix } = pattern.breadth()
        {
            self.breadth(Effect::Allow, text, &suffix, &node.span);
        }
        Some((text.to_owned(), aim, self.place(&node.span)))
    }

    fn day(&mut self, key: &str, node: Node) -> Option<(String, Day, super::Place)> {
        let text = self.reader.text(key, &node)?;
        let Some(day) = Day::parse(text) else {
            let help = "write a day as `2026-12-31`; it holds on that day still, in UTC".to_owned();
            let message = format!("`{key}` cannot be {text:?}: that is not a day of the calendar");
            self.reader.error(&node.span, message, Some(help));
            return None;
        };
        Some((text.to_owned(), day, self.place(&node.span)))
    }
}
