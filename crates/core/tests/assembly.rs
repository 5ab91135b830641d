//! From the kernel's record to the report.

use blackstart_core::name::Pattern;
use blackstart_core::policy::{Effect, Policy, Rule, Target, alone};
use blackstart_core::record::*;
use blackstart_core::redact::Redaction;
use blackstart_core::report::{
    Account, Attached, AttachedBy, Finding, FollowedFacts, Gap, Guarded, Ledger, Leftover,
    LimitFacts, Mode, Outcome, Parts, PolicySource, Reload, Report, RunFacts, STANDING_GAPS,
    Severity, Until, Usage, assemble, followed_exe, schema,
};
use blackstart_core::tables::{RULE_DEFAULT, RULE_LOCAL, RULE_RESOLVER_SOCKET, RULE_SOCKET_KIND};

const SECOND: u64 = 1_000_000_000;

fn policy() -> Policy {
    let text = "apiVersion: blackstart.dev/v1\nkind: Policy\nservice: mysql\nmode: enforce\nrules:\n  - deny: .github.com\n    reason: served by this database\n    fix: use the mirror\n  - deny: 192.0.2.0/24:443\n";
    match alone(text, "p.yaml") {
        Ok(effective) => effective.policy,
        Err(errors) => panic!("{errors:?}"),
    }
}

fn facts(policy: Option<&Policy>) -> RunFacts<'_> {
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
        known_addresses: vec!["10.0.0.53".parse().unwrap()],
        own_addresses: vec!["10.1.2.3".parse().unwrap()],
        resolvers: vec!["10.0.0.53".parse().unwrap()],
        search: vec!["corp.example".into()],
    }
}

fn subject(id: SubjectId, parent: SubjectId, exe: &str, started_s: u64) -> SubjectRow {
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

fn query(name: NameId, subject: SubjectId, verdict: Verdict, rule: u32) -> QueryRow {
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

fn flow(subject: SubjectId, name: NameId, address: &str, verdict: Verdict, rule: u32) -> FlowRow {
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
fn record() -> Snapshot {
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

fn of_kind<'r>(report: &'r Report, kind: &str) -> Vec<&'r Finding> {
    report.findings.iter().filter(|f| f.kind == kind).collect()
}

fn gap<'r>(report: &'r Report, kind: &str) -> Option<&'r Gap> {
    report.coverage.gaps.iter().find(|g| g.kind == kind)
}

/// The gaps of this run, as against those of every run.
fn own_gaps(report: &Report) -> Vec<(&str, u64)> {
    let stands = |kind: &str| STANDING_GAPS.iter().any(|standing| standing.kind == kind);
    let gaps = report.coverage.gaps.iter();
    gaps.map(|gap| (gap.kind.as_str(), gap.count))
        .filter(|(kind, _)| !stands(kind))
        .collect()
}

/// Something of everything.
fn full_record() -> Snapshot {
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
    }];
    record.counters.attempts = 6;
    record
}

#[test]
fn the_whole_document() {
    let policy = policy();
    insta::assert_json_snapshot!(assemble(&full_record(), &facts(Some(&policy))));
}

#[test]
fn what_is_written_entry_by_entry_is_the_report() {
    let policy = policy();
    for record in [full_record(), Snapshot::default()] {
        let facts = facts(Some(&policy));
        let mut ledger = Ledger::default();
        record.rows().for_each(|row| ledger.add(row));
        let account = Account::new(ledger, &facts);
        let report = assemble(&record, &facts);
        assert_eq!(account.to_report(), report);
        assert_eq!(
            serde_json::to_string_pretty(&account).unwrap(),
            serde_json::to_string_pretty(&report).unwrap()
        );

        let (one, other): (&dyn Parts, &dyn Parts) = (&account, &report);
        assert!(one.subjects().eq(other.subjects()));
        assert!(one.names().eq(other.names()));
        assert!(one.flows().eq(other.flows()));
        assert_eq!(one.told_by_another(), other.told_by_another());
        assert_eq!(one.run(), other.run());
        assert_eq!(one.delegates(), other.delegates());
        assert_eq!(one.findings(), other.findings());
        assert_eq!(one.coverage(), other.coverage());
    }
}

#[test]
fn a_record_is_passed_on_whole() {
    let mut record = full_record();
    record.leavers = vec![LeaverRow {
        subject: 10,
        tgid: 110,
        cgroup: 7,
        returned: false,
    }];
    let mut back = Snapshot::default();
    for row in record.rows() {
        let text = serde_json::to_string(&row).unwrap();
        assert!(!text.contains('\n'), "a row is a line: {text}");
        back.add(serde_json::from_str(&text).unwrap());
    }
    assert_eq!(back, record);
}

#[test]
fn a_contact_within_the_run_is_no_delegate_unless_it_was_refused() {
    let mut record = record();
    let row = |path: &str, verdict, inside| DelegateRow {
        subject: 20,
        path: path.to_owned(),
        verdict,
        rule: 0,
        attempts: 1,
        listener: Some(Listener {
            pid: 7,
            exe: Some("/usr/bin/daemon".to_owned()),
            inside,
        }),
    };
    record.delegates = vec![
        row("/outside", Verdict::Allow, false),
        row("/inside", Verdict::Allow, true),
        row("/refused", Verdict::Deny, true),
    ];
    let report = assemble(&record, &facts(None));
    let told: Vec<_> = (report.delegates.iter())
        .map(|it| {
            (
                it.path.as_str(),
                it.listener_pid,
                it.listener_exe.as_deref(),
            )
        })
        .collect();
    let daemon = Some("/usr/bin/daemon");
    assert_eq!(
        told,
        [("/outside", Some(7), daemon), ("/refused", Some(7), daemon)]
    );
}

#[test]
fn who_left_and_was_moved_back_is_told_apart_from_who_is_gone() {
    let mut record = full_record();
    let left = |tgid, returned| LeaverRow {
        subject: 10,
        tgid,
        cgroup: 7,
        returned,
    };
    record.leavers = vec![left(110, false), left(111, true), left(112, true)];
    let report = assemble(&record, &facts(None));
    let found = report.findings.iter();
    let mut titles: Vec<_> = found
        .filter(|finding| finding.kind == "left_cgroup")
        .map(|finding| finding.title.split_once(' ').unwrap().1)
        .collect();
    titles.sort_unstable();
    assert_eq!(
        titles,
        [
            "left the run's cgroup and was moved back; what it reached for in between was not judged",
            "left the run's cgroup and was not seen from then on"
        ]
    );
}

#[test]
fn a_followed_unit_stands_above_its_processes() {
    let mut record = record();
    let far = 1 << 48;
    record
        .subjects
        .push(subject(far + 9, far + 1, "/usr/bin/wget", 5));
    record.subjects.push(SubjectRow {
        tgid: 0,
        exe: followed_exe("db.service"),
        argv: vec![],
        replaced: true,
        ..subject(far + 1, 0, "", 5)
    });
    let mut facts = facts(None);
    facts.followed = vec![FollowedFacts {
        unit: "db.service".into(),
        root: far + 1,
        cgroup: "/system.slice/db.service".into(),
        asked: Some(vec![]),
        started_ns: 1_767_225_601_000_000_000,
        ended_ns: None,
        until: None,
        at_once: false,
    }];
    facts.unfollowed = vec!["app-*.service".into()];
    let report = assemble(&record, &facts);
    let followed = &report.run.followed[0];
    let unit = report
        .subjects
        .iter()
        .find(|it| Some(it.id) == followed.subject);
    let unit = unit.expect("the unit is among the subjects");
    assert_eq!(
        (&*unit.exe, unit.pid, unit.exit),
        ("unit:db.service", 0, None)
    );
    let below = report.subjects.iter().find(|it| it.exe == "/usr/bin/wget");
    assert_eq!(below.unwrap().parent, Some(unit.id));
    assert_eq!(followed.started, "2026-01-01T00:00:01.000000Z");
    let never = report.findings.iter().find(|it| it.kind == "not_followed");
    assert!(never.unwrap().title.starts_with("app-*.service, "));
    // Counted apart, and told together.
    let mut ledger = Ledger::default();
    record.rows().for_each(|row| ledger.add(row));
    let more = Counters {
        attempts: 5,
        lost: 5,
        ..Counters::default()
    };
    ledger.add(Row::Counters(more));
    let both = Account::new(ledger, &facts).to_report().coverage;
    assert_eq!(both.attempts, report.coverage.attempts + 5);
    assert_eq!(both.lost, report.coverage.lost + 5);
}

#[test]
fn a_process_that_never_called_exec_runs_what_its_parent_runs() {
    let mut record = record();
    let forked = |id, parent| SubjectRow {
        exe: String::new(),
        argv: vec![],
        forked: true,
        ..subject(id, parent, "", 4)
    };
    record.subjects[1].argv = ["git", "--token", "hunter2"].map(String::from).into();
    record.subjects[1].argv_truncated = true;
    // A worker's worker, and one of nobody known; what /proc told of one stands.
    record.subjects.insert(0, forked(42, 41));
    record.subjects.insert(0, forked(41, 20));
    record.subjects.push(forked(43, 0));
    record.subjects.push(SubjectRow {
        argv: vec!["told".into()],
        ..forked(44, 20)
    });
    let report = assemble(&record, &facts(None));
    let words = |pid: u32| {
        let subject = report.subjects.iter().find(|s| s.pid == pid).unwrap();
        let argv: Vec<_> = subject.argv.iter().map(String::as_str).collect();
        (subject.exe.as_str(), argv, subject.argv_truncated)
    };
    let git = ("/usr/bin/git", vec!["git", "--token", "***"], true);
    assert_eq!((words(141), words(142)), (git.clone(), git));
    assert_eq!(words(143), ("", vec![], false));
    assert_eq!(words(144).1, ["told"]);
}

#[test]
fn the_last_end_is_known_when_all_have_ended() {
    let end = |record: &Snapshot| {
        let mut ledger = Ledger::default();
        record.rows().for_each(|row| ledger.add(row));
        ledger.last_end_ns()
    };
    let mut record = record();
    assert_eq!(end(&record), Some(1_767_225_604 * SECOND as i64));
    record.subjects[0].ended_ns = 0;
    assert_eq!(end(&record), None);
    assert_eq!(end(&Snapshot::default()), None);
}

#[test]
fn what_was_there_before_is_told_apart() {
    let mut record = record();
    record.subjects[0].found = true;
    let facts = RunFacts {
        command: Vec::new(),
        attached: Some(Attached {
            by: AttachedBy::Unit,
            target: "mysql.service".to_owned(),
            cgroup: "/system.slice/mysql.service".to_owned(),
            until: Some(Until::Asked),
            connections: Vec::new(),
        }),
        ..facts(None)
    };
    let report = assemble(&record, &facts);
    assert_eq!(report.run.attached, facts.attached);
    let found: Vec<_> = report.subjects.iter().filter(|of| of.found).collect();
    assert_eq!(found.len(), 1);
    // Of a run neither stands there: who reads reports of before needs to know nothing of them.
    let text = serde_json::to_string(&assemble(&record, &self::facts(None))).unwrap();
    assert!(!text.contains("\"attached\""));
    assert_eq!(text.matches("\"found\"").count(), 1);
    let again: Report = serde_json::from_str(&text).unwrap();
    assert_eq!(again.run.attached, None);
}

#[test]
fn the_order_of_rows_changes_nothing() {
    let mut record = record();
    record.queries = vec![
        query(1, 10, Verdict::Deny, 1),
        query(2, 20, Verdict::Allow, 0),
        query(2, 10, Verdict::Allow, 0),
    ];
    record.flows = vec![
        flow(10, 1, "10.0.0.1", Verdict::Deny, 1),
        flow(20, 0, "10.0.0.2", Verdict::Allow, 0),
    ];
    let policy = policy();
    let one = assemble(&record, &facts(Some(&policy)));
    record.subjects.reverse();
    record.queries.reverse();
    record.flows.reverse();
    record.names.reverse();
    assert_eq!(one, assemble(&record, &facts(Some(&policy))));
}

#[test]
fn subjects_are_numbered_parents_first_and_always_all() {
    let mut record = record();
    // A child that seems to have started before its parent, an unknown parent, and two that are each other's.
    record.subjects.push(subject(40, 20, "/bin/early", 0));
    record.subjects.push(subject(50, 999, "/bin/orphan", 9));
    record.subjects.push(subject(60, 70, "/bin/a", 10));
    record.subjects.push(subject(70, 60, "/bin/b", 11));
    let report = assemble(&record, &facts(None));
    let seen: Vec<_> = report
        .subjects
        .iter()
        .map(|s| (s.id, s.exe.as_str(), s.parent))
        .collect();
    assert_eq!(
        seen,
        [
            (1, "/bin/bash", None),
            (2, "/usr/bin/curl", Some(1)),
            (3, "/usr/bin/git", Some(1)),
            (4, "/bin/early", Some(3)),
            (5, "/bin/orphan", None),
            (6, "/bin/a", None),
            (7, "/bin/b", Some(6)),
        ]
    );
}

#[test]
fn a_lookup_and_a_connect_of_one_name_are_one_finding() {
    let policy = policy();
    let mut record = record();
    record.queries = vec![query(1, 10, Verdict::Deny, 1)];
    let lookup = assemble(&record, &facts(Some(&policy)));
    let [only] = of_kind(&lookup, "denied_dependency")[..] else {
        panic!("{:?}", lookup.findings)
    };
    assert_eq!(only.title, "curl was refused the lookup of github.com");

    record.flows = vec![flow(10, 1, "10.0.0.1", Verdict::Deny, 1)];
    let both = assemble(&record, &facts(Some(&policy)));
    let [only] = of_kind(&both, "denied_dependency")[..] else {
        panic!("{:?}", both.findings)
    };
    assert_eq!(only.title, "curl was refused github.com:443");
    assert_eq!(
        (only.severity, &only.subjects[..]),
        (Severity::Error, &[2, 1][..])
    );
    assert_eq!(only.rule.as_deref(), Some("deny .github.com"));
    assert_eq!(
        (only.reason.as_deref(), only.fix.as_deref()),
        (Some("served by this database"), Some("use the mirror"))
    );

    // Another program, another address of the same name, another process of the same program.
    record.queries.push(query(1, 20, Verdict::Deny, 1));
    record.flows.push(flow(10, 1, "10.0.0.2", Verdict::Deny, 1));
    record.subjects.push(subject(11, 30, "/opt/bin/curl", 4));
    record.queries.push(query(1, 11, Verdict::Deny, 1));
    assert_eq!(
        of_kind(
            &assemble(&record, &facts(Some(&policy))),
            "denied_dependency"
        )
        .len(),
        2
    );
}

#[test]
fn observe_warns_and_says_what_enforce_would_do() {
    let mut record = record();
    record.flows = vec![flow(10, 0, "2001:db8::1", Verdict::WouldDeny, RULE_DEFAULT)];
    let report = assemble(&record, &facts(None));
    let [only] = of_kind(&report, "would_deny")[..] else {
        panic!("{:?}", report.findings)
    };
    assert_eq!(
        (only.title.as_str(), only.severity),
        ("curl would be refused [2001:db8::1]:443", Severity::Warning)
    );
    assert_eq!(only.rule.as_deref(), Some("default"));
    assert!(of_kind(&report, "denied_dependency").is_empty());
}

#[test]
fn ids_do_not_depend_on_the_run() {
    let policy = policy();
    let id_of =
        |record: &Snapshot, facts: &RunFacts<'_>| assemble(record, facts).findings[0].id.clone();
    let mut one = record();
    one.flows = vec![flow(10, 1, "10.0.0.1", Verdict::Deny, 1)];
    let mut other = one.clone();
    other.boot_offset_ns += 12_345;
    other.flows[0].address = "10.9.9.9".parse().unwrap();
    other.subjects[0].exe = "/opt/curl".into();
    let far = RunFacts {
        host: "db2".into(),
        id: "x".into(),
        ..facts(Some(&policy))
    };
    assert_eq!(id_of(&one, &facts(Some(&policy))), id_of(&other, &far));
    // A part of the format: a change of it breaks whoever keeps ids.
    assert_eq!(id_of(&one, &facts(Some(&policy))), "c92b6c3055451ebf");
    other.flows[0].port = 22;
    assert_ne!(
        id_of(&one, &facts(Some(&policy))),
        id_of(&other, &facts(Some(&policy)))
    );
}

#[test]
fn the_sums_add_up() {
    let mut record = record();
    let unnamed = |address| flow(10, 0, address, Verdict::Allow, RULE_DEFAULT);
    record.flows = vec![
        flow(10, 2, "10.1.0.1", Verdict::Allow, RULE_DEFAULT),
        unnamed("10.7.7.7"),
        unnamed("127.0.0.1"),
        unnamed("10.0.0.53"),
        flow(10, 0, "192.0.2.1", Verdict::Deny, 2),
        FlowRow {
            rule: RULE_LOCAL,
            ..unnamed("10.7.7.8")
        },
        flow(12345, 2, "10.1.0.1", Verdict::Allow, RULE_DEFAULT),
        FlowRow {
            attribution: Attribution::Unknown,
            ..unnamed("10.7.7.9")
        },
    ];
    record.counters = Counters {
        attempts: 40,
        overflow: 7,
        lost: 9,
        ..Counters::default()
    };
    let report = assemble(&record, &facts(None));
    let c = &report.coverage;
    assert_eq!((c.attempts, c.recorded, c.lost), (40, 8 * 3 + 7, 9));
    // Named; loopback; own resolver; the rule is about the address; built in for the address.
    assert_eq!(c.attributed, 5 * 3);
    assert_eq!(gap(&report, "unnamed_addresses").unwrap().count, 3);
    assert_eq!(gap(&report, "attempts_lost").unwrap().count, 9);
    assert_eq!(gap(&report, "flow_table_full").unwrap().count, 7);
}

#[test]
fn every_blind_spot_is_a_gap_and_nothing_else_is() {
    let quiet = Counters {
        answers_dropped: 5,
        events_lost: 5,
        backstop: 5,
        ..Counters::default()
    };
    let mut record = Snapshot {
        counters: quiet.clone(),
        ..record()
    };
    assert_eq!(own_gaps(&assemble(&record, &facts(None))), []);

    record.counters = Counters {
        subjects_lost: 1,
        queries_lost: 2,
        leases_lost: 3,
        leases_evicted: 9,
        queries_malformed: 4,
        answers_malformed: 5,
        answers_forged: 8,
        answers_unasked: 7,
        dns_over_tcp: 6,
        sockets_lost: 10,
        claims_busy: 11,
        claims_full: 12,
        claims_unseen: 13,
        claims_unread: 14,
        claims_unnamed: 15,
        claims_hidden: 16,
        ..quiet
    };
    record.subjects[0].late = true;
    record.leavers = vec![LeaverRow {
        subject: 10,
        tgid: 110,
        cgroup: 7,
        returned: false,
    }];
    let extra = Gap {
        kind: "unix_sockets".into(),
        detail: "the kernel has no hook".into(),
        count: 0,
    };
    let facts = RunFacts {
        gaps: vec![extra],
        unsupervised_seconds: 2.5,
        ..facts(None)
    };
    let report = assemble(&record, &facts);
    assert_eq!(
        own_gaps(&report),
        [
            ("answers_forged", 8),
            ("answers_malformed", 5),
            ("answers_unasked", 7),
            ("claims_busy", 11),
            ("claims_full", 12),
            ("claims_hidden", 16),
            ("claims_unnamed", 15),
            ("claims_unread", 14),
            ("claims_unseen", 13),
            ("dns_over_tcp", 6),
            ("late_subjects", 1),
            ("leases_evicted", 9),
            ("leases_lost", 3),
            ("left_cgroup", 1),
            ("queries_lost", 2),
            ("queries_malformed", 4),
            ("sockets_lost", 10),
            ("subjects_lost", 1),
            ("unix_sockets", 0),
            ("unsupervised", 0),
        ]
    );
    assert_eq!(report.coverage.unsupervised_seconds, 2.5);
    let [left] = of_kind(&report, "left_cgroup")[..] else {
        panic!()
    };
    assert_eq!(
        (left.severity, &left.subjects[..]),
        (Severity::Warning, &[2, 1][..])
    );

    // In observe nothing is dropped.
    let observing = RunFacts {
        mode: Mode::Observe,
        ..facts
    };
    let report = assemble(&record, &observing);
    assert!(gap(&report, "answers_unasked").is_none());
}

#[test]
fn no_report_says_that_everything_was_in_sight() {
    for guarded in [Guarded::Yes, Guarded::Partly] {
        let facts = RunFacts {
            guarded,
            ..facts(None)
        };
        let report = assemble(&record(), &facts);
        assert_eq!(report.run.guarded, guarded);
        for standing in STANDING_GAPS {
            assert_eq!(gap(&report, standing.kind).unwrap().count, 0);
        }
    }
    // Nothing was seen at all: whoever knows why has said so.
    let facts = RunFacts {
        guarded: Guarded::No,
        ..facts(None)
    };
    assert_eq!(assemble(&record(), &facts).coverage.gaps, []);
}

#[test]
fn what_was_refused_is_not_out_of_sight() {
    let facts = RunFacts {
        closed_families: true,
        ..facts(None)
    };
    let report = assemble(&record(), &facts);
    assert!(gap(&report, "unseen_families").is_none() && gap(&report, "contain").is_some());
    let facts = RunFacts {
        contained: true,
        ..facts
    };
    let report = assemble(&record(), &facts);
    assert!(gap(&report, "contain").is_none());
    assert!(gap(&report, "received_sockets").is_some());
}

#[test]
fn a_socket_refused_for_its_kind_is_a_finding_with_its_process() {
    let asked = |verdict, protocol| SocketRow {
        subject: 10,
        kind: SocketKind {
            family: 2,
            kind: 3,
            protocol,
        },
        verdict,
        rule: RULE_SOCKET_KIND,
        times: 3,
    };
    let mut record = record();
    record.sockets = vec![
        asked(Verdict::Deny, 1),
        asked(Verdict::WouldDeny, 132),
        asked(Verdict::BreakGlass, 58),
    ];
    let report = assemble(&record, &facts(None));
    let [denied] = of_kind(&report, "denied_socket")[..] else {
        panic!("{:#?}", report.findings)
    };
    assert!(denied.title.ends_with(" was refused a raw ICMP socket"));
    assert_eq!(denied.rule.as_deref(), Some("built-in: kind of socket"));
    assert!(!denied.subjects.is_empty());
    let [would] = of_kind(&report, "would_deny_socket")[..] else {
        panic!("{:#?}", report.findings)
    };
    assert_eq!(would.severity, Severity::Warning);
    assert!(would.title.ends_with(" would be refused a raw SCTP socket"));
    // Of nothing of this can it be said that it was reached for.
    assert_eq!(report.coverage.attempts, report.coverage.recorded);
}

#[test]
fn asking_for_the_way_is_no_finding_of_its_own() {
    let probe = |name, address, port| FlowRow {
        protocol: 17,
        port,
        bytes_sent: 0,
        ..flow(10, name, address, Verdict::Deny, 1)
    };
    let titles = |flows: Vec<FlowRow>| -> Vec<String> {
        let record = Snapshot { flows, ..record() };
        let report = assemble(&record, &facts(Some(&policy())));
        assert_eq!(report.flows.len(), record.flows.len(), "all are flows");
        let findings = of_kind(&report, "denied_dependency");
        findings.iter().map(|f| f.title.clone()).collect()
    };
    let real = || flow(10, 1, "10.0.0.1", Verdict::Deny, 1);
    let only = ["curl was refused github.com:443"];
    assert_eq!(titles(vec![probe(1, "10.0.0.2", 443), real()]), only);
    assert_eq!(titles(vec![probe(1, "10.0.0.2", 0), real()]), only);
    assert_eq!(titles(vec![probe(1, "10.0.0.2", 0)]), [""; 0]);
    // Datagrams in earnest.
    assert_eq!(titles(vec![probe(1, "10.0.0.2", 443)]), only);
    let both = [
        "curl was refused github.com:443",
        "curl was refused github.com:8125",
    ];
    assert_eq!(titles(vec![probe(1, "10.0.0.2", 8125), real()]), both);
}

#[test]
fn a_finding_names_the_script_and_not_its_interpreter() {
    let mut record = record();
    record.subjects[0].exe = "/usr/bin/python3.11".into();
    record.subjects[0].argv = ["python3", "/opt/schema-check"].map(String::from).into();
    record.flows = vec![flow(10, 1, "10.0.0.1", Verdict::Deny, 1)];
    let report = assemble(&record, &facts(None));
    assert_eq!(
        report.findings[0].title,
        "schema-check was refused github.com:443"
    );
}

#[test]
fn leftovers_are_listed_each() {
    let worker = |tgid| Leftover {
        tgid,
        argv: ["nginx", "--password=x"].map(String::from).into(),
    };
    let facts = RunFacts {
        leftovers: vec![
            worker(9002),
            worker(9001),
            Leftover {
                tgid: 110,
                argv: vec![],
            },
        ],
        ..facts(None)
    };
    let report = assemble(&record(), &facts);
    let titles: Vec<_> = of_kind(&report, "leftover")
        .iter()
        .map(|f| f.title.as_str())
        .collect();
    assert_eq!(
        titles,
        [
            "curl (process 110) outlived the command",
            "nginx (processes 9001, 9002) outlived the command"
        ]
    );
    assert_eq!(
        of_kind(&report, "leftover")[1].command.as_deref().unwrap()[1],
        "--password=***"
    );
}

#[test]
fn outcomes_have_an_order() {
    let outcome = |row: FlowRow| {
        let record = Snapshot {
            flows: vec![row],
            ..record()
        };
        assemble(&record, &facts(None)).flows[0].outcome
    };
    let row = || flow(10, 0, "10.0.0.1", Verdict::Allow, 0);
    assert_eq!(
        outcome(FlowRow {
            connected: 1,
            refused: 1,
            timed_out: 1,
            ..row()
        }),
        Outcome::Connected
    );
    assert_eq!(
        outcome(FlowRow {
            refused: 1,
            timed_out: 1,
            ..row()
        }),
        Outcome::Refused
    );
    assert_eq!(
        outcome(FlowRow {
            verdict: Verdict::Deny,
            timed_out: 1,
            ..row()
        }),
        Outcome::Refused
    );
    assert_eq!(
        outcome(FlowRow {
            timed_out: 1,
            ..row()
        }),
        Outcome::TimedOut
    );
    assert_eq!(outcome(row()), Outcome::Unknown);
}

#[test]
fn what_a_process_chose_cannot_break_a_line() {
    let mut record = record();
    record.subjects[0].exe = "/tmp/ev\u{1b}[2Jil\n".into();
    record.flows = vec![flow(10, 1, "10.0.0.1", Verdict::Deny, 1)];
    let report = assemble(&record, &facts(None));
    assert!(
        !report.findings[0].title.chars().any(char::is_control),
        "{:?}",
        report.findings[0].title
    );
}

#[test]
fn times_beyond_the_calendar_are_cut() {
    let mut record = record();
    record.boot_offset_ns = i64::MAX;
    record.subjects[0].started_ns = u64::MAX;
    let facts = RunFacts {
        started_ns: i64::MIN,
        ..facts(None)
    };
    let report = assemble(&record, &facts);
    assert!(
        report.run.started.ends_with('Z')
            && report.subjects.iter().all(|s| s.started.ends_with('Z'))
    );
}

#[test]
fn the_schema_describes_the_document() {
    let schema = schema();
    let report = serde_json::to_value(assemble(&record(), &facts_of_change())).unwrap();
    let keys = |v: &serde_json::Value| {
        v.as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(keys(&schema["properties"]), keys(&report));
    let mut of_subject = keys(&schema["$defs"]["Subject"]["properties"]);
    // Only of one that was there before.
    assert!(of_subject.remove("found"));
    assert_eq!(of_subject, keys(&report["subjects"][0]));
    let mut of_run = keys(&schema["$defs"]["Run"]["properties"]);
    // Only of a run whose scripts' texts were looked at, or for which an outage was played, or that started units; or of none.
    assert!(of_run.remove("scripts") && of_run.remove("drill") && of_run.remove("attached"));
    assert!(of_run.remove("followed"));
    assert_eq!(of_run, keys(&report["run"]));
    let back: Report = serde_json::from_value(report.clone()).unwrap();
    assert_eq!(serde_json::to_value(back).unwrap(), report);
}

#[test]
fn an_expired_waiver_is_a_finding_of_the_run() {
    let mut policy = policy();
    policy.expired = vec![Rule {
        owner: Some("team-db".into()),
        reason: Some("until the mirror has providers".into()),
        expires: Some("2026-01-31".into()),
        text: "waiver for api.github.com, process terraform".into(),
        file: "p.yaml".into(),
        line: 12,
        ..Rule::new(
            Effect::Allow,
            Target::Name(Pattern::parse("api.github.com").unwrap()),
        )
    }];
    let report = assemble(&record(), &facts(Some(&policy)));
    let [finding] = &of_kind(&report, "waiver_expired")[..] else {
        panic!("{:?}", report.findings)
    };
    assert_eq!(
        finding.title,
        "the waiver for api.github.com, process terraform expired on 2026-01-31"
    );
    assert_eq!(finding.owner.as_deref(), Some("team-db"));
    assert!(finding.fix.as_ref().unwrap().contains("p.yaml:12"));
    assert!(of_kind(&assemble(&record(), &facts(None)), "waiver_expired").is_empty());
}

fn source(file: &str) -> PolicySource {
    PolicySource {
        digest: "sha256:00".to_owned(),
        files: vec![file.to_owned()],
    }
}

/// Of a run in which everything was let pass, and another policy took over.
fn facts_of_change() -> RunFacts<'static> {
    RunFacts {
        reloads: vec![Reload {
            at_ns: 1_767_225_601_000_000_000,
            policy: source("second.yaml"),
        }],
        break_glass: Some("the mirror is down".to_owned()),
        ..facts(None)
    }
}

#[test]
fn policies_that_took_over_and_broken_glass_are_told() {
    let report = assemble(&record(), &facts_of_change());
    let [reloaded] = &report.run.reloads[..] else {
        panic!("{:?}", report.run.reloads)
    };
    assert_eq!(reloaded.at, "2026-01-01T00:00:01.000000Z");
    assert_eq!(reloaded.policy, source("second.yaml"));
    assert_eq!(
        report.run.break_glass.as_deref(),
        Some("the mirror is down")
    );
    let [finding] = &of_kind(&report, "break_glass")[..] else {
        panic!("{:?}", report.findings)
    };
    assert!(finding.title.contains("the mirror is down"), "{finding:?}");
}

#[test]
fn what_refused_in_deed_is_known_before_the_report_is_made() {
    let refusing = |record: &Snapshot| {
        let mut ledger = Ledger::default();
        record.rows().for_each(|row| ledger.add(row));
        let mut rules: Vec<_> = ledger.refusing().collect();
        rules.sort_unstable();
        rules
    };
    let flow = |verdict, rule| flow(20, 0, "192.0.2.1", verdict, rule);
    let query = |verdict, rule| query(1, 20, verdict, rule);
    let delegate = |verdict, rule| DelegateRow {
        subject: 20,
        path: "/run/docker.sock".to_owned(),
        verdict,
        rule,
        attempts: 1,
        listener: None,
    };
    let mut record = record();
    record.flows = vec![flow(Verdict::Deny, 1), flow(Verdict::WouldDeny, 2)];
    record.queries = vec![query(Verdict::Deny, 3), query(Verdict::BreakGlass, 4)];
    record.delegates = vec![delegate(Verdict::Deny, 5), delegate(Verdict::Waived, 6)];
    assert_eq!(refusing(&record), [1, 3, 5]);
}
