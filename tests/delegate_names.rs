//! Daemons of a host by their names and at their own paths: who is asked is told, a default that denies does not refuse it, and a
//! rule about that path does.
//!
//! The real one answers where it is small: ssh-agent, podman's service, a syslog daemon, a database, the bus and what it starts. In
//! the place of dockerd, containerd, snapd, libvirtd and avahi, which are not, somebody listens at their path. `/run` and `/dev`
//! are the world's own where anything is put there.

use std::fs;
use std::time::{Duration, Instant};

use blackstart_core::report::{Delegate, Verdict};
use blackstart_lab::shown::Shown;
use blackstart_lab::{Guarded, Running, World, Zone, case};
use rustix::process::Signal;

/// Refuses every destination, and says nothing of unix sockets.
const NOTHING: &str = "mode: enforce\ndefault: deny\nrules: []\n";

/// Listens at a path, and says who it is to whoever comes.
const STAND_IN: &str = "import os, socket, sys
path, name = sys.argv[1:]
os.makedirs(os.path.dirname(path), exist_ok=True)
s = socket.socket(socket.AF_UNIX)
s.bind(path)
s.listen(64)
print('listening', flush=True)
while True:
    c, _ = s.accept()
    c.sendall(b'hello from ' + name.encode())
    c.close()
";

/// Asks at each path that it is given, and says what came of it.
const ASK: &str = "import socket, sys
for path in sys.argv[1:]:
    s = socket.socket(socket.AF_UNIX)
    try:
        s.connect(path)
        print(path, s.recv(99).decode())
    except OSError as e:
        print(path, e.strerror)
";

/// Both policies under which a path is refused.
fn refusing(path: &str) -> [String; 2] {
    ["", "default: deny\n"]
        .map(|default| format!("mode: enforce\n{default}rules:\n  - deny: unix:{path}\n"))
}

fn words<'w>(program: &[&'w str], rest: &[&'w str]) -> Vec<&'w str> {
    [program, rest].concat()
}

/// The program that a process is.
fn program(of: &Running) -> String {
    let exe = format!("/proc/{}/exe", of.pid().as_raw_pid());
    fs::read_link(exe).unwrap().display().to_string()
}

/// The one row about this path.
#[track_caller]
fn row<'r>(run: &'r Guarded, path: &str) -> &'r Delegate {
    let rows = &run.report().delegates;
    let found: Vec<_> = rows.iter().filter(|one| one.path == path).collect();
    match found[..] {
        [row] => row,
        _ => panic!("one row about {path}: {rows:#?}"),
    }
}

/// The one row about this path says that `asker` asked this daemon there, and what was made of it.
#[track_caller]
fn told(run: &Guarded, path: &str, daemon: &Running, asker: &str, verdict: Verdict) {
    let row = row(run, path);
    assert_eq!(row.verdict, verdict, "{row:?}");
    assert_eq!(
        (row.listener_pid, row.listener_exe.as_deref()),
        (
            Some(daemon.pid().as_raw_pid().cast_unsigned()),
            Some(&*program(daemon))
        ),
        "{row:?}"
    );
    let chain = run.chain(row.subject);
    assert!(chain[0].contains(asker), "{asker:?} in {chain:?}");
    let denied = format!("deny unix:{path}");
    match verdict {
        Verdict::Deny => assert_eq!(row.rule, denied),
        _ => assert_ne!(row.rule, denied),
    }
    assert!(!run.gaps().contains("unix_sockets"), "{run:?}");
}

#[test]
fn each_daemon_is_told_at_its_own_path_and_refused_there_alone() {
    let world = World::new("by_name");
    world.dns(Zone::new());
    let table = [
        (
            "dockerd",
            "/run/docker.sock",
            case!(42, "dockerd, by a default that denies"),
            case!(42, "dockerd, by a rule"),
        ),
        (
            "containerd",
            "/run/containerd/containerd.sock",
            case!(42, "containerd, by a default that denies"),
            case!(42, "containerd, by a rule"),
        ),
        (
            "snapd",
            "/run/snapd.socket",
            case!(36, "snapd, by a default that denies"),
            case!(36, "snapd, by a rule"),
        ),
        (
            "libvirtd",
            "/run/libvirt/libvirt-sock",
            case!(36, "libvirtd, by a default that denies"),
            case!(36, "libvirtd, by a rule"),
        ),
        (
            "avahi",
            "/run/avahi-daemon/socket",
            case!(10, "avahi, by a default that denies"),
            case!(10, "avahi, by a rule about it alone"),
        ),
    ];
    world
        .run(&["mount", "-t", "tmpfs", "none", "/run"])
        .succeeds();
    let daemons = table.each_ref().map(|(name, path, _, _)| {
        let mut daemon = world.start(&["/usr/bin/python3", "-c", STAND_IN, path, name]);
        daemon.wait_for("listening");
        daemon
    });
    let paths = table.each_ref().map(|(_, path, _, _)| *path);
    let ask = words(&["/usr/bin/python3", "-c", ASK], &paths);
    let answers = |stdout: &str, refused: Option<&str>| {
        let expected: String = table
            .iter()
            .map(|(name, path, _, _)| match refused {
                Some(refused) if refused == *path => format!("{path} Connection refused\n"),
                _ => format!("{path} hello from {name}\n"),
            })
            .collect();
        assert_eq!(stdout, expected);
    };
    let bare = world.run(&ask).succeeds();
    answers(&bare.stdout, None);
    let run = world.guard().policy(NOTHING).run(&ask).exits(0);
    answers(&run.ended.stdout, None);
    for ((_, path, passes, denied), daemon) in table.iter().zip(&daemons) {
        passes.outside(&bare);
        denied.outside(&bare);
        told(&run, path, daemon, ASK, Verdict::Allow);
        assert_eq!(row(&run, path).attempts, 1);
        passes.recorded(&run);
    }
    for (_, refused, _, shown) in &table {
        for policy in refusing(refused) {
            let run = world.guard().policy(&policy).run(&ask).exits(0);
            answers(&run.ended.stdout, Some(refused));
            for (path, daemon) in paths.iter().zip(&daemons) {
                let verdict = match path == refused {
                    true => Verdict::Deny,
                    false => Verdict::Allow,
                };
                told(&run, path, daemon, ASK, verdict);
            }
            shown.refused(&run);
        }
    }
}

/// A daemon, and how one of its own tools asks it.
struct Asked<'a> {
    world: &'a World,
    daemon: &'a Running,
    path: &'a str,
    /// The tool's command line.
    ask: &'a [&'a str],
    /// Of the process that is told.
    asker: &'a str,
    /// What the tool says where it was answered.
    answer: &'a str,
    /// Exit code where it was refused, and what it then says.
    refusal: (i32, &'a str),
}

impl Asked<'_> {
    /// It works outside and under a default that denies, and is refused by a rule.
    fn passes_by_default_and_is_refused_by_a_rule(&self, passes: &Shown, denied: &Shown) {
        let Self {
            world,
            daemon,
            path,
            ask,
            asker,
            answer,
            refusal: (code, words),
        } = *self;
        let bare = world.run(ask).says(answer);
        passes.outside(&bare);
        denied.outside(&bare);
        let run = world.guard().policy(NOTHING).run(ask).exits(0);
        let run = run.says(answer);
        told(&run, path, daemon, asker, Verdict::Allow);
        passes.recorded(&run);
        for policy in refusing(path) {
            let run = world.guard().policy(&policy).run(ask).exits(code);
            let all = format!("{}{}", run.ended.stdout, run.ended.stderr);
            assert!(all.contains(words), "{run:?}");
            told(&run, path, daemon, asker, Verdict::Deny);
            denied.refused(&run);
        }
        // And the daemon is still there for others.
        world.run(ask).succeeds().says(answer);
    }
}

#[test]
fn an_agent_that_holds_keys_is_told_and_refused_by_name() {
    let passes = case!(36, "ssh-agent, by a default that denies");
    let denied = case!(36, "ssh-agent, by a rule");
    let world = World::new("ssh_agent");
    world.dns(Zone::new());
    let path = world.dir().join("agent.sock").display().to_string();
    let mut daemon = world.start(&["ssh-agent", "-D", "-a", &path]);
    daemon.wait_for("SSH_AUTH_SOCK=");
    let socket = format!("SSH_AUTH_SOCK={path}");
    world
        .run(&[
            "ssh-keygen",
            "-q",
            "-t",
            "ed25519",
            "-N",
            "",
            "-C",
            "of the lab",
            "-f",
            "key",
        ])
        .succeeds();
    world
        .run(&["env", &socket, "ssh-add", "-q", "key"])
        .succeeds();
    Asked {
        world: &world,
        daemon: &daemon,
        path: &path,
        ask: &["env", &socket, "ssh-add", "-l"],
        asker: "ssh-add -l",
        answer: "of the lab (ED25519)",
        refusal: (2, "Error connecting to agent: Connection refused"),
    }
    .passes_by_default_and_is_refused_by_a_rule(&passes, &denied);
}

#[test]
fn podman_s_service_is_told_and_refused_by_name() {
    let passes = case!(42, "podman's service, by a default that denies");
    let denied = case!(42, "podman's service, by a rule");
    let world = World::new("podman_api");
    world.dns(Zone::new());
    // Its images and containers lie in the world.
    drop(world.podman());
    let podman = world.dir().join("pods/podman").display().to_string();
    let path = "/run/podman/podman.sock";
    let url = format!("unix://{path}");
    let mut daemon = world.start(&words(
        &[
            "sh",
            "-ec",
            "mount -t tmpfs none /run; mkdir /run/podman; exec \"$@\"",
            "sh",
        ],
        &[&podman, "system", "service", "--time=0", &url],
    ));
    let ping = ["curl", "-sS", "--unix-socket", path, "http://d/_ping"];
    let began = Instant::now();
    while world.run(&ping).stdout != "OK" {
        assert!(daemon.try_wait().is_none(), "{}", daemon.stderr());
        assert!(began.elapsed().as_secs() < 60, "{}", daemon.stderr());
    }
    Asked {
        world: &world,
        daemon: &daemon,
        path,
        ask: &[
            "podman",
            "--url",
            &url,
            "images",
            "--format",
            "{{.Repository}}",
        ],
        asker: "podman --url",
        answer: "localhost/lab",
        refusal: (125, "connection refused"),
    }
    .passes_by_default_and_is_refused_by_a_rule(&passes, &denied);
}

#[test]
fn a_database_s_own_socket_works_by_default() {
    let passes = case!(36, "redis at its own socket, by a default that denies");
    let denied = case!(36, "redis at its own socket, by a rule");
    let world = World::new("redis");
    world.dns(Zone::new());
    let path = "/run/redis/redis-server.sock";
    let dir = world.dir().display().to_string();
    let own = "mount -t tmpfs none /run; mkdir /run/redis; exec \"$@\"";
    let mut daemon = world.start(&words(
        &["sh", "-ec", own, "sh", "redis-server"],
        &[
            "--port",
            "0",
            "--unixsocket",
            path,
            "--save",
            "",
            "--dir",
            &dir,
        ],
    ));
    daemon.wait_for("ready to accept connections");
    world
        .run(&["redis-cli", "-s", path, "SET", "colour", "green"])
        .succeeds();
    Asked {
        world: &world,
        daemon: &daemon,
        path,
        ask: &["redis-cli", "-e", "-s", path, "GET", "colour"],
        asker: "redis-cli -e",
        answer: "green",
        refusal: (1, "Connection refused"),
    }
    .passes_by_default_and_is_refused_by_a_rule(&passes, &denied);
}

/// A /dev of the world's own, with nobody's log in it.
const OWN_DEV: &str = "mkdir dev; mount -t tmpfs none dev; ln -s /proc/self/fd dev/fd
for one in null zero full random urandom tty; do : >dev/$one; mount --bind /dev/$one dev/$one; done
mount --move dev /dev";

#[test]
fn a_line_for_the_log_works_by_default() {
    let passes = case!(36, "a line for the log, by a default that denies");
    let denied = case!(36, "a line for the log, by a rule");
    let world = World::new("logger");
    world.dns(Zone::new());
    world.run(&["sh", "-ec", OWN_DEV]).succeeds();
    let log = world.dir().join("messages");
    let mut daemon = world.start(&["busybox", "syslogd", "-n", "-O", &log.display().to_string()]);
    let logged = |text: &str| fs::read_to_string(&log).unwrap_or_default().contains(text);
    let waits_for = |daemon: &mut Running, text: &str| {
        let began = Instant::now();
        while !logged(text) {
            assert!(daemon.try_wait().is_none(), "{}", daemon.stderr());
            assert!(
                began.elapsed() < Duration::from_secs(20),
                "{text} is not there"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    waits_for(&mut daemon, "syslogd started");
    let path = "/dev/log";
    let bare = world.run(&["logger", "-t", "deploy", "outside"]);
    waits_for(&mut daemon, "deploy: outside");
    passes.outside(&bare);
    denied.outside(&bare);
    let run = world
        .guard()
        .policy(NOTHING)
        .run(&["logger", "-t", "deploy", "by default"])
        .exits(0);
    waits_for(&mut daemon, "deploy: by default");
    told(&run, path, &daemon, "logger -t deploy", Verdict::Allow);
    passes.recorded(&run);
    for policy in refusing(path) {
        let run = world
            .guard()
            .policy(&policy)
            .run(&["logger", "-t", "deploy", "refused"]);
        told(&run, path, &daemon, "logger -t deploy", Verdict::Deny);
        denied.refused(&run);
    }
    world
        .run(&["logger", "-t", "deploy", "the last"])
        .succeeds();
    waits_for(&mut daemon, "deploy: the last");
    assert!(!logged("refused"));
}

/// Whoever listens for it starts who answers, outside of the run: what that one fetches is none of the run's.
#[test]
fn who_is_started_by_a_socket_is_told_as_that_and_refused_by_a_rule() {
    let passes = case!(43, "activation by a socket, by a default that denies");
    let denied = case!(43, "activation by a socket, by a rule about it");
    let (world, ..) = World::with_names("socket_starts");
    let path = world.dir().join("fetch.sock").display().to_string();
    let fetch = world.file("fetch", "#!/bin/sh\nexec curl -sS http://github.com/\n");
    let mut daemon = world.start(&words(
        &["systemd-socket-activate", "--accept", "--inetd", "-l"],
        &[&path, &fetch.display().to_string()],
    ));
    daemon.wait_for_warning("Listening on ");
    Asked {
        world: &world,
        daemon: &daemon,
        path: &path,
        ask: &["/usr/bin/python3", "-c", ASK, &path],
        asker: ASK,
        answer: "hello from github",
        // It says so, and goes on.
        refusal: (0, "Connection refused"),
    }
    .passes_by_default_and_is_refused_by_a_rule(&passes, &denied);
}

/// The bus starts who is asked for, outside of the run: what that one fetches is none of the run's.
#[test]
fn who_is_started_by_the_bus_is_told_as_the_bus_and_refused_by_a_rule() {
    let passes = case!(43, "activation by D-Bus, by a default that denies");
    let denied = case!(43, "activation by D-Bus, by a rule about the bus");
    let (world, github, _) = World::with_names("bus_starts");
    let dir = world.dir().display().to_string();
    world.file(
        "services/org.example.Fetch.service",
        &format!("[D-BUS Service]\nName=org.example.Fetch\nExec={dir}/fetch\n"),
    );
    // As it takes no name it has to fail, or the bus would wait for that.
    world.file(
        "fetch",
        &format!("#!/bin/sh\ncurl -sS http://github.com/ >>{dir}/fetched\nexit 1\n"),
    );
    let path = "/run/dbus/system_bus_socket";
    let config = format!(
        "<busconfig><type>session</type><listen>unix:path={path}</listen><auth>EXTERNAL</auth><servicedir>{dir}/services</servicedir>\
         <policy context='default'><allow send_destination='*'/><allow receive_sender='*'/><allow own='*'/></policy></busconfig>"
    );
    let config = format!(
        "--config-file={}",
        world.file("bus.conf", &config).display()
    );
    let own = "mount -t tmpfs none /run; mkdir /run/dbus; exec \"$@\"";
    let mut daemon = world.start(&words(
        &["sh", "-ec", own, "sh", "dbus-daemon", &config],
        &["--nofork", "--nopidfile", "--print-address=1"],
    ));
    daemon.wait_for("unix:path=");
    let fetched = || fs::read_to_string(world.dir().join("fetched")).unwrap_or_default();
    let ask = [
        "busctl",
        "call",
        "org.freedesktop.DBus",
        "/org/freedesktop/DBus",
        "org.freedesktop.DBus",
        "StartServiceByName",
        "su",
        "org.example.Fetch",
        "0",
    ];
    let times = |n: usize| {
        let began = Instant::now();
        while fetched() != "hello from github\n".repeat(n) {
            assert!(began.elapsed() < Duration::from_secs(20), "{:?}", fetched());
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let bare = world.run(&ask).exits(1).warns("exited with status 1");
    times(1);
    passes.worked_outside();
    denied.worked_outside();
    let run = world.guard().policy(NOTHING).run(&ask).exits(1);
    times(2);
    let run = run.warns(bare.stderr.trim());
    told(&run, path, &daemon, "busctl call", Verdict::Allow);
    assert!(run.flows(github.v4()).is_empty() && run.flows(github.v6()).is_empty());
    passes.recorded(&run);
    for policy in refusing(path) {
        let run = world.guard().policy(&policy).run(&ask).exits(1);
        let run = run.warns("Connection refused");
        told(&run, path, &daemon, "busctl call", Verdict::Deny);
        denied.refused(&run);
    }
    times(2);
}

/// It is told by a file, which no rule is about. That any run may do so is named in its report.
#[test]
fn what_is_left_to_at_is_out_of_sight_and_named_so() {
    let shown = case!(43, "at");
    let (world, github, _) = World::with_names("at");
    let own = "mount -t tmpfs none /run; mount -t tmpfs none /var/spool
        mkdir -p /var/spool/cron/atjobs /var/spool/cron/atspool; : >/var/spool/cron/atjobs/.SEQ
        chmod 1770 /var/spool/cron/at*; chown -R daemon:daemon /var/spool/cron; exec atd -f";
    let mut daemon = world.start(&["sh", "-ec", own]);
    let began = Instant::now();
    while world.run(&["test", "-s", "/run/atd.pid"]).code != 0 {
        assert!(daemon.try_wait().is_none(), "{}", daemon.stderr());
        assert!(began.elapsed() < Duration::from_secs(20));
    }
    let fetched = world.dir().join("fetched");
    let job = world.file(
        "job",
        &format!("curl -sS http://github.com/ >>{}\n", fetched.display()),
    );
    let job = job.display().to_string();
    let at = ["at", "-f", &job, "now"];
    let times = |n: usize| {
        let began = Instant::now();
        while fs::read_to_string(&fetched).unwrap_or_default() != "hello from github\n".repeat(n) {
            assert!(began.elapsed() < Duration::from_secs(30), "{n}");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    shown.outside(&world.run(&at));
    times(1);
    let policy = "mode: enforce\nrules:\n  - deny: github.com\n";
    let run = world.guard().policy(policy).run(&at).exits(0);
    times(2);
    assert!(run.flows(github.v4()).is_empty() && run.flows(github.v6()).is_empty());
    assert!(run.lookups("github.com").is_empty());
    shown.gap(&run, "work_left");
    // Of a pid namespace at cannot wake its daemon, which finds the job when it looks next.
    let rehearsal = "mode: enforce\ndefault: deny\nrules: []\n";
    let run = world.guard().policy(rehearsal).run(&at).exits(0);
    assert!(run.flows(github.v4()).is_empty() && run.lookups("github.com").is_empty());
    shown.gap(&run, "work_left");
    daemon.signal(Signal::HUP);
    times(3);
}
