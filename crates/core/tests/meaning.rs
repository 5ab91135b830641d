//! What the tables say is what the rules say: the compiled tables and the decision against a naive reading
//! of the policy, rule by rule.

use std::net::IpAddr;

use blackstart_core::decide::{Attempt, Decision, Lease, decide, decide_lookup};
use blackstart_core::name::{Name, Pattern};
use blackstart_core::policy::{Effect as Says, Policy, PortRange, Rule, Target};
use blackstart_core::tables::{
    CompileError, Effect, Facts, Protocol, RULE_DEFAULT, RULE_LOCAL, RULE_RESOLVER, RULE_SEARCH,
    Ruling, compile,
};
use ipnet::IpNet;
use proptest::prelude::*;

fn rule(
    effect: Says,
    target: Target,
    ports: Option<(u16, u16)>,
    protocol: Option<Protocol>,
) -> Rule {
    Rule {
        effect,
        target,
        ports: ports.map(|(first, last)| PortRange { first, last }),
        protocol,
        reason: None,
        fix: None,
        text: String::new(),
        file: String::new(),
        line: 1,
        column: 1,
    }
}

fn deny_name(pattern: &str) -> Rule {
    rule(
        Says::Deny,
        Target::Name(Pattern::parse(pattern).unwrap()),
        None,
        None,
    )
}

fn policy(default: Says, rules: Vec<Rule>) -> Policy {
    Policy {
        default,
        rules,
        ..Policy::default()
    }
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

// The reference: no tables, no automaton, nothing shared with the compiler but the meaning of a pattern.

/// The rule that describes the attempt most closely. `closeness` is none where the target does not match.
fn winner<K: Ord>(
    policy: &Policy,
    protocol: Protocol,
    port: u16,
    closeness: impl Fn(&Target) -> Option<K>,
) -> Option<(&Rule, u32)> {
    let applies = |rule: &Rule| {
        rule.protocol.is_none_or(|p| p == protocol)
            && rule
                .ports
                .is_none_or(|p| protocol != Protocol::Other && (p.first..=p.last).contains(&port))
    };
    policy
        .rules
        .iter()
        .zip(1..)
        .filter(|(rule, _)| applies(rule))
        .filter_map(|(rule, id)| {
            let width = rule.ports.map_or(u32::MAX, |p| u32::from(p.last - p.first));
            let key = (
                closeness(&rule.target)?,
                std::cmp::Reverse(width),
                rule.protocol.is_some(),
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
        Some((rule, id)) => {
            let effect = if rule.effect == Says::Deny {
                Effect::Deny
            } else {
                Effect::Allow
            };
            Ruling { effect, rule: id }
        }
    }
}

fn name_ruling(policy: &Policy, name: &Name, protocol: Protocol, port: u16) -> Ruling {
    ruling(winner(policy, protocol, port, |target| match target {
        Target::Name(pattern) => pattern.matches(name).then(|| pattern.specificity()),
        _ => None,
    }))
}

fn address_ruling(policy: &Policy, address: IpAddr, protocol: Protocol, port: u16) -> Ruling {
    ruling(winner(policy, protocol, port, |target| match target {
        Target::Name(_) => None,
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

fn lookup_effect(policy: &Policy, search: &[Name], name: &Name) -> Effect {
    let ports = corner_ports(policy);
    let all = || {
        [Protocol::Tcp, Protocol::Udp]
            .into_iter()
            .flat_map(|p| ports.iter().map(move |&port| (p, port)))
    };
    let effects: Vec<Effect> = all()
        .map(|(p, port)| name_ruling(policy, name, p, port).effect)
        .collect();
    if effects.contains(&Effect::Allow) {
        return Effect::Allow;
    }
    if effects.iter().all(|e| *e == Effect::Deny) {
        return Effect::Deny;
    }
    if policy.default == Says::Allow {
        return Effect::Allow;
    }
    let any = |protocol, port| {
        ruling(winner(policy, protocol, port, |target| {
            matches!(target, Target::Any).then_some(())
        }))
        .effect
    };
    if all()
        .zip(&effects)
        .any(|((p, port), e)| *e == Effect::None && any(p, port) == Effect::Allow)
    {
        return Effect::Allow;
    }
    let below = |domain: &Name| Pattern::below(domain).is_some_and(|p| p.matches(name));
    if search.iter().any(below) {
        Effect::Search
    } else {
        Effect::Deny
    }
}

struct Case {
    address: IpAddr,
    local: bool,
    resolver_dns: bool,
    protocol: Protocol,
    port: u16,
    /// Name asked for, and at most one CNAME target.
    leases: Vec<(Name, Option<Name>)>,
}

/// DESIGN §4, sentence by sentence.
fn judge(policy: &Policy, case: &Case) -> Decision {
    let address = address_ruling(policy, case.address, case.protocol, case.port);
    let leases: Vec<Ruling> = case
        .leases
        .iter()
        .map(|(asked, alias)| {
            let of = |name| name_ruling(policy, name, case.protocol, case.port);
            match alias.as_ref().map(of) {
                Some(denied) if denied.effect == Effect::Deny => denied,
                _ => of(asked),
            }
        })
        .collect();
    let with = |effect| leases.iter().find(move |r| r.effect == effect);
    let ambiguous = with(Effect::Deny).is_some();
    let (allow, rule) = if address.effect == Effect::Deny {
        (false, address.rule)
    } else if !leases.is_empty() && leases.iter().all(|r| r.effect == Effect::Deny) {
        (false, leases[0].rule)
    } else if address.effect == Effect::Allow {
        (true, address.rule)
    } else if let Some(allowed) = with(Effect::Allow) {
        (true, allowed.rule)
    } else if policy.default == Says::Allow {
        (true, RULE_DEFAULT)
    } else if case.local {
        (true, RULE_LOCAL)
    } else if case.resolver_dns {
        (true, RULE_RESOLVER)
    } else {
        (false, RULE_DEFAULT)
    };
    Decision {
        allow,
        rule,
        ambiguous: allow && ambiguous,
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
    prop::collection::vec("[abc]", 0..6).prop_map(|labels| Name::from_labels(labels).unwrap())
}

fn any_address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0u32..16).prop_map(|n| IpAddr::from((0x0a00_0000 | n).to_be_bytes())),
        (0u128..16).prop_map(|n| IpAddr::from((0xfd00 << 112 | n).to_be_bytes())),
        (0u8..16).prop_map(|n| format!("::ffff:10.0.0.{n}").parse().unwrap()),
        Just("192.0.2.1".parse().unwrap()),
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
    (prop::bool::ANY, target, ports, protocol).prop_map(|(allow, target, ports, protocol)| {
        rule(
            if allow { Says::Allow } else { Says::Deny },
            target,
            ports,
            protocol,
        )
    })
}

fn any_policy() -> impl Strategy<Value = Policy> {
    (prop::bool::ANY, prop::collection::vec(any_rule(), 0..12))
        .prop_map(|(allow, rules)| policy(if allow { Says::Allow } else { Says::Deny }, rules))
}

const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Other];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn names_mean_what_the_patterns_mean(policy in any_policy(), names in prop::collection::vec(any_name(), 1..8)) {
        let tables = compile(&policy, &Facts::default()).unwrap();
        for name in &names {
            let class = tables.class_of_name(name);
            for protocol in PROTOCOLS {
                for port in corner_ports(&policy) {
                    prop_assert_eq!(
                        tables.ruling(class, protocol, port),
                        name_ruling(&policy, name, protocol, port),
                        "{} {:?} {}", name, protocol, port
                    );
                }
            }
        }
    }

    #[test]
    fn addresses_mean_the_longest_prefix(policy in any_policy(), addresses in prop::collection::vec(any_address(), 1..8)) {
        let tables = compile(&policy, &Facts::default()).unwrap();
        for address in addresses {
            let class = tables.class_of_address(address);
            for protocol in PROTOCOLS {
                for port in corner_ports(&policy) {
                    prop_assert_eq!(tables.ruling(class, protocol, port), address_ruling(&policy, address, protocol, port));
                }
            }
        }
    }

    #[test]
    fn lookups_pass_where_something_may_be_reached(
        policy in any_policy(), names in prop::collection::vec(any_name(), 1..8), search in prop::collection::vec(any_name(), 0..2)
    ) {
        let tables = compile(&policy, &Facts { search: search.clone() }).unwrap();
        for name in names {
            let meets = decide_lookup(&tables, &name);
            prop_assert_eq!(meets.effect, lookup_effect(&policy, &search, &name), "{}", name);
            // The rule that is named has that effect.
            match meets.rule {
                RULE_DEFAULT => prop_assert_eq!(meets.effect == Effect::Deny, policy.default == Says::Deny),
                RULE_SEARCH => prop_assert_eq!(meets.effect, Effect::Search),
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
    ) {
        let tables = compile(&policy, &Facts::default()).unwrap();
        let case = Case { address, local, resolver_dns, protocol, port, leases };
        let leases: Vec<Lease> = case.leases.iter().map(|(asked, alias)| {
            let alias = alias.as_ref().map_or(0, |name| tables.class_of_name(name));
            let deny_class = if tables.classes[alias as usize].may_deny { alias } else { 0 };
            Lease { class: tables.class_of_name(asked), deny_class }
        }).collect();
        let attempt = Attempt {
            address_class: tables.class_of_address(address), local, resolver_dns, protocol, port, leases: &leases,
        };
        prop_assert_eq!(decide(&tables, &attempt), judge(&policy, &case));
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
                let [a, b] = [&one, &other].map(|t| t.ruling(t.class_of_name(&name), Protocol::Tcp, port).effect);
                prop_assert_eq!(a, b);
            }
            prop_assert_eq!(decide_lookup(&one, &name).effect, decide_lookup(&other, &name).effect);
        }
    }
}

#[test]
fn without_stars_the_automaton_is_the_trie() {
    let rules = [
        "github.com",
        ".github.com",
        "*.api.github.com",
        "example.org",
    ]
    .map(deny_name)
    .into();
    let tables = compile(&policy(Says::Allow, rules), &Facts::default()).unwrap();
    // Root, com, github.com, api.github.com, org, example.org.
    assert_eq!(tables.states.len(), 6);
}

#[test]
fn no_rules_cost_one_state_and_one_class() {
    let tables = compile(&policy(Says::Allow, vec![]), &Facts::default()).unwrap();
    assert_eq!(
        (
            tables.states.len(),
            tables.classes.len(),
            tables.prefixes.len()
        ),
        (1, 1, 0)
    );
    assert_eq!(
        decide_lookup(&tables, &name("a.b")),
        Ruling {
            effect: Effect::Allow,
            rule: RULE_DEFAULT
        }
    );
}

/// An empty list is not allow-all (CVE-2025-66479).
#[test]
fn an_empty_list_under_default_deny_denies() {
    let tables = compile(&policy(Says::Deny, vec![]), &Facts::default()).unwrap();
    assert_eq!(
        decide_lookup(&tables, &name("a.b")),
        Ruling {
            effect: Effect::Deny,
            rule: RULE_DEFAULT
        }
    );
    let attempt = Attempt {
        address_class: tables.class_of_address("192.0.2.1".parse().unwrap()),
        local: false,
        resolver_dns: false,
        protocol: Protocol::Tcp,
        port: 443,
        leases: &[],
    };
    assert_eq!(
        decide(&tables, &attempt),
        Decision {
            allow: false,
            rule: RULE_DEFAULT,
            ambiguous: false
        }
    );
}

#[test]
fn stars_that_multiply_are_an_error_and_no_blow_up() {
    // Each pattern fixes one label of 24 and leaves the rest open: 2^24 combinations.
    let rules = (0..24)
        .map(|fixed| {
            let labels: Vec<_> = (0..24)
                .map(|at| if at == fixed { "a" } else { "*" })
                .collect();
            deny_name(
                &labels
                    .join(".")
                    .replacen("*.", "x.", usize::from(fixed != 0)),
            )
        })
        .collect();
    assert_eq!(
        compile(&policy(Says::Allow, rules), &Facts::default()),
        Err(CompileError::TooManyStates)
    );
}

#[test]
fn ports_that_multiply_are_an_error_and_no_blow_up() {
    let com = |port| {
        rule(
            Says::Deny,
            Target::Name(Pattern::parse(".com").unwrap()),
            Some((port, port)),
            None,
        )
    };
    let mut rules: Vec<Rule> = (1..4000).map(|n| com(n * 2)).collect();
    rules.extend((0..4000).map(|n| {
        rule(
            Says::Allow,
            Target::Name(Pattern::parse(&format!("*.h{n}.com")).unwrap()),
            Some((n + 1, n + 1)),
            None,
        )
    }));
    assert_eq!(
        compile(&policy(Says::Allow, rules), &Facts::default()),
        Err(CompileError::TooManyPortRulings)
    );
}

#[test]
fn a_hundred_thousand_names_and_prefixes_compile() {
    let mut rules: Vec<Rule> = (0..100_000)
        .map(|n| deny_name(&format!(".host{n}.zone{}.example", n % 977)))
        .collect();
    rules.extend((0..100_000u32).map(|n| {
        let net = IpNet::new(IpAddr::from((0x0a00_0000 + n * 16).to_be_bytes()), 28).unwrap();
        rule(Says::Deny, Target::Net(net), None, None)
    }));
    let tables = compile(&policy(Says::Allow, rules), &Facts::default()).unwrap();
    assert_eq!(tables.states.len(), 1 + 1 + 977 + 100_000);
    assert_eq!(tables.prefixes.len(), 100_000);
    let of = |n: u32| {
        tables.ruling(
            tables.class_of_name(&name(&format!("x.host{n}.zone{}.example", n % 977))),
            Protocol::Tcp,
            1,
        )
    };
    assert_eq!(
        of(4711),
        Ruling {
            effect: Effect::Deny,
            rule: 4712
        }
    );
    assert_eq!(of(100_001), Ruling::NONE);
}
