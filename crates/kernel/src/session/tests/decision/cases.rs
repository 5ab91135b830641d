//! Random policies, and attempts and names that come near what they speak of.

use std::net::{IpAddr, Ipv4Addr};

use blackstart_core::name::{Name, Pattern};
use blackstart_core::path::{PathPattern, Selector};
use blackstart_core::policy::{Effect as Says, Failure, Policy, PortRange, Rank, Rule, Target};
use blackstart_core::report::Mode;
use blackstart_core::tables::Protocol;
use ipnet::IpNet;
use proptest::prelude::*;
use proptest::sample::Index;

/// Attempts and names compared under one policy.
pub(super) const ATTEMPTS: usize = 1600;
pub(super) const NAMES: usize = 300;
pub(super) const PATHS: usize = 100;
/// What rules may say of a process, or of a socket.
const PATTERNS: [&str; 18] = [
    "a",
    "b",
    "ab",
    "/bin/a",
    "/bin/*",
    "/opt/*/a",
    "/opt/**/b",
    "/**",
    "a?",
    "*b",
    "/opt/[ab]/**",
    "/{bin,opt}/a",
    "/var/run/a",
    "/run/*",
    "/var/**/b",
    "/v*/r?n/ab",
    "/run/.//x/../b",
    "/{var/run,bin}/a",
];

/// Everything of one policy.
#[derive(Debug, Clone)]
pub(super) struct Case {
    pub(super) policy: Policy,
    /// Each rule's pattern as text, for names that come near it.
    pub(super) patterns: Vec<String>,
    pub(super) search: Vec<Name>,
    pub(super) own: Vec<IpAddr>,
    pub(super) resolvers: Vec<IpAddr>,
    pub(super) hosts: Vec<(Near, IpAddr)>,
    pub(super) leased: Vec<(IpAddr, Vec<Link>)>,
    pub(super) attempts: Vec<(IpAddr, Index, u8, Port)>,
    pub(super) names: Vec<Near>,
    /// What processes execute, and sockets are called; also who tries and looks up, in turn.
    pub(super) paths: Vec<String>,
    pub(super) enforce: bool,
    pub(super) break_glass: bool,
    /// The policy has taken over from another one.
    pub(super) reloaded: bool,
}

/// A name asked for, and where its CNAMEs led.
pub(super) type Link = (Near, Vec<Near>);

/// A name that is, or is nearly, what some rule speaks of.
#[derive(Debug, Clone)]
pub(super) struct Near {
    rule: Index,
    fill: Vec<Vec<u8>>,
    change: Change,
}

#[derive(Debug, Clone)]
pub(super) enum Change {
    Nothing,
    Below(Vec<u8>),
    Above,
    Prefixed(Vec<u8>),
    Joined,
    Letter(Index, u8),
    Upper,
    Only,
}

/// A port that some rule speaks of, or its neighbour; or any.
#[derive(Debug, Clone)]
pub(super) enum Port {
    First(i32),
    Last(i32),
    Number(u16),
}

impl Near {
    /// Labels, leftmost first, case as it would be sent.
    pub(super) fn labels(&self, patterns: &[String]) -> Vec<Vec<u8>> {
        let mut fill = self.fill.iter().cycle().cloned();
        let mut any = || fill.next().unwrap_or_else(|| b"z".to_vec());
        if patterns.is_empty() || matches!(self.change, Change::Only) {
            return self.fill.clone();
        }
        let text = self.rule.get(patterns).trim_start_matches('.');
        let mut labels: Vec<Vec<u8>> = text
            .split('.')
            .map(|label| if label == "*" { any() } else { label.into() })
            .collect();
        match &self.change {
            Change::Nothing | Change::Only => {}
            Change::Below(label) => labels.insert(0, label.clone()),
            Change::Above => drop(labels.remove(0)),
            Change::Prefixed(label) => {
                let first = [label, &labels[0][..]].concat();
                labels[0] = first;
            }
            Change::Joined if labels.len() > 1 => {
                let first = labels.remove(0);
                labels[0] = [&first, &b"-"[..], &labels[0]].concat();
            }
            Change::Joined => {}
            Change::Letter(at, octet) => {
                let label = at.index(labels.len());
                let octets = &mut labels[label];
                let place = at.index(octets.len());
                octets[place] = *octet;
            }
            Change::Upper => labels.iter_mut().for_each(|l| l.make_ascii_uppercase()),
        }
        labels
    }

    pub(super) fn name(&self, patterns: &[String]) -> Option<Name> {
        Name::from_labels(self.labels(patterns)).ok()
    }
}

impl Port {
    pub(super) fn number(&self, policy: &Policy, rule: &Index) -> u16 {
        let range = (!policy.rules.is_empty())
            .then(|| rule.get(&policy.rules).ports)
            .flatten();
        let near = |port: u16, by: i32| (i32::from(port) + by).clamp(0, 65535) as u16;
        match (self, range) {
            (Self::First(by), Some(range)) => near(range.first, *by),
            (Self::Last(by), Some(range)) => near(range.last, *by),
            (Self::First(_), None) => 53,
            (Self::Last(_), None) => 443,
            (Self::Number(port), _) => *port,
        }
    }
}

fn any_label() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        20 => "[abAB]{1,2}".prop_map(String::into_bytes),
        4 => "[a-zA-Z0-9_-]{1,63}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 1..4),
    ]
}

fn any_near() -> impl Strategy<Value = Near> {
    let change = prop_oneof![
        4 => Just(Change::Nothing),
        3 => any_label().prop_map(Change::Below),
        2 => Just(Change::Above),
        2 => any_label().prop_map(Change::Prefixed),
        1 => Just(Change::Joined),
        2 => (any::<Index>(), any::<u8>()).prop_map(|(at, octet)| Change::Letter(at, octet)),
        1 => Just(Change::Upper),
        2 => Just(Change::Only),
    ];
    (
        any::<Index>(),
        prop::collection::vec(any_label(), 0..6),
        change,
    )
        .prop_map(|(rule, fill, change)| Near { rule, fill, change })
}

/// At which names may not permit, and their neighbours.
const LINK_LOCAL: [&str; 6] = [
    "169.254.169.254",
    "::ffff:169.254.0.1",
    "169.255.0.0",
    "fe80::1",
    "fec0::",
    "fd00:ec2::254",
];

fn any_address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        6 => (0u32..16).prop_map(|n| IpAddr::from((0x0a00_0000 | n).to_be_bytes())),
        4 => (0u128..16).prop_map(|n| IpAddr::from(((0xfd00 << 112) | n).to_be_bytes())),
        1 => (0u8..4).prop_map(|n| IpAddr::V4(Ipv4Addr::new(127, 0, 0, n))),
        1 => (0u128..3).prop_map(|n| IpAddr::from(n.to_be_bytes())),
        2 => prop::sample::select(LINK_LOCAL.to_vec()).prop_map(|text| text.parse().unwrap()),
        1 => any::<u32>().prop_map(|n| IpAddr::from(n.to_be_bytes())),
        1 => any::<u128>().prop_map(|n| IpAddr::from(n.to_be_bytes())),
    ]
}

fn any_net() -> impl Strategy<Value = IpNet> {
    let up = prop_oneof![Just(0u8), 0u8..9, 0u8..33, Just(24)];
    (any_address(), up).prop_map(|(address, up)| {
        let address = address.to_canonical();
        let most: u8 = if address.is_ipv4() { 32 } else { 128 };
        IpNet::new(address, most - up).unwrap().trunc()
    })
}

fn any_rule() -> impl Strategy<Value = (Rule, Option<String>)> {
    let label = prop_oneof![
        6 => "[ab]{1,2}",
        1 => "[a-z0-9-]{1,20}",
        1 => Just("*".to_owned()),
    ];
    let pattern = (
        prop::sample::select(vec!["", ".", "*."]),
        prop::collection::vec(label, 1..5),
    )
        .prop_filter_map("no pattern", |(reach, labels)| {
            let text = format!("{reach}{}", labels.join("."));
            let pattern = Pattern::parse(&text).ok()?;
            Some((Target::Name(pattern), Some(text)))
        });
    let target = prop_oneof![
        6 => pattern,
        3 => any_net().prop_map(|net| (Target::Net(net), None)),
        1 => Just((Target::Any, None)),
        1 => prop::sample::select(PATTERNS.to_vec()).prop_map(|text| {
            let path = PathPattern::parse(text).expect("a pattern");
            (Target::Unix(path), None)
        }),
    ];
    let ports = prop_oneof![
        3 => Just(None),
        1 => Just(Some((443, 443))),
        1 => Just(Some((1, u16::MAX))),
        2 => (1u16..500, 0u16..3000).prop_map(|(first, width)| Some((first, first + width))),
    ];
    let protocol = prop_oneof![
        3 => Just(None),
        1 => Just(Some(Protocol::Tcp)),
        1 => Just(Some(Protocol::Udp))
    ];
    let process = prop_oneof![
        3 => Just(None),
        2 => (prop::sample::select(PATTERNS.to_vec()), any::<bool>()).prop_map(|(text, tree)| {
            let program = PathPattern::parse(text).expect("a pattern");
            Some(Selector { tree, program })
        }),
    ];
    let rank = prop_oneof![6 => Just(Rank::Plain), 1 => Just(Rank::Waiver), 1 => Just(Rank::Final)];
    let failure = prop_oneof![
        2 => Just(Failure::REFUSE),
        1 => (1u8..134).prop_map(Failure::Refuse),
        1 => Just(Failure::Blackhole)
    ];
    (
        (any::<bool>(), target, ports, protocol),
        (process, rank, 0u16..2, prop::bool::weighted(0.3), failure),
    )
        .prop_map(
            |(
                (allow, (target, text), ports, protocol),
                (process, rank, layer, observe, failure),
            )| {
                let allow = allow || rank == Rank::Waiver;
                let rule = Rule {
                    ports: ports.map(|(first, last)| PortRange { first, last }),
                    protocol,
                    process,
                    rank,
                    layer,
                    mode: if observe {
                        Mode::Observe
                    } else {
                        Mode::Enforce
                    },
                    failure,
                    ..Rule::new(if allow { Says::Allow } else { Says::Deny }, target)
                };
                (rule, text)
            },
        )
}

fn any_path() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "(/(bin|opt))?(/[ab]{1,2}){0,3}/[ab]{1,2}",
        2 => "[ab]{1,2}",
        4 => "(/(var|run|bin|opt|\\.|\\.\\.|)){0,5}/[ab.]{0,2}",
        1 => "/[ -~]{0,200}",
        1 => "(/opt){1,40}/x/[ab]",
    ]
}

/// Any policy, and what is tried under it.
pub(super) fn any_case() -> impl Strategy<Value = Case> {
    let port = prop_oneof![
        (-1i32..2).prop_map(Port::First),
        (-1i32..2).prop_map(Port::Last),
        prop::sample::select(vec![0, 1, 53, 80, 443, u16::MAX]).prop_map(Port::Number),
        any::<u16>().prop_map(Port::Number),
    ];
    let protocol = prop::sample::select(vec![6u8, 17, 136, 1, 58, 132, 0, 255]);
    let link = (any_near(), prop::collection::vec(any_near(), 0..4));
    let names = prop::collection::vec(any_near(), NAMES);
    let attempts = prop::collection::vec((any_address(), any::<Index>(), protocol, port), ATTEMPTS);
    (
        (
            any::<bool>(),
            any::<bool>(),
            prop::collection::vec(any_rule(), 0..16),
        ),
        prop::collection::vec(any_near(), 0..2),
        (
            prop::collection::vec(any_address(), 0..3),
            prop::collection::vec(any_address(), 0..3),
        ),
        prop::collection::vec((any_near(), any_address()), 0..6),
        prop::collection::vec((any_address(), prop::collection::vec(link, 1..9)), 0..30),
        (attempts, names, prop::collection::vec(any_path(), PATHS)),
        (any::<bool>(), any::<bool>(), any::<bool>()),
    )
        .prop_map(
            |(
                (allow, observe, rules),
                search,
                (own, resolvers),
                hosts,
                leased,
                (attempts, names, paths),
                (enforce, break_glass, reloaded),
            )| {
                let (rules, patterns): (Vec<Rule>, Vec<_>) = rules.into_iter().unzip();
                let mut patterns: Vec<String> = patterns.into_iter().flatten().collect();
                // Near those names, too.
                patterns.extend(["2.in-addr.arpa", "8.b.d.ip6.arpa"].map(String::from));
                let policy = Policy {
                    mode: if observe {
                        Mode::Observe
                    } else {
                        Mode::Enforce
                    },
                    default: if allow { Says::Allow } else { Says::Deny },
                    rules,
                    ..Policy::default()
                };
                let search = search
                    .iter()
                    .filter_map(|near| near.name(&patterns))
                    .collect();
                Case {
                    policy,
                    patterns,
                    search,
                    own,
                    resolvers,
                    hosts,
                    leased,
                    attempts,
                    names,
                    paths,
                    enforce,
                    break_glass,
                    reloaded,
                }
            },
        )
}
