//! Limits on real cgroups, of whichever version this host has the controllers in, with real programs that meet them.

use super::*;
use crate::GivenPolicy;
use blackstart_core::policy;
use blackstart_core::report::{Applied, PolicySource};

fn limited(limits: &str, script: &str, state: &Path, leftover: Option<AtEnd>) -> Request {
    let text = format!("apiVersion: blackstart.dev/v1\nkind: Policy\nlimits: {limits}\n");
    let policy = policy::alone(&text, "p.yaml").unwrap().policy;
    Request {
        policy: Some(GivenPolicy {
            policy,
            source: PolicySource {
                digest: String::new(),
                files: vec!["p.yaml".to_owned()],
            },
        }),
        ..request(script, state, leftover)
    }
}

/// The run's end, and the warnings on the way; none where this test cannot be made.
fn ended_under(
    limits: &str,
    script: &str,
    leftover: Option<AtEnd>,
) -> Option<(Ended, Vec<String>)> {
    crate::need_root();
    let state = tempfile::tempdir().unwrap();
    let request = limited(limits, script, state.path(), leftover);
    let signals = Signals::block().unwrap();
    let terminal = Terminal::open();
    let (setup, child) = started(&request, &signals);
    let without = setup.terms.gaps().iter().any(|gap| gap.kind == "limits");
    let place = setup.cgroup.as_ref().unwrap().whereabouts().clone();
    let mut warnings = Vec::new();
    let ended = setup.see_through(&child, &signals, &terminal, &mut |notice| {
        if let Notice::Warning(text) = notice {
            warnings.push(text);
        }
    });
    assert!(gone(&place));
    assert!(!crate::cgroup::tests::is_left(&place), "{place:?}");
    if without {
        eprintln!("skipped: this host has no controllers to lend");
        return None;
    }
    Some((ended, warnings))
}

#[track_caller]
fn title<'r>(report: &'r dyn Parts, kind: &str) -> &'r str {
    let found = report.findings().iter().find(|one| one.kind == kind);
    let Some(found) = found else {
        panic!("no {kind} in {:#?}", report.findings())
    };
    &found.title
}

#[test]
fn what_needs_more_memory_is_killed_and_the_run_goes_on() {
    // dd allocates one buffer of that size.
    let script = "dd if=/dev/zero of=/dev/null bs=200M count=1 2>/dev/null; exit 3";
    let Some((ended, _)) = ended_under("{memory: 64MiB}", script, None) else {
        return;
    };
    assert_eq!(ended.exit_code, 3);
    let run = ended.report.run();
    let limit = run.limits.memory.unwrap();
    assert!(limit.reached && limit.applied != Applied::No, "{limit:?}");
    assert_eq!(run.usage.oom_kills, Some(1));
    let peak = run.usage.peak_memory.unwrap();
    assert!((32 << 20..=64 << 20).contains(&peak), "{peak}");
    let title = title(&ended.report, "limit_memory");
    assert!(
        title.starts_with("memory limit of 64MiB reached: 1 process was killed"),
        "{title}"
    );
    // The same without a limit.
    let (free, _) = ended_under("{pids: 100}", script, None).unwrap();
    assert_eq!(
        (
            free.exit_code,
            free.report.run().usage.oom_kills.unwrap_or(0)
        ),
        (3, 0)
    );
}

#[test]
fn one_process_more_cannot_be_started() {
    let script = "i=0; while [ $i -lt 12 ]; do sleep 0.2 & i=$((i+1)); done; wait";
    let Some((ended, _)) = ended_under("{pids: 8}", script, None) else {
        return;
    };
    let run = ended.report.run();
    assert!(run.limits.pids.unwrap().reached);
    assert!(run.usage.forks_refused.unwrap() >= 1);
    assert_eq!(run.usage.highest_pids, Some(8));
    title(&ended.report, "limit_pids");
    let (free, _) = ended_under("{pids: 100}", script, None).unwrap();
    assert!(!free.report.run().limits.pids.unwrap().reached);
    assert!(free.report.run().usage.highest_pids.unwrap() >= 9);
}

#[test]
fn a_busy_process_gets_no_more_than_its_share() {
    let script = "timeout 1 sh -c 'while :; do :; done'";
    let Some((ended, _)) = ended_under("{cpu: 0.05}", script, None) else {
        return;
    };
    let usage = &ended.report.run().usage;
    // And a period's share at each end. So little that it is to be had on a busy machine too.
    let most = 0.05 * usage.wall_seconds.unwrap() + 0.05;
    assert!(usage.cpu_seconds.unwrap() < most, "{usage:?}");
    assert!(usage.throttled_seconds.unwrap() > 0.05, "{usage:?}");
    assert!(ended.report.run().limits.cpu.unwrap().reached);
}

#[test]
fn a_command_out_of_time_ends_and_a_daemon_of_it_does_not() {
    let pidfile = tempfile::NamedTempFile::new().unwrap();
    let script = format!(
        "(setsid sleep 31 & echo $! >{0}); sleep 60 & sleep 61; echo went on >{0}",
        pidfile.path().display()
    );
    let Some((ended, warnings)) = ended_under("{time: 2s, pids: 50}", &script, None) else {
        return;
    };
    let pid: u32 = std::fs::read_to_string(pidfile.path())
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    assert_eq!((ended.exit_code, ended.signal), (124, None));
    let run = ended.report.run();
    assert_eq!(run.exit_code, Some(124));
    let took = run.usage.wall_seconds.unwrap();
    assert!((2.0..6.0).contains(&took), "{took}");
    assert!(run.limits.time.unwrap().reached);
    let title = title(&ended.report, "limit_time");
    let (gone, spared) = title.split_once("left alone: ").unwrap();
    assert_eq!(gone.matches("(pid ").count(), 3, "{title}");
    assert!(spared.contains(&format!("(pid {pid})")), "{title}");
    assert!(lives(pid), "{title}");
    // It was warned about while the run was on, and is free now.
    let about = |text: &&String| text.contains(&format!("(pid {pid}) went into the background"));
    assert_eq!(warnings.iter().filter(about).count(), 1, "{warnings:?}");
    assert!(
        warnings
            .iter()
            .any(|text| text.starts_with("time limit of 2s reached"))
    );
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(!cgroups.contains(&run.id), "{cgroups}");
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid.cast_signed()).unwrap(),
        Signal::KILL,
    )
    .unwrap();
}

#[test]
fn whoever_does_not_end_when_asked_is_killed() {
    let script = "trap '' TERM; sleep 100 & while :; do sleep 1; done";
    let Some((ended, _)) = ended_under("{time: 1s}", script, None) else {
        return;
    };
    assert_eq!(ended.exit_code, 124);
    let took = ended.report.run().usage.wall_seconds.unwrap();
    assert!((11.0..15.0).contains(&took), "ten seconds of grace: {took}");
    assert_eq!(leftovers(&ended.report), 0);
}

#[test]
fn a_run_that_waits_for_its_daemons_waits_no_longer_than_its_time() {
    let script = "setsid sleep 32 & exit 0";
    let Some((ended, _)) = ended_under("{time: 2s}", script, Some(AtEnd::Wait)) else {
        return;
    };
    assert_eq!(ended.exit_code, 124);
    let took = ended.report.run().usage.wall_seconds.unwrap();
    assert!((2.0..6.0).contains(&took), "{took}");
    let left = ended
        .report
        .findings()
        .iter()
        .find(|one| one.kind == "leftover")
        .unwrap();
    let pid: i32 = left
        .title
        .split_once("(process ")
        .unwrap()
        .1
        .split_once(')')
        .unwrap()
        .0
        .parse()
        .unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), Signal::KILL)
        .unwrap();
}

#[test]
fn a_run_that_is_quick_enough_keeps_its_own_code() {
    let Some((ended, warnings)) = ended_under("{time: 60s}", "exit 5", None) else {
        return;
    };
    assert_eq!(ended.exit_code, 5);
    assert!(!ended.report.run().limits.time.unwrap().reached);
    assert_eq!(warnings, [""; 0]);
}

#[test]
fn the_cgroups_of_an_orphan_are_swept_in_each_hierarchy() {
    crate::need_root();
    let state = tempfile::tempdir().unwrap();
    let request = limited(
        "{memory: 64MiB, cpu: 1, pids: 50}",
        "exec sleep 30",
        state.path(),
        None,
    );
    let signals = Signals::block().unwrap();
    let (setup, child) = started(&request, &signals);
    let place = setup.cgroup.as_ref().unwrap().whereabouts().clone();
    let recorded: crate::state::RunFile = serde_json::from_slice(
        &std::fs::read(setup.dir.as_ref().unwrap().path().join("run.json")).unwrap(),
    )
    .unwrap();
    assert_eq!(recorded.cgroup, Some(place.clone()));
    drop(setup);
    assert_eq!(sweep(state.path()).unwrap().living.len(), 1);
    assert!(crate::cgroup::tests::is_left(&place) || place.first.is_empty());

    rustix::process::pidfd_send_signal(&child.pidfd, Signal::KILL).unwrap();
    let exited = rustix::process::WaitIdOptions::EXITED;
    let pid = rustix::process::Pid::from_raw(child.pid).unwrap();
    rustix::process::waitid(rustix::process::WaitId::Pid(pid), exited).unwrap();
    let swept = sweep(state.path()).unwrap();
    assert!(swept.failed.is_empty(), "{swept:?}");
    assert!(gone(&place) && !crate::cgroup::tests::is_left(&place));
    let report: Report =
        serde_json::from_slice(&std::fs::read(&swept.adopted[0]).unwrap()).unwrap();
    assert_eq!(report.run.limits.memory.unwrap().value, 64 << 20);
    if report.run.limits.memory.unwrap().applied != Applied::No {
        assert!(report.run.usage.peak_memory.unwrap() > 0);
    }
}

#[test]
fn where_limits_cannot_be_applied_observe_says_so_and_enforce_refuses() {
    let state = tempfile::tempdir().unwrap();
    let request = limited("{memory: 64MiB, time: 1m}", "true", state.path(), None);
    // As on a host where no cgroup can be made.
    let lacking = |enforce, accepted: &[&str]| {
        let accepted: Vec<_> = accepted.iter().map(|&kind| kind.to_owned()).collect();
        let terms = Terms::new(enforce, &accepted).unwrap();
        let mut setup = Setup::new(&request, Mode::Observe, terms);
        setup
            .apply_limits()
            .map(|()| (setup.terms.gaps().to_vec(), setup.file.limits.clone()))
    };
    let refusal = lacking(true, &[]).unwrap_err();
    assert_eq!(refusal.cause, Cause::Unmet(Need::Limits));
    assert_eq!(refusal.exit_code(), 125);
    assert!(refusal.remedy.contains("--accept-gap limits"), "{refusal}");
    for (enforce, accepted) in [(false, &[][..]), (true, &["limits"])] {
        let (gaps, limits) = lacking(enforce, accepted).unwrap();
        assert_eq!(gaps.len(), 1);
        assert!(
            gaps[0].kind == "limits" && gaps[0].detail.contains("memory"),
            "{gaps:?}"
        );
        assert_eq!(limits.memory.unwrap().applied, Applied::No);
        // It needs nothing of the kernel.
        assert_eq!(limits.time.unwrap().applied, Applied::Supervisor);
    }
}
