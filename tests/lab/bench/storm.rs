//! The death of supervisors under load: what was denied stays denied, what was allowed goes on, nothing is lost.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use blackstart_core::report::{Report, Verdict};
use rustix::process::Signal;
use serde_json::json;

use super::bar::{Bar, Bound, Results};
use super::pairs::Random;
use super::scene::{CLOSES, DENIED, KNOWN, Rules, Scene};
use crate::guard;

/// Supervisors that are killed.
const KILLS: usize = 200;
/// Lookups a second, and connects a second, of each of two processes: a little more than the bar asks, for what a turn loses at its ends.
const RATE: u32 = 2_700;
/// An address that no policy here allows.
const DENIED_ADDRESS: &str = "10.88.200.200";
/// Milliseconds that pass before a supervisor is killed, at most, and what passes after it.
const BEFORE: usize = 1_000;
const AFTER: Duration = Duration::from_millis(400);
/// An orphan whose processes have ended is swept by the next command.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the two processes of one run counted.
#[derive(Debug, Default, Clone, Copy)]
struct Counted {
    sent: u64,
    sent_denied: u64,
    unanswered: u64,
    leaked: u64,
    made: u64,
    made_denied: u64,
    failed: u64,
    passed: u64,
    nanoseconds: u64,
}

impl Counted {
    fn of(answer: &[u64]) -> Self {
        let &[
            sent,
            sent_denied,
            unanswered,
            leaked,
            made,
            made_denied,
            failed,
            passed,
            nanoseconds,
        ] = answer
        else {
            panic!("nine numbers expected: {answer:?}")
        };
        Self {
            sent,
            sent_denied,
            unanswered,
            leaked,
            made,
            made_denied,
            failed,
            passed,
            nanoseconds,
        }
    }

    /// How far the record is from what the processes did: each lookup is a connect of its socket and a query.
    fn apart(&self, report: &Report) -> u64 {
        let coverage = &report.coverage;
        let attempts = self.sent + self.made;
        let queries = |verdict: Verdict| -> u64 {
            let of = report.names.iter().filter(|name| name.verdict == verdict);
            of.map(|name| name.queries).sum()
        };
        let denied: u64 = report
            .flows
            .iter()
            .filter(|flow| flow.verdict == Verdict::Deny)
            .map(|flow| flow.attempts)
            .sum();
        coverage.attempts.abs_diff(attempts)
            + attempts.abs_diff(coverage.recorded + coverage.lost)
            + queries(Verdict::Deny).abs_diff(self.sent_denied)
            + queries(Verdict::Allow).abs_diff(self.sent - self.sent_denied)
            + denied.abs_diff(self.made_denied)
    }
}

/// Supervisors are killed while their runs look names up and connect; another command adopts the record.
pub(super) fn killed(scene: &Scene, results: &mut Results) {
    let kills = scene.count(KILLS);
    let (mut sum, mut apart, mut lost) = (Counted::default(), 0, 0);
    let (mut random, mut rows) = (Random::new(), Vec::new());
    for turn in 0..kills {
        let rules = [Rules::Live, Rules::Rehearsal][turn % 2];
        let after = u64::try_from(random.below(BEFORE)).expect("a second");
        let (counted, report) = once(scene, rules, Duration::from_millis(after));
        let differs = counted.apart(&report);
        rows.push(json!({
            "rules": rules.name(), "killed after ms": after, "counted": format!("{counted:?}"), "coverage": report.coverage,
        }));
        apart += differs;
        lost += report.coverage.lost;
        sum.sent += counted.sent;
        sum.sent_denied += counted.sent_denied;
        sum.unanswered += counted.unanswered;
        sum.leaked += counted.leaked;
        sum.made += counted.made;
        sum.made_denied += counted.made_denied;
        sum.failed += counted.failed;
        sum.passed += counted.passed;
        sum.nanoseconds += counted.nanoseconds / 2;
        if differs > 0 {
            eprintln!("turn {turn}: {counted:?}, {:?}", report.coverage);
        }
    }
    let of = format!("{kills} killed supervisors");
    let exactly = |what: &str, n: u64| {
        Bar::deterministic(
            format!("{of}: {what}"),
            "attempts",
            Bound::Exactly(0.0),
            float(n),
        )
    };
    let note = format!(
        "of {} denied lookups and {} denied connects",
        sum.sent_denied, sum.made_denied
    );
    results.add(
        exactly("denied attempts that passed", sum.leaked + sum.passed)
            .note(note)
            .raw(json!(rows)),
    );
    results.add(
        exactly("allowed attempts that failed", sum.unanswered + sum.failed).note(format!(
            "of {} lookups and {} connects",
            sum.sent - sum.sent_denied,
            sum.made - sum.made_denied
        )),
    );
    results.add(
        exactly("attempts that the record does not account for", apart)
            .note(format!("{lost} counted as lost")),
    );
    let seconds = float(sum.nanoseconds / 1_000) / 1e6;
    results.add(Bar::once(
        format!("{of}: lookups"),
        "/s",
        Bound::AtLeast(5_000.0),
        float(sum.sent) / seconds,
    ));
    results.add(Bar::once(
        format!("{of}: connects"),
        "/s",
        Bound::AtLeast(5_000.0),
        float(sum.made) / seconds,
    ));
}

/// One supervisor, killed so long after the storm has begun.
fn once(scene: &Scene, rules: Rules, after: Duration) -> (Counted, Report) {
    let rules = rules.text().expect("both have rules");
    let policy = format!("{rules}  - deny: {DENIED_ADDRESS}\n");
    let stop = scene.world().dir().join("storm-stop");
    let _ = fs::remove_file(&stop);
    let known = reports(scene);
    let mut client = scene.guarded_by(Some(&policy));
    let supervisor = client.supervisor();
    let order = format!(
        "storm {} {RATE} {} {KNOWN} {DENIED} {} {CLOSES} {DENIED_ADDRESS}",
        stop.display(),
        scene.resolver(),
        scene.web()
    );
    let counted = std::thread::scope(|scope| {
        let under_way = scope.spawn(|| Counted::of(&client.ask_two(&order)));
        std::thread::sleep(after);
        rustix::process::kill_process(supervisor, Signal::KILL).expect("kill the supervisor");
        std::thread::sleep(AFTER);
        fs::write(&stop, "").expect("write to the world's directory");
        under_way.join().expect("the client answers")
    });
    client.abandon();
    let began = Instant::now();
    while !scene.world().left_behind().is_empty() {
        assert!(
            began.elapsed() < PATIENCE,
            "left behind: {:?}",
            scene.world().left_behind()
        );
        sweep(scene);
    }
    let adopted: Vec<PathBuf> = reports(scene).difference(&known).cloned().collect();
    let [path] = &adopted[..] else {
        panic!("one record is adopted, not {adopted:?}")
    };
    let text = fs::read(path).expect("read the adopted report");
    let report = serde_json::from_slice(&text).expect("the report has the report's shape");
    (counted, report)
}

/// Let a command clean up after runs whose supervisor is gone.
pub(super) fn sweep(scene: &Scene) {
    let output = scene
        .typed(&[&guard::binary(), "policy", "schema"])
        .stdin(Stdio::null())
        .output()
        .expect("start nsenter");
    assert!(output.status.success(), "{output:?}");
}

fn reports(scene: &Scene) -> BTreeSet<PathBuf> {
    let runs = guard::state(scene.world()).join("runs");
    let runs = fs::read_dir(runs).into_iter().flatten().flatten();
    runs.map(|run| run.path().join("report.json"))
        .filter(|report| report.exists())
        .collect()
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn float(n: u64) -> f64 {
    n as f64
}
