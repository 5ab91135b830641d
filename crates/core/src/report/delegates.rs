//! Work that may have been handed to somebody outside of the run.

use std::collections::BTreeMap;

use super::assemble::Lens;
use super::findings::{meet, refused, said};
use super::ledger::Contact;
use super::{Finding, Mode, RulePlace, Severity, image_name};
use crate::policy::Reaction;
use crate::tables::{RULE_RESOLVER_SOCKET, RuleId};

/// Where a delegate was contacted, and nothing kept the run from it.
pub const DELEGATE: &str = "delegate";

/// Where a socket that a rule denies was reached by another path than the rule's.
pub const SOCKET_ALIAS: &str = "socket_alias";

/// What was contacted of one listener.
#[derive(Default)]
struct Contacted {
    /// In order, each once.
    sockets: BTreeMap<String, ()>,
    /// The first subject that did; none where no row knew its subject.
    subject: Option<u64>,
}

/// Each listener that was contacted, once, whatever the number of its sockets and of those that use them. A refusal is told as
/// such, and a listener within the run acts for nobody else.
pub(super) fn delegate_findings(lens: &Lens<'_>) -> Vec<Finding> {
    let mut listeners: BTreeMap<(Option<String>, String), Contacted> = BTreeMap::new();
    for row in lens.record.delegates.iter().filter(|row| passed(row)) {
        let exe = row.listener.as_ref().and_then(|it| it.exe.clone());
        // Where nobody knows who listens, the socket stands for it.
        let socket = match exe {
            Some(_) => String::new(),
            None => row.path.clone(),
        };
        let contacted = listeners.entry((exe, socket)).or_default();
        contacted.sockets.insert(row.path.clone(), ());
        meet(&mut contacted.subject, lens.subject(row.subject));
    }
    listeners
        .iter()
        .map(|((exe, socket), contacted)| finding(lens, exe.as_deref(), socket, contacted))
        .collect()
}

/// Each denied socket that was reached by another path, for each program that did. The rule is one about a path, and what the path
/// leads to was found out when it was over.
pub(super) fn alias_findings(lens: &Lens<'_>) -> Vec<Finding> {
    type Key<'a> = (String, &'a str, &'a str, RuleId);
    let mut met: BTreeMap<Key<'_>, Option<u64>> = BTreeMap::new();
    for row in &lens.record.delegates {
        let Some(name) = row.alias() else { continue };
        let key = (lens.who(row.subject), &*row.path, name, row.rule);
        meet(met.entry(key).or_default(), lens.subject(row.subject));
    }
    met.into_iter()
        .map(|((exe, path, name, rule), subject)| {
            let text = lens.rule(rule);
            let written = lens.facts.policy.and_then(|policy| policy.rule(rule));
            let enforced = written.is_some_and(|rule| rule.mode == Mode::Enforce);
            let severity = if enforced {
                Severity::Error
            } else {
                Severity::Warning
            };
            let title = format!(
                "{exe} reached {name}, which `{text}` denies, by another path: unix:{path}"
            );
            let about = [&*text, path, &*exe];
            let found = Finding::new(SOCKET_ALIAS, severity, &title, &about).by(lens, subject);
            Finding {
                owner: said(written.and_then(|rule| rule.owner.as_deref())),
                reason: said(written.and_then(|rule| rule.reason.as_deref())),
                rule: Some(text),
                fix: Some(format!(
                    "deny unix:{path} as well, or run with --hide-sockets, which covers every path"
                )),
                reaction: Some(written.map_or(Reaction::default(), |rule| rule.reaction)),
                place: written.map(RulePlace::of),
                ..found
            }
        })
        .collect()
}

fn passed(row: &Contact) -> bool {
    let inside = row.listener.as_ref().is_some_and(|it| it.inside);
    refused(row.verdict).is_none() && !inside && row.rule != RULE_RESOLVER_SOCKET
}

fn finding(lens: &Lens<'_>, exe: Option<&str>, socket: &str, contacted: &Contacted) -> Finding {
    let who = match contacted.subject {
        Some(number) => lens.name_of(number),
        None => "an unknown process".to_owned(),
    };
    let mut sockets = contacted.sockets.keys();
    let first = sockets.next().map_or("", String::as_str);
    let more = match sockets.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let listener = exe.map_or("a daemon that is not known", |exe| image_name(exe, &[]));
    let title = format!(
        "{who} turned to {listener} outside the run ({first}{more}): what that does for it is not seen"
    );
    // The same one, whoever turns to it.
    let about = [exe.unwrap_or_default(), socket, ""];
    Finding::new(DELEGATE, Severity::Info, &title, &about).by(lens, contacted.subject)
}
