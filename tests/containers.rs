//! Containers: a run inside of one, and one that a run starts.

use blackstart_core::report::{Outcome, Verdict};
use blackstart_lab::{World, case};

const DENY_GITHUB: &str = "mode: enforce\nrules:\n  - deny: github.com\n";

/// Without `--privileged` the container has this much: what `blackstart doctor` asks for, and no writable cgroups.
const CAPABILITIES: [&str; 3] = [
    "--cap-add=SYS_ADMIN,BPF,PERFMON,NET_ADMIN,NET_RAW",
    "--security-opt=seccomp=unconfined",
    "--security-opt=apparmor=unconfined",
];

const FETCH: [&str; 3] = [
    "sh",
    "-c",
    "wget -qO- http://mirror.internal/; wget -qO- http://github.com/ || echo refused",
];

#[test]
fn a_run_inside_a_container_is_guarded() {
    let (world, github, mirror) = World::with_names("in_container");
    let podman = world.podman();
    for flags in [&["--privileged"][..], &CAPABILITIES] {
        let run = world
            .guard()
            .through(podman.line(&[&["--cgroupns=private"], flags].concat()))
            .run(&FETCH)
            .exits(0)
            .says("hello from mirror")
            .says("hello from github");
        let mirror = run.flow(mirror.v6(), 80);
        assert_eq!(
            (mirror.verdict, mirror.outcome, mirror.name.as_deref()),
            (Verdict::Allow, Outcome::Connected, Some("mirror.internal"))
        );
        let chain = run.chain(mirror.subject);
        assert_eq!(chain[0], "wget -qO- http://mirror.internal/", "{chain:?}");
        assert_eq!(run.verdict_on("github.com"), Verdict::Allow);
        assert!(run.gaps().is_empty(), "{:?}", run.gaps());

        let run = world
            .guard()
            .policy(DENY_GITHUB)
            .through(podman.line(&[&["--cgroupns=private"], flags].concat()))
            .run(&FETCH)
            .exits(0)
            .says("hello from mirror")
            .says("refused")
            .within(std::time::Duration::from_secs(8));
        assert_eq!(run.verdict_on("github.com"), Verdict::Deny);
        assert!(run.flows(github.v4()).is_empty() && run.flows(github.v6()).is_empty());
        assert!(run.gaps().is_empty(), "{:?}", run.gaps());
    }
    world
        .run(&["curl", "-sS", "http://github.com/"])
        .succeeds()
        .says("hello from github");
    assert_eq!(world.left_behind(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_container_that_a_run_starts_is_told_to_have_left() {
    let shown = case!(42, "podman, without a daemon");
    let (world, github, mirror) = World::with_names("starts_one");
    let podman = world.podman();
    let mut line = podman.line(&[]);
    line.extend(FETCH.map(str::to_owned));
    shown.outside(&world.run(&line));
    // podman puts it into a cgroup besides the run's, where no rule holds. What must not be is silence.
    let run = world
        .guard()
        .policy(DENY_GITHUB)
        .run(&line)
        .exits(0)
        .says("hello from mirror")
        .says("hello from github")
        .warns("left the run's cgroup");
    for node in [&github, &mirror] {
        assert!(run.flows(node.v4()).is_empty() && run.flows(node.v6()).is_empty());
    }
    assert!(run.gaps().contains("left_cgroup"), "{:?}", run.gaps());
    let found = run.findings("left_cgroup");
    let left: Vec<_> = found
        .iter()
        .map(|finding| finding.title.split(' ').next().unwrap())
        .collect();
    assert_eq!(left, ["runc", "sh", "wget"]);
    // Each with the way by which it came about.
    let (shell, fetch) = (&found[1], &found[2]);
    assert_eq!(shell.command.as_deref().unwrap(), FETCH);
    assert_eq!(
        fetch.command.as_ref().unwrap().join(" "),
        "wget -qO- http://mirror.internal/"
    );
    let way = run.chain(fetch.subjects.first().copied());
    for step in [
        "sh -c wget",
        "/usr/bin/runc init",
        "/usr/bin/conmon ",
        "podman ",
    ] {
        assert!(
            way.iter().any(|argv| argv.starts_with(step)),
            "{step:?} in {way:#?}"
        );
    }
    assert_eq!(world.left_behind(), Vec::<std::path::PathBuf>::new());
    shown.recorded(&run);
}
