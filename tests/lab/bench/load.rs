//! Counts that must come out exactly, and memory under load.

use std::collections::BTreeSet;

use blackstart_core::report::{Attribution, Report};
use serde_json::json;

use super::bar::{Bar, Bound, Results};
use super::client::Client;
use super::kernel::{self, HighWater, Map};
use super::scene::{CLOSES, FRESH, Rules, Scene};

/// Rounds of connections for the counts.
const CONNECTS: usize = 200_000;
const PROCESSES: usize = 20_000;
const FRESH_LOOKUPS: usize = 10_000;

/// Thousands of processes that live for one connection.
pub(super) fn processes(scene: &Scene, results: &mut Results) {
    let wanted = scene.count(PROCESSES);
    let mut client = scene.guarded(Rules::None);
    spawn(scene, &mut client, wanted);
    let report = client.end().expect("a guarded client has a report");

    let short = |argv: &[String]| {
        argv.last()
            .is_some_and(|word| word.starts_with("short-") && argv.len() == 6)
    };
    let subjects: Vec<_> = report
        .subjects
        .iter()
        .filter(|subject| short(&subject.argv))
        .collect();
    let tags: BTreeSet<&str> = subjects
        .iter()
        .filter_map(|subject| Some(subject.argv.last()?.as_str()))
        .collect();
    let ids: BTreeSet<u64> = subjects.iter().map(|subject| subject.id).collect();
    let attributed: BTreeSet<u64> = report
        .flows
        .iter()
        .filter(|flow| flow.port == CLOSES && flow.attempts == 1)
        .filter(|flow| {
            !matches!(
                flow.attribution,
                Attribution::Unknown | Attribution::Inherited
            )
        })
        .filter_map(|flow| flow.subject)
        .filter(|subject| ids.contains(subject))
        .collect();
    let raw = json!({
        "processes": wanted, "subjects": subjects.len(), "argv": tags.len(), "attributed": attributed.len(),
        "coverage": report.coverage,
    });
    let percent = |n: usize| float(n) * 100.0 / float(wanted);
    let bar = |what: &str, n: usize| {
        Bar::deterministic(
            format!("{wanted} short processes: {what}"),
            "%",
            Bound::Exactly(100.0),
            percent(n),
        )
    };
    results.add(bar("subjects with their argv", tags.len()).raw(raw));
    results.add(bar("flows attributed", attributed.len()));
    results.add(
        Bar::deterministic(
            format!("{wanted} short processes: lost uncounted"),
            "attempts",
            Bound::Exactly(0.0),
            unaccounted(&report, wanted),
        )
        .note(format!("{} attempts", report.coverage.attempts)),
    );
    results.add(lost(&format!("{wanted} short processes"), &report));
}

/// As many connections as two processes can make: to one destination, and each to another.
pub(super) fn attempts(scene: &Scene, results: &mut Results) {
    let wanted = scene.count(CONNECTS);
    let half = wanted / 2;
    let one = format!("tcp {} {CLOSES} {half}", scene.web());
    let many = format!("spread 0 {half}");
    for (what, order) in [("to one server", one), ("each to another address", many)] {
        let mut client = scene.guarded(Rules::None);
        let answer = client.ask_two(&order);
        assert_eq!(answer[1], 0, "connections {what} failed");
        let report = client.end().expect("a guarded client has a report");
        let coverage = &report.coverage;
        results.add(
            Bar::deterministic(
                format!("{} connects {what}: attempts − recorded − lost", half * 2),
                "attempts",
                Bound::Exactly(0.0),
                unaccounted(&report, half * 2),
            )
            .note(format!(
                "{} attempts, {} recorded in {} flows, {} counted as lost",
                coverage.attempts,
                coverage.recorded,
                report.flows.len(),
                coverage.lost
            ))
            .raw(json!(coverage)),
        );
        results.add(lost(&format!("{} connects {what}", half * 2), &report));
    }
}

/// Attempts that the client made and the record does not account for, or the other way round.
fn unaccounted(report: &Report, made: usize) -> f64 {
    let coverage = &report.coverage;
    let made = float(made);
    (float_of(coverage.attempts) - made)
        .abs()
        .max((float_of(coverage.recorded) + float_of(coverage.lost) - made).abs())
}

/// The table of flows has a row for everything that does not fit, so nothing need be lost: a reader that
/// overlooks rows shows here, while the sums still come out.
fn lost(what: &str, report: &Report) -> Bar {
    Bar::deterministic(
        format!("{what}: lost"),
        "attempts",
        Bound::Exactly(0.0),
        float_of(report.coverage.lost),
    )
}

/// A name never asked for before, and its address at once.
pub(super) fn fresh(scene: &Scene, results: &mut Results) {
    let half = scene.count(FRESH_LOOKUPS) / 2;
    let mut client = scene.guarded(Rules::Rehearsal);
    // An address without a lease is refused: else nothing would be shown by what follows.
    let literal = client.ask(&format!("tcp 10.88.200.200 {CLOSES} 10"))[1];
    assert_eq!(literal, 10, "addresses that no name gave must be refused");
    let answer = client.ask_two(&fresh_order(scene, half));
    let report = client.end().expect("a guarded client has a report");
    let [connected, refused, other, without] = answer[..] else {
        panic!("four numbers expected: {answer:?}")
    };
    results.add(
        Bar::deterministic(
            format!("{} × lookup of a fresh name, then connect", half * 2),
            "refused",
            Bound::Exactly(0.0),
            float_of(refused + other + without),
        )
        .note(format!(
            "{connected} connected, {other} failed otherwise, {without} lookups without an answer"
        ))
        .raw(json!({ "answer": answer, "coverage": report.coverage })),
    );
}

/// Memory of an idle run, and of one that has done everything above.
pub(super) fn memory(scene: &Scene, results: &mut Results) {
    let mut client = scene.guarded(Rules::Live);
    let water = HighWater::watch(client.pid());
    let idle = kernel::maps(client.pid());
    let mebibytes = |maps: &[Map]| float_of(maps.iter().map(|map| map.bytes).sum()) / 1_048_576.0;
    results.add(
        Bar::deterministic(
            "kernel map memory, idle",
            "MiB",
            Bound::AtMost(8.0),
            mebibytes(&idle),
        )
        .raw(maps_json(&idle)),
    );
    spawn(scene, &mut client, scene.count(PROCESSES));
    let half = scene.count(FRESH_LOOKUPS) / 2;
    client.ask_two(&fresh_order(scene, half));
    client.ask_two(&format!("spread 0 {}", scene.count(CONNECTS) / 2));
    let loaded = kernel::maps(client.pid());
    let report = client.end().expect("a guarded client has a report");
    let rows = format!(
        "{} subjects, {} names, {} flows",
        report.subjects.len(),
        report.names.len(),
        report.flows.len()
    );
    results.add(
        Bar::deterministic(
            "kernel map memory, loaded",
            "MiB",
            Bound::AtMost(64.0),
            mebibytes(&loaded),
        )
        .note(format!(
            "{rows}; every table full: {:.0} MiB",
            float_of(loaded.iter().map(Map::bytes_full).sum()) / 1_048_576.0
        ))
        .raw(maps_json(&loaded)),
    );
    results.add(
        Bar::deterministic(
            "supervisor peak RSS, loaded",
            "MiB",
            Bound::AtMost(24.0),
            float_of(water.kibibytes()) / 1024.0,
        )
        .note(rows),
    );

    let client = scene.guarded(Rules::Live);
    let water = HighWater::watch(client.pid());
    client.end();
    results.add(Bar::deterministic(
        "supervisor peak RSS, idle",
        "MiB",
        Bound::AtMost(24.0),
        float_of(water.kibibytes()) / 1024.0,
    ));
}

fn spawn(scene: &Scene, client: &mut Client, n: usize) {
    let half = n / 2;
    let good = client.ask_two(&format!("spawn 0 {half} {} {CLOSES} 1", scene.web()))[0];
    assert_eq!(
        good,
        u64::try_from(half * 2).expect("a count"),
        "every process connects"
    );
}

fn fresh_order(scene: &Scene, n: usize) -> String {
    format!("fresh {} {FRESH} 0 {n} {CLOSES}", scene.resolver())
}

fn maps_json(maps: &[Map]) -> serde_json::Value {
    maps.iter()
        .map(|map| {
            json!({
                "type": map.kind, "key": map.key, "value": map.value, "entries_max": map.entries_max, "bytes": map.bytes,
            })
        })
        .collect()
}

fn float(n: usize) -> f64 {
    f64::from(u32::try_from(n).expect("counts are small"))
}

fn float_of(n: u64) -> f64 {
    f64::from(u32::try_from(n).expect("counts and sizes of a run are below 4 GiB"))
}
