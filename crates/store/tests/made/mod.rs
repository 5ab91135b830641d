//! Reports to put into a history.

use std::net::IpAddr;

use blackstart_core::history::{Micros, time_text};
use blackstart_core::report::*;
use proptest::prelude::*;

pub(crate) const DAY: Micros = 86_400_000_000;
/// When the first run began.
pub(crate) const START: Micros = 1_700_000_000_000_000;

pub(crate) fn id(n: u64) -> String {
    format!("0193f8c2-0000-7000-8000-{n:012x}")
}

/// A while after the first run's start.
pub(crate) fn time(after: Micros) -> String {
    time_text(START + after)
}

fn subject(id: u64, parent: Option<u64>, exe: &str) -> Subject {
    Subject {
        id,
        pid: 100 + u32::try_from(id).unwrap(),
        parent,
        exe: exe.to_owned(),
        argv: vec![exe.to_owned(), "-v".to_owned()],
        argv_truncated: false,
        started: time(0),
        ended: None,
        exit: None,
        found: false,
    }
}

/// A run that looked a name up and went there, the `n`th day after the first.
pub(crate) fn report(n: u64, service: &str) -> Report {
    let begin = n as Micros * DAY;
    let address: IpAddr = [10, 0, 0, (n % 200) as u8].into();
    Report {
        schema_version: SCHEMA_VERSION,
        run: Run {
            id: id(n),
            service: Some(service.to_owned()),
            owner: None,
            command: vec!["./deploy.sh".to_owned(), service.to_owned()],
            host: "db1".to_owned(),
            mode: Mode::Observe,
            policy: None,
            started: time(begin),
            ended: Some(time(begin + 5_000_000)),
            exit_code: Some(0),
            limits: RunLimits::default(),
            reloads: vec![],
            break_glass: None,
            drill: None,
            attached: None,
            followed: Vec::new(),
            usage: Usage::default(),
            kernel: Kernel {
                release: "6.12".to_owned(),
                features: vec![],
            },
            guarded: Guarded::Yes,
            addresses: vec![[10, 9, 9, 9].into()],
            resolvers: vec![[10, 9, 9, 53].into()],
            search: vec![],
            scripts: vec![],
        },
        subjects: vec![
            subject(1, None, "/bin/sh"),
            subject(2, Some(1), "/bin/sh"),
            subject(3, Some(2), "/usr/bin/curl"),
        ],
        names: vec![Name {
            name: "mirror.example.com".to_owned(),
            qtype: "A".to_owned(),
            subject: Some(3),
            verdict: Verdict::Allow,
            rule: "default".to_owned(),
            queries: 1,
            first_seen: time(begin + 1),
            last_seen: time(begin + 1),
            addresses: vec![address],
            chain: vec!["edge.example.net".to_owned()],
        }],
        flows: vec![Flow {
            subject: Some(3),
            name: Some("mirror.example.com".to_owned()),
            address,
            port: 443,
            protocol: "tcp".to_owned(),
            verdict: Verdict::Allow,
            rule: "default".to_owned(),
            attempts: 1,
            outcome: Outcome::Connected,
            bytes_sent: 900,
            first_seen: time(begin + 2),
            last_seen: time(begin + 2),
            attribution: Attribution::Exact,
        }],
        delegates: vec![],
        findings: vec![],
        coverage: Coverage {
            attempts: 2,
            recorded: 2,
            attributed: 2,
            ..Coverage::default()
        },
    }
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        Just(Verdict::Allow),
        Just(Verdict::Deny),
        Just(Verdict::WouldDeny),
        Just(Verdict::Waived),
        Just(Verdict::BreakGlass)
    ]
}

fn attribution() -> impl Strategy<Value = Attribution> {
    prop_oneof![
        Just(Attribution::Exact),
        Just(Attribution::Inherited),
        Just(Attribution::Ambiguous),
        Just(Attribution::Unnamed),
        Just(Attribution::Unknown)
    ]
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<[u8; 4]>().prop_map(IpAddr::from),
        any::<[u8; 16]>().prop_map(IpAddr::from)
    ]
}

fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("default".to_owned()),
        "[a-z]{1,6}(\\.[a-z]{1,6}){0,2}",
        ".{0,12}"
    ]
}

/// No subject, one that is there, or one that is not.
fn who() -> impl Strategy<Value = Option<u64>> {
    prop::option::of(1_u64..9)
}

prop_compose! {
    fn name()(
        (name, qtype, rule) in (word(), word(), word()),
        subject in who(),
        verdict in verdict(),
        queries in 1_u64..9,
        (first, last) in (0..DAY, 0..DAY),
        addresses in prop::collection::vec(address(), 0..3),
        chain in prop::collection::vec(word(), 0..3),
    ) -> Name {
        Name {
            name, qtype, subject, verdict, rule, queries,
            first_seen: time(first),
            last_seen: time(last),
            addresses, chain,
        }
    }
}

prop_compose! {
    fn flow()(
        subject in who(),
        name in prop::option::of(word()),
        address in address(),
        port in any::<u16>(),
        protocol in prop_oneof![Just("tcp".to_owned()), Just("udp".to_owned()), Just("132".to_owned())],
        verdict in verdict(),
        rule in word(),
        attempts in 1_u64..99,
        bytes_sent in prop_oneof![Just(0_u64), 1_u64..9999],
        (first, last) in (0..DAY, 0..DAY),
        attribution in attribution(),
    ) -> Flow {
        Flow {
            subject, name, address, port, protocol, verdict, rule, attempts,
            outcome: Outcome::Unknown,
            bytes_sent,
            first_seen: time(first),
            last_seen: time(last),
            attribution,
        }
    }
}

prop_compose! {
    fn delegate()(
        subject in who(),
        path in word(),
        verdict in verdict(),
        rule in word(),
        attempts in 1_u64..9,
    ) -> Delegate {
        Delegate {
            subject, path,
            listener_pid: None,
            listener_exe: None,
            reached: None,
            verdict, rule, attempts,
        }
    }
}

prop_compose! {
    /// Any report.
    pub(crate) fn made()(
        parents in prop::collection::vec((any::<prop::sample::Index>(), word()), 0..8),
        names in prop::collection::vec(name(), 0..6),
        flows in prop::collection::vec(flow(), 0..12),
        delegates in prop::collection::vec(delegate(), 0..3),
        service in prop::option::of(word()),
        lost in 0_u64..3,
    ) -> Report {
        let subjects = parents.iter().zip(1_u64..).map(|((parent, exe), id)| {
            let parent = parent.index(usize::try_from(id).unwrap()) as u64;
            subject(id, Some(parent).filter(|parent| *parent != 0), exe)
        });
        let like = report(0, "any");
        Report {
            run: Run { service, ..like.run },
            subjects: subjects.collect(),
            names, flows, delegates,
            coverage: Coverage { lost, ..like.coverage },
            ..report(0, "any")
        }
    }
}
