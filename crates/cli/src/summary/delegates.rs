//! Daemons outside the run that were contacted.

use std::collections::BTreeMap;

use blackstart_core::report::{Parts, Verdict, rule_text};
use blackstart_core::tables::RULE_RESOLVER_SOCKET;

use super::NAME_WIDTH;
use super::lineage::Lineage;
use crate::plain::{cut, plain};

/// Sockets of daemons by path, daemon, verdict and process chain, and how often, the busiest first.
///
/// Without those of the resolvers: every program of some C libraries tries them, whether anybody listens
/// there or not, and goes on to DNS.
pub(super) fn contacts(report: &dyn Parts, lines: &Lineage) -> Vec<([String; 4], u64)> {
    let mut groups: BTreeMap<[String; 4], u64> = BTreeMap::new();
    let delegates = report.delegates().iter();
    for delegate in delegates.filter(|delegate| !is_resolver_socket(&delegate.rule)) {
        let contact = [
            cut(&plain(&delegate.place()), NAME_WIDTH),
            delegate
                .listener_exe
                .as_deref()
                .map_or_else(|| "-".to_owned(), |exe| cut(&plain(exe), NAME_WIDTH)),
            delegate_verdict(delegate.verdict, &delegate.rule),
            lines.chain(delegate.subject),
        ];
        *groups.entry(contact).or_default() += delegate.attempts;
    }
    let mut list: Vec<_> = groups.into_iter().collect();
    list.sort_by(|(a, most), (b, next)| next.cmp(most).then_with(|| a.cmp(b)));
    list
}

pub(crate) fn is_resolver_socket(rule: &str) -> bool {
    rule == rule_text(None, RULE_RESOLVER_SOCKET)
}

/// Was systemd-resolved tried? Only hosts that are set up for it do; nscd's socket is tried everywhere, and
/// says nothing.
pub(super) fn asked_resolved(report: &dyn Parts) -> bool {
    report.delegates().iter().any(|delegate| {
        is_resolver_socket(&delegate.rule) && delegate.path.contains("/systemd/resolve/")
    })
}

/// A refusal that no policy asked for names the rule that did, or it would alarm.
pub(crate) fn delegate_verdict(verdict: Verdict, rule: &str) -> String {
    match verdict {
        Verdict::Allow => "allowed".to_owned(),
        Verdict::Deny => format!("refused ({})", cut(&plain(rule), NAME_WIDTH)),
        Verdict::WouldDeny => format!("would be refused ({})", cut(&plain(rule), NAME_WIDTH)),
        Verdict::Waived => "waived".to_owned(),
        Verdict::BreakGlass => "break glass".to_owned(),
    }
}
