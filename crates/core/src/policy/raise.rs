//! A policy's text with some of its rules one rung higher: nothing else in it changes, comments and blanks included.

use std::collections::BTreeMap;
use std::ops::Range;

use super::parse::read;
use super::{Document, Reaction, Severity};
use crate::document::{Node, Places, Value, yaml};
use crate::report::Mode;

/// How far a rule that denies goes, lowest first.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Rung {
    /// It records.
    Observe,
    /// It refuses.
    Warn,
    /// It refuses, and fails the run.
    Fail,
}

impl Rung {
    /// That of a rule.
    pub fn of(mode: Mode, reaction: Reaction) -> Self {
        match (mode, reaction) {
            (Mode::Observe, _) => Self::Observe,
            (Mode::Enforce, Reaction::Warn) => Self::Warn,
            (Mode::Enforce, Reaction::Fail) => Self::Fail,
        }
    }
}

/// What a rule's text is to say besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Raise {
    /// `mode: enforce`.
    Enforce,
    /// `reaction: fail`.
    Fail,
}

impl Raise {
    fn key(self) -> &'static str {
        match self {
            Self::Enforce => "mode",
            Self::Fail => "reaction",
        }
    }

    fn value(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Fail => "fail",
        }
    }
}

/// A rule by the place of its `deny`: line and column, from 1.
pub type At = (usize, usize);

/// The text with these rules raised. The error names those whose writing cannot be changed safely; then it is for
/// a person to do.
pub fn raise(text: &str, raises: &BTreeMap<At, Raise>) -> Result<String, Vec<At>> {
    let places = Places::new(text);
    let mut edits: Vec<(Range<usize>, String)> = Vec::new();
    let mut odd: Vec<At> = raises.keys().copied().collect();
    let whole = yaml::read(text, &places, "policy", "rules", &mut |item| {
        let Some((at, edit)) = edit_of(text, &places, &item, raises) else {
            return;
        };
        odd.retain(|it| *it != at);
        edits.push(edit);
    });
    if whole.is_err() || !odd.is_empty() {
        return Err(odd);
    }
    let mut raised = text.to_owned();
    edits.sort_by_key(|(span, _)| std::cmp::Reverse(span.start));
    for (span, with) in edits {
        raised.replace_range(span, &with);
    }
    // What was meant is not what was made of it, should a text be written in a way that nobody thought of.
    match is_raised(text, &raised, raises) {
        true => Ok(raised),
        false => Err(raises.keys().copied().collect()),
    }
}

/// The change of a rule's text, if it is one of those.
fn edit_of(
    text: &str,
    places: &Places<'_>,
    item: &Node,
    raises: &BTreeMap<At, Raise>,
) -> Option<(At, (Range<usize>, String))> {
    let Value::Mapping(pairs) = &item.value else {
        return None;
    };
    let find = |wanted: &str| {
        pairs
            .iter()
            .find(|(key, _)| matches!(&key.value, Value::Text(key) if key == wanted))
    };
    let (deny, target) = find("deny")?;
    let at = places.line_and_column(deny.span.start);
    let raise = *raises.get(&at)?;
    if let Some((_, value)) = find(raise.key()) {
        return Some((at, (word_of(text, value)?, raise.value().to_owned())));
    }
    let said = format!("{}: {}", raise.key(), raise.value());
    if text.as_bytes().get(item.span.start) == Some(&b'{') {
        let end = word_of(text, target)?.end;
        return Some((at, (end..end, format!(", {said}"))));
    }
    // On a line of its own below: behind whatever comment stands there.
    let start = target.span.start;
    let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
    let line_start = text[..deny.span.start].rfind('\n').map_or(0, |at| at + 1);
    let indent = " ".repeat(text[line_start..deny.span.start].chars().count());
    let (at_end, line_feed) = match text[..line_end].strip_suffix('\r') {
        Some(before) if line_end < text.len() => (before.len(), "\r\n"),
        _ => (line_end, "\n"),
    };
    Some((at, (at_end..at_end, format!("{line_feed}{indent}{said}"))))
}

/// Where a plain or quoted text stands, by itself: a node's own span may go on to what follows it, comments included. None
/// if it is written in another way than it reads.
fn word_of(text: &str, node: &Node) -> Option<Range<usize>> {
    let Value::Text(word) = &node.value else {
        return None;
    };
    let start = node.span.start;
    let written = ["", "\"", "'"]
        .map(|quote| format!("{quote}{word}{quote}"))
        .into_iter()
        .find(|written| text[start..].starts_with(written.as_str()))?;
    Some(start..start + written.len())
}

/// Does `after` say what `before` does, with these rules raised, and nothing else?
fn is_raised(before: &str, after: &str, raises: &BTreeMap<At, Raise>) -> bool {
    let (mut wanted, _) = read(before, "");
    let (got, wrong) = read(after, "");
    if wrong.iter().any(|it| it.severity == Severity::Error) {
        return false;
    }
    let mut known = 0;
    let rules = wanted.rules.iter_mut().zip(&mut wanted.notes);
    let rules = rules.map(|(rule, note)| (rule, &mut note.mode));
    let of_services = wanted
        .service_rules
        .iter_mut()
        .map(|it| (&mut it.like, &mut it.mode));
    for (rule, mode) in rules.chain(of_services) {
        match raises.get(&(rule.line, rule.column)) {
            Some(Raise::Enforce) => {
                *mode = Some(Mode::Enforce);
                rule.mode = Mode::Enforce;
            }
            Some(Raise::Fail) => rule.reaction = Reaction::Fail,
            None => continue,
        }
        known += 1;
    }
    known == raises.len() && meaning(wanted) == meaning(got)
}

/// A document without its places, which move.
fn meaning(document: Document) -> String {
    let Document {
        service,
        mode,
        default,
        lease,
        inspect,
        hidden,
        include,
        protect,
        follow,
        mut rules,
        notes,
        service_rules,
        waivers,
        limits,
        tests,
    } = document;
    for rule in &mut rules {
        (rule.line, rule.column) = (0, 0);
    }
    let notes: Vec<_> = notes.iter().map(|note| note.mode).collect();
    let of_services: Vec<_> = service_rules
        .into_iter()
        .map(|it| {
            let mut like = it.like;
            (like.line, like.column) = (0, 0);
            (it.service.value, like, it.mode)
        })
        .collect();
    let waivers: Vec<_> = waivers
        .into_iter()
        .map(|it| {
            let mut rule = it.rule;
            (rule.line, rule.column) = (0, 0);
            (rule, it.service.map(|it| it.value))
        })
        .collect();
    let tests: Vec<_> = tests
        .into_iter()
        .map(|it| {
            (
                it.text,
                it.expect,
                it.port,
                it.address,
                it.process,
                it.ancestor,
                it.protocol,
                it.rule,
            )
        })
        .collect();
    let service = service.map(|it| it.value);
    let mode = mode.map(|it| it.value);
    let default = default.map(|it| it.value);
    let lease = lease.map(|it| it.value);
    let inspect = inspect.map(|it| it.value);
    let hidden = hidden.map(|it| it.value);
    let include: Vec<_> = include.into_iter().map(|it| it.value).collect();
    let protect: Vec<_> = protect.into_iter().map(|it| it.value).collect();
    let follow: Vec<_> = follow.into_iter().map(|it| it.value).collect();
    format!(
        "{service:?} {mode:?} {default:?} {lease:?} {inspect:?} {hidden:?} {include:?} {protect:?} {follow:?} {rules:?} {notes:?} {of_services:?} {waivers:?} {limits:?} {tests:?}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: blackstart.dev/v1\nkind: Policy\n";

    fn raised(rules: &str, raises: &[(At, Raise)]) -> Result<String, Vec<At>> {
        let text = format!("{HEAD}{rules}");
        let raised = raise(&text, &raises.iter().copied().collect());
        raised.map(|text| text.strip_prefix(HEAD).unwrap().to_owned())
    }

    #[test]
    fn a_key_is_added_below_and_comments_stay() {
        let before = "# top\nrules:\n  - deny: a.example # why\n    # more\n    reason: x\n\n  - allow: b.example\n";
        assert_eq!(
            raised(before, &[((5, 5), Raise::Enforce)]).unwrap(),
            before.replace("# why\n", "# why\n    mode: enforce\n")
        );
        // Where `deny` is not the first, nor the last.
        let before = "rules:\n- reason: x\n  deny: 'a.example'\n- mode: observe\n  deny: b.example";
        assert_eq!(
            raised(before, &[((5, 3), Raise::Fail), ((7, 3), Raise::Enforce)]).unwrap(),
            "rules:\n- reason: x\n  deny: 'a.example'\n  reaction: fail\n- mode: enforce\n  deny: b.example"
        );
        let before = "rules:\n- deny: a.example";
        assert_eq!(
            raised(before, &[((4, 3), Raise::Fail)]).unwrap(),
            "rules:\n- deny: a.example\n  reaction: fail"
        );
    }

    #[test]
    fn a_value_is_replaced() {
        let before = "rules:\n  - deny: a.example\n    mode: \"observe\"  # for now\n  - deny: service:x\n    reaction: warn\n";
        assert_eq!(
            raised(before, &[((4, 5), Raise::Enforce), ((6, 5), Raise::Fail)]).unwrap(),
            "rules:\n  - deny: a.example\n    mode: enforce  # for now\n  - deny: service:x\n    reaction: fail\n"
        );
    }

    #[test]
    fn a_quoted_target_keeps_its_comment() {
        let before = "rules:\n  - deny: 'a.example'   # why\n    # more\n    reason: x\n";
        assert_eq!(
            raised(before, &[((4, 5), Raise::Enforce)]).unwrap(),
            before.replace("# why\n", "# why\n    mode: enforce\n")
        );
    }

    #[test]
    fn other_ways_to_write_stay_as_they_are() {
        assert_eq!(
            raised(
                "rules: [{deny: a.example, reason: x}, {deny: b.example}]\n",
                &[((3, 10), Raise::Enforce)]
            )
            .unwrap(),
            "rules: [{deny: a.example, mode: enforce, reason: x}, {deny: b.example}]\n"
        );
        let folded = "rules:\n  - deny: >-\n      a.example\n    reason: x\n";
        assert_eq!(
            raised(folded, &[((4, 5), Raise::Enforce)]).unwrap(),
            folded.replace("a.example\n", "a.example\n    mode: enforce\n")
        );
        let windows = "rules:\r\n  - deny: ä.example # ö\r\n    reason: x\r\n";
        assert_eq!(
            raised(windows, &[((4, 5), Raise::Fail)]).unwrap(),
            "rules:\r\n  - deny: ä.example # ö\r\n    reaction: fail\r\n    reason: x\r\n"
        );
    }

    #[test]
    fn what_cannot_be_changed_safely_is_not() {
        let escaped = "rules:\n  - deny: a.example\n    mode: \"\\x6fbserve\"\n";
        let at = (4, 5);
        assert_eq!(raised(escaped, &[(at, Raise::Enforce)]).unwrap_err(), [at]);
        // No rule is there, or one that allows.
        let rules = "rules:\n  - allow: a.example\n";
        for at in [(4, 5), (9, 9)] {
            assert_eq!(raised(rules, &[(at, Raise::Fail)]).unwrap_err(), [at]);
        }
    }
}
