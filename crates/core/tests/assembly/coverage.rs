//! What was counted and what was not seen.

use super::*;

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
        delegates_lost: 17,
        claims_busy: 11,
        claims_full: 12,
        claims_unseen: 13,
        claims_unread: 14,
        claims_later: 18,
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
            ("claims_later", 18),
            ("claims_unnamed", 15),
            ("claims_unread", 14),
            ("claims_unseen", 13),
            ("delegates_lost", 17),
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

/// Before 6.7 nothing refuses a contact but what lies over its socket.
#[test]
fn a_socket_that_was_reached_although_an_enforced_rule_denies_it_is_a_gap() {
    let text = "apiVersion: blackstart.dev/v1\nkind: Policy\nmode: enforce\nrules:\n  - deny: unix:/run/a\n  - { deny: \"unix:/run/b\", mode: observe }\n";
    let policy = blackstart_core::policy::alone(text, "p.yaml")
        .unwrap()
        .policy;
    let contact = |verdict, rule| DelegateRow {
        subject: 20,
        path: "/run/a".to_owned(),
        verdict,
        rule,
        attempts: 3,
        listener: None,
        reached: Reached::AsAsked,
    };
    let counted = |rows: &[DelegateRow]| {
        let mut record = record();
        record.delegates = rows.to_vec();
        let report = assemble(&record, &facts(Some(&policy)));
        gap(&report, "unix_rules").map(|gap| gap.count)
    };
    assert_eq!(counted(&[contact(Verdict::WouldDeny, 1)]), Some(3));
    assert_eq!(counted(&[contact(Verdict::Deny, 1)]), None);
    assert_eq!(
        counted(&[contact(Verdict::WouldDeny, 2)]),
        None,
        "for the record"
    );
}

/// A rule is about a path; what a path leads to is found out afterwards, or it is said that it was not.
#[test]
fn a_denied_socket_by_another_path_is_a_finding_and_a_gap() {
    let text = "apiVersion: blackstart.dev/v1\nkind: Policy\nmode: enforce\nrules:\n  - { deny: \"unix:/run/a\", reason: it is down }\n  - { deny: \"unix:/run/b\", mode: observe }\n";
    let policy = blackstart_core::policy::alone(text, "p.yaml")
        .unwrap()
        .policy;
    let contact = |path: &str, verdict, rule, reached| DelegateRow {
        subject: 20,
        path: path.to_owned(),
        verdict,
        rule,
        attempts: 2,
        listener: None,
        reached,
    };
    let alias = |name: &str| Reached::Alias(name.to_owned());
    let inside = Listener {
        pid: 7,
        exe: None,
        inside: true,
    };
    let mut record = record();
    record.delegates = vec![
        contact("/run/link-a", Verdict::WouldDeny, 1, alias("/run/a")),
        contact("/run/link-b", Verdict::WouldDeny, 2, alias("/run/b")),
        contact("/run/c", Verdict::Allow, RULE_DEFAULT, Reached::AsAsked),
        contact("/run/d", Verdict::Allow, RULE_DEFAULT, Reached::Unknown),
        DelegateRow {
            listener: Some(inside),
            ..contact("/run/e", Verdict::Allow, RULE_DEFAULT, Reached::Unknown)
        },
    ];
    let report = assemble(&record, &facts(Some(&policy)));
    let count = |kind| gap(&report, kind).map(|gap| gap.count);
    assert_eq!(count("unix_rules"), Some(2), "what is enforced");
    assert_eq!(count("unix_aliases"), Some(2), "outside of the run");
    let of = |path: &str| {
        let mut rows = report.delegates.iter();
        let row = rows.find(|row| row.path == path).unwrap();
        (row.reached.as_deref(), row.place().into_owned())
    };
    let led = "/run/link-a -> /run/a".to_owned();
    assert_eq!(of("/run/link-a"), (Some("/run/a"), led));
    assert_eq!(of("/run/d"), (None, "/run/d".to_owned()));
    let found = |kind: &str| {
        let all = report.findings.iter().filter(|one| one.kind == kind);
        all.map(|one| (one.severity, one.reason.as_deref(), &*one.title))
            .collect::<Vec<_>>()
    };
    let aliases = found(SOCKET_ALIAS);
    let [
        (Severity::Error, Some("it is down"), enforced),
        (Severity::Warning, None, observed),
    ] = aliases[..]
    else {
        panic!("{aliases:?}");
    };
    for (title, path, name) in [
        (enforced, "/run/link-a", "/run/a"),
        (observed, "/run/link-b", "/run/b"),
    ] {
        assert!(title.contains(path) && title.contains(name), "{title}");
    }
    assert_eq!(found("would_deny"), [], "told once");
}
