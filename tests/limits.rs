//! Limits hold real programs, are told, and leave nothing behind, in whichever hierarchies this host has its controllers.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use blackstart_core::report::{Applied, Finding, Verdict};
use blackstart_lab::shown::Judged as _;
use blackstart_lab::{Becomes, Guarded, World, Zone, case};
use rustix::process::Signal;

/// Allocates this much and more, and is killed where that is not to be had.
const HUNGRY: &str = "dd if=/dev/zero of=/dev/null bs=200M count=1 2>/dev/null";

fn nothing_left(world: &World) {
    assert_eq!(world.left_behind(), Vec::<PathBuf>::new());
}

#[track_caller]
fn one<'r>(run: &'r Guarded, kind: &str) -> &'r Finding {
    match run.findings(kind)[..] {
        [one] => one,
        _ => panic!("one {kind} in {:#?}", run.report().findings),
    }
}

/// The lines of `/proc/PID/cgroup`.
fn cgroups(pid: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(format!("/proc/{}/cgroup", pid.trim()));
    text.unwrap_or_default()
        .lines()
        .map(str::to_owned)
        .collect()
}

fn kill(pid: &str) {
    let pid = rustix::process::Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
    let _ = rustix::process::kill_process(pid, Signal::KILL);
}

#[test]
fn limits_and_verdicts_hold_side_by_side() {
    let world = World::new("limits");
    let github = world.node("github");
    github.http();
    world.dns(Zone::new().host("github.com", &github));
    let script = format!(
        "{HUNGRY}; echo memory $?; curl -sS http://github.com/; echo curl $?; \
         (i=0; while [ $i -lt 30 ]; do sleep 0.3 & i=$((i+1)); done; wait); echo forks $?"
    );
    let free = world.guard().run(&["sh", "-c", &script]);
    let free = free
        .exits(0)
        .says("memory 0")
        .says("curl 0")
        .says("forks 0");
    let limits = &free.report().run.limits;
    assert!(limits.memory.is_none() && limits.cpu.is_none() && limits.time.is_none());

    let run = world
        .guard()
        .policy(
            "mode: enforce\nlimits: { memory: 64MiB, cpu: 2, pids: 20, time: 1m }\n\
             rules:\n  - deny: github.com\n",
        )
        .run(&["sh", "-c", &script])
        .exits(0)
        .says("memory 137")
        .says("curl 6")
        .says("forks 2")
        .warns("; memory limit of 64MiB reached; limit of 20 processes reached")
        .warns("memory limit of 64MiB reached: 1 process was killed (dd)")
        .warns("MiB of 64MiB; cpu ");
    assert_eq!(run.verdict_on("github.com"), Verdict::Deny);
    assert_eq!(run.gaps(), BTreeSet::new());
    let (limits, usage) = (&run.report().run.limits, &run.report().run.usage);
    let memory = limits.memory.unwrap();
    assert!(memory.reached && memory.value == 64 << 20);
    assert!([Applied::V1, Applied::V2].contains(&memory.applied));
    assert!(limits.pids.unwrap().reached && !limits.time.unwrap().reached);
    assert_eq!((usage.oom_kills, usage.highest_pids), (Some(1), Some(20)));
    assert_eq!(
        run.subject(Some(one(&run, "limit_memory").subjects[0]))
            .argv[0],
        "dd"
    );
    one(&run, "limit_pids");
    nothing_left(&world);
}

#[test]
fn a_share_of_a_processor_is_all_there_is() {
    let world = World::new("cpu_share");
    let run = world
        .guard()
        .policy("limits: { cpu: 0.05 }\n")
        .run(&["timeout", "2", "sh", "-c", "while :; do :; done"])
        .exits(124)
        .warns(" s for it, at most 0.05 at a time");
    let usage = &run.report().run.usage;
    // And a period's share at each end. So little that it is to be had on a busy machine too.
    let most = 0.05 * usage.wall_seconds.unwrap() + 0.05;
    assert!(usage.cpu_seconds.unwrap() < most, "{usage:?}");
    assert!(usage.throttled_seconds.unwrap() > 0.05, "{usage:?}");
    assert!(run.report().run.limits.cpu.unwrap().reached);
    // 124 is the command's own here.
    assert!(run.findings("limit_time").is_empty());
    nothing_left(&world);
}

#[test]
fn a_command_that_hangs_is_ended_and_says_on_what() {
    let shown = case!(67, "a time limit ends it");
    let world = World::new("hangs");
    let mirror = world.node("mirror");
    mirror.tcp_echo(7);
    world.dns(Zone::new().host("mirror.internal", &mirror));
    let run = world
        .guard()
        .policy("limits: { time: 2s }\n")
        .run(&[
            "bash",
            "-c",
            "exec 3<>/dev/tcp/mirror.internal/7; read -r x <&3",
        ])
        .exits(124)
        .within(Duration::from_secs(8))
        .warns("time limit of 2s reached");
    let found = one(&run, "limit_time");
    assert!(
        found.title.contains("last reached for mirror.internal:7)"),
        "{}",
        found.title
    );
    assert_eq!(run.report().run.exit_code, Some(124));
    nothing_left(&world);
    shown.is(Becomes::Kept, run.held());
}

#[test]
fn a_daemon_is_warned_about_at_once_and_does_not_inherit_the_limits_for_life() {
    let world = World::new("limited_daemon");
    let script = "(setsid sh -c 'echo $$ >pid; exec sleep 300' >/dev/null 2>&1 &); \
                  until [ -s pid ]; do sleep 0.01; done; echo ready; until [ -e stop ]; do sleep 0.05; done";
    let pid = || std::fs::read_to_string(world.dir().join("pid")).unwrap();
    let mut run = world
        .guard()
        .policy("limits: { memory: 256MiB, cpu: 1, pids: 50 }\n")
        .start(&["sh", "-c", script]);
    run.running().wait_for("ready");
    let began = Instant::now();
    while !run.running().stderr().contains("went into the background") {
        assert!(began.elapsed() < Duration::from_secs(5), "at once");
        std::thread::sleep(Duration::from_millis(10));
    }
    let own = cgroups("self");
    assert!(cgroups(&pid()).is_disjoint(&own) || cgroups(&pid()) != own);
    std::fs::write(world.dir().join("stop"), "").unwrap();
    let run = run.wait().exits(0);
    let held = "under this run's limits (memory 256MiB, cpu 1, pids 50): they hold it until the command has ended";
    let run = run.warns(held);
    // In every hierarchy it is where this test is, from which the guard was started.
    assert_eq!(cgroups(&pid()), own);
    kill(&pid());
    one(&run, "daemon_under_limits");
    nothing_left(&world);
}

#[test]
fn limits_hold_without_a_supervisor_and_the_next_command_sweeps_them() {
    let world = World::new("limits_orphan");
    let script = format!(
        "echo $$ >pid; echo ready; until [ -e go ]; do sleep 0.05; done; {HUNGRY}; echo memory $? >memory; \
         until [ -e stop ]; do sleep 0.05; done"
    );
    let mut run = world
        .guard()
        .policy("mode: enforce\nlimits: { memory: 64MiB, pids: 50, time: 1h }\n")
        .start(&["sh", "-c", &script]);
    run.running().wait_for("ready");
    run.running().signal(Signal::KILL);
    run.wait();
    world.guard().run(&["true"]).exits(0);
    std::fs::write(world.dir().join("go"), "").unwrap();
    let wait = |name: &str| {
        let began = Instant::now();
        loop {
            match std::fs::read_to_string(world.dir().join(name)) {
                Ok(text) if text.ends_with('\n') => return text,
                _ => std::thread::sleep(Duration::from_millis(10)),
            }
            assert!(began.elapsed() < Duration::from_secs(20), "{name}");
        }
    };
    assert_eq!(wait("memory"), "memory 137\n");
    std::fs::write(world.dir().join("stop"), "").unwrap();
    let began = Instant::now();
    while !world.left_behind().is_empty() {
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "{:?}",
            world.left_behind()
        );
        world.guard().run(&["true"]).exits(0);
    }
}

#[test]
fn hierarchies_that_no_mount_shows_limit_as_well() {
    let world = World::new("hidden_groups");
    // As in `ip netns exec`, which mounts a /sys of its own.
    let hidden = "mount -t sysfs sysfs /sys && mount -t bpf bpf /sys/fs/bpf && exec \"$@\"";
    let run = world
        .guard()
        .through(
            ["unshare", "--mount", "sh", "-c", hidden, "sh"]
                .map(str::to_owned)
                .into(),
        )
        .policy("mode: enforce\nlimits: { memory: 64MiB, cpu: 1, pids: 20 }\n")
        .run(&["sh", "-c", &format!("{HUNGRY}; exit $?")])
        .exits(137);
    let limits = &run.report().run.limits;
    assert_ne!(limits.memory.unwrap().applied, Applied::No);
    assert_eq!(run.gaps(), BTreeSet::new());
    one(&run, "limit_memory");
    nothing_left(&world);
}
