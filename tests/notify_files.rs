//! Files that others are told by, where something is in the way of them: no run waits, and nothing is lost.

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use blackstart_lab::{Guarded, Running, World, client};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal};

/// More than a run needs on a busy machine, and less than anyone waits for what hangs.
const SOON: Duration = Duration::from_secs(30);

fn run(world: &World, targets: &[String]) -> Guarded {
    let guard = targets.iter().fold(world.guard(), |guard, target| {
        guard.arg(&format!("--notify={target}"))
    });
    guard.arg("--service=mysql").run(&["true"]).exits(0)
}

/// What the file for Prometheus says of runs that succeeded.
fn counted(prom: &PathBuf) -> u64 {
    let text = fs::read_to_string(prom).unwrap_or_default();
    let line = text
        .lines()
        .find(|line| line.starts_with("blackstart_runs_total{outcome=\"succeeded\""));
    line.map_or(0, |line| {
        line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap() as u64
    })
}

#[track_caller]
fn soon(what: &str, mut is: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is() {
        assert!(began.elapsed() < SOON * 3, "{what}: not in time");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_counter_loses_no_run_while_somebody_else_has_the_lock() {
    let world = World::new("notify-counts");
    let prom = world.dir().join("b.prom");
    let targets = [format!("metrics:{}", prom.display())];
    run(&world, &targets);
    assert_eq!(counted(&prom), 1);
    let lock = File::options()
        .write(true)
        .open(world.guard().state().join("notify/lock"))
        .unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    for _ in 0..2 {
        run(&world, &targets);
        // It may wait for its turn, and never goes back.
        assert_eq!(counted(&prom), 1);
    }
    drop(lock);
    run(&world, &targets);
    soon("all runs are counted", || counted(&prom) == 4);
    // Each once.
    run(&world, &targets);
    soon("one more", || counted(&prom) == 5);
}

/// A file system that hangs, and whoever waits for it.
struct Hanging {
    server: Running,
    at: PathBuf,
}

impl Hanging {
    fn new(world: &World) -> Self {
        let at = world.dir().join("hangs");
        fs::create_dir(&at).unwrap();
        let mut server = world.start(&client::hanging_files(&at));
        server.wait_for("hangs");
        Self { server, at }
    }

    fn file(&self, name: &str) -> String {
        self.at.join(name).display().to_string()
    }

    /// Whoever waits gets an error from now on.
    fn end(self) {
        self.server.signal(Signal::KILL);
        self.server.wait();
    }
}

/// The processes of this world that others are told by.
fn writers(world: &World) -> Vec<Pid> {
    let state = format!("BLACKSTART_STATE={}", world.guard().state().display());
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let ours = |pid: i32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
        let mut variables = environment.split(|byte| *byte == 0);
        let is_ours = variables.any(|it| it == state.as_bytes());
        (is_ours && words.split(|byte| *byte == 0).any(|it| it == b"notify")).then_some(pid)
    };
    processes
        .filter_map(|entry| ours(entry.file_name().to_str()?.parse().ok()?))
        .filter_map(Pid::from_raw)
        .collect()
}

#[test]
fn files_on_a_file_system_that_hangs_hold_up_neither_a_start_nor_an_exit() {
    let world = World::new("notify-dead");
    let hanging = Hanging::new(&world);
    let healthy = world.dir().join("runs.jsonl");
    let targets = [
        format!("file:{}", hanging.file("runs.jsonl")),
        format!("metrics:{}", hanging.file("b.prom")),
        format!("journald:{}", hanging.file("socket")),
        format!("webhook:@{}", hanging.file("url")),
        format!("file:{}", healthy.display()),
    ];
    let host = world.file("targets", &format!("file:{}\n", hanging.file("host.jsonl")));
    for count in 1..=3 {
        let guard = targets.iter().fold(world.guard(), |guard, target| {
            guard.arg(&format!("--notify={target}"))
        });
        let run = guard
            .env("BLACKSTART_NOTIFY", &host.display().to_string())
            .run(&["true"])
            .exits(0)
            .within(SOON);
        run.warns("has not answered");
        // What is beside it is told.
        let told = fs::read_to_string(&healthy).unwrap();
        assert_eq!(
            told.lines().filter(|it| it.contains("\"run\"")).count(),
            count
        );
        // And no more waits there than one process for each run's beginning of waiting.
        assert!(writers(&world).len() <= 4, "{:?}", writers(&world));
    }
    // The list of targets itself.
    let guard = world
        .guard()
        .env("BLACKSTART_NOTIFY", &hanging.file("targets"));
    guard
        .run(&["true"])
        .exits(0)
        .within(SOON)
        .warns("has not answered");
    hanging.end();
    soon("nobody waits any more", || writers(&world).is_empty());
}
