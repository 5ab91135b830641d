//! A compiled policy into the kernel's tables, before anything is attached.

use std::net::{IpAddr, Ipv6Addr};

use blackstart_core::name::Name;
use blackstart_core::tables::{Effect, Protocol, Ruling, Tables};
use ipnet::IpNet;
use libbpf_rs::{MapCore, MapFlags};

use crate::abi::{self, Plain};
use crate::{Error, ErrorKind};

/// The secrets of a run's name hashes (`struct bs_config`). Without them nobody can craft two names that
/// share one.
#[derive(Clone, Copy)]
pub(crate) struct NameKeys {
    pub(crate) name: u64,
    pub(crate) label: u64,
    pub(crate) multiplier: u64,
}

impl NameKeys {
    pub(crate) fn random() -> Result<Self, Error> {
        let draw = || {
            getrandom::u64()
                .map_err(|error| Error::new(ErrorKind::Io, format!("draw random keys: {error}")))
        };
        Ok(Self {
            name: draw()?,
            label: draw()?,
            multiplier: draw()? | 1,
        })
    }

    /// As `bs_name_scan` computes it: over the wire form up to the root label.
    pub(crate) fn of_name(self, name: &Name) -> u64 {
        let wire = name.as_wire();
        let body = &wire[..wire.len() - 1];
        let hash = self.over(self.name, body.iter());
        if hash == 0 { 1 } else { hash }
    }

    /// As `bs_name_scan` computes it: over a label's octets.
    pub(crate) fn of_label(self, label: &[u8]) -> u64 {
        self.over(self.label, label.iter())
    }

    fn over<'a>(self, start: u64, octets: impl Iterator<Item = &'a u8>) -> u64 {
        let hash = octets.fold(start, |hash, &octet| {
            (hash ^ u64::from(octet)).wrapping_mul(self.multiplier)
        });
        hash ^ hash >> 32
    }
}

/// An address in the tables' form: 16 octets in network order, IPv4 mapped.
pub(crate) fn words(address: IpAddr) -> [u32; 4] {
    let v6 = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let octets = v6.octets();
    std::array::from_fn(|i| {
        u32::from_ne_bytes([
            octets[4 * i],
            octets[4 * i + 1],
            octets[4 * i + 2],
            octets[4 * i + 3],
        ])
    })
}

/// The reverse of [`words`]: a mapped address comes back as IPv4.
pub(crate) fn address(words: [u32; 4]) -> IpAddr {
    let mut octets = [0; 16];
    for (chunk, word) in octets.chunks_exact_mut(4).zip(words) {
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
    Ipv6Addr::from(octets).to_canonical()
}

/// Key of a prefix in `bs_prefixes`.
pub(crate) fn prefix_key(net: &IpNet) -> abi::bs_prefix_key {
    let bits = u32::from(net.prefix_len());
    abi::bs_prefix_key {
        prefixlen: if net.addr().is_ipv4() {
            96 + bits
        } else {
            bits
        },
        addr: words(net.network()),
    }
}

/// Rows for a map, collected and written with as few system calls as the kernel allows.
#[derive(Default)]
pub(crate) struct Rows {
    keys: Vec<u8>,
    values: Vec<u8>,
    count: u32,
}

impl Rows {
    pub(crate) fn push<K: Plain, V: Plain>(&mut self, key: &K, value: &V) {
        self.keys.extend_from_slice(abi::octets(key));
        self.values.extend_from_slice(abi::octets(value));
        self.count += 1;
    }

    pub(crate) fn len(&self) -> u32 {
        self.count
    }

    pub(crate) fn write(&self, map: &impl MapCore, what: &str) -> Result<(), Error> {
        if self.count == 0 {
            return Ok(());
        }
        map.update_batch(
            &self.keys,
            &self.values,
            self.count,
            MapFlags::ANY,
            MapFlags::ANY,
        )
        .map_err(|error| Error::caused(ErrorKind::Io, format!("fill the table of {what}"), error))
    }
}

/// All policy tables as rows, ready to be written once the maps have their sizes.
pub(crate) struct PolicyRows {
    pub(crate) states: Rows,
    pub(crate) edges: Rows,
    pub(crate) classes: Rows,
    pub(crate) ports: Rows,
    pub(crate) prefixes: Rows,
}

impl PolicyRows {
    pub(crate) fn new(tables: &Tables, keys: NameKeys) -> Self {
        let mut rows = Self {
            states: Rows::default(),
            edges: Rows::default(),
            classes: Rows::default(),
            ports: Rows::default(),
            prefixes: Rows::default(),
        };
        for (id, state) in (0u32..).zip(&tables.states) {
            rows.states.push(
                &id,
                &abi::bs_state {
                    end: state.end,
                    below: state.below,
                    star: state.star,
                    edges: state.edges.len() as u32,
                },
            );
            for (label, next) in &state.edges {
                let key = abi::bs_edge_key {
                    label: keys.of_label(label),
                    state: id,
                    pad: 0,
                };
                rows.edges.push(&key, next);
            }
        }
        for (id, class) in (0u32..).zip(&tables.classes) {
            rows.classes.push(
                &id,
                &abi::bs_class {
                    rule: class.ruling.rule,
                    lookup_rule: class.lookup.rule,
                    effect: effect(class.ruling),
                    lookup_effect: effect(class.lookup),
                    by_port: u8::from(!class.by_port.is_empty()),
                    may_deny: u8::from(class.may_deny),
                },
            );
            for range in &class.by_port {
                let ruling = abi::bs_port_ruling {
                    rule: range.ruling.rule,
                    effect: u32::from(effect(range.ruling)),
                };
                for (port, bits) in port_prefixes(range.first, range.last) {
                    let key = abi::bs_port_key {
                        prefixlen: 40 + bits,
                        class_be: id.to_be_bytes(),
                        protocol: protocol_number(range.protocol),
                        port_be: port.to_be_bytes(),
                        pad: 0,
                    };
                    rows.ports.push(&key, &ruling);
                }
            }
        }
        for (net, class) in &tables.prefixes {
            rows.prefixes.push(&prefix_key(net), class);
        }
        rows
    }
}

fn effect(ruling: Ruling) -> u8 {
    let code = match ruling.effect {
        Effect::None => abi::bs_effect::BS_EFFECT_NONE,
        Effect::Allow => abi::bs_effect::BS_EFFECT_ALLOW,
        Effect::Deny => abi::bs_effect::BS_EFFECT_DENY,
        Effect::Search => abi::bs_effect::BS_EFFECT_SEARCH,
    };
    code.0 as u8
}

fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => libc::IPPROTO_TCP as u8,
        Protocol::Udp => libc::IPPROTO_UDP as u8,
        Protocol::Other => 0,
    }
}

/// The fewest prefixes (port, leading bits) that cover `first..=last`.
fn port_prefixes(first: u16, last: u16) -> Vec<(u16, u32)> {
    let mut prefixes = Vec::new();
    let mut at = u32::from(first);
    let end = u32::from(last) + 1;
    while at < end {
        let aligned = if at == 0 {
            16
        } else {
            at.trailing_zeros().min(16)
        };
        let fits = (end - at).ilog2();
        let size = aligned.min(fits);
        prefixes.push((at as u16, 16 - size));
        at += 1 << size;
    }
    prefixes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_ranges_are_covered_once() {
        for (first, last) in [
            (0, 65535),
            (443, 443),
            (1, 65535),
            (1024, 2047),
            (7, 9),
            (65535, 65535),
        ] {
            let prefixes = port_prefixes(first, last);
            for port in 0..=u16::MAX {
                let hits = prefixes
                    .iter()
                    .filter(|(base, bits)| *bits == 0 || port >> (16 - bits) == base >> (16 - bits))
                    .count();
                assert_eq!(
                    hits,
                    usize::from((first..=last).contains(&port)),
                    "{first}-{last} at {port}"
                );
            }
        }
    }

    #[test]
    fn addresses_come_back() {
        for text in ["192.0.2.7", "2001:db8::1", "::1", "127.0.0.1"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(address(words(ip)), ip);
        }
    }

    #[test]
    fn v4_prefixes_are_mapped() {
        let key = prefix_key(&"10.0.0.0/8".parse().unwrap());
        assert_eq!(key.prefixlen, 104);
        assert_eq!(address(key.addr).to_string(), "10.0.0.0");
    }
}
