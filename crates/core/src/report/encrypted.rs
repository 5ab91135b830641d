//! Lookups that went on out of sight: connections to resolvers that are asked inside TLS, HTTPS or QUIC.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::LazyLock;

use ipnet::IpNet;

use super::assemble::Lens;
use super::findings::{meet, refused};
use super::ledger::Reach;
use super::{Finding, Outcome, Severity};
use crate::name::{Name, Pattern};
use crate::policy::{Target, alone};

/// Where such a resolver was reached.
pub const ENCRYPTED_DNS: &str = "encrypted_dns";

const TCP: u8 = 6;
const UDP: u8 = 17;
/// DNS over TLS, and over QUIC, have it for themselves.
const OWN_PORT: u16 = 853;
/// DNS over HTTPS has it with everything else.
const HTTPS: u16 = 443;

/// The resolvers that are known, from the policy that denies them: there is no second list.
struct Known {
    names: Vec<Pattern>,
    nets: Vec<IpNet>,
}

static KNOWN: LazyLock<Known> = LazyLock::new(|| {
    let text = include_str!("../../../../policies/encrypted-dns.yaml");
    let rules = alone(text, "encrypted-dns.yaml").map_or_else(|_| Vec::new(), |it| it.policy.rules);
    let (mut names, mut nets) = (Vec::new(), Vec::new());
    for rule in rules {
        match rule.target {
            Target::Name(pattern) => names.push(pattern),
            Target::Net(net) => nets.push(net),
            Target::Any | Target::Unix(_) => {}
        }
    }
    Known { names, nets }
});

/// Each process and resolver once, where the policy has rules by name: only there does it matter that an address has none.
pub(super) fn encrypted_findings(lens: &Lens<'_>) -> Vec<Finding> {
    let rules = lens.facts.policy.map_or(&[][..], |policy| &policy.rules);
    if !rules
        .iter()
        .any(|rule| matches!(rule.target, Target::Name(_)))
    {
        return Vec::new();
    }
    let mut found: BTreeMap<(String, String), Option<u64>> = BTreeMap::new();
    for row in lens.record.flows.iter().filter(|row| went_through(row)) {
        let name = (row.name != 0).then(|| lens.name(row.name));
        if row.port != OWN_PORT && !is_known(name.as_deref(), row.address) {
            continue;
        }
        let key = (lens.who(row.subject), lens.destination(row));
        meet(found.entry(key).or_default(), lens.subject(row.subject));
    }
    found
        .into_iter()
        .map(|((exe, destination), subject)| finding(lens, &exe, &destination, subject))
        .collect()
}

/// May something have been asked there?
fn went_through(row: &Reach) -> bool {
    let sent = match row.protocol {
        TCP => !matches!(row.outcome, Outcome::Refused | Outcome::TimedOut),
        UDP => row.bytes_sent > 0,
        _ => false,
    };
    sent && refused(row.verdict).is_none()
        && !row.told_by_another
        && matches!(row.port, OWN_PORT | HTTPS)
}

fn is_known(name: Option<&str>, address: IpAddr) -> bool {
    let address = address.to_canonical();
    let name = name.and_then(|name| Name::parse(name).ok());
    let by_name = name.is_some_and(|name| KNOWN.names.iter().any(|it| it.matches(&name)));
    by_name || KNOWN.nets.iter().any(|net| net.contains(&address))
}

fn finding(lens: &Lens<'_>, exe: &str, destination: &str, subject: Option<u64>) -> Finding {
    let title = format!(
        "{exe} reached {destination}, where lookups are encrypted: rules by name do not know what it asked for there"
    );
    let fix = "deny it, as the policy encrypted-dns.yaml does: programs then ask the host's resolver, which is seen";
    Finding {
        fix: Some(fix.to_owned()),
        ..Finding::new(
            ENCRYPTED_DNS,
            Severity::Warning,
            &title,
            &["", destination, exe],
        )
    }
    .by(lens, subject)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_the_shipped_policys() {
        let known = |name: Option<&str>, address: &str| is_known(name, address.parse().unwrap());
        assert!(known(Some("dns.google"), "192.0.2.1"));
        assert!(known(Some("mozilla.cloudflare-dns.com"), "192.0.2.1"));
        assert!(known(None, "1.1.1.1") && known(None, "::ffff:9.9.9.9"));
        assert!(known(Some("unknown-name-0"), "2606:4700:4700::1111"));
        assert!(!known(Some("www.google.com"), "192.0.2.1"));
        assert!(!known(None, "1.1.2.1"));
    }
}
