//! Containers: a run inside of one, and one that a run starts.

use blackstart_core::report::{Outcome, Verdict};
use blackstart_lab::{Guarded, World, case};

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

/// A container daemon fetches for whoever asks it by its socket, from outside of any run. This one stands for it, and what is
/// asked is what the tools ask.
#[test]
fn what_a_daemon_fetches_is_told_as_asked_of_it_and_refused_by_a_rule() {
    let told = case!(42, "a pull by a daemon");
    let denied = case!(42, "a pull by a daemon, by a rule about its socket");
    let (world, github, _) = World::with_names("daemon_pulls");
    let path = "/run/docker.sock";
    let serve = "import http.server, os, socketserver, urllib.request
class Handler(http.server.BaseHTTPRequestHandler):
    address_string = lambda self: 'somebody'
    def do_POST(self):
        text = urllib.request.urlopen('http://github.com/').read()
        self.send_response(200)
        self.send_header('Content-Length', str(len(text)))
        self.end_headers()
        self.wfile.write(text)
server = socketserver.UnixStreamServer('/run/docker.sock', Handler)
print('listening', flush=True)
server.serve_forever()";
    let script = format!("mount -t tmpfs none /run && exec /usr/bin/python3 -c \"{serve}\"");
    let mut daemon = world.start(&["sh", "-c", &script]);
    daemon.wait_for("listening");
    let pull = [
        "curl",
        "-sS",
        "-X",
        "POST",
        "--unix-socket",
        path,
        "http://docker/v1.41/images/create?fromImage=github.com/tool",
    ];
    let bare = world.run(&pull).says("hello from github");
    told.outside(&bare);
    denied.outside(&bare);
    let run = world
        .guard()
        .policy(DENY_GITHUB)
        .run(&pull)
        .exits(0)
        .says("hello from github");
    // The run reached for the daemon, and for nothing else.
    let contact = |run: &Guarded| {
        let all = run.report().delegates.iter();
        let mut of = all.filter(|one| one.path == path);
        of.next().map(|one| one.verdict)
    };
    assert_eq!(contact(&run), Some(Verdict::Allow));
    assert!(run.flows(github.v4()).is_empty() && run.flows(github.v6()).is_empty());
    told.recorded(&run);
    let run = world
        .guard()
        .policy(&format!("{DENY_GITHUB}  - deny: unix:{path}\n"))
        .run(&pull);
    assert!((1..120).contains(&run.ended.code), "{run:?}");
    assert_eq!(contact(&run), Some(Verdict::Deny));
    denied.refused(&run);
}
