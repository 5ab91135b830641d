//! The agent: what a run by way of it costs, what it costs to have many guards, and what its death costs.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use blackstart_core::report::{Report, Verdict};
use serde_json::json;

use super::bar::{Bar, Bound, Results};
use super::pairs::{Pairs, Random};
use super::scene::{DENIED, KNOWN, Scene};
use crate::agent::{Agent, CALLER, GROUP, as_user};
use crate::{client, guard};

/// Guards that do nothing.
const GUARDS: usize = 200;
/// Started one after the other.
const EACH_STARTS: Duration = Duration::from_millis(60);
/// How long idleness is looked at.
const LOOK: Duration = Duration::from_secs(10);
/// Processes of one sample.
const SPAWNS: usize = 300;
const SAMPLES: usize = 40;
/// Agents that are killed, each with so many runs under way.
const KILLS: usize = 100;
const RUNS: usize = 4;
/// Milliseconds that pass before an agent is killed, at most.
const BEFORE: usize = 700;
/// Until everything is there, or over.
const PATIENCE: Duration = Duration::from_secs(180);
/// Until the guard for the next run is loaded.
const BREATH: Duration = Duration::from_millis(400);

/// Looks up a denied name and an allowed one, some times; ends with what went wrong: 1 for each denied one that was
/// answered, and 16 for each allowed one that was not.
fn script(scene: &Scene) -> String {
    format!(
        "echo >>\"$0\"; wrong=0; for i in 1 2 3 4; do timeout 5 getent ahostsv4 {DENIED} >/dev/null && wrong=$((wrong+1)); \
         getent ahostsv4 {KNOWN} >/dev/null || wrong=$((wrong+16)); done; echo $wrong >\"$0.over\"; exit 0; # {}",
        scene.web()
    )
}

fn policy(scene: &Scene) -> String {
    let text = format!("mode: enforce\nrules:\n  - deny: {DENIED}\n");
    scene.world().policy("agent.yaml", &text)
}

/// A command as a caller without root types it.
fn line(agent: &Agent<'_>, flags: &[&str], command: &[&str]) -> Vec<String> {
    let mut line = as_user(CALLER, &GROUP.to_string());
    line.extend(typed(agent, flags, command));
    line
}

/// The same where the caller is that user already.
fn typed(agent: &Agent<'_>, flags: &[&str], command: &[&str]) -> Vec<String> {
    let socket = format!("--agent={}", agent.socket().display());
    let mut line = vec![guard::binary(), "run".to_owned(), "-q".to_owned(), socket];
    line.extend(
        flags
            .iter()
            .chain(&["--"])
            .chain(command)
            .map(|&word| word.to_owned()),
    );
    line
}

fn quiet(mut command: Command) -> Command {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// From its start to its end, beside `true`.
pub(super) fn start(scene: &Scene, results: &mut Results) {
    let policy = policy(scene);
    let agent = Agent::start(scene.world(), &["--spares=2"]);
    for (how, flags) in [
        ("observe", vec![]),
        ("enforce, one rule", vec!["--policy", &policy]),
    ] {
        // From a process that is there, like a shell: what sets one up in a world would be part of both, and leave the kernel work
        // that a move then waits for.
        let guarded = typed(&agent, &flags, &["true"]);
        let bare = ["true".to_owned()];
        let mut turns = as_user(CALLER, &GROUP.to_string());
        turns.extend(client::turns(scene.count(60), BREATH, [&guarded, &bare]));
        let output = scene.world().host().command(&turns).output();
        let output = output.expect("start nsenter");
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8_lossy(&output.stdout);
        let pairs = said.lines().map(|turn| {
            let (guarded, bare) = turn.split_once(' ').expect("two figures");
            let read = |figure: &str| figure.parse().expect("milliseconds");
            (read(guarded), read(bare))
        });
        let pairs = Pairs(pairs.collect());
        results.add(Bar::added(
            format!("`run -- true` by way of the agent minus `true` ({how})"),
            "ms",
            Bound::AtMost(15.0),
            &pairs,
        ));
    }
}

/// Many guards with nothing to do, and what the host's processes feel of them.
pub(super) fn idle(scene: &Scene, results: &mut Results) {
    let guards = scene.count(GUARDS);
    let samples = scene.count(SAMPLES);
    let sample = || {
        let began = Instant::now();
        for _ in 0..SPAWNS {
            let status = quiet(Command::new("/bin/true"))
                .status()
                .expect("start true");
            assert!(status.success());
        }
        began.elapsed().as_secs_f64() * 1e6 / float(SPAWNS)
    };
    sample();
    let mut without: Vec<f64> = (0..samples / 2).map(|_| sample()).collect();
    let mut agent = Agent::start(scene.world(), &["--spares=2"]);
    let sleeping = line(&agent, &[], &["sleep", "100000"]);
    let mut callers: Vec<Child> = Vec::new();
    for _ in 0..guards {
        let caller = quiet(scene.world().host().command(&sleeping)).spawn();
        callers.push(caller.expect("start nsenter"));
        sleep(EACH_STARTS);
    }
    let began = Instant::now();
    while agent.says().matches(": process ").count() < guards {
        assert!(
            began.elapsed() < PATIENCE,
            "not all guards are there: {}",
            agent.says()
        );
        sleep(Duration::from_millis(50));
    }
    // The last checkpoints, and what was loaded for more.
    sleep(LOOK);
    let process = agent.running().pid().as_raw_nonzero().to_string();
    let before = cpu_seconds(&process);
    sleep(LOOK);
    let busy = (cpu_seconds(&process) - before) / LOOK.as_secs_f64() * 100.0;
    let resident = resident_mib(&process);
    let with: Vec<f64> = (0..samples).map(|_| sample()).collect();
    for caller in &mut callers {
        end_child(caller);
    }
    let began = Instant::now();
    while agent.says().matches(": over").count() < guards {
        assert!(began.elapsed() < PATIENCE, "not all guards are over");
        sleep(Duration::from_millis(50));
    }
    agent.kill();
    without.extend((without.len()..samples).map(|_| sample()));
    results.add(Bar::deterministic(
        format!("agent with {guards} idle guards: processor"),
        "%",
        Bound::AtMost(1.0),
        busy,
    ));
    results.add(Bar::deterministic(
        format!("agent with {guards} idle guards: resident memory"),
        "MiB",
        Bound::AtMost(64.0),
        resident,
    ));
    let pairs = Pairs(with.into_iter().zip(without).collect());
    results.add(
        Bar::factor(
            format!("fork+exec+exit outside, beside {guards} guards / without"),
            Bound::AtMost(1.05),
            &pairs,
        )
        .note("µs"),
    );
}

/// Agents are killed while runs begin, work and end; another takes their place.
pub(super) fn killed(scene: &Scene, results: &mut Results) {
    let policy = policy(scene);
    let (kills, script) = (scene.count(KILLS), script(scene));
    let mut agent = Agent::start(scene.world(), &["--spares=2"]);
    let mut random = Random::new();
    let (mut begun, mut wrong, mut refused) = (0usize, 0u64, 0usize);
    let marks = scene.world().dir().join("marks");
    fs::create_dir_all(&marks).expect("make a directory");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    fs::set_permissions(&marks, open).expect("let callers write there");
    for turn in 0..kills {
        let mut callers = Vec::new();
        for run in 0..RUNS {
            let mark = marks.join(format!("{turn}-{run}"));
            let shown = mark.display().to_string();
            let line = line(
                &agent,
                &["--policy", &policy],
                &["sh", "-c", &script, &shown],
            );
            let caller = quiet(scene.world().host().command(&line)).spawn();
            callers.push((mark, caller.expect("start nsenter")));
            sleep(Duration::from_millis(10));
        }
        let before = u64::try_from(random.below(BEFORE)).expect("a second");
        sleep(Duration::from_millis(before));
        agent.kill();
        agent.again();
        for (mark, mut caller) in callers {
            let status = caller.wait().expect("wait for a caller");
            match over(&mark) {
                Some(counted) => {
                    begun += 1;
                    wrong += counted;
                    // Its own exit code, or something is lost.
                    wrong += u64::from(!status.success()) * 256;
                }
                // Nothing ran.
                None => refused += 1,
            }
        }
    }
    let began = Instant::now();
    let reports = loop {
        let (reports, on) = kept(scene);
        if reports.len() >= begun && on <= 2 {
            break reports;
        }
        if began.elapsed() > PATIENCE {
            break reports;
        }
        sleep(Duration::from_millis(200));
    };
    let whole: Vec<&Report> = reports
        .iter()
        .filter(|report| report.names.iter().any(|name| name.name == DENIED))
        .collect();
    let ids: BTreeSet<&str> = whole.iter().map(|report| report.run.id.as_str()).collect();
    let leaks = whole
        .iter()
        .flat_map(|report| &report.names)
        .filter(|name| {
            let expected = if name.name == DENIED {
                Verdict::Deny
            } else {
                Verdict::Allow
            };
            name.verdict != expected
        });
    wrong += number(leaks.count());
    agent.kill();
    results.add(
        Bar::deterministic(
            format!("agent killed and replaced {kills} times: wrong verdicts"),
            "",
            Bound::Exactly(0.0),
            float(usize::try_from(wrong).unwrap_or(usize::MAX)),
        )
        .note(format!("{begun} runs, {refused} that never began"))
        .raw(json!({ "runs": begun, "refused": refused })),
    );
    results.add(Bar::deterministic(
        format!("agent killed and replaced {kills} times: runs lost from the history"),
        "",
        Bound::Exactly(0.0),
        float(begun.saturating_sub(ids.len())),
    ));
}

/// What went wrong in a run, if it ran to its end.
fn over(mark: &Path) -> Option<u64> {
    let text = fs::read_to_string(mark.with_extension("over")).ok()?;
    text.trim().parse().ok()
}

/// The reports that are kept, and how many runs are not over.
fn kept(scene: &Scene) -> (Vec<Report>, usize) {
    let runs = guard::state(scene.world()).join("runs");
    let (mut reports, mut on) = (Vec::new(), 0);
    for run in fs::read_dir(runs).into_iter().flatten().flatten() {
        if run.path().join("lock").exists() {
            on += 1;
            continue;
        }
        let text = fs::read(run.path().join("report.json"));
        reports.extend(
            text.ok()
                .and_then(|text| serde_json::from_slice(&text).ok()),
        );
    }
    (reports, on)
}

/// End the command of a caller, which then ends by itself.
fn end_child(caller: &mut Child) {
    let pid = caller.id();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    for child in children.unwrap_or_default().split_ascii_whitespace() {
        let pid = child.parse().ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
    let _ = caller.wait();
}

fn cpu_seconds(process: &str) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("the agent lives");
    let (_, after) = stat.rsplit_once(')').expect("a name");
    let fields: Vec<&str> = after.split_ascii_whitespace().collect();
    let ticks: f64 = [11, 12]
        .map(|at| fields[at].parse::<f64>().expect("ticks"))
        .iter()
        .sum();
    let a_second = rustix::param::clock_ticks_per_second();
    ticks / float(usize::try_from(a_second).expect("a hundred"))
}

fn resident_mib(process: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("the agent lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: f64 = line
        .and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok())
        .expect("resident memory");
    kib / 1024.0
}

fn number(n: usize) -> u64 {
    u64::try_from(n).expect("a count")
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn float(n: usize) -> f64 {
    n as f64
}
