//! What the tables say is what the rules say: the compiled tables and the decision against a naive reading
//! of the policy, rule by rule.

use std::net::IpAddr;

use blackstart_core::decide::{Attempt, Decision, Lease, decide, decide_lookup};
use blackstart_core::explain::{Question, Step, Why, explain};
use blackstart_core::name::{Name, Pattern};
use blackstart_core::path::Selector;
use blackstart_core::policy::{
    Destination, Effect as Says, Failure, Policy, PortRange, Rank, Rule, Target,
};
use blackstart_core::record::Verdict;
use blackstart_core::report::Mode;
use blackstart_core::tables::{
    Effect, Facts, Protocol, RULE_DEFAULT, RULE_LINK_LOCAL, RULE_LOCAL, RULE_RESOLVER,
    RULE_REVERSE, RULE_SEARCH, Ruling, Tables, compile,
};
use ipnet::IpNet;
use proptest::prelude::*;
use rules::{deny_name, name, policy, rule};

mod rules;

// The reference: no tables, no automaton, nothing shared with the compiler but the meaning of a pattern.

/// A process: what it executes, and what those execute that it descends from.
#[derive(Debug, Clone)]
struct Process {
    program: &'static str,
    ancestors: Vec<&'static str>,
}

const PROGRAMS: [&str; 5] = ["/bin/a", "/bin/b", "b", "/opt/x/a", "/opt/x/y/b"];
const SELECTORS: [&str; 7] = [
    "a",
    "b",
    "/bin/a",
    "/opt/*/a",
    "/opt/**/b",
    "ancestor:a",
    "ancestor:/opt/**",
];

impl Process {
    /// Spelled out for each of [`SELECTORS`].
    fn is(&self, selector: &Selector) -> bool {
        let matches = |pattern: &str, program: &str| match pattern {
            "a" | "b" => program == pattern || program.ends_with(&format!("/{pattern}")),
            "/bin/a" => program == "/bin/a",
            "/opt/*/a" => program == "/opt/x/a",
            "/opt/**/b" => program == "/opt/x/y/b",
            "/opt/**" => program.starts_with("/opt/"),
            other => panic!("what does {other} match?"),
        };
        let text = selector.program.to_string();
        matches(&text, self.program)
            || (selector.tree && self.ancestors.iter().any(|program| matches(&text, program)))
    }

    /// As the kernel would keep it: what holds for a parent is inherited where it is for the whole tree.
    fn selectors(&self, tables: &Tables) -> u64 {
        let tree = self.ancestors.iter().fold(0, |bits, program| {
            bits | tables.selectors_of(program.as_bytes()) & tables.tree_selectors()
        });
        tree | tables.selectors_of(self.program.as_bytes())
    }
}

/// Who tries what.
#[derive(Debug, Clone, Copy)]
struct Try<'a> {
    process: &'a Process,
    protocol: Protocol,
    port: u16,
}

/// The rule that describes the attempt most closely. `closeness` is none where the target does not match.
fn winner<'a, K: Ord>(
    policy: &'a Policy,
    attempt: Try<'_>,
    closeness: impl Fn(&Target) -> Option<K>,
) -> Option<(&'a Rule, u32)> {
    let applies = |rule: &Rule| {
        rule.protocol.is_none_or(|p| p == attempt.protocol)
            && rule.ports.is_none_or(|p| {
                attempt.protocol != Protocol::Other && (p.first..=p.last).contains(&attempt.port)
            })
            && rule.process.as_ref().is_none_or(|p| attempt.process.is(p))
    };
    policy
        .rules
        .iter()
        .zip(1..)
        .filter(|(rule, _)| applies(rule))
        .filter_map(|(rule, id)| {
            let width = rule.ports.map_or(u32::MAX, |p| u32::from(p.last - p.first));
            let process = rule.process.as_ref().map(|p| {
                let text = p.program.to_string();
                let literal = text.find('*').unwrap_or(usize::MAX);
                (!p.tree, text.contains('/'), literal)
            });
            let key = (
                rule.rank,
                closeness(&rule.target)?,
                std::cmp::Reverse(width),
                rule.protocol.is_some(),
                process,
                rule.layer,
                rule.effect == Says::Deny,
                std::cmp::Reverse(id),
            );
            Some((key, (rule, id)))
        })
        .max_by(|(a, _), (b, _)| a.cmp(b))
        .map(|(_, found)| found)
}

fn ruling(found: Option<(&Rule, u32)>) -> Ruling {
    match found {
        None => Ruling::NONE,
        Some((rule, id)) if rule.effect == Says::Deny => Ruling {
            effect: Effect::Deny,
            rule: id,
            rank: rule.rank,
            enforce: rule.mode == Mode::Enforce,
            failure: rule.failure,
        },
        Some((rule, id)) => Ruling {
            effect: Effect::Allow,
            rule: id,
            rank: rule.rank,
            ..Ruling::NONE
        },
    }
}

fn name_ruling(policy: &Policy, name: &Name, attempt: Try<'_>) -> Ruling {
    ruling(winner(policy, attempt, |target| match target {
        Target::Name(pattern) => pattern.matches(name).then(|| pattern.specificity()),
        _ => None,
    }))
}

/// At which no name permits, where the default denies.
fn is_link_local(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.to_string() == "fd00:ec2::254",
    }
}

fn address_ruling(policy: &Policy, address: IpAddr, attempt: Try<'_>) -> Ruling {
    let ruled = rules_on_address(policy, address, attempt);
    if ruled.effect == Effect::None && policy.default == Says::Deny && is_link_local(address) {
        return Ruling {
            effect: Effect::Search,
            rule: RULE_LINK_LOCAL,
            ..Ruling::NONE
        };
    }
    ruled
}

fn rules_on_address(policy: &Policy, address: IpAddr, attempt: Try<'_>) -> Ruling {
    ruling(winner(policy, attempt, |target| match target {
        Target::Name(_) | Target::Unix(_) => None,
        Target::Net(net) => net
            .contains(&address.to_canonical())
            .then(|| net.prefix_len()),
        Target::Any => Some(0),
    }))
}

/// Every port at which something could change.
fn corner_ports(policy: &Policy) -> Vec<u16> {
    let mut ports = vec![0, 1, 53, 443, u16::MAX];
    for range in policy.rules.iter().filter_map(|r| r.ports) {
        ports.extend([
            range.first - 1,
            range.first,
            range.last,
            range.last.saturating_add(1),
        ]);
    }
    ports
}

/// What the lookup meets, and whether a refusal is enforced.
fn lookup_effect(
    policy: &Policy,
    search: &[Name],
    name: &Name,
    process: &Process,
) -> (Effect, bool) {
    let ports = corner_ports(policy);
    let all = || {
        [Protocol::Tcp, Protocol::Udp]
            .into_iter()
            .flat_map(|protocol| {
                ports.iter().map(move |&port| Try {
                    process,
                    protocol,
                    port,
                })
            })
    };
    let rulings: Vec<Ruling> = all()
        .map(|attempt| name_ruling(policy, name, attempt))
        .collect();
    let some = |effect| rulings.iter().any(|r| r.effect == effect);
    let recorded = rulings
        .iter()
        .any(|r| r.effect == Effect::Deny && !r.enforce);
    if some(Effect::Allow) {
        return (Effect::Allow, false);
    }
    if !some(Effect::None) {
        return (Effect::Deny, !recorded);
    }
    if policy.default == Says::Allow {
        return (Effect::Allow, false);
    }
    let any = |attempt| {
        ruling(winner(policy, attempt, |target| {
            matches!(target, Target::Any).then_some(())
        }))
        .effect
    };
    if all()
        .zip(&rulings)
        .any(|(attempt, r)| r.effect == Effect::None && any(attempt) == Effect::Allow)
    {
        return (Effect::Allow, false);
    }
    if recorded {
        return (Effect::Deny, false);
    }
    let below = |domain: &Name| Pattern::below(domain).is_some_and(|p| p.matches(name));
    let reverse = ["in-addr.arpa", "ip6.arpa"].map(|text| Name::parse(text).unwrap());
    if search.iter().chain(&reverse).any(below) {
        (Effect::Search, false)
    } else {
        (Effect::Deny, policy.mode == Mode::Enforce)
    }
}

struct Case {
    address: IpAddr,
    local: bool,
    resolver_dns: bool,
    protocol: Protocol,
    port: u16,
    process: Process,
    /// Name asked for, and at most one CNAME target.
    leases: Vec<(Name, Option<Name>)>,
}

/// DESIGN §4 and §6, sentence by sentence.
fn judge(policy: &Policy, case: &Case) -> Decision {
    let attempt = Try {
        process: &case.process,
        protocol: case.protocol,
        port: case.port,
    };
    let address = address_ruling(policy, case.address, attempt);
    let leases: Vec<Ruling> = case
        .leases
        .iter()
        .map(|(asked, alias)| {
            // All that rules say of the name and of what its chain touches: of the link only that it is denied. What
            // the highest rank says holds; of one rank, that it is denied; of such, that it is refused in earnest.
            let asked = name_ruling(policy, asked, attempt);
            let link = alias
                .as_ref()
                .map(|name| name_ruling(policy, name, attempt));
            let denied = link.filter(|link| link.effect == Effect::Deny);
            let weight = |r: &Ruling| (r.rank, r.effect == Effect::Deny, r.enforce);
            // Where nothing tells them apart the name's own rule is named: it stands last.
            let said = denied.into_iter().chain([asked]);
            said.max_by_key(weight).unwrap_or(asked)
        })
        .collect();
    let denied: Vec<&Ruling> = leases.iter().filter(|r| r.effect == Effect::Deny).collect();
    let all_denied = !leases.is_empty() && denied.len() == leases.len();
    let pass = |verdict, rule| Decision {
        verdict,
        rule,
        failure: Failure::REFUSE,
        ambiguous: !denied.is_empty(),
    };
    let refuse = |r: &Ruling| Decision {
        verdict: if r.enforce {
            Verdict::Deny
        } else {
            Verdict::WouldDeny
        },
        rule: r.rule,
        failure: r.failure,
        ambiguous: false,
    };
    for rank in [Rank::Final, Rank::Waiver, Rank::Plain] {
        let mut refusals = Vec::new();
        if address.effect == Effect::Deny && address.rank == rank {
            refusals.push(&address);
        }
        if all_denied && denied.iter().map(|r| r.rank).min() == Some(rank) {
            // Through a name that is denied for the record only it would pass.
            let shadow = denied.iter().find(|r| !r.enforce);
            refusals.push(shadow.unwrap_or(&denied[0]));
        }
        if let Some(stands) = refusals.iter().find(|r| r.enforce).or(refusals.first()) {
            return refuse(stands);
        }
        let unnamed = address.effect == Effect::Search && rank == Rank::Plain;
        let allows = std::iter::once(&address)
            .chain(leases.iter().filter(|_| !unnamed))
            .find(|r| r.effect == Effect::Allow && r.rank == rank);
        if let Some(allow) = allows {
            let verdict = if rank == Rank::Waiver {
                Verdict::Waived
            } else {
                Verdict::Allow
            };
            return pass(verdict, allow.rule);
        }
    }
    if policy.default == Says::Allow {
        pass(Verdict::Allow, RULE_DEFAULT)
    } else if case.local {
        pass(Verdict::Allow, RULE_LOCAL)
    } else if case.resolver_dns {
        pass(Verdict::Allow, RULE_RESOLVER)
    } else {
        let allowed = leases.iter().any(|r| r.effect == Effect::Allow);
        refuse(&Ruling {
            effect: Effect::Deny,
            rule: if address.effect == Effect::Search && allowed {
                RULE_LINK_LOCAL
            } else {
                RULE_DEFAULT
            },
            enforce: policy.mode == Mode::Enforce,
            ..Ruling::NONE
        })
    }
}

fn any_pattern() -> impl Strategy<Value = Pattern> {
    let label = prop_oneof![3 => "[ab]", 1 => Just("*".to_owned())];
    (
        prop::sample::select(vec!["", ".", "*."]),
        prop::collection::vec(label, 1..5),
    )
        .prop_filter_map("nothing but stars", |(reach, labels)| {
            Pattern::parse(&format!("{reach}{}", labels.join("."))).ok()
        })
}

fn any_name() -> impl Strategy<Value = Name> {
    let below = prop_oneof![
        8 => Just(&[][..]),
        1 => Just(&["in-addr", "arpa"][..]),
        1 => Just(&["ip6", "arpa"][..]),
        1 => Just(&["arpa"][..]),
    ];
    (prop::collection::vec("[abc]", 0..6), below).prop_map(|(labels, below)| {
        let labels = labels.iter().map(String::as_str);
        Name::from_labels(labels.chain(below.iter().copied())).unwrap()
    })
}

fn any_address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0u32..16).prop_map(|n| IpAddr::from((0x0a00_0000 | n).to_be_bytes())),
        (0u128..16).prop_map(|n| IpAddr::from((0xfd00 << 112 | n).to_be_bytes())),
        (0u8..16).prop_map(|n| format!("::ffff:10.0.0.{n}").parse().unwrap()),
        Just("192.0.2.1".parse().unwrap()),
        prop::sample::select(vec![
            "169.254.169.254",
            "::ffff:169.254.0.9",
            "169.253.0.1",
            "fe80::1",
            "fec0::1",
            "fd00:ec2::254",
        ])
        .prop_map(|text| text.parse().unwrap()),
    ]
}

fn any_net() -> impl Strategy<Value = IpNet> {
    (any_address(), prop_oneof![Just(0u8), 0u8..9, Just(24)]).prop_map(|(address, up)| {
        let address = address.to_canonical();
        let most = if address.is_ipv4() { 32 } else { 128 };
        IpNet::new(address, most - up).unwrap().trunc()
    })
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let target = prop_oneof![
        6 => any_pattern().prop_map(Target::Name),
        3 => any_net().prop_map(Target::Net),
        1 => Just(Target::Any),
    ];
    let ports = prop_oneof![
        3 => Just(None),
        1 => Just(Some((443, 443))),
        1 => Just(Some((1, u16::MAX))),
        1 => (1u16..500, 0u16..100).prop_map(|(first, width)| Some((first, first + width))),
    ];
    let protocol = prop_oneof![3 => Just(None), 1 => Just(Some(Protocol::Tcp)), 1 => Just(Some(Protocol::Udp))];
    let process = prop_oneof![
        3 => Just(None),
        2 => prop::sample::select(SELECTORS.to_vec()).prop_map(|text| Some(Selector::parse(text).unwrap())),
    ];
    let rank = prop_oneof![6 => Just(Rank::Plain), 1 => Just(Rank::Waiver), 1 => Just(Rank::Final)];
    let failure = prop_oneof![3 => Just(Failure::REFUSE), 1 => Just(Failure::Blackhole)];
    (
        (prop::bool::ANY, target, ports, protocol),
        (process, rank, 0u16..2, prop::bool::weighted(0.3), failure),
    )
        .prop_map(
            |((allow, target, ports, protocol), (process, rank, layer, observe, failure))| {
                // A waiver always allows.
                let effect = if allow || rank == Rank::Waiver {
                    Says::Allow
                } else {
                    Says::Deny
                };
                Rule {
                    process,
                    rank,
                    layer,
                    mode: if observe {
                        Mode::Observe
                    } else {
                        Mode::Enforce
                    },
                    failure,
                    ..rule(effect, target, ports, protocol)
                }
            },
        )
}

fn any_policy() -> impl Strategy<Value = Policy> {
    (
        (prop::bool::ANY, prop::bool::ANY),
        prop::collection::vec(any_rule(), 0..12),
    )
        .prop_map(|((allow, observe), rules)| Policy {
            mode: if observe {
                Mode::Observe
            } else {
                Mode::Enforce
            },
            ..policy(if allow { Says::Allow } else { Says::Deny }, rules)
        })
}

fn any_process() -> impl Strategy<Value = Process> {
    let program = || prop::sample::select(PROGRAMS.to_vec());
    (program(), prop::collection::vec(program(), 0..3))
        .prop_map(|(program, ancestors)| Process { program, ancestors })
}

const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Other];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn names_mean_what_the_patterns_mean(
        policy in any_policy(), names in prop::collection::vec(any_name(), 1..8), process in any_process()
    ) {
        let tables = compile(&policy, &Facts::default()).unwrap();
        let selectors = process.selectors(&tables);
        for name in &names {
            let class = tables.class_of_name(name);
            for protocol in PROTOCOLS {
                for port in corner_ports(&policy) {
                    prop_assert_eq!(
                        tables.ruling(class, protocol, port, selectors),
                        name_ruling(&policy, name, Try { process: &process, protocol, port }),
                        "{} {:?} {}", name, protocol, port
                    );
                }
            }
        }
    }

    #[test]
    fn addresses_mean_the_longest_prefix(
        policy in any_policy(), addresses in prop::collection::vec(any_address(), 1..8), process in any_process()
    ) {
        let tables = compile(&policy, &Facts::default()).unwrap();
        let selectors = process.selectors(&tables);
        for address in addresses {
            let class = tables.class_of_address(address);
            for protocol in PROTOCOLS {
                for port in corner_ports(&policy) {
                    prop_assert_eq!(
                        tables.ruling(class, protocol, port, selectors),
                        address_ruling(&policy, address, Try { process: &process, protocol, port })
                    );
                }
            }
        }
    }

    #[test]
    fn lookups_pass_where_something_may_be_reached(
        policy in any_policy(), names in prop::collection::vec(any_name(), 1..8),
        search in prop::collection::vec(any_name(), 0..2), process in any_process()
    ) {
        let tables = compile(&policy, &Facts { search: search.clone() }).unwrap();
        for name in names {
            let meets = decide_lookup(&tables, &name, process.selectors(&tables));
            prop_assert_eq!((meets.effect, meets.enforce), lookup_effect(&policy, &search, &name, &process), "{}", name);
            // The rule that is named has that effect.
            match meets.rule {
                RULE_DEFAULT => prop_assert_eq!(meets.effect == Effect::Deny, policy.default == Says::Deny),
                RULE_SEARCH | RULE_REVERSE => prop_assert_eq!(meets.effect, Effect::Search),
                id => prop_assert_eq!(meets.effect == Effect::Deny, policy.rule(id).unwrap().effect == Says::Deny),
            }
        }
    }

    #[test]
    fn attempts_are_judged_as_the_design_says(
        policy in any_policy(),
        address in any_address(),
        (local, resolver_dns) in (prop::bool::ANY, prop::bool::ANY),
        protocol in prop::sample::select(PROTOCOLS.to_vec()),
        port in prop_oneof![Just(443u16), Just(53), 0u16..600],
        leases in prop::collection::vec((any_name(), prop::option::of(any_name())), 0..4),
        process in any_process(),
    ) {
        let tables = compile(&policy, &Facts::default()).unwrap();
        let selectors = process.selectors(&tables);
        let case = Case { address, local, resolver_dns, protocol, port, process, leases };
        let leases: Vec<Lease> = case.leases.iter().map(|(asked, alias)| {
            let alias = alias.as_ref().map_or(0, |name| tables.class_of_name(name));
            Lease { class: tables.class_of_name(asked), deny_class: tables.denying_link([alias]) }
        }).collect();
        let attempt = Attempt {
            address_class: tables.class_of_address(address), local, resolver_dns, protocol, port, selectors,
            leases: &leases,
        };
        prop_assert_eq!(decide(&tables, &attempt), judge(&policy, &case));
    }

    #[test]
    fn an_explanation_is_of_the_verdict(
        policy in any_policy(),
        name in prop::option::of(any_name()),
        address in any_address(),
        known in prop::bool::ANY,
        protocol in prop::sample::select(PROTOCOLS.to_vec()),
        port in prop_oneof![Just(443u16), Just(53), 0u16..600],
        process in any_process(),
    ) {
        let tables = compile(&policy, &Facts::default()).unwrap();
        let question = Question {
            to: name.clone().map_or(Destination::Address(address), Destination::Name),
            port: Some(port),
            address: (known && name.is_some()).then_some(address),
            process: Some(process.program.to_owned()),
            ancestors: process.ancestors.iter().map(|&program| program.to_owned()).collect(),
            protocol,
        };
        let explained = explain(&policy, &tables, &question);

        // The verdict is the one that the naive reading of the policy comes to.
        let connect = explained.connect.as_ref().unwrap();
        if known || name.is_none() {
            let case = Case {
                address, local: false, resolver_dns: false, protocol, port, process: process.clone(),
                leases: name.iter().map(|name| (name.clone(), None)).collect(),
            };
            let judged = judge(&policy, &case);
            prop_assert_eq!((connect.verdict, connect.rule.id), (judged.verdict, judged.rule));
        }
        let lookup = name.as_ref().map(|name| decide_lookup(&tables, name, process.selectors(&tables)));
        let told = explained.lookup.as_ref();
        prop_assert_eq!(told.map(|told| told.rule.id), lookup.map(|ruling| ruling.rule));
        let refused = |effect, enforce| effect == Effect::Deny && enforce;
        if lookup.is_some_and(|ruling| refused(ruling.effect, ruling.enforce)) {
            prop_assert_eq!((explained.verdict, explained.decided_by), (Verdict::Deny, Step::Lookup));
        }

        // Every rule that is about the attempt is told: once, as the one that decides or as one that does not.
        let attempt = Try { process: &process, protocol, port };
        let by_address = question.address.or(name.is_none().then_some(address));
        for (id, rule) in (1..).zip(&policy.rules) {
            let about = |target: &Target| match target {
                Target::Name(pattern) => name.as_ref().is_some_and(|name| pattern.matches(name)),
                Target::Net(net) => match by_address {
                    Some(address) => net.contains(&address.to_canonical()),
                    None => net.prefix_len() == 0 && net.addr().is_ipv4(),
                },
                Target::Any => true,
                Target::Unix(_) => false,
            };
            let one = Policy { rules: vec![rule.clone()], ..policy.clone() };
            let applies = winner(&one, attempt, |target| about(target).then_some(())).is_some();
            let lost = connect.lost.iter().filter(|lost| lost.rule.id == id).count();
            prop_assert_eq!(lost + usize::from(connect.rule.id == id), usize::from(applies), "rule {}", id);
            let missed = explained.missed.iter().filter(|missed| missed.rule.id == id).count();
            let anyone = Policy { rules: vec![Rule { process: None, ..rule.clone() }], ..policy.clone() };
            let fits = winner(&anyone, attempt, |target| about(target).then_some(())).is_some();
            let known = by_address.is_some() || !matches!(rule.target, Target::Net(_));
            let told = about(&rule.target) && !applies && known && (rule.target != Target::Any || fits);
            prop_assert_eq!(missed, usize::from(told), "rule {}", id);

            let named = matches!(rule.target, Target::Name(_)) && about(&rule.target)
                && rule.process.as_ref().is_none_or(|selector| process.is(selector));
            if let Some(lookup) = &explained.lookup {
                let lost = lookup.lost.iter().filter(|lost| lost.rule.id == id).count();
                prop_assert_eq!(lost, usize::from(named && lookup.rule.id != id), "lookup, rule {}", id);
            }
        }
        // What lost did so to a rule that applies, or to what is built in, and nothing lost to itself.
        for lost in &connect.lost {
            let to = lost.to.as_ref().map(|to| to.id);
            prop_assert_eq!(lost.why == Why::LinkLocal, to.is_none());
            if to.is_none() {
                prop_assert_eq!(connect.rule.id, RULE_LINK_LOCAL);
                continue;
            }
            prop_assert!(to.is_some_and(|to| to != lost.rule.id), "{:?}", lost);
            prop_assert!(to == Some(connect.rule.id) || connect.lost.iter().any(|other| Some(other.rule.id) == to));
        }
    }

    #[test]
    fn the_order_of_rules_changes_no_verdict(
        (policy, shuffled) in any_policy().prop_flat_map(|p| {
            let rules = Just(p.rules.clone()).prop_shuffle();
            (Just(p), rules)
        }),
        names in prop::collection::vec(any_name(), 1..6),
    ) {
        let one = compile(&policy, &Facts::default()).unwrap();
        let other = compile(&Policy { rules: shuffled, ..policy.clone() }, &Facts::default()).unwrap();
        for name in names {
            for port in corner_ports(&policy) {
                let [a, b] = [&one, &other].map(|t| t.ruling(t.class_of_name(&name), Protocol::Tcp, port, 0).effect);
                prop_assert_eq!(a, b);
            }
            prop_assert_eq!(decide_lookup(&one, &name, 0).effect, decide_lookup(&other, &name, 0).effect);
        }
    }
}

/// What becomes of a connect to port 443 of an address that this name led to, by these links.
fn through(tables: &Tables, asked: &str, links: &[&str]) -> Decision {
    let links = links.iter().map(|link| tables.class_of_name(&name(link)));
    let lease = Lease {
        class: tables.class_of_name(&name(asked)),
        deny_class: tables.denying_link(links),
    };
    let attempt = Attempt {
        address_class: 0,
        local: false,
        resolver_dns: false,
        protocol: Protocol::Tcp,
        port: 443,
        selectors: 0,
        leases: &[lease],
    };
    decide(tables, &attempt)
}

#[test]
fn a_waiver_and_a_final_rule_hold_wherever_the_cnames_lead() {
    let named = |effect, pattern| {
        let pattern = Target::Name(Pattern::parse(pattern).unwrap());
        rule(effect, pattern, None, None)
    };
    let with = |rules| compile(&policy(Says::Allow, rules), &Facts::default()).unwrap();
    let waiver = Rule {
        rank: Rank::Waiver,
        ..named(Says::Allow, "api.a.com")
    };
    let tables = with(vec![deny_name(".a.com"), waiver.clone()]);
    let verdict =
        |tables: &Tables, asked: &str, links: &[&str]| through(tables, asked, links).verdict;
    assert_eq!(
        verdict(&tables, "api.a.com", &["lb.a.com"]),
        Verdict::Waived
    );
    // The waiver is for the name, not for what it leads to, nor for whoever leads there.
    assert_eq!(verdict(&tables, "lb.a.com", &[]), Verdict::Deny);
    assert_eq!(verdict(&tables, "x.org", &["lb.a.com"]), Verdict::Deny);
    assert_eq!(verdict(&tables, "x.org", &["api.a.com"]), Verdict::Allow);
    // Never a final rule.
    let last = Rule {
        rank: Rank::Final,
        ..deny_name("lb.a.com")
    };
    let tables = with(vec![deny_name(".a.com"), waiver, last]);
    assert_eq!(verdict(&tables, "api.a.com", &["lb.a.com"]), Verdict::Deny);

    let observed = Rule {
        mode: Mode::Observe,
        ..deny_name(".cdn.net")
    };
    let last = Rule {
        rank: Rank::Final,
        ..deny_name("api.x.com")
    };
    for own in [deny_name("api.x.com"), last] {
        let tables = with(vec![own, observed.clone()]);
        let judged = through(&tables, "api.x.com", &["x.cdn.net"]);
        assert_eq!((judged.verdict, judged.rule), (Verdict::Deny, 1));
        assert_eq!(
            verdict(&tables, "y.com", &["x.cdn.net"]),
            Verdict::WouldDeny
        );
    }
}

/// The link that is denied most strongly is kept, whichever place it has; of equal ones the first.
#[test]
fn of_a_chain_the_link_that_is_denied_most_strongly_counts() {
    let ssh = |pattern: &str| Rule {
        ports: Some(PortRange {
            first: 22,
            last: 22,
        }),
        ..deny_name(pattern)
    };
    let observed = Rule {
        mode: Mode::Observe,
        ..deny_name("record.net")
    };
    let rules = vec![
        ssh("port.net"),
        observed,
        deny_name("bad.net"),
        ssh("also.net"),
    ];
    let tables = compile(&policy(Says::Allow, rules), &Facts::default()).unwrap();
    for links in [
        ["port.net", "record.net", "bad.net"],
        ["bad.net", "port.net", "record.net"],
        ["record.net", "bad.net", "also.net"],
    ] {
        let judged = through(&tables, "x.org", &links);
        assert_eq!(
            (judged.verdict, judged.rule),
            (Verdict::Deny, 3),
            "{links:?}"
        );
    }
    let class = |text: &str| tables.class_of_name(&name(text));
    let denying = |links: [&str; 2]| tables.denying_link(links.map(class));
    assert_eq!(denying(["also.net", "port.net"]), class("also.net"));
    assert_eq!(denying(["record.net", "port.net"]), class("port.net"));
    assert_eq!(denying(["x.org", "y.org"]), 0);
}

/// An empty list is not allow-all (CVE-2025-66479).
#[test]
fn an_empty_list_under_default_deny_denies() {
    let tables = compile(&policy(Says::Deny, vec![]), &Facts::default()).unwrap();
    assert_eq!(
        decide_lookup(&tables, &name("a.b"), 0),
        Ruling {
            effect: Effect::Deny,
            ..Ruling::NONE
        }
    );
    let attempt = Attempt {
        address_class: tables.class_of_address("192.0.2.1".parse().unwrap()),
        local: false,
        resolver_dns: false,
        protocol: Protocol::Tcp,
        port: 443,
        selectors: 0,
        leases: &[],
    };
    assert_eq!(
        decide(&tables, &attempt),
        Decision {
            verdict: Verdict::WouldDeny,
            rule: RULE_DEFAULT,
            failure: Failure::REFUSE,
            ambiguous: false
        }
    );
}
