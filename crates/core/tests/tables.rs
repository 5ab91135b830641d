//! How large compiled tables become: as large as what is said needs, and what would multiply is an error.

use std::net::IpAddr;

use blackstart_core::decide::decide_lookup;
use blackstart_core::name::Pattern;
use blackstart_core::path::Selector;
use blackstart_core::policy::{Effect as Says, Rule, Target};
use blackstart_core::tables::{Effect, Facts, Limit, Protocol, Ruling, compile};
use ipnet::IpNet;
use rules::{deny_name, name, policy, rule};

mod rules;

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
        decide_lookup(&tables, &name("a.b"), 0),
        Ruling {
            effect: Effect::Allow,
            ..Ruling::NONE
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
        compile(&policy(Says::Allow, rules), &Facts::default()).map_err(|error| error.limit),
        Err(Limit::TooManyStates)
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
        compile(&policy(Says::Allow, rules), &Facts::default()).map_err(|error| error.limit),
        Err(Limit::TooManyPortRulings)
    );
}

/// A port of one target for each of many processes: as many combinations of processes as there are sets of them, and
/// yet no more questions than there are rules.
#[test]
fn ports_of_many_processes_compile() {
    let process = |n: u16| Some(Selector::parse(&format!("p{n}")).unwrap());
    let port_of = |n: u16, port: u16, effect| {
        let pattern = Target::Name(Pattern::parse("db.internal").unwrap());
        Rule {
            process: process(n),
            ..rule(effect, pattern, Some((port, port + n % 3)), None)
        }
    };
    for default in [Says::Allow, Says::Deny] {
        for effect in [Says::Allow, Says::Deny] {
            // Each has ports of its own; then two processes to a port, and each port in another order.
            let mut rules: Vec<Rule> = (0..64).map(|n| port_of(n, 1000 + 4 * n, effect)).collect();
            rules.extend((0..64).map(|n| port_of((n * 29 + 7) % 64, 1000 + 4 * n, Says::Deny)));
            let policy = policy(default, rules);
            let tables = compile(&policy, &Facts::default()).unwrap();
            assert!(tables.choices.len() < 4096, "{}", tables.choices.len());
            let db = name("db.internal");
            for n in 0..64 {
                let selectors = tables.selectors_of(format!("/bin/p{n}").as_bytes());
                assert_eq!(selectors.count_ones(), 1);
                let meets = decide_lookup(&tables, &db, selectors);
                let passes = default == Says::Allow || effect == Says::Allow;
                assert_eq!(meets.effect == Effect::Allow, passes, "p{n}");
            }
        }
    }
}

/// Where sets of processes really have outcomes of their own, since one may descend from any of them, that is said, and
/// soon.
#[test]
fn processes_that_multiply_are_an_error_and_no_blow_up() {
    let db = || Target::Name(Pattern::parse("db.internal").unwrap());
    let of = |process: String, effect, port: u16| Rule {
        process: Some(Selector::parse(&process).unwrap()),
        ..rule(effect, db(), Some((port, port)), None)
    };
    for kind in ["", "ancestor:"] {
        let mut rules = Vec::new();
        for port in 0..200u16 {
            for n in 0..64 {
                let effect = if n % 3 == 0 { Says::Allow } else { Says::Deny };
                let n = (n * (2 * port + 1) + port) % 64;
                rules.push(of(format!("{kind}p{n}"), effect, 1 + port));
            }
        }
        let compiled = compile(&policy(Says::Deny, rules), &Facts::default());
        if kind.is_empty() {
            assert!(compiled.is_ok(), "{:?}", compiled.err());
        } else {
            assert_eq!(
                compiled.err().map(|error| error.limit),
                Some(Limit::TooManyChoices)
            );
        }
    }
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
            0,
        )
    };
    assert_eq!(
        of(4711),
        Ruling {
            effect: Effect::Deny,
            rule: 4712,
            enforce: true,
            ..Ruling::NONE
        }
    );
    assert_eq!(of(100_001), Ruling::NONE);
}
