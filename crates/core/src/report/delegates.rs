//! Work that may have been handed to somebody outside of the run.

use std::collections::BTreeMap;

use super::assemble::Lens;
use super::findings::{meet, refused};
use super::ledger::Contact;
use super::{Finding, Severity, image_name};
use crate::tables::RULE_RESOLVER_SOCKET;

/// Where a delegate was contacted, and nothing kept the run from it.
pub const DELEGATE: &str = "delegate";

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
