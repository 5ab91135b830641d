//! One policy taking over from another, again and again, while attempts are made: none of them may be judged by
//! half of the two.
//!
//! Each way in which a policy reaches an attempt (a prefix, a leased name, a range of ports, a process, an allow) has
//! a destination, and at each of them the two policies differ in the errno that the process gets, in the rule that
//! the record names, or in both. Their tables differ in size, so that a row of one that is taken for one of the
//! other is another rule's. An attempt that half of each had judged would end with an errno that neither policy has
//! for that destination, or stand in the record under the rule of the one and end with the errno of the other: both are
//! counted.
//!
//! Then the same of two policies that differ in their mode: what the one refuses the other lets through and records as what
//! it would have denied.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Stdio;

use blackstart_core::record::Verdict;
use blackstart_core::report::{Mode, Report};
use serde_json::json;

use super::bar::{Bar, Bound, Results};
use super::scene::{KNOWN, Scene};
use crate::guard;

/// How often a policy takes over.
const SWAPS: usize = 1_000;
/// How often one does that has another mode.
const SWAPS_OF_MODE: usize = 200;
/// What the run says that it deploys: by this it is found again.
const SERVICE: &str = "swapped";
/// Only one of the two policies has them.
const FILLERS: usize = 60;

/// Two policies.
struct Pair {
    /// What bars call it.
    called: &'static str,
    modes: [Mode; 2],
    aims: Vec<Aim>,
    swaps: usize,
}

/// A place at which the policies differ.
struct Aim {
    address: Ipv4Addr,
    port: u16,
    /// What each of them says of it: what follows `- `, and the errno that the process gets.
    said: [(String, Option<(&'static str, u64)>); 2],
}

impl Aim {
    /// The errno under one of the policies, 0 for none.
    fn errno(&self, policy: usize) -> u64 {
        self.said[policy].1.map_or(0, |(_, number)| number)
    }

    /// The rule of one of the policies, as a report names it.
    fn rule(&self, policy: usize) -> String {
        self.said[policy]
            .0
            .replace(": ", " ")
            .replace(['{', '}', '"'], "")
    }
}

fn aims(scene: &Scene) -> Vec<Aim> {
    let aim = |address, port, one: &str, of_one, other: &str, of_other| Aim {
        address,
        port,
        said: [(one.to_owned(), of_one), (other.to_owned(), of_other)],
    };
    let far = Ipv4Addr::new(10, 88, 1, 1);
    vec![
        aim(
            Ipv4Addr::new(198, 18, 1, 1),
            9,
            "deny: 198.18.0.0/16",
            Some(("EPERM", 1)),
            "deny: 198.18.0.0/15",
            Some(("EACCES", 13)),
        ),
        aim(
            scene.web(),
            9,
            &format!("deny: {KNOWN}"),
            Some(("ENETDOWN", 100)),
            "deny: .bench.example",
            Some(("ENETUNREACH", 101)),
        ),
        aim(
            far,
            9050,
            "deny: \"*:9000-9100\"",
            Some(("ECONNABORTED", 103)),
            "deny: \"*:9000-9200\"",
            Some(("ECONNRESET", 104)),
        ),
        aim(
            far,
            7000,
            "{deny: \"*:7000\", process: bench-client}",
            Some(("ETIMEDOUT", 110)),
            "{deny: \"*:7000\", process: \"ancestor:bench-*\"}",
            Some(("EHOSTDOWN", 112)),
        ),
        aim(
            Ipv4Addr::new(10, 88, 2, 1),
            9,
            "allow: 10.88.2.0/24",
            None,
            "deny: 10.88.2.1",
            Some(("EHOSTUNREACH", 113)),
        ),
        aim(
            Ipv4Addr::new(10, 88, 3, 1),
            9,
            "deny: 10.88.3.0/24",
            Some(("ECONNREFUSED", 111)),
            "allow: 10.88.3.1",
            None,
        ),
    ]
}

/// Each with one rule in both policies, which differ in what is around it.
fn aims_of_mode(scene: &Scene) -> Vec<Aim> {
    let aim = |address, port, rule: &str, errno| Aim {
        address,
        port,
        said: [(rule.to_owned(), Some(errno)), (rule.to_owned(), None)],
    };
    vec![
        aim(
            Ipv4Addr::new(198, 18, 1, 1),
            9,
            "deny: 198.18.0.0/16",
            ("EPERM", 1),
        ),
        aim(scene.web(), 9, &format!("deny: {KNOWN}"), ("ENETDOWN", 100)),
        aim(
            Ipv4Addr::new(10, 88, 1, 1),
            7000,
            "{deny: \"*:7000\", process: bench-client}",
            ("ETIMEDOUT", 110),
        ),
    ]
}

fn policy(pair: &Pair, which: usize) -> String {
    let aims = &pair.aims;
    let mode = match pair.modes[which] {
        Mode::Observe => "observe",
        Mode::Enforce => "enforce",
    };
    let mut text = format!(
        "apiVersion: blackstart.dev/v1\nkind: Policy\nservice: {SERVICE}\nmode: {mode}\nrules:\n"
    );
    for i in 0..which * FILLERS {
        let _ = writeln!(text, "  - deny: .a.service-{i}.example.net");
        let _ = writeln!(text, "  - deny: 172.20.{i}.0/24");
    }
    for aim in aims {
        let (rule, errno) = &aim.said[which];
        let on_match = errno.map(|(name, _)| format!("on_match: refuse {name}"));
        let _ = match (rule.strip_suffix('}'), on_match) {
            (_, None) => writeln!(text, "  - {rule}"),
            (Some(open), Some(on_match)) => writeln!(text, "  - {open}, {on_match}}}"),
            (None, Some(on_match)) => writeln!(text, "  - {rule}\n    {on_match}"),
        };
    }
    text
}

/// Swap policies under load.
pub(super) fn under_load(scene: &Scene, results: &mut Results) {
    let rules = Pair {
        called: "reload under load",
        modes: [Mode::Enforce; 2],
        aims: aims(scene),
        swaps: scene.count(SWAPS),
    };
    swap(scene, &rules, results);
    let modes = Pair {
        called: "reload of the mode under load",
        modes: [Mode::Enforce, Mode::Observe],
        aims: aims_of_mode(scene),
        swaps: scene.count(SWAPS_OF_MODE),
    };
    swap(scene, &modes, results);
}

fn swap(scene: &Scene, pair: &Pair, results: &mut Results) {
    let (aims, called) = (&pair.aims, pair.called);
    let files = [0, 1].map(|which| {
        let name = format!("swap-{which}.yaml");
        let path = scene.world().file(&name, &policy(pair, which));
        path.display().to_string()
    });
    let stop = scene.world().dir().join("swapped");
    let order = |errnos: &dyn Fn(&Aim) -> [u64; 2]| {
        let mut order = format!("swapped {}", stop.display());
        for aim in aims {
            let [one, other] = errnos(aim);
            let _ = write!(order, " {}:{}:{one}:{other}", aim.address, aim.port);
        }
        order
    };
    let mut client = scene.guarded_by(Some(&format!(
        "service: {SERVICE}\nmode: enforce\nrules: []\n"
    )));
    // The name has its address before any policy denies it.
    client.ask(&format!("lookup {} {KNOWN} 1", scene.resolver()));
    // What ends as neither policy says is seen: by the first one alone, all is wrong for who expects the second.
    take_over(scene, &files[0]);
    fs::write(&stop, "").expect("write to the world's directory");
    let control = Ended::of(&client.ask(&order(&|aim| [aim.errno(1), aim.errno(1)])));
    assert!(
        control
            .by_aim
            .iter()
            .all(|&[one, _, neither]| one == 0 && neither > 0),
        "only the first policy is there, and not seen to be: {:?}",
        control.by_aim
    );
    fs::remove_file(&stop).expect("remove what was just written");

    let swaps = pair.swaps;
    let attempts = order(&|aim| [aim.errno(0), aim.errno(1)]);
    let ended = std::thread::scope(|scope| {
        let under_way = scope.spawn(|| Ended::of(&client.ask(&attempts)));
        {
            // However this ends, the client's order is to end with it.
            let _stop = Stop(&stop);
            for swap in 0..swaps {
                take_over(scene, &files[(swap + 1) % 2]);
            }
        }
        under_way.join().expect("the client answers")
    });
    let _ = fs::remove_file(&stop);
    let report = client.end().expect("a guarded client has a report");
    assert_eq!(report.run.reloads.len(), swaps + 1, "reloads in the report");
    assert!(
        ended
            .by_aim
            .iter()
            .all(|&[one, other, _]| one > 0 && other > 0),
        "both policies must have judged at each place: {:?}",
        ended.by_aim
    );

    let recorded = recorded(&report, pair);
    let neither: u64 = ended.by_aim.iter().map(|[.., neither]| neither).sum();
    let told = format!("{} attempts, {swaps} swaps", ended.attempts());
    let raw = json!({
        "swaps": swaps,
        "nanoseconds": ended.nanoseconds,
        "ended as the one says, the other, neither": ended.by_aim,
        "recorded under the one's rule, the other's, neither's": recorded.by_aim,
        "control": control.by_aim,
    });
    results.add(
        Bar::deterministic(
            format!("{called}: attempts that end as neither policy says"),
            "attempts",
            Bound::Exactly(0.0),
            float(neither),
        )
        .note(&told)
        .raw(raw),
    );
    // The control's attempts are in the record as well: all by the first policy.
    let apart: u64 = (0..aims.len())
        .map(|at| {
            let [one, other, _] = ended.by_aim[at];
            let of_control: u64 = control.by_aim[at].iter().sum();
            let [recorded_one, recorded_other, recorded_neither] = recorded.by_aim[at];
            (one + of_control).abs_diff(recorded_one)
                + other.abs_diff(recorded_other)
                + recorded_neither
        })
        .sum();
    results.add(
        Bar::deterministic(
            format!("{called}: attempts that end by one policy and are recorded by another"),
            "attempts",
            Bound::Exactly(0.0),
            float(apart + report.coverage.lost),
        )
        .note(format!("{} flows", report.flows.len())),
    );
    // One rate is enough, and that of the pair that is swapped oftener.
    if pair.modes != [Mode::Enforce; 2] {
        return;
    }
    let seconds = float(ended.nanoseconds / 1000) / 1e6;
    results.add(
        Bar::once(
            format!("{called}: rate"),
            "/s",
            Bound::AtLeast(50_000.0),
            float(ended.attempts()) / seconds,
        )
        .note(format!("{told} in {seconds:.1} s")),
    );
}

/// Let the file's policy take over in the run.
fn take_over(scene: &Scene, file: &str) {
    let binary = guard::binary();
    let output = scene
        .typed(&[&binary, "reload", SERVICE, "--policy", file])
        .stdin(Stdio::null())
        .output()
        .expect("start nsenter");
    assert!(output.status.success(), "reload: {output:?}");
}

/// Ends the client's order when it is dropped.
struct Stop<'a>(&'a Path);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        let _ = fs::write(self.0, "");
    }
}

/// Attempts at each place: as one policy says, as the other, as neither.
struct Ended {
    nanoseconds: u64,
    by_aim: Vec<[u64; 3]>,
}

impl Ended {
    fn of(answer: &[u64]) -> Self {
        let (nanoseconds, counts) = answer.split_first().expect("the client answers");
        let by_aim = counts
            .chunks_exact(3)
            .map(|each| [each[0], each[1], each[2]]);
        Self {
            nanoseconds: *nanoseconds,
            by_aim: by_aim.collect(),
        }
    }

    fn attempts(&self) -> u64 {
        self.by_aim.iter().flatten().sum()
    }
}

/// The same of the record, by verdict and rule.
fn recorded(report: &Report, pair: &Pair) -> Ended {
    let aims = &pair.aims;
    let mut by_place: BTreeMap<_, [u64; 3]> = BTreeMap::new();
    for flow in &report.flows {
        let Some(aim) = aims
            .iter()
            .find(|aim| aim.address == flow.address && aim.port == flow.port)
        else {
            continue;
        };
        let is = |policy: usize| {
            let verdict = match (pair.modes[policy], aim.said[policy].1) {
                (Mode::Observe, _) => Verdict::WouldDeny,
                (Mode::Enforce, Some(_)) => Verdict::Deny,
                (Mode::Enforce, None) => Verdict::Allow,
            };
            flow.verdict == verdict && flow.rule == aim.rule(policy)
        };
        let at = (0..2).find(|&policy| is(policy)).unwrap_or(2);
        by_place.entry((aim.address, aim.port)).or_default()[at] += flow.attempts;
    }
    let by_aim = aims.iter().map(|aim| {
        let place = (aim.address, aim.port);
        by_place.get(&place).copied().unwrap_or_default()
    });
    Ended {
        nanoseconds: 0,
        by_aim: by_aim.collect(),
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts and microseconds of minutes are far below 2^52"
)]
fn float(n: u64) -> f64 {
    n as f64
}
