//! A million attempts, and a thousand runs: nothing is lost, nothing is left.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use blackstart_core::report::Attribution;
use serde_json::json;

use super::bar::{Bar, Bound, Results};
use super::pairs::Random;
use super::scene::{CLOSES, Rules, Scene};
use super::storm;
use crate::{client, guard};

/// Processes, and the connections of each.
const PROCESSES: usize = 10_000;
const EACH: usize = 100;
/// Runs, and how many of them there are at a time.
const RUNS: usize = 1_000;
const AT_A_TIME: usize = 20;
/// Milliseconds after its start in which a run may be killed: it begins, works and ends in them.
const LIFE: usize = 1_500;
const POLICY: &str = "apiVersion: blackstart.dev/v1\nkind: Policy\nmode: enforce\nrules:\n  - deny: denied.example\n";
/// What is left of killed runs is cleaned up by later commands.
const PATIENCE: Duration = Duration::from_secs(120);

/// A million connections of ten thousand processes.
pub(super) fn million(scene: &Scene, results: &mut Results) {
    let half = scene.count(PROCESSES) / 2;
    let wanted = half * 2 * EACH;
    let mut client = scene.guarded(Rules::None);
    let order = format!("spawn 0 {half} {} {CLOSES} {EACH}", scene.web());
    let good = client.ask_two(&order)[0];
    assert_eq!(good, number(half * 2), "every process connects");
    let report = client.end().expect("a guarded client has a report");
    let coverage = &report.coverage;
    let what = format!("{wanted} connects of {} processes", half * 2);
    let known: BTreeSet<u64> = report.subjects.iter().map(|subject| subject.id).collect();
    let attributed: u64 = report
        .flows
        .iter()
        .filter(|flow| flow.port == CLOSES)
        .filter(|flow| {
            !matches!(
                flow.attribution,
                Attribution::Unknown | Attribution::Inherited
            )
        })
        .filter(|flow| flow.subject.is_some_and(|subject| known.contains(&subject)))
        .map(|flow| flow.attempts)
        .sum();
    results.add(
        Bar::deterministic(
            format!("{what}: attempts − recorded − lost"),
            "attempts",
            Bound::Exactly(0.0),
            float(
                coverage.attempts.abs_diff(number(wanted))
                    + (coverage.recorded + coverage.lost).abs_diff(number(wanted)),
            ),
        )
        .note(format!(
            "{} attempts, {} recorded in {} flows, {} counted as lost",
            coverage.attempts,
            coverage.recorded,
            report.flows.len(),
            coverage.lost
        ))
        .raw(json!(coverage)),
    );
    results.add(Bar::deterministic(
        format!("{what}: attributed"),
        "%",
        Bound::Exactly(100.0),
        float(attributed) * 100.0 / float(number(wanted)),
    ));
}

/// A thousand runs, twenty at a time, of which every second is to be killed at some moment: more than a third do not end before.
pub(super) fn thousand(scene: &Scene, results: &mut Results) {
    let runs = scene.count(RUNS);
    let mounts = mounts(scene);
    let loaded_before = loaded(scene);
    let policy = scene.world().file("thousand.yaml", POLICY);
    let policy = policy.display().to_string();
    let mut random = Random::new();
    let (mut under_way, mut begun, mut killed) = (Vec::new(), 0, 0);
    while begun < runs || !under_way.is_empty() {
        while begun < runs && under_way.len() < AT_A_TIME {
            let dies = (begun % 2 == 0).then(|| Duration::from_millis(number(random.below(LIFE))));
            under_way.push(Life::begin(scene, &policy, dies));
            begun += 1;
        }
        under_way.retain_mut(|life| match life.ended() {
            None => true,
            Some(by_us) => {
                killed += usize::from(by_us);
                false
            }
        });
        std::thread::sleep(Duration::from_millis(2));
    }
    let began = Instant::now();
    // What was loaded is freed by the kernel in its own time.
    let loaded = || loaded(scene).difference(&loaded_before).cloned().collect();
    let mut still: Vec<PathBuf> = loaded();
    while !(scene.world().left_behind().is_empty() && still.is_empty())
        && began.elapsed() < PATIENCE
    {
        storm::sweep(scene);
        still = loaded();
    }
    let left = [
        ("cgroups, pins and locks", scene.world().left_behind()),
        (
            "mounts",
            self::mounts(scene).difference(&mounts).cloned().collect(),
        ),
        ("processes", processes(scene)),
        ("BPF programs and maps", still),
    ];
    for (what, left) in left {
        results.add(
            Bar::deterministic(
                format!("{runs} runs, {AT_A_TIME} at a time: {what} left behind"),
                "left",
                Bound::Exactly(0.0),
                float(number(left.len())),
            )
            .note(format!("{killed} were killed before their end"))
            .raw(json!(left)),
        );
    }
}

/// One run, and when its supervisor is killed.
struct Life {
    supervisor: Child,
    dies: Option<Instant>,
}

impl Life {
    fn begin(scene: &Scene, policy: &str, dies: Option<Duration>) -> Self {
        let (binary, web, port) = (guard::binary(), scene.web().to_string(), CLOSES.to_string());
        let guard = [&*binary, "run", "--quiet", "--policy", policy, "--"];
        let work = [scene.client(), "some", &web, &port, "20", "of-a-thousand"];
        let supervisor = scene
            .typed(&[&guard[..], &work].concat())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start nsenter");
        Self {
            supervisor,
            dies: dies.map(|after| Instant::now() + after),
        }
    }

    /// Was it killed? `None` as long as it lives.
    fn ended(&mut self) -> Option<bool> {
        if self.dies.is_some_and(|moment| moment <= Instant::now()) {
            self.supervisor.kill().expect("kill a supervisor");
        }
        let status = self.supervisor.try_wait().expect("wait for a supervisor")?;
        assert!(
            self.dies.is_some() || status.success(),
            "a run that nobody killed ended with {status}"
        );
        Some(!status.success())
    }
}

/// Of the machine on which the runs are: it has mounts of its own, which nobody outside sees.
fn mounts(scene: &Scene) -> BTreeSet<PathBuf> {
    let text = scene.world().run(&["cat", "/proc/self/mountinfo"]).stdout;
    text.lines()
        .filter_map(|line| line.split(' ').nth(4))
        // Other worlds come and go on the host meanwhile.
        .filter(|place| !place.starts_with("/run/netns/"))
        .map(PathBuf::from)
        .collect()
}

/// BPF programs and maps of any run on this host.
fn loaded(scene: &Scene) -> BTreeSet<PathBuf> {
    let told = scene.world().run(&client::loaded("bs_")).exits(0);
    told.stdout.lines().map(PathBuf::from).collect()
}

/// Processes of runs with the state of this world.
fn processes(scene: &Scene) -> Vec<PathBuf> {
    let state = format!(
        "BLACKSTART_STATE={}\0",
        guard::state(scene.world()).display()
    );
    let of_ours = |process: &PathBuf| {
        let environment = fs::read(process.join("environ")).unwrap_or_default();
        environment
            .windows(state.len())
            .any(|window| window == state.as_bytes())
    };
    let all = fs::read_dir("/proc").expect("read /proc").flatten();
    all.map(|process| process.path()).filter(of_ours).collect()
}

fn number(n: usize) -> u64 {
    u64::try_from(n).expect("a count")
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn float(n: u64) -> f64 {
    n as f64
}
