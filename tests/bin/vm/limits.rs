//! What a run may use of memory, processes and processors on this kernel, by its cgroup.

use std::collections::BTreeSet;
use std::fs;

use blackstart_core::report::{Applied, HighestFrom};

use crate::guarded::{left_behind, run};
use crate::stories::{Play, finding};

/// Allocates this much at once.
const HUNGRY: &str = "dd if=/dev/zero of=/dev/null bs=200M count=1 2>/dev/null; echo memory $?";
const ENFORCED: &str = "mode: enforce\nlimits: { memory: 32MiB }\n";
pub(crate) const OBSERVED: &str = "limits: { memory: 32MiB }\n";

/// Its stories.
pub(crate) fn play(play: &mut Play, gaps: &BTreeSet<String>) {
    play.story("what needs too much memory is killed", || memory(ENFORCED));
    play.story("no process more than allowed is started", processes);
    play.story("a share of a processor is all there is", processor);
    play.story("a run within a run cannot be limited, and says so", || {
        nested(gaps);
    });
}

/// One that is killed for its memory.
pub(crate) fn memory(policy: &str) {
    run(&[], "", &["sh", "-c", HUNGRY])
        .exits(0)
        .says("memory 0");
    let limited = run(&[], policy, &["sh", "-c", HUNGRY]).exits(0);
    let limited = limited.says("memory 137");
    let told = &limited.report().run;
    let memory = told.limits.memory.expect("there is such a limit");
    assert!(memory.reached, "{limited}");
    assert_eq!(memory.applied, Applied::V2);
    assert_eq!(told.usage.oom_kills, Some(1));
    let title = finding(&limited, "limit_memory");
    assert!(
        title.starts_with("memory limit of 32MiB reached: 1 process was killed"),
        "{title}"
    );
    assert_eq!(left_behind(), BTreeSet::new());
}

fn processes() {
    let script = "(i=0; while [ $i -lt 20 ]; do sleep 2 & i=$((i+1)); done; wait); echo forks $?";
    let policy = "limits: { pids: 10 }\n";
    let limited = run(&[], policy, &["sh", "-c", script]).exits(0);
    let told = &limited.report().run;
    let pids = told.limits.pids.expect("there is such a limit");
    assert!(pids.reached && pids.applied == Applied::V2, "{limited}");
    assert!(told.usage.forks_refused.is_some_and(|count| count > 0));
    let (highest, from) = (told.usage.highest_pids, told.usage.highest_pids_from);
    match from {
        Some(HighestFrom::Kernel) => assert_eq!(highest, Some(10)),
        // Before 6.11 nobody counts but the supervisor, twice a second.
        Some(HighestFrom::Sampled) => assert!(highest.is_some_and(|count| count <= 10)),
        None => panic!("nobody counted: {limited}"),
    }
    finding(&limited, "limit_pids");
    assert_eq!(left_behind(), BTreeSet::new());
}

fn processor() {
    let busy = ["timeout", "4", "sh", "-c", "while :; do :; done"];
    let limited = run(&[], "limits: { cpu: 0.1 }\n", &busy);
    let (limits, usage) = (&limited.report().run.limits, &limited.report().run.usage);
    let cpu = limits.cpu.expect("there is such a limit");
    assert!(cpu.reached && cpu.applied == Applied::V2, "{limited}");
    let (used, took) = (usage.cpu_seconds, usage.wall_seconds);
    // Without the limit, all of it. With it, a tenth, and what an emulated machine is kept from its own host's
    // processor between two ticks, which it takes for time that it used.
    assert!(
        used.zip(took)
            .is_some_and(|(used, took)| used < 0.2 * took + 0.1),
        "{usage:?}"
    );
    assert!(
        usage.throttled_seconds.is_some_and(|waited| waited > 0.1),
        "{usage:?}"
    );
    assert_eq!(left_behind(), BTreeSet::new());
}

/// cgroup2 lends nothing to a group below one that holds processes, and the outer run's does.
fn nested(gaps: &BTreeSet<String>) {
    let inner = |flags: &str| {
        let policy = "apiVersion: blackstart.dev/v1\nkind: Policy\nlimits: { memory: 32MiB }\n";
        fs::write("/tmp/inner.yaml", policy).expect("write a policy");
        let line = format!("blackstart run --policy /tmp/inner.yaml {flags} -- echo it ran");
        run(&[], "", &["sh", "-c", &line])
    };
    inner("--mode enforce").exits(125);
    let accepted = gaps.iter().map(|gap| format!("--accept-gap {gap} "));
    let accepted: String = accepted.collect();
    let enforced = inner(&format!("--mode enforce {accepted}--accept-gap limits")).exits(0);
    let enforced = enforced.says("it ran");
    assert!(
        enforced.stderr.contains("memory 32MiB not applied"),
        "{enforced}"
    );
    let observed = inner("--mode observe").exits(0).says("it ran");
    assert!(
        observed
            .stderr
            .contains("limits: the limit on memory cannot be applied"),
        "{observed}"
    );
}
