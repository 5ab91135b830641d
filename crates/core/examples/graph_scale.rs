//! How long the graph's answers take for a hundred thousand services with a million needs, and how much memory.
//!
//! `make bench-graph` runs it. Three shapes: *layered*, in which services need those below them and one need in
//! a hundred goes back up a little, as in catalogs; *tangled*, in which anything needs anything, which makes
//! one component of nearly all, and every need of a deployment closes a loop; and *hopeless*, the same with
//! twenty times as many deployments, where shortest loops are given up in time. Only the first two have a
//! bar. Times are those of the processor, so that a busy machine says the same.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::time::Duration;

use blackstart_core::catalog::{Catalog, read};
use blackstart_core::graph::loops::{deadlocks, loops};
use blackstart_core::graph::recovery::Recovery;
use blackstart_core::graph::{Input, build};

const SERVICES: u64 = 100_000;
const NEEDS: u64 = 11;
const FILES: u64 = 20;
const ROUNDS: usize = 5;

/// The bars: loops, order and levels; and the most memory that the process ever had.
const TIME: Duration = Duration::from_secs(2);
const MEMORY: u64 = 1 << 30;

fn main() {
    let shape = std::env::args().nth(1);
    let shapes: Vec<&str> = ["layered", "tangled", "hopeless"]
        .into_iter()
        .filter(|known| shape.as_deref().is_none_or(|shape| shape == *known))
        .collect();
    let mut met = !shapes.is_empty();
    for shape in shapes {
        met &= measure(shape) || shape == "hopeless";
    }
    if !met {
        std::process::exit(1);
    }
}

/// Time that this process has had on a processor; it has one thread.
struct Cpu(Duration);

impl Cpu {
    fn now() -> Self {
        let text = std::fs::read_to_string("/proc/self/schedstat").expect("read the time taken");
        let nanoseconds = text.split(' ').next().and_then(|word| word.parse().ok());
        Self(Duration::from_nanos(nanoseconds.expect("a number")))
    }

    fn elapsed(&self) -> Duration {
        Self::now().0 - self.0
    }
}

fn measure(shape: &str) -> bool {
    let begun = Cpu::now();
    let (catalog, lines) = catalog(shape);
    println!(
        "{shape}: {} services, {lines} lines of YAML read in {:.2} s",
        catalog.services().len(),
        begun.elapsed().as_secs_f64()
    );
    let begun = Cpu::now();
    let graph = build(&Input {
        catalog: &catalog,
        runs: &[],
        imports: &[],
    });
    println!(
        "{shape}: {} needs joined in {:.2} s",
        graph.needs().len(),
        begun.elapsed().as_secs_f64()
    );
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let begun = Cpu::now();
        let recovery = Recovery::of(&graph);
        let order = begun.elapsed();
        let found = loops(&graph, &recovery, &[]);
        let deadlocks = deadlocks(&graph, &recovery);
        times.push(begun.elapsed());
        if round == 0 {
            println!(
                "{shape}: {} components that cannot start, {} levels, {} services blocked, {} loops (longest {} steps, {} not known to be shortest), {} circles without a deployment; order and levels {:.2} s of it",
                recovery.components().len(),
                recovery.levels().len(),
                recovery.blocked().len(),
                found.len(),
                found.iter().map(|l| l.steps.len()).max().unwrap_or(0),
                found.iter().filter(|l| !l.shortest).count(),
                deadlocks.len(),
                order.as_secs_f64(),
            );
        }
    }
    times.sort();
    let median = times[ROUNDS / 2];
    let memory = peak_memory();
    let met = median <= TIME && memory <= MEMORY;
    println!(
        "{shape}: loops, order and levels {:.2} s (median of {ROUNDS}, most {:.2} s; bar {} s), peak memory {} MiB (bar {} MiB): {}",
        median.as_secs_f64(),
        times[ROUNDS - 1].as_secs_f64(),
        TIME.as_secs(),
        memory >> 20,
        MEMORY >> 20,
        match (shape, met) {
            ("hopeless", _) => "no bar",
            (_, true) => "met",
            (_, false) => "MISSED",
        }
    );
    met
}

/// The catalog and how many lines it was read from.
fn catalog(shape: &str) -> (Catalog, usize) {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |below: u64| {
        // xorshift64: the same graph each time.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let mut files = vec![String::new(); FILES as usize];
    for n in 0..SERVICES {
        let file = &mut files[(n % FILES) as usize];
        let _infallible = write!(
            file,
            "---\napiVersion: blackstart.dev/v1\nkind: Service\nname: s{n:06}\ntier: {}\nprovides:\n  - .s{n:06}.example\nneeds:\n",
            n % 3 + 1
        );
        for need in 0..NEEDS {
            let to = match shape {
                // Below, and mostly not far; one in a hundred a little above.
                "layered" if next(100) == 0 => n.saturating_sub(1 + next(50)),
                "layered" => n + 1 + next(2000),
                _ => next(SERVICES),
            };
            if to >= SERVICES {
                continue;
            }
            let deploys = match shape {
                "hopeless" => need < 2,
                _ => need == 0 && n % 10 == 0,
            };
            let _infallible = if deploys {
                writeln!(file, "  - {{service: s{to:06}, for: deploy}}")
            } else {
                writeln!(file, "  - s{to:06}")
            };
        }
    }
    let lines = files.iter().map(|text| text.lines().count()).sum();
    let names: Vec<String> = (0..FILES).map(|n| format!("{n}.yaml")).collect();
    let pairs: Vec<(&str, &str)> = names
        .iter()
        .map(String::as_str)
        .zip(files.iter().map(String::as_str))
        .collect();
    let reading = read(&pairs);
    assert!(!reading.partial, "{:?}", reading.diagnostics.first());
    (reading.catalog, lines)
}

/// The most that this process ever had in memory.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok())
        .map_or(u64::MAX, |kib| kib << 10)
}
