//! From the kernel's record to the report.

mod coverage;
mod findings;
mod scene;
mod subjects;
mod whole;

use blackstart_core::name::Pattern;
use blackstart_core::policy::{Effect, Policy, Rule, Target};
use blackstart_core::record::*;
use blackstart_core::report::{
    Account, Attached, AttachedBy, FollowedFacts, Gap, Guarded, Ledger, Leftover, Mode, Outcome,
    Parts, Report, RunFacts, SOCKET_ALIAS, STANDING_GAPS, Severity, Until, assemble, followed_exe,
    schema,
};
use blackstart_core::tables::{RULE_DEFAULT, RULE_LOCAL, RULE_RESOLVER_SOCKET, RULE_SOCKET_KIND};
use scene::*;

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
