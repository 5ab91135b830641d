//! A run and its record, as small as they can be.

use blackstart_core::policy::{Policy, alone};
use blackstart_core::record::*;
use blackstart_core::redact::Redaction;
use blackstart_core::report::{
    Finding, Gap, Guarded, LimitFacts, Mode, PolicySource, Reload, Report, RunFacts, STANDING_GAPS,
    Usage,
};
use blackstart_core::tables::{RULE_DEFAULT, RULE_RESOLVER_SOCKET};

pub(crate) const SECOND: u64 = 1_000_000_000;

pub(crate) fn policy() -> Policy {
    let text = "apiVersion: blackstart.dev/v1\nkind: Policy\nservice: mysql\nmode: enforce\nrules:\n  - deny: .github.com\n    reason: served by this database\n    fix: use the mirror\n  - deny: 192.0.2.0/24:443\n";
    match alone(text, "p.yaml") {
        Ok(effective) => effective.policy,
        Err(errors) => panic!("{errors:?}"),
    }
}

pub(crate) fn facts(policy: Option<&Policy>) -> RunFacts<'_> {
    RunFacts {
        id: "0190163d-8694-739b-aea5-966c26f8ad91".into(),
        service: None,
        owner: Some("team-db".into()),
        command: ["./deploy.sh", "--token", "hunter2"]
            .map(String::from)
            .into(),
        redaction: Redaction::default(),
        host: "db1".into(),
        mode: Mode::Enforce,
        policy_source: None,
        policy,
        started_ns: 1_767_225_600_000_001_999,
        ended_ns: Some(1_767_225_603_500_000_000),
        exit_code: Some(1),
        reloads: Vec::new(),
        break_glass: None,
        drill: None,
        attached: None,
        followed: Vec::new(),
        unfollowed: Vec::new(),
        limits: LimitFacts::default(),
        usage: Usage::default(),
        kernel_release: "6.1.0".into(),
        features: vec!["names".into(), "addresses".into()],
        guarded: Guarded::Yes,
        closed_families: false,
        contained: false,
        gaps: vec![],
        leftovers: vec![],
        unsupervised_seconds: 0.0,
        kept: false,
        known_addresses: vec!["10.0.0.53".parse().unwrap()],
        own_addresses: vec!["10.1.2.3".parse().unwrap()],
        resolvers: vec!["10.0.0.53".parse().unwrap()],
        search: vec!["corp.example".into()],
    }
}

pub(crate) fn subject(id: SubjectId, parent: SubjectId, exe: &str, started_s: u64) -> SubjectRow {
    SubjectRow {
        id,
        parent,
        tgid: 100 + id as u32,
        exe: exe.into(),
        argv: vec![exe.rsplit('/').next().unwrap().into()],
        argv_truncated: false,
        forked: false,
        late: false,
        found: false,
        started_ns: started_s * SECOND,
        ended_ns: (started_s + 1) * SECOND,
        wait_status: 0,
        replaced: false,
    }
}

pub(crate) fn query(name: NameId, subject: SubjectId, verdict: Verdict, rule: u32) -> QueryRow {
    QueryRow {
        name,
        subject,
        qtype: 1,
        verdict,
        rule,
        queries: 2,
        first_ns: 5 * SECOND,
        last_ns: 6 * SECOND,
    }
}

pub(crate) fn flow(
    subject: SubjectId,
    name: NameId,
    address: &str,
    verdict: Verdict,
    rule: u32,
) -> FlowRow {
    FlowRow {
        subject,
        name,
        address: address.parse().unwrap(),
        port: 443,
        protocol: 6,
        verdict,
        rule,
        attribution: if name == 0 {
            Attribution::Unnamed
        } else {
            Attribution::Exact
        },
        attempts: 3,
        connected: 0,
        refused: 0,
        timed_out: 0,
        bytes_sent: 100,
        first_ns: 7 * SECOND,
        last_ns: 8 * SECOND,
    }
}

/// bash (30) starts curl (10) and git (20); ids are not in order of start.
pub(crate) fn record() -> Snapshot {
    Snapshot {
        boot_offset_ns: 1_767_225_600 * SECOND as i64,
        subjects: vec![
            subject(10, 30, "/usr/bin/curl", 2),
            subject(20, 30, "/usr/bin/git", 3),
            subject(30, 0, "/bin/bash", 1),
        ],
        names: [
            (1, "github.com"),
            (2, "mirror.internal"),
            (3, "cdn.example"),
        ]
        .map(|(id, name)| NameRow {
            id,
            name: name.into(),
        })
        .into(),
        ..Snapshot::default()
    }
}

pub(crate) fn of_kind<'r>(report: &'r Report, kind: &str) -> Vec<&'r Finding> {
    report.findings.iter().filter(|f| f.kind == kind).collect()
}

pub(crate) fn gap<'r>(report: &'r Report, kind: &str) -> Option<&'r Gap> {
    report.coverage.gaps.iter().find(|g| g.kind == kind)
}

/// The gaps of this run, as against those of every run.
pub(crate) fn own_gaps(report: &Report) -> Vec<(&str, u64)> {
    let stands = |kind: &str| STANDING_GAPS.iter().any(|standing| standing.kind == kind);
    let gaps = report.coverage.gaps.iter();
    gaps.map(|gap| (gap.kind.as_str(), gap.count))
        .filter(|(kind, _)| !stands(kind))
        .collect()
}

/// Something of everything.
pub(crate) fn full_record() -> Snapshot {
    let mut record = record();
    record.subjects[0].wait_status = 6 << 8;
    record.subjects[1].wait_status = 9;
    record.subjects[2].ended_ns = 0;
    record.queries = vec![
        query(2, 20, Verdict::Allow, RULE_DEFAULT),
        query(1, 10, Verdict::Deny, 1),
    ];
    record.answers = vec![
        AnswerRow {
            name: 2,
            address: "10.1.0.2".parse().unwrap(),
            chain: vec![3],
            fixed: false,
        },
        AnswerRow {
            name: 2,
            address: "10.1.0.1".parse().unwrap(),
            chain: vec![3],
            fixed: false,
        },
        AnswerRow {
            name: 2,
            address: "fd00::1".parse().unwrap(),
            chain: vec![],
            fixed: false,
        },
        AnswerRow {
            name: 2,
            address: "10.1.0.9".parse().unwrap(),
            chain: vec![],
            fixed: true,
        },
    ];
    record.flows = vec![
        FlowRow {
            connected: 1,
            refused: 1,
            ..flow(20, 2, "10.1.0.1", Verdict::Allow, RULE_DEFAULT)
        },
        flow(10, 0, "192.0.2.7", Verdict::Deny, 2),
    ];
    record.delegates = vec![DelegateRow {
        subject: 20,
        path: "/run/nscd/socket".into(),
        verdict: Verdict::Deny,
        rule: RULE_RESOLVER_SOCKET,
        attempts: 1,
        listener: None,
        reached: Reached::AsAsked,
    }];
    record.counters.attempts = 6;
    record
}

pub(crate) fn source(file: &str) -> PolicySource {
    PolicySource {
        digest: "sha256:00".to_owned(),
        files: vec![file.to_owned()],
    }
}

/// Of a run in which everything was let pass, and another policy took over.
pub(crate) fn facts_of_change() -> RunFacts<'static> {
    RunFacts {
        reloads: vec![Reload {
            at_ns: 1_767_225_601_000_000_000,
            policy: source("second.yaml"),
        }],
        break_glass: Some("the mirror is down".to_owned()),
        ..facts(None)
    }
}
