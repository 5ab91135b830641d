//! Who did it: processes, what became of them, and whom they met.

use super::*;

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
        reached: Reached::AsAsked,
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
            restarts: 0,
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
