//! What a guarded client notices of the guard, in wall-clock time.

use std::time::Duration;

use rustix::process::Signal;

use super::bar::{Bar, Bound, Results};
use super::client::Client;
use super::pairs::Pairs;
use super::scene::{CLOSES, DENIED, KNOWN, PAGES, READS, READS_REQUESTS, Rules, Scene};
use crate::guard;

/// After this long without a heartbeat the kernel takes the supervisor for dead.
const UNSUPERVISED: Duration = Duration::from_millis(3500);

/// A guarded and a bare client, asked in turn.
struct Contest {
    guarded: Client,
    bare: Client,
}

impl Contest {
    fn new(scene: &Scene) -> Self {
        Self {
            guarded: scene.guarded_beside(Rules::Live),
            bare: scene.bare_beside(),
        }
    }

    /// Pairs of what `figure` reads from the answers to `order`. The first of a pair changes, so that none
    /// has the advantage of its place.
    fn pairs(&mut self, order: &str, n: usize, figure: impl Fn(&[u64]) -> f64) -> Pairs {
        self.guarded.ask(order);
        self.bare.ask(order);
        let pair = |i: usize| {
            if i.is_multiple_of(2) {
                let guarded = figure(&self.guarded.ask(order));
                (guarded, figure(&self.bare.ask(order)))
            } else {
                let bare = figure(&self.bare.ask(order));
                (figure(&self.guarded.ask(order)), bare)
            }
        };
        Pairs((0..n).map(pair).collect())
    }
}

/// DNS lookups, with the supervisor running and stopped.
pub(super) fn lookups(scene: &Scene, results: &mut Results) {
    let mut contest = Contest::new(scene);
    let order = format!(
        "lookup {} {KNOWN} {}",
        scene.resolver(),
        scene.count(400).max(50)
    );
    let n = scene.count(120);
    let microseconds = |answer: &[u64]| {
        assert_eq!(answer[1], 0, "lookups failed");
        thousandth(answer[0])
    };
    let bound = Bound::AtMost(8.0);
    let pairs = contest.pairs(&order, n, microseconds);
    results.add(Bar::added("DNS lookup p50, added", "µs", bound, &pairs));

    contest.guarded.signal(Signal::STOP);
    std::thread::sleep(UNSUPERVISED);
    let pairs = contest.pairs(&order, n, microseconds);
    contest.guarded.signal(Signal::CONT);
    results.add(
        Bar::added(
            "DNS lookup p50, added, supervisor stopped",
            "µs",
            bound,
            &pairs,
        )
        .note("no lookup failed"),
    );
    contest.guarded.end();
}

/// connect() of TCP and UDP.
pub(super) fn connects(scene: &Scene, results: &mut Results) {
    let mut contest = Contest::new(scene);
    let n = scene.count(120);
    // The address is leased: connect has a name to judge.
    contest
        .guarded
        .ask(&format!("lookup {} {KNOWN} 1", scene.resolver()));
    let p50 = |answer: &[u64]| {
        assert_eq!(answer.last(), Some(&0), "connections failed");
        thousandth(answer[0])
    };
    let order = format!("tcp {} {CLOSES} {}", scene.web(), scene.count(400).max(50));
    let pairs = contest.pairs(&order, n, p50);
    results.add(
        Bar::factor(
            "TCP connect p50, guarded / bare",
            Bound::AtMost(1.10),
            &pairs,
        )
        .note("µs"),
    );

    let order = format!("udp {} 9 {}", scene.web(), scene.count(2000).max(50));
    let pairs = contest.pairs(&order, n, |answer| p50(answer) * 1000.0);
    results.add(
        Bar::added("UDP connect(), added", "ns", Bound::AtMost(700.0), &pairs)
            .note("a fresh socket each"),
    );
    contest.guarded.end();
}

/// How fast TCP goes.
pub(super) fn throughput(scene: &Scene, results: &mut Results) {
    let mut contest = Contest::new(scene);
    let order = format!("send {} {READS} {}", scene.web(), 250);
    let gigabits = |answer: &[u64]| thousandth(answer[0] * 8000 / answer[1].max(1));
    let pairs = contest.pairs(&order, scene.count(60), gigabits);
    results.add(
        Bar::factor(
            "TCP throughput, guarded / bare",
            Bound::AtLeast(0.93),
            &pairs,
        )
        .note("Gbit/s"),
    );
    contest.guarded.end();
}

/// What is noticed at a port where names are read, of HTTP without TLS: there each request of a connection is.
pub(super) fn inspected(scene: &Scene, results: &mut Results) {
    let mut contest = Contest::new(scene);
    let order = format!("post {} {READS_REQUESTS} {}", scene.web(), 250);
    let gigabits = |answer: &[u64]| thousandth(answer[0] * 8000 / answer[1].max(1));
    let pairs = contest.pairs(&order, scene.count(60), gigabits);
    results.add(
        Bar::factor(
            "TCP throughput of a request's body, guarded / bare",
            Bound::AtLeast(0.93),
            &pairs,
        )
        .note("Gbit/s"),
    );
    let order = format!(
        "pages {} {PAGES} {KNOWN} {} 65536",
        scene.web(),
        scene.count(1000).max(100)
    );
    let pairs = contest.pairs(&order, scene.count(60), |answer| {
        assert_eq!(answer[1], 0, "pages failed");
        thousandth(answer[0])
    });
    results.add(
        Bar::factor(
            "HTTP request p50, fifty on a connection, guarded / bare",
            Bound::AtMost(1.10),
            &pairs,
        )
        .note("µs; a page of 65,536 octets"),
    );
    contest.guarded.end();
}

/// A policy that uses every part of the judge: nothing is left out of what is loaded for it.
const EVERYTHING: &str = "mode: enforce\nrules:\n  - deny: denied.example\n  - deny: 203.0.113.0/24\n  - deny: unix:/run/denied.sock\n  - { deny: other.example, process: curl }\n";

/// What starting and ending a run costs.
pub(super) fn start(scene: &Scene, results: &mut Results) {
    let binary = guard::binary();
    let one_rule = scene.world().policy(
        "start.yaml",
        &format!("mode: enforce\nrules:\n  - deny: {DENIED}\n"),
    );
    let everything = scene.world().policy("everything.yaml", EVERYTHING);
    let observe = [binary.as_str(), "run", "--", "true"];
    let enforce = [binary.as_str(), "run", "--policy", &one_rule, "--", "true"];
    let whole = [
        binary.as_str(),
        "run",
        "--policy",
        &everything,
        "--",
        "true",
    ];
    // The first is held to the bar for all programs, the others to that for what a policy needs.
    for (how, limit, line) in [
        ("enforce, a policy that uses everything", 250.0, &whole[..]),
        ("observe, what no policy needs", 150.0, &observe[..]),
        ("enforce, what one rule needs", 150.0, &enforce[..]),
    ] {
        let pairs = scene.beside_true(line, 60);
        results.add(Bar::added(
            format!("`run -- true` minus `true` ({how})"),
            "ms",
            Bound::AtMost(limit),
            &pairs,
        ));
    }
}

fn thousandth(n: u64) -> f64 {
    f64::from(u32::try_from(n).unwrap_or(u32::MAX)) / 1000.0
}
