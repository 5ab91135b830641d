//! Attempts that only ask for the way.
//!
//! To sort the addresses of a name (RFC 6724) a resolver library connects a datagram socket to each of
//! them, sees which source address it got, and closes it. Nothing is sent. The report lists these as what
//! they are, attempts; but a reader who counts dependencies must not count them beside the connection
//! that they were made for.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Flow, Verdict};

/// Ports that probes go to when they are not made for a known port: glibc's, Go's and musl's.
const ANYWHERE: [u16; 3] = [0, 53, 65535];

impl Flow {
    /// What a proxy was asked for: where that is, the proxy found out.
    pub fn is_proxied(&self) -> bool {
        self.name.is_some() && self.address.is_unspecified()
    }

    /// A datagram socket was connected, and nothing was sent. Where the attempt was refused, nothing could
    /// be: then it may have been meant to carry data.
    pub fn is_route_probe(&self) -> bool {
        self.protocol == "udp" && self.bytes_sent == 0
    }
}

/// What of a flow says whether it is told by another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attempt<N> {
    pub(crate) subject: Option<u64>,
    pub(crate) name: Option<N>,
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    pub(crate) is_probe: bool,
    pub(crate) verdict: Verdict,
}

/// For each flow, whether it is a route probe for another one in the list: one of the same subject to the
/// same name or address.
///
/// A refused one must also have the port of the other, or one that only probes go to: a refused datagram
/// to another port may have been a dependency of its own.
pub fn told_by_another(flows: &[Flow]) -> Vec<bool> {
    told(flows.len(), |at| {
        let flow = &flows[at];
        Attempt {
            subject: flow.subject,
            name: flow.name.as_deref(),
            address: flow.address,
            port: flow.port,
            is_probe: flow.is_route_probe(),
            verdict: flow.verdict,
        }
    })
}

/// The same of flows in whatever form. In little memory: a run may have nothing but probes.
pub(crate) fn told<N: Ord>(count: usize, attempt: impl Fn(usize) -> Attempt<N>) -> Vec<bool> {
    let mut told = vec![false; count];
    // Nothing of an unknown subject: it may be several.
    let mut order: Vec<usize> = (0..count)
        .filter(|&at| attempt(at).subject.is_some())
        .collect();
    if order.iter().any(|&at| attempt(at).is_probe) {
        tell(&mut told, &mut order, &attempt, |of| Some(of.address));
        tell(&mut told, &mut order, &attempt, |of| of.name);
    }
    told
}

/// Mark the probes for another attempt of the same subject at the same target.
fn tell<N, T: Ord>(
    told: &mut [bool],
    order: &mut [usize],
    attempt: &impl Fn(usize) -> Attempt<N>,
    target: impl Fn(Attempt<N>) -> Option<T>,
) {
    let key = |at: usize| {
        let of = attempt(at);
        (of.subject, target(of))
    };
    order.sort_unstable_by_key(|&at| key(at));
    for group in order.chunk_by(|&a, &b| key(a) == key(b)) {
        if key(group[0]).1.is_none() {
            continue;
        }
        let of_kind = |probe: bool| {
            let flows = group.iter().map(|&at| (at, attempt(at)));
            flows.filter(move |(_, of)| of.is_probe == probe)
        };
        if of_kind(true).next().is_none() {
            continue;
        }
        let ports: BTreeSet<u16> = of_kind(false).map(|(_, of)| of.port).collect();
        for (at, probe) in of_kind(true).filter(|_| !ports.is_empty()) {
            told[at] |= probe.verdict != Verdict::Deny
                || ANYWHERE.contains(&probe.port)
                || ports.contains(&probe.port);
        }
    }
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
