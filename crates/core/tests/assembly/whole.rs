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
