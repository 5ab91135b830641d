//! Runs beside runs, within runs, and after the death of their supervisor.

use std::time::{Duration, Instant};

use blackstart_core::report::Verdict;
use blackstart_lab::agent::as_user;
use blackstart_lab::client;
use blackstart_lab::guard::binary;
use blackstart_lab::shown::{Judged as _, Shown};
use blackstart_lab::{Becomes, Held, World, case};
use rustix::process::Signal;

const DENY_GITHUB: &str = "mode: enforce\nrules:\n  - deny: github.com\n";

/// Goes on looking both names up until it is told to stop, and counts what came of it.
const LOOKER: &str = "echo ready; good=0; bad=0; leaks=0\n\
    until [ -e stop ]; do\n\
      getent hosts mirror.internal >/dev/null && good=$((good+1)) || bad=$((bad+1))\n\
      timeout 2 getent hosts github.com >/dev/null && leaks=$((leaks+1))\n\
      echo \"good=$good bad=$bad leaks=$leaks\" >counts.new; mv counts.new counts\n\
    done; echo done";

fn world_with_names(name: &str) -> World {
    World::with_names(name).0
}

/// What the looker has counted after `more` further rounds.
fn counts_after(world: &World, more: u32) -> String {
    client::counts_after(&world.dir().join("counts"), more)
}

#[test]
fn two_runs_at_once_each_have_their_own_policy() {
    let beside = case!(49, "runs beside each other");
    let left = case!(63, "of a run");
    let world = world_with_names("two_runs");
    let command = [
        "sh",
        "-c",
        "echo ready; sleep 0.5; curl -sS http://github.com/; a=$?; curl -sS http://mirror.internal/; echo $a $?",
    ];
    beside.outside(&world.run(&command).says("0 0\n"));
    let mut one = world.guard().policy(DENY_GITHUB).start(&command);
    let mut two = world
        .guard()
        .policy("mode: enforce\nrules:\n  - deny: mirror.internal\n")
        .start(&command);
    one.running().wait_for("ready");
    two.running().wait_for("ready");
    beside.refused(&one.wait().exits(0).says("6 0\n"));
    beside.refused(&two.wait().exits(0).says("0 6\n"));
    assert_eq!(world.left_behind(), Vec::<std::path::PathBuf>::new());
    left.is(Becomes::Kept, Held::Loosely);
}

#[test]
fn a_run_within_a_run_obeys_both() {
    let shown = case!(49, "a run within a run");
    let world = world_with_names("nested");
    let mut inner = world
        .guard()
        .policy("mode: enforce\nrules:\n  - deny: mirror.internal\n")
        .line();
    inner.extend(
        [
            "sh",
            "-c",
            "curl -sS http://github.com/; a=$?; curl -sS http://mirror.internal/; echo $a $?",
        ]
        .map(str::to_owned),
    );
    let both = [
        "curl",
        "-sS",
        "http://github.com/",
        "http://mirror.internal/",
    ];
    shown.outside(&world.run(&both));
    let run = world
        .guard()
        .policy(DENY_GITHUB)
        .run(&inner)
        .exits(0)
        .says("6 6\n");
    assert_eq!(run.verdict_on("github.com"), Verdict::Deny);
    assert_eq!(world.left_behind(), Vec::<std::path::PathBuf>::new());
    shown.refused(&run);
}

#[test]
fn a_killed_supervisor_leaves_its_run_guarded_and_the_next_command_sweeps() {
    let shown = case!(46, "a supervisor that is killed");
    for held in ["--no-contain", "--contain"] {
        a_killed_supervisor(&shown, held);
    }
}

fn a_killed_supervisor(shown: &Shown, held: &str) {
    let world = world_with_names(&format!("killed{held}"));
    shown.outside(&world.run(&["getent", "hosts", "github.com"]));
    let mut run = world
        .guard()
        .policy(DENY_GITHUB)
        .arg(held)
        .start(&["sh", "-c", LOOKER]);
    run.running().wait_for("ready");
    counts_after(&world, 3);
    run.running().signal(Signal::KILL);
    let killed = run.wait();
    assert_eq!(killed.ended.code, 128 + 9);
    let counts = counts_after(&world, 5);
    assert!(
        counts.contains(" bad=0 leaks=0"),
        "lookups go on, denials hold: {counts}"
    );
    shown.is(Becomes::Refused, killed.held());
    // It lives, so another run of anything leaves it alone.
    world.guard().run(&["true"]).exits(0);
    let counts = counts_after(&world, 3);
    assert!(
        counts.contains(" bad=0 leaks=0"),
        "still guarded after another command: {counts}"
    );
    assert!(
        !world.left_behind().is_empty(),
        "an orphan that lives keeps its pins"
    );
    // Once it has ended, the next command sweeps it.
    std::fs::write(world.dir().join("stop"), "").unwrap();
    let begin = Instant::now();
    while !world.left_behind().is_empty() {
        assert!(
            begin.elapsed() < Duration::from_secs(20),
            "left behind: {:?}",
            world.left_behind()
        );
        world.guard().run(&["true"]).exits(0);
    }
    let reports: Vec<_> = std::fs::read_dir(world.guard().state().join("runs"))
        .unwrap()
        .flatten()
        .map(|run| run.path().join("report.json"))
        .collect();
    let adopted = reports
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .find(|text| text.contains("unsupervised") && text.contains("github.com"));
    let adopted: serde_json::Value =
        serde_json::from_str(&adopted.expect("the orphan's record is kept")).unwrap();
    assert!(
        adopted["coverage"]["unsupervised_seconds"]
            .as_f64()
            .unwrap()
            > 0.0,
        "{}",
        adopted["coverage"]
    );
}

#[test]
fn a_run_whose_state_is_lost_stays_guarded_and_is_cleaned_up_when_it_ends() {
    let world = world_with_names("state_lost");
    let mysql = || world.guard().policy(DENY_GITHUB).arg("--service=mysql");
    let mut run = mysql().start(&["sh", "-c", LOOKER]);
    run.running().wait_for("ready");
    counts_after(&world, 2);
    run.running().signal(Signal::KILL);
    run.wait();
    let runs = world.guard().state().join("runs");
    let id = std::fs::read_dir(&runs).unwrap().flatten().next().unwrap();
    let id = id.file_name().into_string().unwrap();
    let sweep = || world.guard().blackstart(&["sweep"]);
    // Its state is elsewhere for others, and theirs to clean up.
    let elsewhere = world.dir().join("elsewhere");
    let state = format!("BLACKSTART_STATE={}", elsewhere.display());
    let line = ["env", &state, &blackstart_lab::guard::binary(), "sweep"];
    let other = world.run(&line).succeeds();
    assert_eq!((other.stdout.as_str(), other.stderr.as_str()), ("", ""));

    std::fs::remove_dir_all(&runs).unwrap();
    for command in ["sweep", "doctor"] {
        let told = world.guard().blackstart(&[command]);
        assert!(
            told.stderr.contains(&id)
                && told.stderr.contains("its directory is gone")
                && told
                    .stderr
                    .contains("guarded as before and supervised by nobody"),
            "{told:?}"
        );
    }
    assert_eq!(sweep().code, 1);
    // With other mounts nobody can tell that it is gone.
    let state = format!("BLACKSTART_STATE={}", world.guard().state().display());
    let binary = blackstart_lab::guard::binary();
    let line = ["unshare", "--mount", "env", &state, &binary, "sweep"];
    assert_eq!(world.run(&line).succeeds().stderr, "");
    mysql()
        .run(&["true"])
        .exits(125)
        .warns("an earlier run of mysql may still go on");
    let counts = counts_after(&world, 3);
    assert!(counts.contains(" bad=0 leaks=0"), "still guarded: {counts}");

    std::fs::write(world.dir().join("stop"), "").unwrap();
    let begin = Instant::now();
    loop {
        let told = sweep();
        if told.stderr.contains("nothing is known any more of the run") {
            assert!(told.stderr.contains(&id) && told.code == 0, "{told:?}");
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "{told:?}");
    }
    assert_eq!(world.left_behind(), Vec::<std::path::PathBuf>::new());
    assert_eq!(world.cgroups_of(&id), Vec::<std::path::PathBuf>::new());
    let idle = sweep().succeeds();
    assert_eq!((idle.stdout.as_str(), idle.stderr.as_str()), ("", ""));
    mysql().run(&["true"]).exits(0);
}

#[test]
fn a_run_whose_state_is_lost_under_its_supervisor_ends_as_any() {
    let world = world_with_names("state_lost_alive");
    let mut run = world
        .guard()
        .policy(DENY_GITHUB)
        .start(&["sh", "-c", LOOKER]);
    run.running().wait_for("ready");
    std::fs::remove_dir_all(world.guard().state().join("runs")).unwrap();
    for _ in 0..3 {
        let told = world.guard().blackstart(&["sweep"]).succeeds();
        assert_eq!(told.stderr, "", "somebody holds it");
    }
    let counts = counts_after(&world, 2);
    assert!(counts.contains(" bad=0 leaks=0"), "{counts}");
    std::fs::write(world.dir().join("stop"), "").unwrap();
    let run = run.wait().exits(0);
    assert_eq!(run.verdict_on("github.com"), Verdict::Deny);
    let id = &run.report().run.id;
    assert_eq!(world.left_behind(), Vec::<std::path::PathBuf>::new());
    assert_eq!(world.cgroups_of(id), Vec::<std::path::PathBuf>::new());
}

#[test]
fn any_command_sweeps_and_one_does_nothing_else() {
    let world = world_with_names("any_command");
    let orphan = || {
        let mut run = world.guard().start(&[
            "sh",
            "-c",
            "echo ready; until [ -e stop ]; do sleep 0.01; done; rm stop; exec sleep 0.1",
        ]);
        run.running().wait_for("ready");
        run.running().signal(Signal::KILL);
        run.wait();
        // It lives: nothing is said of it, nor taken from it.
        let idle = world.guard().blackstart(&["sweep"]).succeeds();
        assert_eq!((idle.stdout.as_str(), idle.stderr.as_str()), ("", ""));
        assert!(!world.left_behind().is_empty());
        std::fs::write(world.dir().join("stop"), "").unwrap();
    };
    for command in [&["sweep"][..], &["reload", "nobody"], &["doctor"]] {
        orphan();
        let begin = Instant::now();
        let told = loop {
            assert!(begin.elapsed() < Duration::from_secs(20), "{command:?}");
            let ended = world.guard().blackstart(command);
            if ended.stderr.contains("cleaned up after a run") {
                break ended;
            }
        };
        assert_eq!(world.left_behind(), Vec::<std::path::PathBuf>::new());
        assert!(command != ["sweep"] || told.code == 0, "{told:?}");
    }
}

#[test]
fn an_orphan_seen_from_elsewhere_stays_guarded() {
    let world = world_with_names("elsewhere");
    let mut run = world
        .guard()
        .policy(DENY_GITHUB)
        .start(&["sh", "-c", LOOKER]);
    run.running().wait_for("ready");
    counts_after(&world, 3);
    run.running().signal(Signal::KILL);
    run.wait();
    // In another cgroup namespace, and where mounts show a part of the tree only.
    let part = format!("bsl-part-{}", std::process::id());
    let partly = format!(
        "set -e; awk '$0 ~ / - cgroup2 / {{ print $5 }}' /proc/self/mountinfo | while read -r top; do\n\
           mkdir -p $top/{part}; mount --bind $top/{part} $top; done; exec \"$@\""
    );
    for view in [
        &["unshare", "--cgroup"][..],
        &["unshare", "--mount", "sh", "-c", &partly, "sh"],
    ] {
        let mut line: Vec<_> = view.iter().map(|&word| word.to_owned()).collect();
        line.push("env".to_owned());
        line.push(format!(
            "BLACKSTART_STATE={}",
            world.guard().state().display()
        ));
        line.extend(world.guard().line());
        line.push("true".to_owned());
        world.host().start(&line).wait().exits(0);
        let counts = counts_after(&world, 3);
        assert!(
            counts.contains(" bad=0 leaks=0"),
            "still guarded after {view:?}: {counts}"
        );
        assert!(!world.left_behind().is_empty());
    }
    std::fs::write(world.dir().join("stop"), "").unwrap();
    let begin = Instant::now();
    while !world.left_behind().is_empty() {
        assert!(
            begin.elapsed() < Duration::from_secs(20),
            "left behind: {:?}",
            world.left_behind()
        );
        world.guard().run(&["true"]).exits(0);
    }
    let tops = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    for line in tops.lines().filter(|line| line.contains(" - cgroup2 ")) {
        let top = line.split(' ').nth(4).unwrap();
        let _ = std::fs::remove_dir(std::path::Path::new(top).join(&part).join("blackstart"));
        let _ = std::fs::remove_dir(std::path::Path::new(top).join(&part));
    }
}

#[test]
fn an_asker_at_a_link_local_address_is_answered() {
    let world = world_with_names("link_local");
    let asks = "link=$(ip -o -6 addr show scope link | awk 'NR == 1 { print $2 }'); \
                dig +tries=1 +time=5 @fe80::53%$link A github.com";
    world
        .guard()
        .policy(DENY_GITHUB)
        .run(&["sh", "-c", asks])
        .exits(0)
        .says("status: NXDOMAIN")
        .within(Duration::from_secs(2));
}

#[test]
fn a_stopped_supervisor_changes_nothing_for_the_run() {
    let shown = case!(46, "a supervisor that is stopped");
    for held in ["--no-contain", "--contain"] {
        let world = world_with_names(&format!("stopped{held}"));
        shown.outside(&world.run(&["getent", "hosts", "github.com"]));
        let mut run = world
            .guard()
            .policy(DENY_GITHUB)
            .arg(held)
            .start(&["sh", "-c", LOOKER]);
        run.running().wait_for("ready");
        counts_after(&world, 3);
        run.running().signal(Signal::STOP);
        let counts = counts_after(&world, 5);
        assert!(counts.contains(" bad=0 leaks=0"), "{counts}");
        run.running().signal(Signal::CONT);
        std::fs::write(world.dir().join("stop"), "").unwrap();
        let run = run.wait().exits(0);
        assert_eq!(run.verdict_on("github.com"), Verdict::Deny);
        assert_eq!(world.left_behind(), Vec::<std::path::PathBuf>::new());
        shown.refused(&run);
    }
}

#[test]
fn leftovers_are_released_or_killed() {
    let released = case!(38, "released");
    let killed = case!(38, "killed");
    let world = world_with_names("leftovers");
    // By what it runs, and not by its number: that is another one in a pid namespace.
    let long = |turn: u32| format!("300.{}{turn}", std::process::id());
    let daemon = |turn| {
        let sleeps = format!("exec sleep {}", long(turn));
        format!(
            "setsid sh -c 'echo up >pid; {sleeps}' >/dev/null 2>&1 & while ! [ -s pid ]; do sleep 0.01; done"
        )
    };
    let process = |turn| {
        let end = format!("{}\0", long(turn));
        let mut all = std::fs::read_dir("/proc").unwrap().flatten();
        let found = all.find(|process| {
            let words = std::fs::read(process.path().join("cmdline"));
            words.is_ok_and(|words| words.ends_with(end.as_bytes()))
        });
        found.map(|process| process.path())
    };
    let cgroup = |turn| {
        let process = process(turn).expect("a released daemon lives");
        std::fs::read_to_string(process.join("cgroup")).unwrap()
    };
    // The default of a deny-list: a daemon that the deployment started goes on, unfiltered.
    let run = world
        .guard()
        .policy(DENY_GITHUB)
        .run(&["sh", "-c", &daemon(1)])
        .exits(0);
    assert!(
        !cgroup(1).contains(&run.report().run.id),
        "a released daemon is out of the run's cgroup: {}",
        cgroup(1)
    );
    assert!(
        !run.findings("leftover").is_empty(),
        "{:#?}",
        run.report().findings
    );
    released.worked_outside().recorded(&run);
    assert_eq!(world.left_behind(), Vec::<std::path::PathBuf>::new());
    std::fs::remove_file(world.dir().join("pid")).unwrap();
    // The default of an allow-list.
    let rehearsal = "mode: enforce\ndefault: deny\nrules: []\n";
    let run = world
        .guard()
        .policy(rehearsal)
        .run(&["sh", "-c", &daemon(2)])
        .exits(0);
    assert_eq!(process(2), None, "a daemon of a rehearsal is killed");
    // Left alone it lives on, as above.
    killed.worked_outside().is(Becomes::Refused, run.held());
    assert_eq!(world.left_behind(), Vec::<std::path::PathBuf>::new());
    std::fs::remove_file(world.dir().join("pid")).unwrap();
    world
        .guard()
        .arg("--leftover")
        .arg("kill")
        .run(&["sh", "-c", &daemon(3)])
        .exits(0);
    assert_eq!(process(3), None);
    std::fs::remove_file(world.dir().join("pid")).unwrap();
    // Released from a rehearsal it lives on as well, though nobody is its supervisor any more.
    let run = world
        .guard()
        .policy(rehearsal)
        .arg("--leftover=release")
        .run(&["sh", "-c", &daemon(4)])
        .exits(0);
    assert!(!cgroup(4).contains(&run.report().run.id), "{}", cgroup(4));
    assert_eq!(world.left_behind(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn leftovers_that_are_kept_stay_guarded_and_are_swept_when_they_end() {
    let world = world_with_names("kept");
    let script = format!(
        "setsid sh -c '{LOOKER}' >/dev/null 2>&1 & until [ -e counts ]; do sleep 0.01; done"
    );
    let run = world
        .guard()
        .policy(DENY_GITHUB)
        .arg("--leftover=keep")
        .run(&["sh", "-c", &script])
        .exits(0);
    assert!(!run.findings("leftover").is_empty(), "{run:?}");
    let counts = counts_after(&world, 3);
    assert!(counts.contains(" bad=0 leaks=0"), "{counts}");
    // Whoever comes next leaves them as they are.
    world.guard().run(&["true"]).exits(0);
    let counts = counts_after(&world, 3);
    assert!(counts.contains(" bad=0 leaks=0"), "{counts}");
    assert!(!world.left_behind().is_empty());
    std::fs::write(world.dir().join("stop"), "").unwrap();
    let begin = Instant::now();
    while !world.left_behind().is_empty() {
        assert!(
            begin.elapsed() < Duration::from_secs(20),
            "left behind: {:?}",
            world.left_behind()
        );
        world.guard().blackstart(&["sweep"]).succeeds();
    }
    // Its report tells what they did after its end as well.
    let path = world
        .guard()
        .state()
        .join("runs")
        .join(&run.report().run.id);
    let report = std::fs::read(path.join("report.json")).unwrap();
    let report: blackstart_core::report::Report = serde_json::from_slice(&report).unwrap();
    let lookups = |report: &blackstart_core::report::Report| -> u64 {
        let of_it = report.names.iter().filter(|it| it.name == "github.com");
        of_it.map(|it| it.queries).sum()
    };
    assert!(lookups(&report) > lookups(run.report()));
    let told = |gap: &blackstart_core::report::Gap| gap.detail.contains("left under guard");
    assert!(
        report.coverage.gaps.iter().any(told),
        "{:?}",
        report.coverage
    );
}

#[test]
fn a_run_in_another_network_namespace_is_guarded_and_answered() {
    let shown = case!(41, "another network namespace, by a deny-list");
    let world = world_with_names("other_netns");
    let elsewhere = world.node("elsewhere");
    let enter = format!("--net={}", elsewhere.namespace().display());
    shown.outside(&world.run(&["nsenter", &enter, "curl", "-sS", "http://github.com/"]));
    let run = world
        .guard()
        .policy(DENY_GITHUB)
        .run(&[
            "nsenter",
            &enter,
            "sh",
            "-c",
            "curl -sS http://mirror.internal/ && curl -sS http://github.com/",
        ])
        .exits(6)
        .says("hello from mirror")
        .within(Duration::from_secs(4));
    assert_eq!(run.verdict_on("github.com"), Verdict::Deny);
    shown.refused(&run);
    world
        .guard()
        .policy(DENY_GITHUB)
        .run(&["nsenter", &enter, "dig", "A", "github.com"])
        .exits(0)
        .says("status: NXDOMAIN")
        .within(Duration::from_secs(4));
}

#[test]
fn signals_to_the_supervisor_reach_the_command() {
    let world = world_with_names("signals");
    for (signal, code) in [(Signal::TERM, 15), (Signal::HUP, 1)] {
        let mut run = world.guard().start(&[
            "sh",
            "-c",
            "trap 'echo got it; exit 3' TERM HUP; echo ready; while :; do sleep 0.05; done",
        ]);
        run.running().wait_for("ready");
        run.running().signal(signal);
        run.wait().exits(3).says("got it");
        let mut run = world
            .guard()
            .start(&["sh", "-c", "echo ready; exec sleep 100"]);
        run.running().wait_for("ready");
        run.running().signal(signal);
        run.wait().exits(128 + code);
    }
    assert_eq!(world.left_behind(), Vec::<std::path::PathBuf>::new());
}

/// Leaves the run's cgroup for the one at the top of the tree; `home` waits until it is back.
const LEAVE: &str = "top=$(awk '$0 ~ / - cgroup2 / { print $5; exit }' /proc/self/mountinfo)\n\
    own=$(</proc/$$/cgroup)\n\
    leave() { echo $$ >$1/cgroup.procs; }\n\
    home() { until [ \"$(</proc/$$/cgroup)\" = \"$own\" ]; do :; done; }\n";

#[test]
fn who_leaves_an_enforced_run_is_moved_back() {
    let shown = case!(40, "and being moved back");
    let world = world_with_names("moved_back");
    let script = format!(
        "{LEAVE} leave $top; home; echo back; leave $top; home; echo again\n\
         curl -sS http://mirror.internal/ && curl -sS http://github.com/"
    );
    world.run(&["curl", "-sS", "http://github.com/"]).succeeds();
    let run = world
        .guard()
        .policy(DENY_GITHUB)
        .run(&["bash", "-c", &script])
        .exits(6)
        .says("back\nagain\nhello from mirror")
        .warns("left the run's cgroup and was moved back");
    assert_eq!(run.verdict_on("github.com"), Verdict::Deny);
    let found = run.findings("left_cgroup");
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].title.contains("was moved back"), "{found:#?}");
    assert!(run.gaps().contains("left_cgroup"), "{:?}", run.gaps());
    assert_eq!(world.left_behind(), Vec::<std::path::PathBuf>::new());
    shown.worked_outside().recorded(&run);
}

#[test]
fn who_leaves_an_observed_run_is_told_and_let_go() {
    let world = world_with_names("let_go");
    let script = format!("{LEAVE} leave $top; [ \"$(</proc/$$/cgroup)\" != \"$own\" ]");
    // Nothing waits for a supervisor that does not move anybody: it has told once the run is over.
    let run = world
        .guard()
        .run(&["bash", "-c", &script])
        .exits(0)
        .warns("left the run's cgroup and is not seen from here on");
    let found = run.findings("left_cgroup");
    assert!(
        found.len() == 1 && found[0].title.contains("not seen from then on"),
        "{found:#?}"
    );
    assert_eq!(world.left_behind(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_cgroup_that_was_made_for_a_process_keeps_it() {
    let shown = case!(40, "into one that was made for it");
    let world = world_with_names("made_for");
    // As a container runtime does it, which counts and limits what is in there.
    let script = format!(
        "{LEAVE} mkdir $top/$0; leave $top/$0; curl -sS http://github.com/; code=$?\n\
         grep -q $0 /proc/$$/cgroup && echo kept; leave $top; rmdir $top/$0; home; exit $code"
    );
    let run = world
        .guard()
        .policy(DENY_GITHUB)
        .run(&["bash", "-c", &script, world.id()])
        .exits(0)
        .says("hello from github")
        .says("kept")
        .warns("left the run's cgroup for one that was made for it");
    let found = run.findings("left_cgroup");
    let titles: Vec<_> = found.iter().map(|finding| finding.title.as_str()).collect();
    assert!(
        titles
            .iter()
            .any(|title| title.contains("not seen from then on")),
        "{titles:#?}"
    );
    assert_eq!(world.left_behind(), Vec::<std::path::PathBuf>::new());
    shown.worked_outside().recorded(&run);
}

#[test]
fn a_state_that_somebody_else_may_change_is_not_used_by_root() {
    let world = world_with_names("not_ours");
    let dir = world.guard().state();
    let spare = "/run/blackstart";
    // The world's own, which nobody else sees.
    let script = format!("mkdir -p $0 {spare}; mount -t tmpfs -o mode=0700 none {spare}");
    let dir_text = dir.to_str().unwrap();
    let here = |script: &str| world.run(&["sh", "-ec", script, dir_text]).succeeds();
    here(&script);
    for (theirs, why) in [
        ("chown 4001 $0", "belongs to user 4001"),
        ("chown root $0; chmod 1777 $0", "written to by everybody"),
        (
            "chmod 700 $0; mkdir $0/runs; chown 4001 $0/runs",
            "runs belongs to user 4001",
        ),
    ] {
        here(theirs);
        let run = world
            .guard()
            .policy(DENY_GITHUB)
            .run(&["curl", "-sS", "http://github.com/"])
            .exits(6)
            .warns("the state of this run is kept in /run/blackstart")
            .warns(why)
            .warns("BLACKSTART_STATE");
        assert_eq!(run.verdict_on("github.com"), Verdict::Deny);
        let list = world.guard().blackstart(&["runs", "list"]).exits(125);
        list.warns(why).warns("chown root:root");
        world.guard().blackstart(&["sweep"]).exits(1).warns(why);
        assert!(!dir.join("history.db").exists());
        assert!(!dir.join("lock").exists());
    }
    // Whoever it belongs to may use it, and root its own.
    here("chown -R 4001 $0");
    let line = [as_user(4001, "4001"), vec![binary()]].concat();
    let theirs = format!(
        "BLACKSTART_STATE=$0 {} runs list",
        line.iter()
            .map(|word| format!("'{word}'"))
            .collect::<Vec<_>>()
            .join(" ")
    );
    here(&format!("chmod 755 {}; {theirs}", world.dir().display()));
    here("chown -R root $0; chmod 700 $0 $0/runs");
    let run = world.guard().run(&["true"]).exits(0);
    assert!(!run.ended.stderr.contains("state"), "{:?}", run.ended);
    world.guard().blackstart(&["runs", "list"]).exits(0);
    assert!(dir.join("history.db").exists());
}

#[test]
fn a_disk_that_is_full_or_cannot_be_written_holds_no_run_up() {
    let shown = case!(55);
    for (turn, state) in [
        "mount -t tmpfs -o mode=0700,size=4k none $0; ! head -c 8k /dev/zero >$0/fill",
        "mount -t tmpfs -o mode=0700 none $0; mount -o remount,ro $0",
    ]
    .iter()
    .enumerate()
    {
        let world = world_with_names(&format!("no_disk{turn}"));
        let (dir, spare) = (world.guard().state(), "/run/blackstart");
        // The world's own, which nobody else sees.
        let script = format!(
            "set -e; mkdir -p $0 {spare}; mount -t tmpfs -o mode=0700 none {spare}; {state} 2>/dev/null"
        );
        world
            .run(&["sh", "-c", &script, dir.to_str().unwrap()])
            .succeeds();
        let kept = |what: &str| {
            let script = format!("ls {spare}/runs/*/{what} 2>/dev/null | wc -l");
            world.run(&["sh", "-c", &script]).stdout.trim().to_owned()
        };

        let deploy = [
            "sh",
            "-c",
            "curl -sS http://mirror.internal/; curl -sS http://github.com/",
        ];
        let run = world
            .guard()
            .policy(DENY_GITHUB)
            .run(&deploy)
            .exits(6)
            .says("hello from mirror")
            .warns("the state of this run is kept in /run/blackstart")
            .warns(dir.to_str().unwrap());
        assert_eq!(run.verdict_on("github.com"), Verdict::Deny);
        assert!(run.gaps().is_empty(), "{:?}", run.gaps());
        shown.is(Becomes::Kept, run.held());
        assert_eq!(
            (kept("report.json").as_str(), kept("lock").as_str()),
            ("1", "0")
        );

        // And it is found again, as any.
        let mut run = world
            .guard()
            .policy(DENY_GITHUB)
            .arg("--service=mysql")
            .start(&["sh", "-c", LOOKER]);
        run.running().wait_for("ready");
        counts_after(&world, 2);
        run.running().signal(Signal::KILL);
        run.wait();
        let counts = counts_after(&world, 2);
        assert!(counts.contains(" bad=0 leaks=0"), "{counts}");
        world
            .guard()
            .arg("--service=mysql")
            .run(&["true"])
            .exits(125)
            .warns("an earlier run of mysql still goes on");
        std::fs::write(world.dir().join("stop"), "").unwrap();
        let begin = Instant::now();
        while kept("lock") != "0" {
            assert!(
                begin.elapsed() < Duration::from_secs(20),
                "the orphan is not swept"
            );
            world.guard().blackstart(&["policy", "schema"]).succeeds();
        }
        assert_eq!(kept("report.json"), "2");
        assert_eq!(world.left_behind(), Vec::<std::path::PathBuf>::new());
    }
}
