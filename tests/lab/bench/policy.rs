//! What a large policy costs: to be read, to be compiled, and to be asked in the kernel.

use std::fmt::Write as _;

use serde_json::json;

use super::bar::{Bar, Bound, Results};
use super::kernel::{Programs, Statistics};
use super::pairs::median;
use super::scene::{CLOSES, FRESH, KNOWN, Scene};
use crate::guard;

/// Rounds of lookups, under one policy and the other in turn.
const ROUNDS: usize = 15;
/// The program that reads a query and finds its rule.
const EGRESS: &str = "cgroup_skb/egress";

/// The bars of the policy language.
pub(super) fn language(scene: &Scene, results: &mut Results) {
    reading(scene, results);
    compiling(scene, results);
    asking(scene, results);
}

fn reading(scene: &Scene, results: &mut Results) {
    let mut text = "rules:\n".to_owned();
    for i in 0..3_333 {
        let _ = writeln!(
            text,
            "  - deny: .host{i}.zone{}.example\n    reason: number {i}\n    fix: none",
            i % 97
        );
    }
    let lines = 2 + text.lines().count();
    let file = scene.world().policy("lines.yaml", &text);
    let binary = guard::binary();
    let pairs = scene.beside_true(&[&binary, "policy", "check", &file], 40);
    results.add(Bar::added(
        format!("`policy check` of {lines} lines, minus `true`"),
        "ms",
        Bound::AtMost(100.0),
        &pairs,
    ));
}

fn compiling(scene: &Scene, results: &mut Results) {
    let mut text = "rules:\n".to_owned();
    for i in 0..scene.count(100_000) {
        let _ = writeln!(text, "  - deny: .host{i}.zone{}.example", i % 977);
    }
    for i in 0..u32::try_from(scene.count(100_000)).expect("few") {
        let [a, b, c, d] = (0x0a00_0000 + i * 16).to_be_bytes();
        let _ = writeln!(text, "  - deny: {a}.{b}.{c}.{d}/28");
    }
    let file = scene.world().policy("large.yaml", &text);
    let binary = guard::binary();
    let line = [&*binary, "policy", "test", &file];
    let pairs = scene.beside_true(&line, 40);
    let what = "load and compile of 100,000 names and 100,000 CIDRs";
    results.add(Bar::added(
        format!("{what} (`policy test`), minus `true`"),
        "ms",
        Bound::AtMost(500.0),
        &pairs,
    ));
    let peak = "import resource,subprocess,sys\nsubprocess.run(sys.argv[1:],stdout=subprocess.DEVNULL,check=True)\nprint(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)";
    let output = scene
        .typed(&[&["/usr/bin/python3", "-c", peak][..], &line].concat())
        .output()
        .expect("start python3");
    let kibibytes: f64 = String::from_utf8_lossy(&output.stdout)
        .trim()
        .parse()
        .unwrap_or_else(|_| panic!("{output:?}"));
    results.add(Bar::deterministic(
        format!("{what}, peak memory"),
        "MiB",
        Bound::AtMost(128.0),
        kibibytes / 1024.0,
    ));
}

/// One program with ten name rules and with a hundred thousand, in turn, in the same rounds.
fn asking(scene: &Scene, results: &mut Results) {
    let rules = |count: usize| {
        let mut text = format!(
            "mode: enforce\ndefault: deny\nrules:\n  - allow: .bench.example\n  - allow: '*.{FRESH}'\n"
        );
        for i in 0..count / 2 {
            let _ = writeln!(text, "  - allow: n{i}.{FRESH}");
            let _ = writeln!(text, "  - allow: .service-{i}.example.net");
        }
        text
    };
    let each = scene.count(10_000);
    let hot = format!("lookup {} {KNOWN} {each}", scene.resolver());
    let spread = format!("fresh {} {FRESH} 0 {each} {CLOSES}", scene.resolver());
    let mut few = scene.guarded_by(Some(&rules(10)));
    let few_programs = Programs::hold(few.pid());
    let mut many = scene.guarded_by(Some(&rules(scene.count(100_000))));
    let many_programs = Programs::hold(many.pid());
    let statistics = Statistics::on();
    let mut figures = [const { Vec::new() }; 4];
    // The first round of each makes the rows that the record needs.
    for round in 0..=ROUNDS {
        for (order, at) in [(&hot, 0), (&spread, 2)] {
            for (client, programs, at) in [
                (&mut few, &few_programs, at),
                (&mut many, &many_programs, at + 1),
            ] {
                let before = egress(programs);
                client.ask(order);
                let after = egress(programs);
                let runs = f64::from(u32::try_from(after.0 - before.0).expect("few"));
                let spent = f64::from(u32::try_from(after.1 - before.1).expect("below seconds"));
                if round > 0 {
                    figures[at].push(spent / runs);
                }
            }
        }
    }
    drop(statistics);
    few.end();
    many.end();
    let [hot_few, hot_many, spread_few, spread_many] = figures.clone().map(median);
    let raw = json!({ "ns of egress for each packet: hot 10, hot 100,000, spread 10, spread 100,000": figures });
    results.add(
        Bar::deterministic(
            "lookup of one hot name in the kernel, 100,000 name rules / 10",
            "×",
            Bound::AtMost(1.10),
            hot_many / hot_few,
        )
        .note(format!(
            "{hot_many:.0} and {hot_few:.0} ns of egress for each packet"
        ))
        .raw(raw),
    );
    // Each lookup goes with one connect, whose packets are not judged: the difference is the lookup's share.
    results.add(
        Bar::deterministic(
            "lookup of 10,000 names in turn in the kernel, 100,000 name rules − 10",
            "ns",
            Bound::AtMost(400.0),
            (spread_many - spread_few) * PACKETS,
        )
        .note(format!(
            "{spread_many:.0} and {spread_few:.0} ns of egress for each of {PACKETS} packets of a lookup and a connect"
        )),
    );
}

/// Of the run of one lookup and one connect that is closed at once: query, SYN, ACK, FIN.
const PACKETS: f64 = 4.0;

/// Runs and nanoseconds of the program that judges queries.
fn egress(programs: &Programs) -> (u64, u64) {
    let cost = programs.costs().get(EGRESS).copied().unwrap_or_default();
    (cost.runs, cost.nanoseconds)
}
