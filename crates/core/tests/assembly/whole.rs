//! What is told where not the whole of a run was seen, and of whom it turned to.

use blackstart_core::drill::{Drill, Fault};
use blackstart_core::report::{DrillFacts, DrillOutcome, LimitFacts, Overtime};

use super::*;

fn kinds(report: &Report) -> Vec<&str> {
    report.findings.iter().map(|it| it.kind.as_str()).collect()
}

fn left(returned: bool) -> LeaverRow {
    LeaverRow {
        subject: 10,
        tgid: 110,
        cgroup: 7,
        returned,
    }
}

/// A run of which three attempts are known only by their number.
fn lossy() -> Snapshot {
    let mut record = record();
    record.counters.attempts = 3;
    record
}

#[test]
fn what_was_not_seen_of_a_run_is_a_finding_of_one_kind_each() {
    assert_eq!(kinds(&assemble(&record(), &facts(None))), [""; 0]);
    let gap = Gap {
        kind: "pins".to_owned(),
        detail: "x".to_owned(),
        count: 0,
    };
    let partly = RunFacts {
        guarded: Guarded::Partly,
        gaps: vec![gap],
        ..facts(None)
    };
    let told = assemble(&record(), &partly);
    assert_eq!(kinds(&told), ["partly_guarded"]);
    assert!(told.findings[0].title.ends_with("(gaps: pins)"));
    let unguarded = RunFacts {
        guarded: Guarded::No,
        ..facts(None)
    };
    assert_eq!(kinds(&assemble(&record(), &unguarded)), ["unguarded"]);
    assert_eq!(kinds(&assemble(&lossy(), &facts(None))), ["attempts_lost"]);
    let alone = |seconds| RunFacts {
        unsupervised_seconds: seconds,
        ..facts(None)
    };
    let found = |facts: &RunFacts<'_>| assemble(&record(), facts).findings.remove(0);
    let (one, other) = (found(&alone(2.0)), found(&alone(7.0)));
    assert_eq!(
        (one.kind.as_str(), one.severity),
        ("unsupervised", Severity::Warning)
    );
    assert_eq!(one.id, other.id, "however long it was, it is one problem");
    // Somebody asked for that.
    let kept = RunFacts {
        kept: true,
        ..alone(7.0)
    };
    assert_eq!(found(&kept).severity, Severity::Info);
    // No finding of these decides how a run ends.
    assert_eq!(one.reaction, None);
}

#[test]
fn a_run_that_somebody_left_was_guarded_in_part_and_one_finding_says_so() {
    let of = |returned| {
        let record = Snapshot {
            leavers: vec![left(returned)],
            ..record()
        };
        assemble(&record, &facts(None))
    };
    assert_eq!(
        (of(false).run.guarded, of(true).run.guarded),
        (Guarded::Partly, Guarded::Yes)
    );
    assert_eq!(kinds(&of(false)), ["left_cgroup"]);
}

#[test]
fn a_drill_shows_nothing_where_not_all_of_it_was_seen() {
    let played = |record: &Snapshot, facts: RunFacts<'_>| {
        let drill = Drill {
            down: vec!["github".to_owned()],
            fault: Fault::Refuse,
        };
        let facts = RunFacts {
            drill: Some(DrillFacts { drill, usual: None }),
            ..facts
        };
        assemble(record, &facts).run.drill.unwrap().outcome
    };
    let ended = |code| RunFacts {
        exit_code: Some(code),
        ..facts(None)
    };
    let who_left = |returned| Snapshot {
        leavers: vec![left(returned)],
        ..record()
    };
    assert_eq!(played(&record(), ended(0)), DrillOutcome::Managed);
    assert_eq!(played(&who_left(true), ended(0)), DrillOutcome::Managed);
    for record in [lossy(), who_left(false)] {
        assert_eq!(played(&record, ended(0)), DrillOutcome::Unknown);
        assert_eq!(
            played(&record, ended(1)),
            DrillOutcome::Failed,
            "it ended badly all the same"
        );
    }
    let partly = RunFacts {
        guarded: Guarded::Partly,
        ..ended(0)
    };
    assert_eq!(played(&record(), partly), DrillOutcome::Unknown);
    let alone = RunFacts {
        unsupervised_seconds: 1.0,
        ..ended(120)
    };
    assert_eq!(played(&record(), alone), DrillOutcome::Unknown);
    let overtime = RunFacts {
        limits: LimitFacts {
            overtime: Some(Overtime {
                at_ns: 1,
                ended: vec![],
                spared: vec![],
            }),
            ..LimitFacts::default()
        },
        ..ended(124)
    };
    assert_eq!(played(&who_left(false), overtime), DrillOutcome::Hung);
}

fn contact(path: &str, exe: Option<&str>, verdict: Verdict, rule: u32) -> DelegateRow {
    DelegateRow {
        subject: 20,
        path: path.to_owned(),
        verdict,
        rule,
        attempts: 1,
        listener: Some(Listener {
            pid: 7,
            exe: exe.map(str::to_owned),
            inside: false,
        }),
        reached: Reached::AsAsked,
    }
}

#[test]
fn a_delegate_is_told_once_whatever_its_sockets() {
    let dockerd = Some("/usr/bin/dockerd");
    let mut record = record();
    record.delegates = vec![
        contact("/run/docker.sock", dockerd, Verdict::Allow, RULE_DEFAULT),
        contact("/var/run/docker.sock", dockerd, Verdict::Waived, 1),
        contact("/run/x.sock", None, Verdict::Allow, RULE_DEFAULT),
        contact(
            "/run/nscd/socket",
            None,
            Verdict::Allow,
            RULE_RESOLVER_SOCKET,
        ),
        contact("/run/denied.sock", Some("/bin/d"), Verdict::Deny, 1),
        DelegateRow {
            listener: Some(Listener {
                pid: 8,
                exe: Some("/bin/own".to_owned()),
                inside: true,
            }),
            ..contact("/run/own.sock", None, Verdict::Allow, RULE_DEFAULT)
        },
    ];
    let report = assemble(&record, &facts(None));
    let told = of_kind(&report, "delegate");
    let titles: Vec<&str> = told.iter().map(|it| it.title.as_str()).collect();
    assert_eq!(
        titles,
        [
            "git turned to a daemon that is not known outside the run (/run/x.sock): what that does for it is not seen",
            "git turned to dockerd outside the run (/run/docker.sock and 1 more): what that does for it is not seen",
        ]
    );
    assert!(
        told.iter()
            .all(|it| it.severity == Severity::Info && it.subjects == [3, 1])
    );
    // The same daemon in another run, by another of its sockets and another process.
    record.delegates = vec![DelegateRow {
        subject: 10,
        ..contact("/run/y.sock", dockerd, Verdict::Allow, RULE_DEFAULT)
    }];
    let other = assemble(&record, &facts(None));
    assert_eq!(of_kind(&other, "delegate")[0].id, told[1].id);
}

#[test]
fn lookups_out_of_sight_are_told_where_there_are_rules_by_name() {
    let policy = policy();
    let to = |name, address: &str, port, protocol| FlowRow {
        port,
        protocol,
        connected: 1,
        ..flow(10, name, address, Verdict::Allow, RULE_DEFAULT)
    };
    let refused = FlowRow {
        connected: 0,
        refused: 3,
        ..to(0, "10.0.0.5", 853, 6)
    };
    let probe = FlowRow {
        bytes_sent: 0,
        ..to(0, "10.0.0.6", 853, 17)
    };
    let denied = FlowRow {
        verdict: Verdict::Deny,
        ..to(0, "10.0.0.7", 853, 6)
    };
    let mut record = record();
    record.names.push(NameRow {
        id: 9,
        name: "mozilla.cloudflare-dns.com".to_owned(),
    });
    record.flows = vec![
        to(0, "10.0.0.1", 853, 6),
        to(0, "10.0.0.2", 853, 17),
        to(9, "10.0.0.3", 443, 6),
        to(9, "10.0.0.4", 443, 17),
        to(0, "1.1.1.1", 443, 6),
        to(0, "1.1.1.1", 53, 17),
        to(2, "10.0.0.8", 443, 6),
        refused,
        probe,
        denied,
    ];
    let report = assemble(&record, &facts(Some(&policy)));
    let titles: Vec<_> = of_kind(&report, "encrypted_dns")
        .iter()
        .map(|it| it.title.split(',').next().unwrap())
        .collect();
    assert_eq!(
        titles,
        [
            "curl reached 1.1.1.1:443",
            "curl reached 10.0.0.1:853",
            "curl reached 10.0.0.2:853",
            "curl reached mozilla.cloudflare-dns.com:443",
        ]
    );
    assert!(
        of_kind(&report, "encrypted_dns")
            .iter()
            .all(|it| it.severity == Severity::Warning)
    );
    // Without a rule by name nothing is missed.
    assert_eq!(
        of_kind(&assemble(&record, &facts(None)), "encrypted_dns").len(),
        0
    );
    let by_address = Policy {
        rules: policy.rules[1..].to_vec(),
        ..policy.clone()
    };
    let report = assemble(&record, &facts(Some(&by_address)));
    assert_eq!(of_kind(&report, "encrypted_dns").len(), 0);
}
