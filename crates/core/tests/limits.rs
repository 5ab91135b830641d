//! The `limits` of a policy: read, or refused at their place; and what a report says came of them.

use std::time::Duration;

use blackstart_core::policy::{Cpus, Limits, Parsed, parse};
use blackstart_core::record::{Attribution, FlowRow, Snapshot, SubjectRow, Verdict};
use blackstart_core::redact::Redaction;
use blackstart_core::report::{
    Applied, Finding, Guarded, Leftover, LimitFacts, Mode, Overtime, Report, RunFacts, RunLimits,
    Severity, Usage, assemble,
};

const HEAD: &str = "apiVersion: blackstart.dev/v1\nkind: Policy\n";

fn complaints(text: &str) -> String {
    let diagnostics = match parse(text, "p.yaml") {
        Ok(Parsed { warnings, .. }) => warnings,
        Err(diagnostics) => diagnostics,
    };
    diagnostics
        .iter()
        .map(|d| format!("{d}\n    at {:?}\n", &text[d.span.clone()]))
        .collect()
}

fn limits(text: &str) -> Limits {
    match parse(&format!("{HEAD}{text}"), "p.yaml") {
        Ok(Parsed { document, .. }) => document.limits,
        Err(_) => panic!("{}", complaints(&format!("{HEAD}{text}"))),
    }
}

#[test]
fn all_four_are_read() {
    let all = Limits {
        memory: Some(2 << 30),
        cpu: Some(Cpus::from_thousandths(1500)),
        pids: Some(512),
        time: Some(Duration::from_secs(1800)),
    };
    assert_eq!(
        limits("limits: { memory: 2GiB, cpu: 1.5, pids: 512, time: 30m }\n"),
        all
    );
    assert_eq!(
        limits("limits:\n  memory: \"2GiB\"\n  cpu: 1.5\n  pids: 512\n  time: 30m\n"),
        all
    );
    assert_eq!(limits(""), Limits::default());
    assert_eq!(limits("limits: {}\n"), Limits::default());
    let one = Limits {
        pids: Some(1),
        ..Limits::default()
    };
    assert_eq!(limits("limits: { pids: 1 }\n"), one);
}

#[test]
fn everything_wrong_is_told_at_its_place() {
    let text = format!(
        "{HEAD}limits:\n  memroy: 2GiB\n  memory: 2GB\n  memory: 1GiB\n  cpu: 150%\n  pids: 0\n  time: 90\n  disk: 1TiB\n  [a]: 1\n"
    );
    let more = format!("{HEAD}limits:\n  memory:\n  cpu: true\n  pids: [1]\n  time: {{h: 1}}\n");
    let shapes = ["limits: 2GiB\n", "limits:\n", "limits: [memory]\n"];
    let shapes = shapes.map(|limits| complaints(&format!("{HEAD}{limits}")));
    insta::assert_snapshot!([complaints(&text), complaints(&more), shapes.concat()].join("\n"));
}

const SECOND: u64 = 1_000_000_000;

/// A run whose shell (pid 101) started mysqld_safe (102) and apt-get (103); at its second 60 the time is over.
fn told(facts: LimitFacts, usage: Usage, leftovers: Vec<Leftover>) -> Report {
    let subject = |id: u64, exe: &str, ended_s: u64, wait_status| SubjectRow {
        id,
        parent: if id == 1 { 0 } else { 1 },
        tgid: 100 + u32::try_from(id).unwrap(),
        exe: exe.to_owned(),
        argv: vec![exe.to_owned()],
        argv_truncated: false,
        forked: false,
        late: false,
        found: false,
        started_ns: id * SECOND,
        ended_ns: ended_s * SECOND,
        wait_status,
        replaced: false,
    };
    let flow = |verdict, port, last_s| FlowRow {
        subject: 3,
        name: 0,
        address: "192.0.2.7".parse().unwrap(),
        port,
        protocol: 6,
        verdict,
        rule: 0,
        attribution: Attribution::Unnamed,
        attempts: 1,
        connected: 0,
        refused: 0,
        timed_out: 0,
        bytes_sent: 0,
        first_ns: last_s * SECOND,
        last_ns: last_s * SECOND,
    };
    let record = Snapshot {
        subjects: vec![
            subject(1, "sh", 61, 15),
            subject(2, "mysqld_safe", 20, 9),
            // Ended by us, as is the signal.
            subject(3, "apt-get", 70, 9),
        ],
        flows: vec![
            flow(Verdict::Allow, 80, 30),
            flow(Verdict::Deny, 443, 50),
            // When it was told to end already.
            flow(Verdict::Allow, 25, 65),
        ],
        ..Snapshot::default()
    };
    let facts = RunFacts {
        id: String::new(),
        service: None,
        owner: None,
        command: vec!["sh".to_owned()],
        redaction: Redaction::default(),
        host: String::new(),
        mode: Mode::Observe,
        policy_source: None,
        policy: None,
        started_ns: 0,
        ended_ns: None,
        exit_code: None,
        reloads: Vec::new(),
        break_glass: None,
        drill: None,
        attached: None,
        followed: Vec::new(),
        unfollowed: Vec::new(),
        limits: facts,
        usage,
        kernel_release: String::new(),
        features: Vec::new(),
        guarded: Guarded::Yes,
        closed_families: false,
        contained: false,
        gaps: Vec::new(),
        leftovers,
        unsupervised_seconds: 0.0,
        kept: false,
        known_addresses: Vec::new(),
        own_addresses: Vec::new(),
        resolvers: Vec::new(),
        search: Vec::new(),
    };
    assemble(&record, &facts)
}

fn all(applied: Applied) -> LimitFacts {
    let mut limits = RunLimits::of(&Limits {
        memory: Some(2 << 30),
        cpu: Some(Cpus::from_thousandths(1500)),
        pids: Some(512),
        time: Some(Duration::from_secs(60)),
    });
    limits.memory.as_mut().unwrap().applied = applied;
    limits.cpu.as_mut().unwrap().applied = applied;
    limits.pids.as_mut().unwrap().applied = applied;
    limits.time.as_mut().unwrap().applied = Applied::Supervisor;
    LimitFacts {
        limits,
        ..LimitFacts::default()
    }
}

fn process(tgid: u32) -> Leftover {
    Leftover {
        tgid,
        argv: vec!["x".to_owned()],
    }
}

#[track_caller]
fn finding<'r>(report: &'r Report, kind: &str) -> &'r Finding {
    let found = report.findings.iter().find(|one| one.kind == kind);
    found.unwrap_or_else(|| panic!("no {kind} in {:#?}", report.findings))
}

/// Of the findings that are about limits.
fn titles(report: &Report) -> Vec<&str> {
    let findings = report.findings.iter();
    findings
        .filter(|one| one.kind != "denied_dependency")
        .map(|one| one.title.as_str())
        .collect()
}

#[test]
fn limits_that_hold_nothing_back_say_nothing() {
    let usage = Usage {
        oom_kills: Some(0),
        forks_refused: Some(0),
        throttled_seconds: Some(0.0),
        ..Usage::default()
    };
    let report = told(all(Applied::V2), usage, Vec::new());
    assert_eq!(titles(&report), [""; 0]);
    let limits = report.run.limits;
    assert_eq!(limits.memory.unwrap().value, 2 << 30);
    assert_eq!(limits.cpu.unwrap().value, 1.5);
    assert!(!limits.memory.unwrap().reached && !limits.time.unwrap().reached);
    assert!(!limits.pids.unwrap().reached && !limits.cpu.unwrap().reached);
}

#[test]
fn whom_the_memory_limit_killed_is_named() {
    let usage = |kills| Usage {
        oom_kills: Some(kills),
        ..Usage::default()
    };
    let facts = |hits| LimitFacts {
        memory_hits: Some(hits),
        ..all(Applied::V1)
    };
    // apt-get outlived the command, and was killed as a leftover.
    let left = || vec![process(103)];
    let report = told(facts(9), usage(1), left());
    let found = finding(&report, "limit_memory");
    assert_eq!(
        found.title,
        "memory limit of 2GiB reached: 1 process was killed (mysqld_safe)"
    );
    assert_eq!(
        (found.severity, &found.subjects[..]),
        (Severity::Error, &[2, 1][..])
    );
    assert!(report.run.limits.memory.unwrap().reached);
    // Two were ended by that signal, and one of them by whoever it was.
    let report = told(facts(9), usage(1), Vec::new());
    assert_eq!(
        finding(&report, "limit_memory").title,
        "memory limit of 2GiB reached: 1 process was killed (among: mysqld_safe, apt-get)"
    );
    let report = told(facts(9), usage(3), left());
    assert!(
        finding(&report, "limit_memory")
            .title
            .ends_with("3 processes were killed (mysqld_safe)")
    );
    // Far from its limit, or with none: it was somebody else's memory.
    for facts in [facts(0), LimitFacts::default(), all(Applied::No)] {
        let report = told(facts, usage(1), left());
        let found = finding(&report, "out_of_memory");
        assert!(
            found
                .title
                .ends_with("was out of memory: 1 process was killed (mysqld_safe)")
        );
        assert!(report.run.limits.memory.is_none_or(|limit| !limit.reached));
    }
}

#[test]
fn refused_forks_and_long_waits_are_told() {
    let usage = Usage {
        forks_refused: Some(3),
        throttled_seconds: Some(12.3),
        wall_seconds: Some(30.0),
        ..Usage::default()
    };
    let report = told(all(Applied::V2), usage.clone(), Vec::new());
    assert_eq!(
        finding(&report, "limit_pids").title,
        "limit of 512 processes and threads reached: starting another failed 3 times"
    );
    let cpu = finding(&report, "limit_cpu");
    assert_eq!(cpu.severity, Severity::Info);
    assert_eq!(
        cpu.title,
        "held back by the limit of 1.5 CPUs: its processes waited 12.3 s for it, in a run of 30.0 s"
    );
    assert!(report.run.limits.pids.unwrap().reached && report.run.limits.cpu.unwrap().reached);
    // A little is what a limit is for.
    for (throttled, wall) in [(0.9, 1.0), (12.3, 300.0)] {
        let usage = Usage {
            throttled_seconds: Some(throttled),
            wall_seconds: Some(wall),
            ..Usage::default()
        };
        let report = told(all(Applied::V2), usage, Vec::new());
        assert!(report.findings.iter().all(|one| one.kind != "limit_cpu"));
    }
}

#[test]
fn who_hung_at_the_time_limit_and_on_what_is_named() {
    let facts = LimitFacts {
        overtime: Some(Overtime {
            at_ns: 60 * i64::try_from(SECOND).unwrap(),
            ended: vec![process(101), process(103)],
            spared: vec![process(999)],
        }),
        ..all(Applied::V2)
    };
    let report = told(facts, Usage::default(), Vec::new());
    let found = finding(&report, "limit_time");
    assert_eq!(
        found.title,
        "time limit of 1m reached after 60.0 s; ended: sh (pid 101), apt-get (pid 103, last reached for \
         192.0.2.7:443, refused); left alone: x (pid 999)"
    );
    // The newest is who hung, and its chain leads to who started it.
    assert_eq!(found.subjects, [3, 1]);
    assert_eq!(found.command.as_deref(), Some(&["apt-get".to_owned()][..]));
    assert!(report.run.limits.time.unwrap().reached);
}

#[test]
fn daemons_under_limits_are_one_finding_for_each_kind() {
    let facts = LimitFacts {
        daemons: vec![process(102), process(7), process(8)],
        ..all(Applied::V2)
    };
    let report = told(facts, Usage::default(), Vec::new());
    let held = "(memory 2GiB, cpu 1.5, pids 512)";
    assert_eq!(
        titles(&report),
        [
            format!(
                "mysqld_safe (process 102) went into the background under this run's limits {held}"
            ),
            format!("x (processes 7, 8) went into the background under this run's limits {held}"),
        ]
    );
}
