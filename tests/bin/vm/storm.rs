//! The storm: processes on all processors that take them from each other in the middle of the guard's programs, which a
//! kernel allows that was started with `preempt=full`, or built to be so. What a program keeps per processor and another of the same
//! processor writes over would let a denied attempt pass, or mix up two names.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Duration;

use blackstart_core::report::{Report, Verdict};

use crate::guarded::{Ended, bare, left_behind, start};
use crate::gust::{Counts, address_of, is_nobodys, number_of};
use crate::servers::{self, Leaks};
use crate::stories::{LAB, Play, own_gaps};

const POLICY: &str = "mode: enforce\ndefault: deny\ninspect: [7443]\nlease: ttl\nrules:\n  \
    - allow: \"*.open.internal\"\n  - deny: 203.0.113.0/24\n";
/// How long it blows.
const SECONDS: &str = "40";
/// Until the last of its processes has had its turn, and the report is written.
const DEADLINE: Duration = Duration::from_secs(240);
/// A storm in which nobody takes a processor from anybody shows nothing.
const PREEMPTED: u64 = 1_000;
/// What the kernel did not call the guard for.
const SKIPPED: &str = "hooks_skipped";
/// Gaps that a storm has: nobody gave the denied addresses, and to so many refused lookups not each has its final answer, or
/// in time; and what follows processes is itself preempted, from 7.0 on.
const EXPECTED: [&str; 4] = ["answers", "answers_unasked", SKIPPED, "unnamed_addresses"];

/// Play it; a report has gaps of these kinds.
pub(crate) fn under_full_preemption(gaps: &[&str]) -> ExitCode {
    let gaps: &BTreeSet<String> = &gaps.iter().map(|&gap| gap.to_owned()).collect();
    let leaks = servers::for_storm();
    let mut play = Play::default();
    play.story("programs are preempted wherever they are", || {
        assert!(is_preempted_everywhere(), "{}", version());
    });
    play.story("nothing fails in a storm that is not guarded", || {
        bare_storm(leaks)
    });
    play.story("in a storm no verdict is another's", || storm(leaks, gaps));
    play.story("nothing is left behind", || {
        assert_eq!(left_behind(), BTreeSet::new());
    });
    play.end()
}

/// The negation: what is denied in the other comes to the servers in this one.
fn bare_storm(leaks: &Leaks) {
    let run = bare(&[LAB, "storm", "10"]).exits(0);
    let counts = Counts::read(&run.stdout).unwrap_or_else(|| panic!("no counts: {run}"));
    println!("storm: bare: {counts:?}");
    println!("storm: bare: {leaks:?}");
    let denied = counts.attempts[1] + counts.queries[1];
    assert_eq!((counts.failed, counts.mixed), (0, 0), "{run}");
    assert_eq!(counts.passed, denied, "{run}");
    for leak in [&leaks.asked, &leaks.reached, &leaks.said] {
        assert!(leak.swap(0, Ordering::Relaxed) > 0, "{leaks:?}");
    }
}

/// Was the kernel told so (a choice that debugfs shows), or built so?
fn is_preempted_everywhere() -> bool {
    match fs::read_to_string("/sys/kernel/debug/sched/preempt") {
        Ok(modes) => modes.contains("(full)"),
        Err(_) => [" PREEMPT ", " PREEMPT_RT "]
            .iter()
            .any(|built| version().contains(built)),
    }
}

fn version() -> String {
    fs::read_to_string("/proc/sys/kernel/version").expect("read the kernel's version")
}

fn storm(leaks: &Leaks, gaps: &BTreeSet<String>) {
    // Not contained: some of its processes go before all others, and that takes a privilege.
    let run = start(&["--no-contain"], POLICY, &[LAB, "storm", SECONDS])
        .wait_at_most(DEADLINE)
        .exits(0);
    let counts = Counts::read(&run.stdout).unwrap_or_else(|| panic!("no counts: {run}"));
    println!("storm: {counts:?}");
    println!("storm: {leaks:?}");
    println!("storm: {} connections forgotten early", forgotten());
    println!("storm: {:?}", run.report().coverage);
    assert!(counts.preempted > PREEMPTED, "{counts:?}");
    let came = [&leaks.asked, &leaks.reached, &leaks.said];
    let came: u64 = came.iter().map(|leak| leak.load(Ordering::Relaxed)).sum();
    assert_eq!(came, 0, "denied, and came to a server: {leaks:?}: {run}");
    assert_eq!(counts.passed, 0, "denied, and not refused at once: {run}");
    assert_eq!(counts.failed, 0, "allowed, and failed: {run}");
    assert_eq!(counts.mixed, 0, "answered with another's address: {run}");
    accounted(&run, &counts, gaps);
    unmixed(run.report());
}

/// Closed connections that the kernel had no room to remember. What still comes for one is reset, guarded or not.
fn forgotten() -> u64 {
    let counted = fs::read_to_string("/proc/net/netstat").unwrap_or_default();
    let mut lines = counted.lines().filter(|line| line.starts_with("TcpExt:"));
    let (Some(names), Some(counts)) = (lines.next(), lines.next()) else {
        return 0;
    };
    let mut both = names.split(' ').zip(counts.split(' '));
    both.find(|(name, _)| *name == "TCPTimeWaitOverflow")
        .and_then(|(_, count)| count.parse().ok())
        .unwrap_or(0)
}

/// What the processes did and what the report says are the same.
fn accounted(run: &Ended, counts: &Counts, gaps: &BTreeSet<String>) {
    let report = run.report();
    let coverage = &report.coverage;
    let made = counts.attempts[0] + counts.attempts[1];
    assert_eq!(coverage.attempts, made, "{coverage:?}");
    assert_eq!(coverage.recorded + coverage.lost, made, "{coverage:?}");
    let attempts = |verdict| -> u64 {
        let of = report.flows.iter().filter(|flow| flow.verdict == verdict);
        of.map(|flow| flow.attempts).sum()
    };
    assert_eq!(attempts(Verdict::Deny), counts.attempts[1], "{coverage:?}");
    let queries = |verdict| -> u64 {
        let of = report.names.iter().filter(|name| name.verdict == verdict);
        of.map(|name| name.queries).sum()
    };
    assert_eq!(queries(Verdict::Allow), counts.queries[0], "{coverage:?}");
    assert_eq!(queries(Verdict::Deny), counts.queries[1], "{coverage:?}");
    let known: BTreeSet<u64> = report.subjects.iter().map(|one| one.id).collect();
    let is_known = |subject: Option<u64>| subject.is_some_and(|id| known.contains(&id));
    assert!(report.flows.iter().all(|flow| is_known(flow.subject)));
    assert!(report.names.iter().all(|name| is_known(name.subject)));
    let blown = report
        .subjects
        .iter()
        .filter(|one| matches!(one.argv.get(1).map(String::as_str), Some("gust" | "breeze")))
        .count();
    // Where the kernel did not call the guard for an exec, that is counted.
    let skipped = coverage.gaps.iter().find(|gap| gap.kind == SKIPPED);
    let skipped = skipped.map_or(0, |gap| gap.count);
    println!(
        "storm: {blown} of {} processes known, {skipped} calls left out",
        counts.processes
    );
    let unknown = counts.processes - blown as u64;
    assert!(
        unknown <= skipped,
        "{unknown} processes are not in the record"
    );
    let mut named = own_gaps(report);
    for expected in EXPECTED {
        named.remove(expected);
    }
    assert_eq!(named, *gaps, "{coverage:?}");
}

/// Names have their own addresses and verdicts, and what nobody was given is denied.
fn unmixed(report: &Report) {
    for name in &report.names {
        let (number, open) = number_of(&name.name).expect("no other names were asked for");
        let (v4, v6) = address_of(number);
        let verdict = if open { Verdict::Allow } else { Verdict::Deny };
        assert_eq!(name.verdict, verdict, "{name:?}");
        assert!(open || name.addresses.is_empty(), "{name:?}");
        let its_own = |address: &IpAddr| *address == v4 || *address == v6;
        assert!(name.addresses.iter().all(its_own), "{name:?}");
    }
    for flow in &report.flows {
        let Some(name) = &flow.name else {
            let allowed = flow.port == 53 && flow.verdict == Verdict::Allow;
            let denied = is_nobodys(flow.address) && flow.verdict == Verdict::Deny;
            assert!(allowed || denied, "{flow:?}");
            continue;
        };
        let (number, open) = number_of(name).expect("no other names were given");
        let (v4, v6) = address_of(number);
        assert!(flow.address == v4 || flow.address == v6, "{flow:?}");
        let verdict = if open { Verdict::Allow } else { Verdict::Deny };
        assert_eq!(flow.verdict, verdict, "{flow:?}");
    }
}
