//! The run time of our programs, as the kernel counts it.

use std::collections::BTreeMap;

use serde_json::json;

use super::bar::{Bar, Bound, Results};
use super::kernel::{Cost, Programs, Statistics};
use super::pairs::median;
use super::scene::{CLOSES, KNOWN, PAGES, Rules, Scene};

/// Rounds of one operation; the median round counts, since an interrupt within a program is counted as its time.
/// The policies take turns: a shared machine has slow times that last for seconds, and are to meet them all.
const ROUNDS: usize = 45;

/// What one lookup and one connection cost in BPF programs.
pub(super) fn programs(scene: &Scene, results: &mut Results) {
    let each = scene.count(2000);
    let operations = [
        (
            "lookup",
            2000.0,
            format!("lookup {} {KNOWN} {each}", scene.resolver()),
        ),
        (
            "TCP connect",
            2500.0,
            format!("tcp {} {CLOSES} {each}", scene.web()),
        ),
        (
            "page over a connection that stays",
            8000.0,
            format!("pages {} {PAGES} {KNOWN} {each} 65536", scene.web()),
        ),
    ];
    for (what, limit, order) in operations {
        let (mut worst, mut raw) = (0.0_f64, BTreeMap::new());
        let mut clients: Vec<_> = Rules::ALL
            .map(|rules| {
                let client = scene.guarded_beside(rules);
                let programs = Programs::hold(client.pid());
                (rules, client, programs, Vec::new())
            })
            .into();
        for (_, client, _, _) in &mut clients {
            client.ask(&format!("lookup {} {KNOWN} 10", scene.resolver()));
        }
        let statistics = Statistics::on();
        for _ in 0..scene.count(ROUNDS) {
            for (_, client, programs, rounds) in &mut clients {
                let before = programs.costs();
                let failures = client.ask(&order)[1];
                assert_eq!(failures, 0, "failures of `{order}`");
                rounds.push(spent(&before, &programs.costs()));
            }
        }
        drop(statistics);
        for (rules, client, _, rounds) in clients {
            client.end();
            let each = f64::from(u32::try_from(each).expect("few"));
            let per_operation: Vec<f64> = rounds
                .iter()
                .map(|round| sum(round, |cost| cost.nanoseconds) / each)
                .collect();
            let figure = median(per_operation.clone());
            worst = worst.max(figure);
            let middle = rounds
                .iter()
                .zip(&per_operation)
                .min_by(|a, b| f64::total_cmp(&(a.1 - figure).abs(), &(b.1 - figure).abs()))
                .map(|(round, _)| table(round, each));
            let (lines, data) = middle.expect("there are rounds");
            results.detail(
                format!(
                    "programs of one {what} ({}): {figure:.0} ns in all",
                    rules.name()
                ),
                lines,
                data,
            );
            raw.insert(rules.name(), per_operation);
        }
        let by_rules: Vec<String> = raw
            .iter()
            .map(|(rules, rounds)| format!("{:.0} {rules}", median(rounds.clone())))
            .collect();
        results.add(
            Bar::deterministic(
                format!("BPF run time of one {what}"),
                "ns",
                Bound::AtMost(limit),
                worst,
            )
            .note(by_rules.join("; "))
            .raw(json!(raw)),
        );
    }
}

fn sum(costs: &BTreeMap<String, Cost>, pick: fn(&Cost) -> u64) -> f64 {
    exact(costs.values().map(pick).sum())
}

#[expect(
    clippy::cast_precision_loss,
    reason = "sums of one round are far below 2^52"
)]
fn exact(n: u64) -> f64 {
    n as f64
}

fn spent(
    before: &BTreeMap<String, Cost>,
    after: &BTreeMap<String, Cost>,
) -> BTreeMap<String, Cost> {
    after
        .iter()
        .map(|(name, cost)| {
            let earlier = before.get(name).copied().unwrap_or_default();
            let cost = Cost {
                runs: cost.runs - earlier.runs,
                nanoseconds: cost.nanoseconds - earlier.nanoseconds,
            };
            (name.clone(), cost)
        })
        .filter(|(_, cost)| cost.runs > 0)
        .collect()
}

fn table(round: &BTreeMap<String, Cost>, operations: f64) -> (Vec<String>, serde_json::Value) {
    let mut lines = Vec::new();
    let mut data = serde_json::Map::new();
    for (name, cost) in round {
        let (runs, nanoseconds) = (exact(cost.runs), exact(cost.nanoseconds));
        lines.push(format!(
            "{name:<22} {:>6.2} runs  {:>6.0} ns each  {:>6.0} ns in all",
            runs / operations,
            nanoseconds / runs,
            nanoseconds / operations
        ));
        data.insert(
            name.clone(),
            json!({ "runs": runs / operations, "ns": nanoseconds / operations }),
        );
    }
    (lines, data.into())
}
