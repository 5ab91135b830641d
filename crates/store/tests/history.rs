//! What goes into a history, and what comes out.

mod made;

use std::fs;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use blackstart_core::history::{Ancestry, Past};
use blackstart_core::report::{Report, Verdict};
use blackstart_store::retention::{Limits, plan};
use blackstart_store::{FILE, Filter, Found, Kind, RunRow, Store, Taken};
use proptest::prelude::*;

use made::{DAY, made, report};

const SOON: Duration = Duration::from_secs(30);

fn open(dir: &Path) -> Store {
    let opened = Store::open(dir, SOON).unwrap();
    assert_eq!(opened.set_aside, None);
    opened.store
}

fn take(store: &mut Store, report: &Report) -> Taken {
    let text = serde_json::to_vec(report).unwrap();
    store.take_in_from(text.as_slice()).unwrap()
}

fn rows(store: &Store, filter: &Filter) -> Vec<RunRow> {
    let mut rows = Vec::new();
    store
        .runs(filter, &mut |row| {
            rows.push(row);
            ControlFlow::Continue(())
        })
        .unwrap();
    rows
}

fn ids(store: &Store, filter: &Filter) -> Vec<String> {
    rows(store, filter).into_iter().map(|row| row.id).collect()
}

fn one(store: &Store, which: &str) -> RunRow {
    match store.find(which).unwrap() {
        Found::One(row) => *row,
        other => panic!("{which}: {other:?}"),
    }
}

fn pasts(store: &Store, filter: &Filter) -> (Vec<Past>, Ancestry) {
    let mut ancestry = Ancestry::default();
    let mut found = Vec::new();
    store
        .pasts(filter, &mut ancestry, &mut |past, _| {
            found.push(past.clone());
            ControlFlow::Continue(())
        })
        .unwrap();
    (found, ancestry)
}

/// With programs spelled out, whatever their numbers are.
fn spelled(past: &Past, ancestry: &Ancestry) -> (Past, Vec<Vec<String>>) {
    let chain = |by| ancestry.chain(by).map(|exe| exe.to_string()).collect();
    let lookups = past.lookups.iter().map(|it| it.by);
    let flows = past.flows.iter().map(|it| it.by);
    let contacts = past.contacts.iter().map(|it| it.by);
    let chains = lookups.chain(flows).chain(contacts).map(chain).collect();
    let mut past = past.clone();
    past.lookups.iter_mut().for_each(|it| it.by = 0);
    past.flows.iter_mut().for_each(|it| it.by = 0);
    past.contacts.iter_mut().for_each(|it| it.by = 0);
    (past, chains)
}

#[test]
fn a_report_comes_out_as_it_went_in() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    // However it is written.
    let texts = [
        serde_json::to_string(&report(1, "mysql")).unwrap(),
        format!(
            "{}\n",
            serde_json::to_string_pretty(&report(2, "mysql")).unwrap()
        ),
    ];
    for text in &texts {
        let path = dir.path().join("report.json");
        fs::write(&path, text).unwrap();
        assert_eq!(store.take_in(&path).unwrap(), Taken::New);
        assert_eq!(store.take_in(&path).unwrap(), Taken::Known);
    }
    drop(store);
    let store = open(dir.path());
    for (row, text) in rows(&store, &Filter::default()).iter().rev().zip(&texts) {
        let mut out = Vec::new();
        store.report(row, &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), *text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn whatever_runs_did_is_told_as_their_reports_tell_it(reports in prop::collection::vec(made(), 1..6)) {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(dir.path());
        let mut ancestry = Ancestry::default();
        let mut wanted = Vec::new();
        for (n, report) in reports.iter().enumerate() {
            let report = Report { run: blackstart_core::report::Run { id: made::id(n as u64), started: made::time(n as i64 * DAY), ..report.run.clone() }, ..report.clone() };
            prop_assert_eq!(take(&mut store, &report), Taken::New);
            let row = one(&store, &report.run.id);
            let mut out = Vec::new();
            store.report(&row, &mut out).unwrap();
            prop_assert_eq!(&serde_json::from_slice::<Report>(&out).unwrap(), &report);
            let past = Past::of(&report, &mut ancestry);
            wanted.push(spelled(&past, &ancestry));
        }
        let (found, known) = pasts(&store, &Filter::default());
        let found: Vec<_> = found.iter().map(|past| spelled(past, &known)).collect();
        prop_assert_eq!(found, wanted);
    }
}

#[test]
fn runs_are_found_by_service_time_and_id() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    for n in 0..6 {
        take(
            &mut store,
            &report(n, if n % 2 == 0 { "mysql" } else { "web" }),
        );
    }
    assert_eq!(store.services().unwrap(), ["mysql", "web"]);
    let id = made::id;
    let of = |filter: Filter| ids(&store, &filter);
    let mysql = Filter {
        service: Some("mysql".to_owned()),
        ..Filter::default()
    };
    assert_eq!(of(mysql.clone()), [id(4), id(2), id(0)]);
    assert_eq!(store.count(&mysql).unwrap(), 3);
    let since = Filter {
        since: Some(made::START + 3 * DAY),
        before: Some(made::START + 5 * DAY),
        ..Filter::default()
    };
    assert_eq!(of(since.clone()), [id(4), id(3)]);
    let limit = Filter {
        limit: Some(1),
        ..since
    };
    assert_eq!(of(limit.clone()), [id(4)]);
    assert_eq!(pasts(&store, &limit).0[0].id, id(4), "of the latest");
    let (all, _) = pasts(&store, &Filter::default());
    assert_eq!(all.first().unwrap().id, id(0), "the earliest first");
    let none = Filter {
        service: Some("none".to_owned()),
        ..Filter::default()
    };
    assert!(of(none.clone()).is_empty() && pasts(&store, &none).0.is_empty());

    assert_eq!(one(&store, "latest").id, id(5));
    assert_eq!(one(&store, &id(3)).id, id(3));
    assert_eq!(one(&store, &id(3).to_ascii_uppercase()[28..]).id, id(3));
    let Found::Several(several) = store.find("0193").unwrap() else {
        panic!("they all begin so")
    };
    assert_eq!(several.len(), 6);
    for unknown in ["", "%", "_", "0193_", "zz", "' OR 1"] {
        assert_eq!(store.find(unknown).unwrap(), Found::None, "{unknown:?}");
    }
}

#[test]
fn what_is_told_of_a_run_in_short_is_what_its_report_says() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let mut report = report(1, "mysql");
    report.flows[0].verdict = Verdict::Deny;
    report.flows[0].attempts = 3;
    report.names[0].verdict = Verdict::WouldDeny;
    report.names[0].queries = 2;
    report.coverage.lost = 4;
    take(&mut store, &report);
    let row = one(&store, "latest");
    assert_eq!(row.service.as_deref(), Some("mysql"));
    assert_eq!(row.command, report.run.command);
    assert_eq!((row.refused, row.would_be_refused, row.lost), (3, 2, 4));
    assert_eq!(row.lacks, ["4 attempts were lost"]);
    assert_eq!(row.exit_code, Some(0));
    let executables: Vec<_> = store.executables(&row).unwrap().into_iter().collect();
    assert_eq!(executables, ["/bin/sh", "/usr/bin/curl"]);
    let all = |attached| store.executables_of(&Filter::default(), attached);
    assert_eq!(
        (all(false).unwrap().len(), all(true).unwrap().len()),
        (2, 0)
    );
}

#[test]
fn what_is_no_report_is_not_taken_in() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let whole = serde_json::to_string(&report(1, "mysql")).unwrap();
    let newer = whole.replacen("\"schema_version\":1", "\"schema_version\":2", 1);
    let turned = {
        let at = whole.find("\"subjects\"").unwrap();
        let flows = whole.find("\"flows\"").unwrap();
        format!("{}{}", &whole[..at], &whole[flows..])
    };
    for (text, why) in [
        ("", "cut off"),
        ("[]", "a report"),
        ("{}", "no schema version"),
        ("{\"schema_version\":1}", "no run"),
        (&whole[..whole.len() / 2], "cut off"),
        (&whole[..whole.len() - 1], "cut off"),
        (&newer, "schema version 2"),
        (&turned, "order"),
        (&format!("{whole}x"), "trailing"),
        ("\u{0}\u{1}", "not a report"),
    ] {
        let error = store.take_in_from(text.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), Kind::NoReport, "{why}");
        assert!(error.to_string().contains(why), "{why}: {error}");
    }
    assert!(rows(&store, &Filter::default()).is_empty());
    // And nothing is left of them.
    assert_eq!(take(&mut store, &report(1, "mysql")), Taken::New);
    assert_eq!(pasts(&store, &Filter::default()).0.len(), 1);
}

#[test]
fn what_is_pruned_is_gone_and_its_room_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    for n in 0..60 {
        take(&mut store, &report(n, "mysql"));
    }
    let before = store.size().unwrap();
    let limits = Limits {
        began_before: Some(made::START + 50 * DAY),
        most_bytes: None,
    };
    let plan = plan(store.kept().unwrap(), before, limits);
    assert_eq!((plan.remove.len(), plan.keep), (50, 10));
    store.remove(&plan).unwrap();
    let after = store.size().unwrap();
    assert!(after < before, "{after} of {before}");
    assert_eq!(rows(&store, &Filter::default()).len(), 10);
    let (found, ancestry) = pasts(&store, &Filter::default());
    let mut wanted = Ancestry::default();
    for (n, past) in (50..60).zip(&found) {
        let report = report(n, "mysql");
        let of_report = Past::of(&report, &mut wanted);
        assert_eq!(spelled(past, &ancestry), spelled(&of_report, &wanted));
    }
    let file = fs::metadata(dir.path().join(FILE)).unwrap().len();
    assert_eq!(file, after, "the file is no larger than what is in it");
}

#[test]
fn two_who_write_wait_for_each_other() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    std::thread::scope(|scope| {
        for part in 0..4 {
            let dir = dir.path();
            scope.spawn(move || {
                let mut store = open(dir);
                for n in 0..25 {
                    take(&mut store, &report(part * 25 + n, "mysql"));
                }
            });
        }
    });
    let store = open(dir.path());
    assert_eq!(store.count(&Filter::default()).unwrap(), 100);
    assert_eq!(pasts(&store, &Filter::default()).0.len(), 100);
}

#[test]
fn who_reads_is_not_held_up_by_who_writes_nor_waits_for_long_to_write() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    take(&mut store, &report(1, "mysql"));
    let writer = rusqlite::Connection::open(dir.path().join(FILE)).unwrap();
    writer.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert_eq!(rows(&open(dir.path()), &Filter::default()).len(), 1);
    let mut hasty = Store::open(dir.path(), Duration::from_millis(50))
        .unwrap()
        .store;
    let begin = Instant::now();
    let text = serde_json::to_vec(&report(2, "mysql")).unwrap();
    let error = hasty.take_in_from(text.as_slice()).unwrap_err();
    assert_eq!(error.kind(), Kind::Busy);
    assert!(begin.elapsed() < Duration::from_secs(10));
    writer.execute_batch("ROLLBACK").unwrap();
    hasty.take_in_from(text.as_slice()).unwrap();
}

#[test]
fn without_room_nothing_of_a_run_is_taken_in() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    take(&mut store, &report(1, "mysql"));
    let pages = store.size().unwrap() / 4096;
    store.at_most(pages + 2).unwrap();
    let many: Vec<Report> = (2..40).map(|n| report(n, "mysql")).collect();
    let mut taken = 1;
    let error = many
        .iter()
        .find_map(|report| {
            let text = serde_json::to_vec(report).unwrap();
            match store.take_in_from(text.as_slice()) {
                Ok(_) => {
                    taken += 1;
                    None
                }
                Err(error) => Some(error),
            }
        })
        .expect("the room should not last");
    assert_eq!(error.kind(), Kind::Full, "{error}");
    drop(store);
    let store = open(dir.path());
    assert_eq!(pasts(&store, &Filter::default()).0.len(), taken);
}

/// Where a process that is to be killed writes.
const KILLED: &str = "BLACKSTART_STORE_TEST_KILLED";

#[test]
#[ignore = "a process of its own, started by the test below"]
fn writes_until_it_is_killed() {
    let dir = std::env::var_os(KILLED).expect("where to write");
    let mut store = open(Path::new(&dir));
    for n in 0.. {
        take(&mut store, &report(n, "mysql"));
        println!("{n}");
    }
}

#[test]
fn a_writer_that_is_killed_leaves_a_good_history() {
    let dir = tempfile::tempdir().unwrap();
    let mut told = 0;
    for round in 0..5 {
        let mut writer = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "writes_until_it_is_killed",
                "--ignored",
                "--nocapture",
            ])
            .env(KILLED, dir.path())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let lines = std::io::BufReader::new(writer.stdout.take().unwrap());
        let numbers = std::io::BufRead::lines(lines).map_while(Result::ok);
        let last = numbers
            .filter_map(|line| line.trim().parse::<u64>().ok())
            .find(|n| *n >= told + 7 + round)
            .expect("it writes until it is killed");
        writer.kill().unwrap();
        writer.wait().unwrap();
        told = last;
        let store = open(dir.path());
        let check: String = rusqlite::Connection::open(dir.path().join(FILE))
            .unwrap()
            .query_row("PRAGMA integrity_check", [], |row| row.get(0))
            .unwrap();
        assert_eq!(check, "ok");
        // What it said that it has, the history has, and each as a whole.
        let (found, _) = pasts(&store, &Filter::default());
        assert!(found.len() as u64 > last, "{} of {last}", found.len());
        assert!(
            found
                .iter()
                .all(|past| past.flows.len() == 1 && past.lookups.len() == 1)
        );
        for row in rows(&store, &Filter::default()) {
            store.report(&row, &mut std::io::sink()).unwrap();
        }
    }
}

#[test]
fn damage_is_told_as_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    for n in 0..20 {
        take(&mut store, &report(n, "mysql"));
    }
    drop(store);
    let path = dir.path().join(FILE);
    let size = fs::metadata(&path).unwrap().len();
    let mut file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(4096)).unwrap();
    let noise: Vec<u8> = (0..size - 4096).map(|n| (n * 31 % 251) as u8).collect();
    file.write_all(&noise).unwrap();
    drop(file);
    let store = open(dir.path());
    let error = store
        .runs(&Filter::default(), &mut |_| ControlFlow::Continue(()))
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Foreign, "{error}");
    let aside = store.set_aside(&error, SOON).unwrap().unwrap();
    assert_eq!(fs::metadata(aside.to).unwrap().len(), size);
    assert!(rows(&open(dir.path()), &Filter::default()).is_empty());
}
