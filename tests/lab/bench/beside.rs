//! What the host's own traffic feels of a guarded deployment beside it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::json;

use super::bar::{Bar, Bound, Results};
use super::client::Client;
use super::kernel::{Cost, Programs, Statistics};
use super::pairs::Pairs;
use super::scene::{CLOSES, DENIED, KNOWN, PAGES, Rules, Scene};

/// Connects, or forks, of one sample.
const EACH: usize = 10_000;
/// Pairs of samples, with a guard beside and without.
const PAIRS: usize = 60;
/// Octets of a page.
const PAGE: usize = 64 << 10;
/// What is called so is run for every process of the host.
const FORK: &str = "sched_process_fork";

/// A client without guard beside a guarded one.
pub(super) fn unguarded(scene: &Scene, results: &mut Results) {
    programs(scene, results);
    failures(scene, results);
    pace(scene, results);
}

/// Which programs run for the host's traffic, and what a process costs it.
fn programs(scene: &Scene, results: &mut Results) {
    let mut bare = scene.bare();
    let guarded = scene.guarded(Rules::Live);
    let programs = Programs::hold(guarded.pid());
    let statistics = Statistics::on();
    let before = programs.costs();
    let each = scene.count(EACH);
    traffic(scene, &mut bare, each);
    bare.ask(&format!("forks {each}"));
    let after = programs.costs();
    drop(statistics);
    guarded.end();
    let spent = |name: &str| {
        let (earlier, later) = (before.get(name), after[name]);
        let earlier = earlier.copied().unwrap_or_default();
        Cost {
            runs: later.runs - earlier.runs,
            nanoseconds: later.nanoseconds - earlier.nanoseconds,
        }
    };
    // All others run for each process, or each contact, of the host.
    let of_host = |name: &str| {
        name.starts_with("sched_") || ["cgroup_attach_task", "fexit", "tracepoint"].contains(&name)
    };
    let of_cgroups = after
        .keys()
        .filter(|name| !of_host(name))
        .map(|name| spent(name).runs)
        .sum();
    results.add(
        Bar::deterministic(
            "traffic beside the guard: runs of programs of its cgroup",
            "runs",
            Bound::Exactly(0.0),
            float(of_cgroups),
        )
        .note(format!("{each} lookups, {each} connects"))
        .raw(json!(after.keys().collect::<Vec<_>>())),
    );
    let fork = spent(FORK);
    assert!(
        fork.runs >= u64::try_from(each).expect("few"),
        "the program that follows forks ran {} times",
        fork.runs
    );
    let fork = float(fork.nanoseconds) / float(fork.runs);
    let (what, limit) = (
        "traffic beside the guard: BPF run time of a fork outside the run, beyond that of an empty program",
        Bound::AtMost(100.0),
    );
    let mut empty = match Empty::load(scene) {
        Ok(empty) => empty,
        Err(why) => return results.add(Bar::skipped(what, "ns", limit, why)),
    };
    let statistics = Statistics::on();
    bare.ask(&format!("forks {each}"));
    let empty = empty.ran();
    let floor = float(empty.nanoseconds) / float(empty.runs);
    drop(statistics);
    results.add(
        Bar::deterministic(what, "ns", limit, fork - floor)
            .note(format!("{fork:.0} and {floor:.0} ns, {each} forks each")),
    );
}

/// Who has attached an empty program to every fork; both end when it is dropped.
struct Empty {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Empty {
    /// Compile, load and attach it; or why that cannot be done here.
    fn load(scene: &Scene) -> Result<Self, String> {
        let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients");
        let [object, loader] = ["empty.o", "empty"].map(|name| scene.world().dir().join(name));
        let clang = (19..=22)
            .rev()
            .map(|version| format!("clang-{version}"))
            .find(|clang| Command::new(clang).arg("--version").output().is_ok())
            .unwrap_or_else(|| "clang".to_owned());
        succeeds(
            Command::new(clang)
                .args(["-target", "bpf", "-O2", "-g", "-c", "-o"])
                .args([&object, &clients.join("empty.bpf.c")]),
        )?;
        succeeds(
            Command::new("gcc")
                .args(["-O2", "-o"])
                .args([&loader, &clients.join("empty.c")])
                .arg("-lbpf"),
        )?;
        let mut child = Command::new(loader)
            .arg(object)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start what was just compiled");
        let mut empty = Self {
            orders: child.stdin.take(),
            answers: BufReader::new(child.stdout.take().expect("piped")),
            child,
        };
        // Once it answers, the program is attached.
        empty.ran();
        Ok(empty)
    }

    fn ran(&mut self) -> Cost {
        let orders = self.orders.as_mut().expect("open until the end");
        writeln!(orders).expect("ask the loader");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("hear the loader");
        let (runs, nanoseconds) = line.trim().split_once(' ').expect("two numbers");
        Cost {
            runs: runs.parse().expect("a count"),
            nanoseconds: nanoseconds.parse().expect("a time"),
        }
    }
}

impl Drop for Empty {
    fn drop(&mut self) {
        drop(self.orders.take());
        let _ = self.child.wait();
    }
}

/// Or what failed, and why.
fn succeeds(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot start {program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program}: {}", why.trim()))
}

/// Both reach for the same addresses and ports at once; the guarded one may not.
fn failures(scene: &Scene, results: &mut Results) {
    let policy = format!(
        "mode: enforce\nrules:\n  - deny: {DENIED}\n  - deny: {KNOWN}\n  - deny: {}\n",
        scene.web()
    );
    let (mut bare, mut guarded) = (scene.bare(), scene.guarded_by(Some(&policy)));
    let n = scene.count(20_000);
    let order = format!("tcp {} {CLOSES} {n}", scene.web());
    let fetch = pages(scene, n);
    let (of_bare, of_guarded) = std::thread::scope(|scope| {
        let deploy = scope.spawn(|| guarded.ask(&order)[1] + guarded.ask(&fetch)[1]);
        let failed = traffic(scene, &mut bare, n) + bare.ask(&fetch)[1];
        (failed, deploy.join().expect("the client answers"))
    });
    guarded.end();
    assert_eq!(
        of_guarded,
        2 * u64::try_from(n).expect("a count"),
        "what the guard denies is refused meanwhile"
    );
    results.add(
        Bar::deterministic(
            "traffic beside the guard: failures",
            "refused",
            Bound::Exactly(0.0),
            float(of_bare),
        )
        .note(format!(
            "{n} lookups, {n} connects and {n} pages of {PAGE} octets on connections that stay, all of what a guarded \
             process was refused as often"
        )),
    );
}

/// Lookups and connects; how many failed.
fn traffic(scene: &Scene, client: &mut Client, n: usize) -> u64 {
    let lookups = client.ask(&format!("lookup {} {KNOWN} {n}", scene.resolver()))[1];
    lookups + client.ask(&format!("tcp {} {CLOSES} {n}", scene.web()))[1]
}

/// The order for so many pages, on connections that stay.
fn pages(scene: &Scene, n: usize) -> String {
    format!("pages {} {PAGES} {KNOWN} {n} {PAGE}", scene.web())
}

/// How long a connect takes, and a page, while a guarded run is there, and while none is.
fn pace(scene: &Scene, results: &mut Results) {
    let each = scene.count(EACH);
    let connects = format!("tcp {} {CLOSES} {each}", scene.web());
    for (what, order) in [
        ("TCP connect", connects),
        ("page of 64 KiB", pages(scene, each)),
    ] {
        let mut bare = scene.bare_beside();
        let mut sample = || float(bare.ask(&order)[0]) / 1_000.0;
        sample();
        let pairs = Pairs(
            (0..scene.count(PAIRS))
                .map(|turn| {
                    // Which of both comes first takes turns: the machine's own pace changes meanwhile.
                    let early = (turn % 2 == 0).then(&mut sample);
                    let guarded = scene.guarded(Rules::Live);
                    let beside = sample();
                    guarded.end();
                    (beside, early.unwrap_or_else(&mut sample))
                })
                .collect(),
        );
        results.add(
            Bar::factor(
                format!("traffic beside the guard: {what} p50, beside it / without"),
                Bound::AtMost(1.03),
                &pairs,
            )
            .note("µs"),
        );
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn float(n: u64) -> f64 {
    n as f64
}
