//! Attempts that only ask for the way.
//!
//! To sort the addresses of a name (RFC 6724) a resolver library connects a datagram socket to each of
//! them, sees which source address it got, and closes it. Nothing is sent. The report lists these as what
//! they are, attempts; but a reader who counts dependencies must not count them beside the connection
//! that they were made for.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use super::{Flow, Verdict};

/// Ports that probes go to when they are not made for a known port: glibc's, Go's and musl's.
const ANYWHERE: [u16; 3] = [0, 53, 65535];

impl Flow {
    /// A datagram socket was connected, and nothing was sent. Where the attempt was refused, nothing could
    /// be: then it may have been meant to carry data.
    pub fn is_route_probe(&self) -> bool {
        self.protocol == "udp" && self.bytes_sent == 0
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
enum Target<'a> {
    Name(&'a str),
    Address(IpAddr),
}

/// For each flow, whether it is a route probe for another one in the list: one of the same subject to the
/// same name or address.
///
/// A refused one must also have the port of the other, or one that only probes go to: a refused datagram
/// to another port may have been a dependency of its own.
pub fn told_by_another(flows: &[Flow]) -> Vec<bool> {
    let mut reached: HashMap<(u64, Target<'_>), BTreeSet<u16>> = HashMap::new();
    for flow in flows.iter().filter(|flow| !flow.is_route_probe()) {
        for key in targets(flow) {
            reached.entry(key).or_default().insert(flow.port);
        }
    }
    let told = |flow: &Flow| {
        flow.is_route_probe()
            && targets(flow).any(|key| {
                reached.get(&key).is_some_and(|ports| {
                    flow.verdict != Verdict::Deny
                        || ANYWHERE.contains(&flow.port)
                        || ports.contains(&flow.port)
                })
            })
    };
    flows.iter().map(told).collect()
}

/// Nothing for an unknown subject: it may be several.
fn targets(flow: &Flow) -> impl Iterator<Item = (u64, Target<'_>)> {
    let name = flow.name.as_deref().map(Target::Name);
    name.into_iter()
        .chain([Target::Address(flow.address)])
        .filter_map(|target| Some((flow.subject?, target)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Attribution, Outcome};

    fn flow(protocol: &str, name: Option<&str>, address: &str, port: u16, bytes: u64) -> Flow {
        Flow {
            subject: Some(1),
            name: name.map(str::to_owned),
            address: address.parse().unwrap(),
            port,
            protocol: protocol.to_owned(),
            verdict: Verdict::Allow,
            rule: "default".to_owned(),
            attempts: 1,
            outcome: Outcome::Unknown,
            bytes_sent: bytes,
            first_seen: String::new(),
            last_seen: String::new(),
            attribution: Attribution::Exact,
        }
    }

    fn told(probe: Flow, other: Flow) -> bool {
        let both = told_by_another(&[probe, other]);
        assert!(!both[1], "what was sent is told");
        both[0]
    }

    #[test]
    fn a_probe_belongs_to_what_it_was_made_for() {
        let probe = || flow("udp", Some("a.example"), "10.0.0.1", 443, 0);
        let real = || flow("tcp", Some("a.example"), "10.0.0.2", 443, 60);
        assert!(told(probe(), real()));
        assert!(told(
            probe(),
            flow("udp", Some("a.example"), "10.0.0.2", 443, 60)
        ));
        assert!(told(flow("udp", None, "10.0.0.2", 0, 0), real()));
        // Another name at another address, another process, one that is not known, nobody else at all.
        assert!(!told(
            flow("udp", Some("b.example"), "10.0.0.1", 443, 0),
            real()
        ));
        let of = |subject, flow| Flow { subject, ..flow };
        assert!(!told(of(Some(2), probe()), real()));
        assert!(!told(of(None, probe()), of(None, real())));
        assert_eq!(told_by_another(&[probe(), probe()]), [false, false]);
        // It sent something, or is no datagram.
        assert!(!told(
            flow("udp", Some("a.example"), "10.0.0.1", 443, 40),
            real()
        ));
        assert!(!told(
            flow("tcp", Some("a.example"), "10.0.0.1", 443, 0),
            real()
        ));
    }

    #[test]
    fn a_refused_datagram_is_no_probe_for_another_port() {
        let refused = |port| Flow {
            verdict: Verdict::Deny,
            ..flow("udp", Some("a.example"), "10.0.0.1", port, 0)
        };
        let real = || flow("tcp", Some("a.example"), "10.0.0.1", 443, 60);
        assert!(!told(refused(8125), real()));
        for port in [443, 0, 53, 65535] {
            assert!(told(refused(port), real()), "{port}");
        }
        // Let through, it is known to have sent nothing.
        assert!(told(
            flow("udp", Some("a.example"), "10.0.0.1", 8125, 0),
            real()
        ));
    }
}
