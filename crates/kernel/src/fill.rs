//! A compiled policy into the kernel's tables, before anything is attached.

use std::net::{IpAddr, Ipv6Addr};

use blackstart_core::name::Name;
use blackstart_core::policy::{Failure, MAX_INSPECTED, Rank};
use blackstart_core::tables::{
    BUILTIN, Effect, LeaseEnd, Outcome, Paths, Protocol, RULE_DEFAULT, RuleId, Ruling, Tables,
};
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

    /// As `bs_name_scan` computes it: over the hashes of the labels, from the left.
    pub(crate) fn of_name(self, name: &Name) -> u64 {
        let wire = name.as_wire();
        let (mut hash, mut at) = (self.step(self.name, 0), 0);
        while wire[at] != 0 {
            let end = at + 1 + usize::from(wire[at]);
            hash = self.step(hash, self.of_label(&wire[at + 1..end]));
            at = end;
        }
        hash ^= hash >> 32;
        if hash == 0 { 1 } else { hash }
    }

    /// As `bs_word_next` computes it: over the octets of a lower-case label, eight at a time.
    pub(crate) fn of_label(self, label: &[u8]) -> u64 {
        let hash = label
            .chunks(8)
            .fold(self.label ^ label.len() as u64, |hash, octets| {
                let mut word = [0; 8];
                word[..octets.len()].copy_from_slice(octets);
                self.step(hash, u64::from_le_bytes(word))
            });
        hash ^ hash >> 32
    }

    /// As `bs_hash_step`.
    fn step(self, hash: u64, word: u64) -> u64 {
        (hash ^ word)
            .wrapping_mul(self.multiplier)
            .swap_bytes()
            .wrapping_mul(self.multiplier)
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

/// Where a policy's rows begin in the tables that it shares with another one, and its rules among theirs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Offsets {
    pub(crate) state: u32,
    pub(crate) class: u32,
    pub(crate) choice: u32,
    pub(crate) step: u32,
    pub(crate) end: u32,
    pub(crate) rule: u32,
}

/// All policy tables as rows, ready to be written once the maps have their sizes.
pub(crate) struct PolicyRows {
    pub(crate) states: Rows,
    /// Without their places yet.
    pub(crate) edges: Vec<abi::bs_edge>,
    pub(crate) classes: Rows,
    pub(crate) choices: Rows,
    pub(crate) ports: Rows,
    pub(crate) prefixes: Rows,
    pub(crate) steps: Rows,
    pub(crate) ends: Rows,
    /// What the programs read first.
    pub(crate) head: abi::bs_policy,
    /// Kinds of octets in the automata over programs and sockets.
    pub(crate) kinds: [[u8; 256]; 2],
}

/// How many seconds a lease lasts at least, where leases end.
pub(crate) fn lease_floor(tables: &Tables) -> u32 {
    match tables.lease {
        LeaseEnd::Run => 0,
        LeaseEnd::Ttl { at_least } => at_least,
    }
}

impl PolicyRows {
    pub(crate) fn new(tables: &Tables, keys: NameKeys, at: &Offsets) -> Self {
        let mut rows = Self {
            states: Rows::default(),
            edges: Vec::new(),
            classes: Rows::default(),
            choices: Rows::default(),
            ports: Rows::default(),
            prefixes: Rows::default(),
            steps: Rows::default(),
            ends: Rows::default(),
            head: abi::bs_policy {
                tree: tables.tree_selectors(),
                default_deny: u32::from(tables.default_deny),
                enforce: u32::from(tables.enforce),
                has_prefixes: u32::from(!tables.prefixes.is_empty()),
                has_selectors: u32::from(!tables.selectors.is_empty()),
                root: at.state,
                none: at.class,
                expiry: u32::from(tables.lease != LeaseEnd::Run),
                lease_floor: lease_floor(tables),
                hidden: u32::from(tables.hidden_deny),
                inspect: ports(&tables.inspect),
                search: searches(&tables.search, keys),
                ..abi::zeroed()
            },
            kinds: [[0; 256]; 2],
        };
        rows.names(tables, keys, at);
        rows.classes(tables, at);
        for (net, class) in &tables.prefixes {
            rows.prefixes.push(&prefix_key(net), &(class + at.class));
        }
        let selectors = |matching: &Vec<u32>| matching.iter().fold(0, |bits, &id| bits | 1 << id);
        let ends = tables.programs.matching.iter().map(selectors).collect();
        rows.paths(0, &tables.programs, ends, at);
        let classes = tables.socket_classes.iter();
        let ends = classes.map(|class| u64::from(class + at.class)).collect();
        rows.paths(1, &tables.sockets, ends, at);
        rows
    }

    fn names(&mut self, tables: &Tables, keys: NameKeys, at: &Offsets) {
        let row = |id: u32| {
            let state = &tables.states[id as usize];
            abi::bs_state {
                end: state.end + at.class,
                below: state.below + at.class,
                star: if state.star == 0 {
                    0
                } else {
                    state.star + at.state
                },
                edges: state.edges.len() as u32,
            }
        };
        for (id, state) in (0..).zip(&tables.states) {
            self.states.push(&(id + at.state), &row(id));
            for (label, next) in &state.edges {
                self.edges.push(abi::bs_edge {
                    label: keys.of_label(label),
                    from: id + at.state,
                    to: next + at.state,
                    state: row(*next),
                });
            }
        }
    }

    fn classes(&mut self, tables: &Tables, at: &Offsets) {
        for (id, choice) in (at.choice..).zip(&tables.choices) {
            self.choices.push(
                &id,
                &abi::bs_choice {
                    yes: word(choice.yes, at),
                    no: word(choice.no, at),
                    selector: u32::from(choice.selector),
                    pad: 0,
                },
            );
        }
        for (id, class) in (at.class..).zip(&tables.classes) {
            self.classes.push(
                &id,
                &abi::bs_class {
                    reach: word(class.outcome, at),
                    lookup: word(class.lookup, at),
                    by_port: u8::from(!class.by_port.is_empty()),
                    denial: class.denial,
                    pad: [0; 6],
                },
            );
            for range in &class.by_port {
                let ruling = word(range.outcome, at);
                for (port, bits) in port_prefixes(range.first, range.last) {
                    let key = abi::bs_port_key {
                        prefixlen: 40 + bits,
                        class_be: id.to_be_bytes(),
                        protocol: protocol_number(range.protocol),
                        port_be: port.to_be_bytes(),
                        pad: 0,
                    };
                    self.ports.push(&key, &ruling);
                }
            }
        }
    }

    fn paths(&mut self, automaton: usize, paths: &Paths, ends: Vec<u64>, at: &Offsets) {
        let (step, end) = (at.step + self.steps.len(), at.end + self.ends.len());
        self.head.kinds[automaton] = paths.kinds;
        self.head.steps[automaton] = step;
        self.head.ends[automaton] = end;
        for (id, next) in (step..).zip(&paths.next) {
            self.steps.push(&id, next);
        }
        for (id, value) in (end..).zip(&ends) {
            self.ends.push(&id, value);
        }
        let known = self.kinds[automaton].iter_mut().zip(&paths.kind);
        known.for_each(|(kind, of)| *kind = *of);
    }
}

/// Rows behind the last home that an edge may have its place in.
pub(crate) const EDGES_BEHIND: u32 = REACH - 1;

const REACH: u32 = abi::bs_edge_table::BS_EDGE_REACH.0;
/// `BS_EDGE_SPREAD`.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// A place for each of a policy's edges in a table of `homes` (a power of two) rows and [`EDGES_BEHIND`] more, as
/// abi.h says at `struct bs_edge`: the rows in use in the order of their places. `None` where one lies too far from
/// home.
pub(crate) fn place_edges(edges: &[abi::bs_edge], homes: u32) -> Option<Vec<(u32, abi::bs_edge)>> {
    let home = |edge: &abi::bs_edge| {
        let spread = edge
            .label
            .wrapping_add(u64::from(edge.from).wrapping_mul(SPREAD));
        (spread >> 20) as u32 & (homes - 1)
    };
    let mut placed: Vec<_> = edges.iter().map(|edge| (home(edge), *edge)).collect();
    placed.sort_unstable_by_key(|(home, _)| *home);
    let mut free = 0;
    for (place, _) in &mut placed {
        let home = *place;
        *place = home.max(free);
        if *place - home >= REACH {
            return None;
        }
        free = *place + 1;
    }
    Some(placed)
}

/// An outcome as the kernel reads it: abi.h, "A ruling is one word".
pub(crate) fn word(outcome: Outcome, at: &Offsets) -> u64 {
    let ruling = match outcome {
        Outcome::Is(ruling) => ruling,
        Outcome::Choice(id) => {
            return u64::from(abi::bs_effect::BS_EFFECT_CHOICE.0) << 32 | u64::from(id + at.choice);
        }
    };
    let Ruling {
        effect,
        rule,
        rank,
        enforce,
        failure,
    } = ruling;
    let code = match effect {
        Effect::None => return 0,
        Effect::Allow => abi::bs_effect::BS_EFFECT_ALLOW,
        Effect::Deny => abi::bs_effect::BS_EFFECT_DENY,
        Effect::Search => abi::bs_effect::BS_EFFECT_SEARCH,
    };
    let rule = numbered(rule, at.rule);
    let rank = match rank {
        Rank::Plain => 0,
        Rank::Waiver => 1,
        Rank::Final => 2,
    };
    let mut word = u64::from(rule) | u64::from(code.0) << 32 | rank << 40;
    if effect == Effect::Deny {
        if enforce {
            word |= u64::from(abi::bs_flags::BS_ENFORCE.0) << 40;
        }
        word |= match failure {
            Failure::Refuse(errno) => u64::from(errno),
            Failure::Blackhole => u64::from(abi::bs_failure::BS_BLACKHOLE.0),
        } << 48;
    }
    word
}

/// A rule of the policy whose rules come after `first` others in the record. Blackstart's own are the same under every
/// policy.
pub(crate) fn numbered(rule: RuleId, first: u32) -> RuleId {
    if rule == RULE_DEFAULT || rule >= BUILTIN {
        rule
    } else {
        rule + first
    }
}

fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => libc::IPPROTO_TCP as u8,
        Protocol::Udp => libc::IPPROTO_UDP as u8,
        Protocol::Other => 0,
    }
}

/// A list of ports; those for which there is no room were refused with the policy.
fn ports(ports: &[u16]) -> [u16; abi::bs_port_list::BS_PORTS.0 as usize] {
    let mut list = [0; abi::bs_port_list::BS_PORTS.0 as usize];
    for (place, port) in list.iter_mut().zip(ports) {
        *place = *port;
    }
    list
}

/// The domains of a search list, as far as there is room: a name that is short for one of the others is what it seems.
fn searches(search: &[Name], keys: NameKeys) -> [abi::bs_search; SEARCHES] {
    let mut list = [abi::zeroed::<abi::bs_search>(); SEARCHES];
    let fits = |domain: &&Name| (1..=LABELS).contains(&domain.labels_from_root().len());
    for (place, domain) in list.iter_mut().zip(search.iter().filter(fits)) {
        let mut labels: Vec<u64> = domain
            .labels_from_root()
            .into_iter()
            .map(|label| keys.of_label(label))
            .collect();
        labels.reverse();
        place.label[..labels.len()].copy_from_slice(&labels);
        place.labels = labels.len() as u32;
    }
    list
}

const SEARCHES: usize = abi::bs_search_list::BS_SEARCHES.0 as usize;
const LABELS: usize = abi::bs_search_list::BS_SEARCH_LABELS.0 as usize;

const _: () = assert!(MAX_INSPECTED == abi::bs_port_list::BS_PORTS.0 as usize);

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

    /// A label whose octets differ in the highest bits of two words: what one multiplication would let cancel out.
    #[test]
    fn labels_and_names_have_hashes_of_their_own() {
        let keys = NameKeys {
            name: 3,
            label: 5,
            multiplier: 0x1234_5678_9abc_def1,
        };
        let mut labels = vec![b"a".to_vec(), b"b".to_vec(), b"ab".to_vec(), vec![b'a'; 63]];
        for length in [7, 8, 9, 16, 17] {
            labels.push(vec![b'x'; length]);
        }
        let mut turned = vec![b'x'; 16];
        turned[7] ^= 0x80;
        labels.push(turned.clone());
        turned[15] ^= 0x80;
        labels.push(turned);
        let mut hashes: Vec<_> = labels.iter().map(|label| keys.of_label(label)).collect();
        let name = |text: &str| keys.of_name(&Name::parse(text).unwrap());
        hashes.extend(["a.b", "b.a", "ab", "a.b.c", "."].map(name));
        hashes.sort_unstable();
        let all = hashes.len();
        hashes.dedup();
        assert_eq!(hashes.len(), all);
    }

    #[test]
    fn each_edge_is_found_from_its_home() {
        let keys = NameKeys::random().unwrap();
        let edge = |n: u32| abi::bs_edge {
            label: keys.of_label(format!("n{}", n % 5000).as_bytes()),
            from: n / 5000,
            to: n + 1,
            ..abi::zeroed()
        };
        let edges: Vec<_> = (0..20_000).map(edge).collect();
        let placed = place_edges(&edges, 65_536).expect("every third row in use");
        assert_eq!(placed.len(), edges.len());
        assert!(placed.windows(2).all(|pair| pair[0].0 < pair[1].0));
        let places: std::collections::HashMap<u32, abi::bs_edge> = placed.into_iter().collect();
        for edge in &edges {
            // As bs_edge_find looks for it.
            let spread = edge
                .label
                .wrapping_add(u64::from(edge.from).wrapping_mul(SPREAD));
            let home = (spread >> 20) as u32 & 65_535;
            let row = (home..home + REACH)
                .map_while(|at| places.get(&at))
                .find(|row| (row.label, row.from) == (edge.label, edge.from));
            assert_eq!(row.map(|row| row.to), Some(edge.to));
        }
        assert!(place_edges(&edges, 16_384).is_none(), "more than rows");
    }

    #[test]
    fn v4_prefixes_are_mapped() {
        let key = prefix_key(&"10.0.0.0/8".parse().unwrap());
        assert_eq!(key.prefixlen, 104);
        assert_eq!(address(key.addr).to_string(), "10.0.0.0");
    }
}
