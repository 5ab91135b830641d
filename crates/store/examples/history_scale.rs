//! How long a history of a hundred thousand runs with a hundred flows each takes to answer, and to take in one more.
//!
//! `make bench-store` runs it. The reports are made up, each like a deployment's: a hundred flows to sixty names, some of
//! which have another address each time, by thirty processes. They go in by the way that every report goes. The answers
//! are made as the program makes them, from opening the history on, of one of twenty services; only printing is left out.
//! Each is asked for when nothing of the file is in memory, and again when all of it may be. Times are of the wall clock, so
//! that other work on the machine counts; the processor's are told beside them. A bar is met if the longest meets it.
#![forbid(unsafe_code)]

use std::error::Error;
use std::fs;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use blackstart_core::history::backtest::Backtest;
use blackstart_core::history::learn::Learner;
use blackstart_core::history::replay::Replay;
use blackstart_core::history::{Ancestry, Micros, time_text};
use blackstart_core::policy::{Policy, alone};
use blackstart_core::report::*;
use blackstart_store::{FILE, Filter, LONGEST_LOG, Store};
use rustix::fs::{Advice, fadvise};
use rustix::time::{ClockId, clock_gettime};

const SERVICES: u64 = 20;
const RUNS: u64 = 100_000;
const FLOWS: u64 = 100;
const NAMES: u64 = 60;
const PROCESSES: u64 = 30;
const ROUNDS: usize = 5;
/// As often with nothing of the file in memory.
const COLD_ROUNDS: usize = 3;
/// So many runs are taken in to see how long one takes.
const WRITES: u64 = 1000;
const PATIENCE: Duration = Duration::from_secs(10);

/// The time between two runs, so that all of them took place within ninety days.
const BETWEEN: Micros = 77_000_000;
/// 2026-08-30
const START: Micros = 1_788_048_000_000_000;

/// In seconds: of the wall, and of the processor.
type Took = (f64, f64);

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let Some(dir) = arguments.next().map(PathBuf::from) else {
        return Err("usage: history_scale DIRECTORY [RUNS]".into());
    };
    let runs = arguments.next().map_or(Ok(RUNS), |text| text.parse())?;
    fs::create_dir_all(&dir)?;
    let there = fill(&dir, runs)?;
    writes(&dir, there)?;
    let one = Filter {
        service: Some("service-7".to_owned()),
        ..Filter::default()
    };
    let all = Filter::default();
    let short = |filter: &Filter| Filter {
        limit: Some(50),
        ..filter.clone()
    };
    let policy = alone(POLICY, "policy.yaml")
        .map_err(|wrong| format!("{wrong:?}"))?
        .policy;
    measure(&dir, "runs list", Some(1.0), || list(&dir, &short(&all)))?;
    measure(&dir, "runs list of one service", Some(1.0), || {
        list(&dir, &short(&one))
    })?;
    measure(&dir, "runs list of all runs", Some(1.0), || {
        list(&dir, &all)
    })?;
    measure(&dir, "policy learn of one service", Some(5.0), || {
        learn(&dir, &one)
    })?;
    measure(&dir, "policy backtest of one service", Some(5.0), || {
        backtest(&dir, &one, &policy)
    })?;
    let begin = Instant::now();
    let found = backtest(&dir, &all, &policy)?;
    let took = begin.elapsed().as_secs_f64();
    println!("policy backtest of all services ({found}): {took:.3} s (once; no bar)");
    Ok(())
}

fn measure(
    dir: &Path,
    what: &str,
    bar: Option<f64>,
    mut act: impl FnMut() -> Result<String, Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    for (state, rounds) in [("cold", COLD_ROUNDS), ("warm", ROUNDS)] {
        let mut times = Vec::new();
        let mut found = String::new();
        for _ in 0..rounds {
            if state == "cold" {
                evict(dir)?;
            }
            let begin = (Instant::now(), processor());
            found = act()?;
            times.push((begin.0.elapsed().as_secs_f64(), processor() - begin.1));
        }
        told(&format!("{what}, {state} ({found})"), times, bar);
    }
    Ok(())
}

/// Have nothing of the history's file in memory.
fn evict(dir: &Path) -> Result<(), Box<dyn Error>> {
    let file = fs::File::open(dir.join(FILE))?;
    // What is not on the disk yet stays in memory.
    file.sync_all()?;
    fadvise(&file, 0, None, Advice::DontNeed)?;
    Ok(())
}

/// Seconds of the processor that this process has had.
fn processor() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn list(dir: &Path, filter: &Filter) -> Result<String, Box<dyn Error>> {
    let store = Store::open(dir, PATIENCE)?.store;
    let (total, mut shown) = (store.count(filter)?, 0);
    store.runs(filter, &mut |_| {
        shown += 1;
        ControlFlow::Continue(())
    })?;
    Ok(format!("{shown} of {total} runs"))
}

/// With the look at what the policy refuses of the very runs.
fn learn(dir: &Path, filter: &Filter) -> Result<String, Box<dyn Error>> {
    let store = Store::open(dir, PATIENCE)?.store;
    let mut learner = Learner::default();
    store.pasts(filter, &mut Ancestry::default(), &mut |past, ancestry| {
        learner.add(past, ancestry);
        ControlFlow::Continue(())
    })?;
    let learned = learner.learned();
    let text = learned.text("service-7", "2026-11-28", 0);
    let mut policy = alone(&text, "learned.yaml")
        .map_err(|wrong| format!("{wrong:?}"))?
        .policy;
    policy.mode = Mode::Enforce;
    let refused = held(&store, filter, &policy)?.refused;
    Ok(format!(
        "{} rules from {} runs, {refused} refused",
        learned.rules.len(),
        learned.runs
    ))
}

fn backtest(dir: &Path, filter: &Filter, policy: &Policy) -> Result<String, Box<dyn Error>> {
    let store = Store::open(dir, PATIENCE)?.store;
    let test = held(&store, filter, policy)?;
    Ok(format!(
        "{} of {} attempts refused in {} of {} runs",
        test.refused, test.attempts, test.runs_refused, test.runs
    ))
}

fn held(store: &Store, filter: &Filter, policy: &Policy) -> Result<Backtest, Box<dyn Error>> {
    let mut replay = Replay::new(policy)?;
    let mut test = Backtest::default();
    let mut failed = None;
    store.pasts(filter, &mut Ancestry::default(), &mut |past, ancestry| {
        match replay.of(past, ancestry) {
            Ok(replayed) => test.add(past, &replayed),
            Err(error) => failed = Some(error),
        }
        ControlFlow::Continue(())
    })?;
    failed.map_or(Ok(test), |error| Err(error.into()))
}

const POLICY: &str = "apiVersion: blackstart.dev/v1\nkind: Policy\nmode: enforce\nrules:\n  - deny: host-3.service-7.example.com\n  - deny: 10.0.0.0/16\n  - deny: .other.example.net\n    process: curl\n";

/// Up to so many runs; how many there are then. A history that is there is filled up, and asked again.
fn fill(dir: &Path, runs: u64) -> Result<u64, Box<dyn Error>> {
    let mut store = Store::open(dir, PATIENCE)?.store;
    store.leave_log(LONGEST_LOG)?;
    let begin = Instant::now();
    let mut bytes = 0;
    let before = store.count(&Filter::default())?;
    for n in before..runs {
        let text = serde_json::to_vec(&report(n))?;
        bytes += text.len() as u64;
        store.take_in_from(text.as_slice())?;
    }
    println!(
        "{} runs of {SERVICES} services with {FLOWS} flows each, {} MiB of reports, taken in in {:.0} s; the history has {} MiB",
        runs.saturating_sub(before),
        bytes >> 20,
        begin.elapsed().as_secs_f64(),
        store.size()? >> 20
    );
    Ok(before.max(runs))
}

/// As a run does at its end: the history is opened for each.
fn writes(dir: &Path, runs: u64) -> Result<(), Box<dyn Error>> {
    let path = dir.join("report.json");
    let mut times = Vec::new();
    for n in runs..runs + WRITES {
        fs::write(&path, serde_json::to_vec(&report(n))?)?;
        let begin = (Instant::now(), processor());
        let mut store = Store::open(dir, PATIENCE)?.store;
        store.leave_log(LONGEST_LOG)?;
        store.take_in(&path)?;
        drop(store);
        times.push((begin.0.elapsed().as_secs_f64(), processor() - begin.1));
    }
    fs::remove_file(&path)?;
    let size = fs::metadata(dir.join(FILE))?.len();
    told(
        &format!("write of one run's record, at {} MiB", size >> 20),
        times,
        Some(0.050),
    );
    Ok(())
}

fn told(what: &str, mut times: Vec<Took>, bar: Option<f64>) {
    times.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let (median, most) = (times[times.len() / 2].0, times[times.len() - 1].0);
    let processor = times.iter().map(|took| took.1).sum::<f64>() / times.len() as f64;
    let bar = match bar {
        None => "no bar".to_owned(),
        Some(bar) if most <= bar => format!("bar {bar} s: met"),
        Some(bar) => format!("bar {bar} s: missed"),
    };
    println!(
        "{what}: {median:.3} s (median of {}, longest {most:.3} s, of the processor {processor:.3} s; {bar})",
        times.len()
    );
}

fn report(n: u64) -> Report {
    let service = n % SERVICES;
    let begin = START + n as Micros * BETWEEN;
    let time = |after: u64| time_text(begin + after as Micros * 1000);
    let exe = |id: u64| match id % 3 {
        0 => "/usr/bin/curl".to_owned(),
        1 => "/bin/sh".to_owned(),
        _ => format!("/opt/service-{service}/bin/tool-{}", id % 7),
    };
    let subjects = (1..=PROCESSES).map(|id| Subject {
        id,
        pid: 1000 + id as u32,
        parent: (id > 1).then_some(id / 2),
        exe: exe(id),
        argv: vec![
            exe(id),
            "--config".to_owned(),
            format!("/etc/service-{service}.conf"),
        ],
        argv_truncated: false,
        started: time(id),
        ended: Some(time(900 + id)),
        exit: Some(0),
        found: false,
    });
    let name = |which: u64| match which % 10 {
        0 => format!("host-{which}.other.example.net"),
        _ => format!("host-{which}.service-{service}.example.com"),
    };
    // One name in five has another address each time.
    let address = |which: u64| -> IpAddr {
        let last = if which.is_multiple_of(5) {
            n / SERVICES % 200
        } else {
            1
        };
        [10, service as u8, which as u8, last as u8].into()
    };
    let names = (0..NAMES * 2).map(|row| {
        let which = row / 2;
        let is_v4 = row.is_multiple_of(2);
        Name {
            name: name(which),
            qtype: if is_v4 { "A" } else { "AAAA" }.to_owned(),
            subject: Some(1 + which % PROCESSES),
            verdict: Verdict::Allow,
            rule: "default".to_owned(),
            queries: 1,
            first_seen: time(which * 10),
            last_seen: time(which * 10),
            addresses: if is_v4 { vec![address(which)] } else { vec![] },
            chain: vec![],
        }
    });
    let flows = (0..FLOWS).map(|row| {
        let which = row % NAMES;
        Flow {
            subject: Some(1 + which % PROCESSES),
            name: Some(name(which)),
            address: address(which),
            port: if row < NAMES { 443 } else { 5432 },
            protocol: "tcp".to_owned(),
            verdict: Verdict::Allow,
            rule: "default".to_owned(),
            attempts: 1 + row % 3,
            outcome: Outcome::Connected,
            bytes_sent: 900 + row,
            first_seen: time(which * 10 + 2),
            last_seen: time(which * 10 + 5),
            attribution: Attribution::Exact,
        }
    });
    Report {
        schema_version: SCHEMA_VERSION,
        run: Run {
            id: format!("0193f8c2-{:04x}-7000-8000-{n:012x}", n % 65_536),
            service: Some(format!("service-{service}")),
            owner: None,
            command: vec!["./deploy.sh".to_owned(), format!("service-{service}")],
            host: format!("host-{}", n % 50),
            mode: Mode::Observe,
            policy: None,
            started: time(0),
            ended: Some(time(1000)),
            exit_code: Some(0),
            limits: RunLimits::default(),
            reloads: vec![],
            break_glass: None,
            drill: None,
            attached: None,
            followed: Vec::new(),
            usage: Usage::default(),
            kernel: Kernel {
                release: "6.12".to_owned(),
                features: vec![],
            },
            guarded: Guarded::Yes,
            addresses: vec![[10, 200, 0, (n % 50) as u8].into()],
            resolvers: vec![[10, 200, 0, 53].into()],
            search: vec!["corp.example.com".to_owned()],
            scripts: vec![],
        },
        subjects: subjects.collect(),
        names: names.collect(),
        flows: flows.collect(),
        delegates: vec![],
        findings: vec![],
        coverage: Coverage {
            attempts: 400,
            recorded: 400,
            attributed: 400,
            ..Coverage::default()
        },
    }
}
