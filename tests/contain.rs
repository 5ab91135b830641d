//! Root inside the run, and what it can do about its guard: with `--contain`, and without.
//!
//! Every way is gone outside first, where it must lead somewhere: one that leads nowhere proves nothing.

use std::path::PathBuf;

use blackstart_core::report::{Guarded as HowGuarded, Verdict};
use blackstart_lab::client::{escape, reach};
use blackstart_lab::shown::{Judged as _, Shown};
use blackstart_lab::{Becomes, Guarded, Held, Running, World, Zone, case};
use rustix::process::Signal;

/// A rehearsal in which nothing is allowed.
const NOTHING: &str = "mode: enforce\ndefault: deny\nrules: []\n";

/// What becomes of a way without `--contain`, where the policy enforces `default: deny`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Without {
    /// It is refused all the same.
    Refused,
    /// It is open, and the report has a finding of this kind with the process.
    Found(&'static str),
    /// It is open, and the report names that it is.
    Named,
}

impl Without {
    fn shown(self, shown: &Shown, run: &Guarded) {
        match self {
            Self::Refused => shown.refused(run),
            Self::Found(_) => shown.recorded(run),
            Self::Named => shown.gap(run, "contain"),
        };
    }
}

/// A way around the guard: a command that says `done` and succeeds if it led anywhere.
struct Way {
    shown: Shown,
    command: Vec<String>,
    without: Without,
}

fn way(shown: Shown, without: Without, command: &[&str]) -> Way {
    Way {
        shown,
        command: command.iter().map(|&word| word.to_owned()).collect(),
        without,
    }
}

fn script(shown: Shown, without: Without, text: &str) -> Way {
    way(shown, without, &["sh", "-c", text])
}

/// The mount point of cgroup2.
fn cgroup2() -> PathBuf {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "));
    mount.unwrap().split(' ').nth(4).unwrap().into()
}

/// A cgroup beside all runs, that goes with the world.
fn elsewhere(world: &World) -> PathBuf {
    let dir = cgroup2().join(world.id());
    std::fs::create_dir(&dir).unwrap();
    dir
}

/// Somebody else's process.
fn victim(world: &World) -> Running {
    let mut victim = world.start(&["sh", "-c", "echo ready; exec sleep 1000"]);
    victim.wait_for("ready");
    victim
}

/// How long what is left of a run may take to end.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

/// The next commands take down what a dead supervisor left.
fn swept(world: &World) {
    let begin = std::time::Instant::now();
    while !world.left_behind().is_empty() {
        assert!(
            begin.elapsed() < PATIENCE,
            "left behind: {:?}",
            world.left_behind()
        );
        world.guard().run(&["true"]).exits(0);
    }
}

fn led_somewhere(run: &Guarded) -> bool {
    run.ended.code == 0 && run.ended.stdout.contains("done")
}

fn has_gap(run: &Guarded, kind: &str) -> bool {
    let gaps = &run.report().coverage.gaps;
    gaps.iter().any(|gap| gap.kind == kind)
}

/// Go each way outside, contained and not.
fn go(world: &World, ways: &[Way]) {
    for Way {
        shown,
        command,
        without,
    } in ways
    {
        let name = shown.how();
        shown.outside(&world.run(command).says("done"));

        let run = world.guard().policy(NOTHING).run(command);
        assert!(!led_somewhere(&run), "{name}, contained: {run:?}");
        assert!((1..120).contains(&run.ended.code), "{name}: {run:?}");
        assert!(!has_gap(&run, "contain"), "{name}");
        assert_eq!(run.findings("left_cgroup").len(), 0, "{name}: {run:?}");
        shown.refused(&run);

        let run = world
            .guard()
            .policy(NOTHING)
            .arg("--no-contain")
            .run(command);
        assert_eq!(
            led_somewhere(&run),
            *without != Without::Refused,
            "{name}, not contained: {run:?}"
        );
        assert!(has_gap(&run, "contain"), "{name}: {run:?}");
        if let Without::Found(kind) = without {
            let found = run.findings(kind);
            assert!(
                found.iter().any(|finding| !finding.subjects.is_empty()),
                "{name}: {run:#?}"
            );
        }
        without.shown(shown, &run);
    }
    assert_eq!(world.left_behind(), Vec::<PathBuf>::new());
}

#[test]
fn nobody_leaves_the_cgroup() {
    let world = World::new("contain_leave");
    world.dns(Zone::new());
    let tool = escape(&world);
    let other = elsewhere(&world);
    let other = other.display();
    let left = Without::Found("left_cgroup");
    go(
        &world,
        &[
            script(
                case!(40, "into another cgroup"),
                left,
                &format!("echo 0 >{other}/cgroup.procs && echo done"),
            ),
            script(
                case!(40, "into a new cgroup"),
                left,
                &format!("mkdir {other}/$$ && echo 0 >{other}/$$/cgroup.procs && echo done"),
            ),
            way(
                case!(40, "born elsewhere"),
                left,
                &[&tool, "clone-into", &other.to_string(), "true"],
            ),
            script(
                case!(40, "through another mount"),
                Without::Found("left_cgroup"),
                &format!(
                    "unshare -m sh -c 'mkdir -p own && mount -t cgroup2 none own && echo 0 >own/{}/cgroup.procs && echo done'",
                    world.id()
                ),
            ),
        ],
    );
}

#[test]
fn nobody_outside_can_be_reached_into() {
    let world = World::new("contain_reach");
    world.dns(Zone::new());
    let tool = escape(&world);
    let victim = victim(&world);
    let pid = victim.pid().as_raw_pid().to_string();
    go(
        &world,
        &[
            way(
                case!(46, "trace a process"),
                Without::Named,
                &[&tool, "ptrace", &pid],
            ),
            script(
                case!(46, "signal a process"),
                Without::Named,
                &format!("kill -0 {pid} && echo done"),
            ),
            script(
                case!(46, "see the root of a process"),
                Without::Named,
                &format!("ls /proc/{pid}/root/etc >listed && echo done"),
            ),
            way(
                case!(46, "open a file by its handle"),
                Without::Named,
                &[&tool, "by-handle", "/etc/passwd", "/"],
            ),
            script(
                case!(46, "a program that the kernel starts"),
                Without::Named,
                "read -r was </proc/sys/kernel/core_pattern; \
                 echo \"$was\" >/proc/sys/kernel/core_pattern && echo done",
            ),
        ],
    );
    assert_eq!(victim.stdout(), "ready\n");
}

/// By a directory that whoever starts the guard has open, its mounts are as they are outside.
#[test]
fn no_directory_that_is_inherited_leads_out() {
    let shown = case!(40, "by a directory that is inherited");
    let as_input = case!(40, "by standard input that is a directory");
    let world = World::new("contain_directory");
    world.dns(Zone::new());
    let other = elsewhere(&world);
    for (shown, number) in [(&shown, 9), (&as_input, 0)] {
        let through = format!("exec {number}</; exec \"$@\"");
        let through = ["sh", "-c", &through, "sh"].map(str::to_owned);
        let leave = format!(
            "echo $$ >/proc/self/fd/{number}{}/cgroup.procs && echo done",
            other.display()
        );
        let leave = ["sh", "-c", &leave].map(str::to_owned);
        shown.outside(&world.run(&[&through[..], &leave].concat()).says("done"));
        let guard = || world.guard().policy(NOTHING).through(through.to_vec());
        let run = guard().run(&leave);
        assert!(!led_somewhere(&run), "{number}: {run:?}");
        assert_eq!(run.findings("left_cgroup").len(), 0, "{number}: {run:?}");
        shown.refused(&run);
        let run = guard().arg("--no-contain").run(&leave);
        assert!(led_somewhere(&run), "{number}: {run:?}");
        assert!(!run.findings("left_cgroup").is_empty(), "{number}: {run:?}");
        shown.recorded(&run);
    }
}

/// A host may have several mounts of the same: one for each root that somebody was locked into.
#[test]
fn no_other_mount_of_proc_tells_the_kernel_what_to_start() {
    let world = World::new("contain_proc");
    world.dns(Zone::new());
    let at = world.dir().join("locked");
    std::fs::create_dir(&at).unwrap();
    let at = at.display().to_string();
    world.run(&["mount", "-t", "proc", "proc", &at]).succeeds();
    go(
        &world,
        &[script(
            case!(
                46,
                "a program that the kernel starts, by another mount of proc"
            ),
            Without::Named,
            &format!(
                "read -r was <{at}/sys/kernel/core_pattern; \
                 echo \"$was\" >{at}/sys/kernel/core_pattern && echo done"
            ),
        )],
    );
}

#[test]
fn nobody_touches_the_programs() {
    let world = World::new("contain_bpf");
    world.dns(Zone::new());
    let tool = escape(&world);
    // A run that is on, whose maps there are to be found.
    let mut on = world.guard().policy(NOTHING).start(&[
        "sh",
        "-c",
        "echo ready; until [ -e stop ]; do sleep 0.05; done",
    ]);
    on.running().wait_for("ready");
    let pins = "/sys/fs/bpf/blackstart";
    go_beside(
        &world,
        &[
            way(
                case!(46, "a map by its id"),
                Without::Named,
                &[&tool, "bpf-map"],
            ),
            script(
                case!(46, "a pinned map"),
                Without::Named,
                &format!("{tool} bpf-pin $(ls -d {pins}/*/v*/bs_flows | head -n 1)"),
            ),
            script(
                case!(46, "a pinned link"),
                Without::Named,
                &format!("ls {pins}/*/v*/link_bs_connect4 && echo done"),
            ),
            script(
                case!(46, "bpffs anew"),
                Without::Named,
                "unshare -m sh -c 'mkdir -p own && mount -t bpf none own && echo done'",
            ),
        ],
    );
    std::fs::write(world.dir().join("stop"), "").unwrap();
    on.wait().exits(0);
    assert_eq!(world.left_behind(), Vec::<PathBuf>::new());
}

/// As [`go`], while another run is on that leaves something behind.
fn go_beside(world: &World, ways: &[Way]) {
    for way in ways {
        let Way {
            shown,
            command,
            without,
        } = way;
        let name = shown.how();
        shown.outside(&world.run(command).says("done"));
        let run = world.guard().policy(NOTHING).run(command);
        assert!(!led_somewhere(&run), "{name}, contained: {run:?}");
        shown.refused(&run);
        let run = world
            .guard()
            .policy(NOTHING)
            .arg("--no-contain")
            .run(command);
        assert_eq!(
            (led_somewhere(&run), has_gap(&run, "contain")),
            (*without != Without::Refused, true),
            "{name}, not contained: {run:?}"
        );
        without.shown(shown, &run);
    }
}

#[test]
fn what_no_program_judges_is_not_sent() {
    let world = World::new("contain_kinds");
    let other = world.node("other");
    other.tcp_echo(7);
    world.dns(Zone::new());
    let tool = escape(&world);
    let address = other.v4().to_string();
    world
        .run(&["sysctl", "-qw", "net.ipv4.ping_group_range=0 0"])
        .succeeds();
    let enter = format!("--net={}", other.namespace().display());
    let reach: Vec<_> = reach("tcp", other.v4(), 7);
    let reach = format!("{} && echo done", reach.join(" "));
    let refused = Without::Refused;
    go(
        &world,
        &[
            way(case!(32, "packet"), refused, &[&tool, "packet", "eth0"]),
            way(case!(36, "vsock"), refused, &[&tool, "vsock"]),
            way(case!(32, "raw ICMP"), refused, &[&tool, "icmp", &address]),
            way(case!(32, "ping"), refused, &[&tool, "ping", &address]),
            way(case!(32, "raw IP"), refused, &[&tool, "kind", "3", "255"]),
            way(case!(32, "GRE"), refused, &[&tool, "kind", "3", "47"]),
            way(case!(32, "UDP-Lite"), refused, &[&tool, "kind", "2", "136"]),
            way(
                case!(35, "io_uring"),
                refused,
                &[&tool, "uring", &address, "7"],
            ),
            script(case!(25, "by an empty allow-list"), refused, &reach),
            way(
                case!(41, "another network namespace"),
                refused,
                &["nsenter", &enter, "sh", "-c", &reach],
            ),
            script(
                case!(41, "a new network namespace, and a way out of it"),
                Without::Named,
                "unshare -n true && echo done",
            ),
        ],
    );
    // This kernel may have none; one that has it is to refuse it.
    if world
        .run(&[&tool, "kind", "1", "132"])
        .stdout
        .contains("EPROTONOSUPPORT")
    {
        case!(32, "SCTP").skipped("this kernel has none");
    } else {
        go(
            &world,
            &[way(
                case!(32, "SCTP"),
                refused,
                &[&tool, "kind", "1", "132"],
            )],
        );
    }
}

#[test]
fn a_kind_of_socket_is_refused_with_its_process_or_recorded_with_it() {
    let by_deny_list = case!(32, "ICMP, by a deny-list");
    let accepted = case!(32, "packet, where that gap was accepted");
    let world = World::new("contain_record");
    let other = world.node("other");
    world.dns(Zone::new());
    let tool = escape(&world);
    let address = other.v4().to_string();
    world
        .run(&["sysctl", "-qw", "net.ipv4.ping_group_range=0 0"])
        .succeeds();
    for way in ["icmp", "ping"] {
        let echo = [tool.as_str(), way, &address];
        by_deny_list.outside(&world.run(&echo));
        // By a deny-list it goes on working, and is somebody's.
        for policy in ["mode: enforce\nrules: []\n", "default: deny\nrules: []\n"] {
            let run = world
                .guard()
                .policy(policy)
                .run(&echo)
                .exits(0)
                .says("done");
            let [flow] = run.flows(other.v4())[..] else {
                panic!("{:#?}", run.report().flows)
            };
            assert_eq!((flow.protocol.as_str(), flow.port), ("1", 0), "{way}");
            assert!(run.chain(flow.subject)[0].contains(way), "{way}");
            by_deny_list.recorded(&run);
        }
        // With all privileges it is the kind that is refused, and told with its process.
        let run = world
            .guard()
            .policy(NOTHING)
            .arg("--no-contain")
            .run(&echo)
            .exits(1)
            .says("EPERM")
            .warns("was refused a");
        let [found] = run.findings("denied_socket")[..] else {
            panic!("{:#?}", run.report().findings)
        };
        assert!(found.title.contains("ICMP socket"), "{}", found.title);
        assert!(run.chain(found.subjects.first().copied())[0].contains(way));
        // Accepted, it is judged by its packets, as everywhere.
        let run = world
            .guard()
            .policy(&format!(
                "mode: enforce\ndefault: deny\nrules:\n  - allow: {address}\n"
            ))
            .arg("--no-contain")
            .arg("--accept-gap=unseen_families")
            .run(&echo)
            .exits(0)
            .says("done");
        assert!(has_gap(&run, "unseen_families"));
    }
    accepted.outside(&world.run(&[&tool, "packet", "eth0"]));
    let open = world
        .guard()
        .policy(NOTHING)
        .arg("--no-contain")
        .arg("--accept-gap=unseen_families")
        .run(&[&tool, "packet", "eth0"])
        .exits(0)
        .says("done");
    assert!(has_gap(&open, "unseen_families"));
    accepted.gap(&open, "unseen_families");
}

#[test]
fn a_user_namespace_gives_nothing_back() {
    let shown = case!(41, "a new user namespace, and what root may there");
    let world = World::new("contain_userns");
    let other = world.node("other");
    other.tcp_echo(7);
    world.dns(Zone::new());
    let tool = escape(&world);
    let reach: Vec<_> = reach("tcp", other.v4(), 7);
    let inside = format!(
        "mount -t cgroup2 none own && mkdir own/below && echo 0 >own/below/cgroup.procs; \
         {tool} bpf-map && exit 10; {tool} packet eth0 && exit 11; {tool} icmp {0} && exit 12; \
         {tool} uring {0} 7 && exit 13; {1} && exit 14; exit 3",
        other.v4(),
        reach.join(" ")
    );
    let new = [
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "--cgroup",
    ];
    let mut command: Vec<_> = new.to_vec();
    command.extend(["sh", "-c", "mkdir -p own; echo done"]);
    shown.outside(&world.run(&command).says("done"));
    let mut command: Vec<_> = new.to_vec();
    command.extend(["sh", "-c", &inside]);
    let run = world.guard().policy(NOTHING).run(&command).exits(3);
    assert_eq!(run.flow(other.v4(), 7).verdict, Verdict::Deny);
    assert_eq!(run.findings("left_cgroup").len(), 0, "{run:#?}");
    shown.refused(&run);
    // Nor without, of what it cannot have back: no capability of a new namespace is one over this host.
    let run = world
        .guard()
        .policy(NOTHING)
        .arg("--no-contain")
        .run(&command)
        .exits(3);
    assert_eq!(run.flow(other.v4(), 7).verdict, Verdict::Deny);
    shown.refused(&run);
    assert_eq!(world.left_behind(), Vec::<PathBuf>::new());
}

#[test]
fn the_supervisor_cannot_be_named_and_the_policy_not_be_changed() {
    let shown = case!(46, "the supervisor and its policy");
    let world = World::new("contain_guard");
    world.dns(Zone::new());
    world.file(
        "lax.yaml",
        "apiVersion: blackstart.dev/v1\nkind: Policy\nmode: observe\nrules: []\n",
    );
    let binary = world.guard().line()[0].clone();
    let reload = format!("{binary} reload rehearsal --policy lax.yaml && echo reloaded");
    let attack = format!(
        "echo ready; until [ -s supervisor ]; do sleep 0.05; done; \
         kill -9 $(cat supervisor) && echo killed; {reload}; exit 3"
    );
    let start = |arguments: &[&str]| {
        let mut guard = world.guard().policy(NOTHING).arg("--service=rehearsal");
        for argument in arguments {
            guard = guard.arg(argument);
        }
        let mut run = guard.start(&["sh", "-c", &attack]);
        run.running().wait_for("ready");
        let pid = run.running().pid().as_raw_pid().to_string();
        (run, pid)
    };
    let supervisor = world.dir().join("supervisor");

    let (run, pid) = start(&[]);
    std::fs::write(&supervisor, pid).unwrap();
    let run = run.wait().exits(3);
    assert!(!run.ended.stdout.contains("killed"), "{run:?}");
    assert!(!run.ended.stdout.contains("reloaded"), "{run:?}");
    assert_eq!(run.report().run.reloads.len(), 0);
    assert_eq!(run.report().coverage.unsupervised_seconds, 0.0);
    let contained = run.held();
    std::fs::remove_file(&supervisor).unwrap();

    // The same from outside leads somewhere.
    let (run, pid) = start(&[]);
    let environment = format!("BLACKSTART_STATE={}", world.guard().state().display());
    world
        .run(&["env", &environment, "sh", "-c", &reload])
        .exits(0)
        .says("reloaded");
    std::fs::write(&supervisor, "0x").unwrap();
    let run = run.wait().exits(3);
    assert_eq!(run.report().run.reloads.len(), 1);
    std::fs::remove_file(&supervisor).unwrap();
    drop(pid);

    // Not contained, root is root: it goes on guarded, and what follows is told by whoever sweeps.
    let (run, pid) = start(&["--no-contain"]);
    std::fs::write(&supervisor, pid).unwrap();
    assert_eq!(run.wait().ended.code, 128 + 9);
    std::fs::remove_file(&supervisor).unwrap();
    swept(&world);
    shown.worked_outside().is(Becomes::Refused, contained);
}

/// What other commands act upon lies in files: a run that would have its guard taken off, an alert that would be sent.
#[test]
fn nobody_plants_work_for_the_next_command() {
    let shown = case!(46, "work that is planted for the next command");
    let world = World::new("contain_plant");
    world.dns(Zone::new());
    let state = world.guard().state();
    let places = [
        format!("{}/runs", state.display()),
        format!("{}/notify", state.display()),
        "/run/blackstart/runs".to_owned(),
        "/run/blackstart/notify".to_owned(),
    ];
    // Each in turn; what was made goes again.
    let attack = format!(
        "for at in {}; do mkdir -p $at/planted && echo planted in $at && rmdir $at/planted; done; exit 3",
        places.join(" ")
    );
    let command = ["sh", "-c", &attack];
    for place in &places {
        let bare = world.run(&command);
        assert!(
            bare.stdout.contains(&format!("planted in {place}\n")),
            "{bare:?}"
        );
    }
    let run = world.guard().policy(NOTHING).run(&command).exits(3);
    assert!(!run.ended.stdout.contains("planted"), "{run:?}");
    shown.worked_outside().refused(&run);
    let mut run = world
        .guard()
        .policy(NOTHING)
        .arg("--no-contain")
        .run(&command)
        .exits(3);
    for place in &places {
        run = run.says(&format!("planted in {place}\n"));
    }
    shown.gap(&run, "contain");
}

#[test]
fn a_signal_to_the_whole_group_leaves_the_run_guarded() {
    let shown = case!(46, "a signal to the whole group");
    let world = World::new("contain_group");
    let other = world.node("other");
    other.tcp_echo(7);
    world.dns(Zone::new());
    // The supervisor is in the command's process group, as job control wants it: that much of it can be reached.
    let reach = reach("tcp", other.v4(), 7);
    shown.outside(&world.run(&reach));
    let reach = reach.join(" ");
    let attack = format!(
        "setsid sh -c 'echo up >up; until [ -e dead ]; do sleep 0.05; done; {reach} >tried; \
                       until [ -e stop ]; do sleep 0.05; done' & \
         until [ -s up ]; do sleep 0.05; done; kill -9 0"
    );
    let state = format!("BLACKSTART_STATE={}", world.guard().state().display());
    let mut line = ["setsid", "-w", "env", &state].map(str::to_owned).to_vec();
    line.extend(world.guard().policy(NOTHING).line());
    line.extend(["sh".to_owned(), "-c".to_owned(), attack]);
    let ended = world.host().start(&line).wait();
    assert_eq!(ended.code, 128 + 9, "{ended:?}");
    let tell = |file: &str| std::fs::write(world.dir().join(file), "").unwrap();
    tell("dead");
    let begin = std::time::Instant::now();
    let tried = || std::fs::read_to_string(world.dir().join("tried")).unwrap_or_default();
    while tried().is_empty() {
        assert!(begin.elapsed() < PATIENCE);
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_eq!(tried(), "ECONNREFUSED\n");
    tell("stop");
    swept(&world);
    shown.is(Becomes::Refused, Held::Contained);
}

#[test]
fn what_a_rehearsal_does_works_contained() {
    let shown = case!(39, "sudo and su, contained");
    let world = World::new("contain_usual");
    let mirror = world.node("mirror");
    mirror.http();
    world.dns(Zone::new().host("mirror.internal", &mirror));
    let policy = "mode: enforce\ndefault: deny\nrules:\n  - allow: mirror.internal\n";
    world.run(&["sudo", "-n", "id", "-u"]).succeeds();
    let run = world
        .guard()
        .policy(policy)
        .run(&["sh", "-c", "curl -sS http://mirror.internal/ && sudo -n id -u && su -s /bin/sh nobody -c 'id -un' && exit 7"])
        .exits(7)
        .says("hello from mirror")
        .says("\n0\nnobody\n");
    shown.worked_outside().recorded(&run);
    // Process ids in the report are the host's.
    assert!(run.report().subjects.iter().all(|subject| subject.pid > 2));
    assert_eq!(run.gaps(), std::collections::BTreeSet::new());
    assert!(
        run.report()
            .run
            .kernel
            .features
            .iter()
            .any(|name| name == "contain")
    );
    // Its own words for how it ended, and signals to it.
    let mut run = world
        .guard()
        .policy(policy)
        .start(&["sh", "-c", "echo ready; exec sleep 100"]);
    run.running().wait_for("ready");
    run.running().signal(Signal::TERM);
    run.wait().exits(128 + 15);
    world
        .guard()
        .policy(policy)
        .run(&["sh", "-c", "kill -SEGV $$"])
        .exits(128 + 11);
    world
        .guard()
        .policy(policy)
        .run(&["no-such-command"])
        .exits(127);
    // Orphans have somewhere to go, and a daemon ends with the command.
    world
        .guard()
        .policy(policy)
        .run(&[
            "sh",
            "-c",
            "(sleep 0.2 &) ; sleep 0.5; setsid sleep 1000 >/dev/null 2>&1 & exit 0",
        ])
        .exits(0);
    // A run within: it cannot guard anything there, and says so.
    let mut observing = world.guard().line();
    observing.extend(["sh", "-c", "exit 5"].map(str::to_owned));
    let state = format!("BLACKSTART_STATE={}", world.dir().join("inner").display());
    let mut inner = vec!["env".to_owned(), state.clone()];
    inner.extend(observing);
    world
        .guard()
        .policy(policy)
        .run(&inner)
        .exits(5)
        .warns("unguarded")
        .warns("--contain");
    let mut enforcing = vec!["env".to_owned(), state];
    enforcing.extend(world.guard().policy(NOTHING).line());
    enforcing.push("true".to_owned());
    world
        .guard()
        .policy(policy)
        .run(&enforcing)
        .exits(125)
        .warns("--contain");
    assert_eq!(world.left_behind(), Vec::<PathBuf>::new());
}

#[test]
fn contained_only_where_the_default_is_enforced_or_it_is_asked_for() {
    let world = World::new("contain_when");
    world.dns(Zone::new());
    let contained = |policy: &str, arguments: &[&str]| {
        let mut guard = world.guard().policy(policy);
        for argument in arguments {
            guard = guard.arg(argument);
        }
        let run = guard.run(&["sh", "-c", "echo $$"]).exits(0);
        let is = run.ended.stdout == "2\n";
        assert_eq!(has_gap(&run, "contain"), !is, "{run:?}");
        assert_eq!(run.report().run.guarded, HowGuarded::Yes);
        is
    };
    let allowing = "mode: enforce\nrules:\n  - deny: github.com\n";
    let observing = "mode: observe\ndefault: deny\nrules: []\n";
    assert!(contained(NOTHING, &[]));
    assert!(!contained(NOTHING, &["--no-contain"]));
    assert!(!contained(NOTHING, &["--mode=observe"]));
    assert!(!contained(NOTHING, &["--break-glass=it burns"]));
    assert!(!contained(observing, &[]));
    assert!(contained(observing, &["--contain"]));
    assert!(!contained(allowing, &[]));
    assert!(contained(allowing, &["--contain"]));
}

#[test]
fn what_cannot_be_contained_does_not_run_unless_that_is_accepted() {
    let world = World::new("contain_cannot");
    world.dns(Zone::new());
    // Without this capability nobody takes one from the bounding set.
    let lesser = ["setpriv", "--bounding-set=-setpcap"].map(str::to_owned);
    let guard = |policy: &str| world.guard().policy(policy).through(lesser.to_vec());
    let run = guard(NOTHING)
        .run(&["touch", "ran"])
        .exits(125)
        .warns("contain is missing")
        .warns("take its privileges away")
        .warns("--accept-gap contain");
    assert!(run.report.is_none() && !world.dir().join("ran").exists());
    let run = guard(NOTHING)
        .arg("--accept-gap=contain")
        .run(&["sh", "-c", "test $$ != 2"])
        .exits(0);
    assert!(has_gap(&run, "contain"));
    guard(NOTHING).arg("--no-contain").run(&["true"]).exits(0);
    // Observed, it runs whatever is missing.
    let run = guard("rules: []\n")
        .arg("--contain")
        .run(&["true"])
        .exits(0);
    assert!(has_gap(&run, "contain"));
    assert_eq!(world.left_behind(), Vec::<PathBuf>::new());
}
