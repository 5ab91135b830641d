//! Which service provides a destination.
//!
//! A look-up costs as many steps as a name has labels, or as there are lengths of prefixes, however large
//! the catalog is.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

use super::{At, Endpoint, Service, ServiceId};
use crate::name::{Name, Reach};
use crate::policy::{PortRange, Target};
use crate::tables::Protocol;

/// What a process reached for, as far as it is known.
#[derive(Debug, Clone, Copy)]
pub enum Destination<'a> {
    /// Something on the network.
    Net {
        /// Under this name, if under any. Where a service provides the name, its address is not looked at:
        /// an address often serves many names.
        name: Option<&'a Name>,
        /// At this address; none for a mere lookup.
        address: Option<IpAddr>,
        /// On this port; none for a mere lookup, which may be for any.
        port: Option<u16>,
        /// With this protocol; none for a mere lookup.
        protocol: Option<Protocol>,
    },
    /// A unix socket: its path, or `@` and its abstract name.
    Unix(&'a str),
}

/// One endpoint: the service, and which of those that it provides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Provided {
    pub(super) service: ServiceId,
    pub(super) index: u32,
}

impl Provided {
    pub(super) fn endpoint(self, services: &[Service]) -> &Endpoint {
        &services[self.service.index()].provides[self.index as usize]
    }
}

/// A node of the tree of names; 0 is the root.
type Node = u32;

/// From a node by a label, or by the `*` that stands for any one.
type Step = (Node, Option<Box<[u8]>>);

/// Every endpoint by what it is reached by.
#[derive(Debug, Default)]
pub(super) struct Owners {
    /// Where each step leads. The labels are those of the patterns, the one nearest the root first.
    steps: HashMap<Step, Node>,
    /// The patterns that end at a node.
    ends: HashMap<Node, Vec<(Reach, Provided)>>,
    nodes: Node,
    nets: HashMap<IpNet, Vec<Provided>>,
    /// The lengths of prefixes that there are, longest first; of IPv4, then of IPv6.
    lengths: [BTreeSet<Reverse<u8>>; 2],
    sockets: HashMap<String, Provided>,
}

impl Owners {
    /// Take in an endpoint. Where two are the same, the first one stays.
    pub(super) fn add(&mut self, at: &At, provided: Provided) {
        let target = match at {
            At::Unix(path) => {
                self.sockets.entry(path.clone()).or_insert(provided);
                return;
            }
            At::Net { target, .. } => target,
        };
        if let Target::Name(pattern) = target {
            let mut node = 0;
            for label in pattern.labels_from_root() {
                let next = self.nodes + 1;
                node = *self
                    .steps
                    .entry((node, label.map(Into::into)))
                    .or_insert(next);
                self.nodes = self.nodes.max(node);
            }
            let end = (pattern.reach(), provided);
            self.ends.entry(node).or_default().push(end);
        }
        for net in target.prefixes() {
            self.lengths[usize::from(net.addr().is_ipv6())].insert(Reverse(net.prefix_len()));
            self.nets.entry(net).or_default().push(provided);
        }
    }

    pub(super) fn of(
        &self,
        services: &[Service],
        destination: &Destination<'_>,
    ) -> Option<ServiceId> {
        let (name, address, port, protocol) = match *destination {
            Destination::Unix(path) => return self.sockets.get(path).map(|found| found.service),
            Destination::Net {
                name,
                address,
                port,
                protocol,
            } => (name, address, port, protocol),
        };
        let fit = |provided: &Provided| Fit::of(provided.endpoint(services), port, protocol);
        name.and_then(|name| self.of_name(name, services, fit))
            .or_else(|| self.of_address(address?, fit))
            .map(|found| found.service)
    }

    fn of_name(
        &self,
        name: &Name,
        services: &[Service],
        fit: impl Fn(&Provided) -> Option<Fit>,
    ) -> Option<Provided> {
        let labels = name.labels_from_root();
        let mut nodes: Vec<Node> = vec![0];
        let mut best: Option<(_, Fit, Reverse<Provided>)> = None;
        for (depth, label) in labels.iter().enumerate() {
            let whole = depth + 1 == labels.len();
            nodes = nodes
                .iter()
                .flat_map(|&node| [(node, Some((*label).into())), (node, None)])
                .filter_map(|step| self.steps.get(&step).copied())
                .collect();
            if nodes.is_empty() {
                break;
            }
            let ends = nodes.iter().filter_map(|node| self.ends.get(node));
            for (reach, provided) in ends.flatten() {
                let reaches = match reach {
                    Reach::Exact => whole,
                    Reach::Below => !whole,
                    Reach::Subtree => true,
                };
                let At::Net {
                    target: Target::Name(pattern),
                    ..
                } = &provided.endpoint(services).at
                else {
                    continue;
                };
                if reaches && let Some(fit) = fit(provided) {
                    let rank = (pattern.specificity(), fit, Reverse(*provided));
                    best = best.max(Some(rank));
                }
            }
        }
        best.map(|(_, _, Reverse(provided))| provided)
    }

    fn of_address(
        &self,
        address: IpAddr,
        fit: impl Fn(&Provided) -> Option<Fit>,
    ) -> Option<Provided> {
        self.around(address.to_canonical().into())
            .find_map(|(_, provided)| {
                provided
                    .iter()
                    .filter_map(|provided| Some((fit(provided)?, Reverse(*provided))))
                    .max()
                    .map(|(_, Reverse(provided))| provided)
            })
    }

    /// What is provided of a prefix itself, and of those that it lies within, the longest first.
    pub(super) fn around(&self, net: IpNet) -> impl Iterator<Item = (IpNet, &[Provided])> {
        self.lengths[usize::from(net.addr().is_ipv6())]
            .range(Reverse(net.prefix_len())..)
            .filter_map(move |&Reverse(length)| {
                let around = IpNet::new(net.addr(), length).ok()?.trunc();
                Some((around, self.nets.get(&around)?.as_slice()))
            })
    }
}

/// How closely an endpoint describes the port and the protocol of an attempt; the greater wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Fit {
    /// How many ports there are beside the one.
    ports: Reverse<u32>,
    protocol: bool,
}

impl Fit {
    /// None if it describes another one.
    fn of(endpoint: &Endpoint, port: Option<u16>, protocol: Option<Protocol>) -> Option<Self> {
        let At::Net {
            ports: its_ports,
            protocol: its_protocol,
            ..
        } = &endpoint.at
        else {
            return None;
        };
        let within =
            |range: &PortRange| port.is_none_or(|p| (range.first..=range.last).contains(&p));
        let fits = its_ports.as_ref().is_none_or(within)
            && its_protocol.is_none_or(|its| protocol.is_none_or(|p| p == its));
        let width = its_ports.map_or(u32::MAX, |range| u32::from(range.last - range.first));
        fits.then_some(Self {
            ports: Reverse(width),
            protocol: its_protocol.is_some(),
        })
    }
}
