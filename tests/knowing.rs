//! Whoever has read the source, and means it: each of these ways led somewhere before it was closed.

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use blackstart_core::report::Verdict;
use blackstart_lab::client::knowing;
use blackstart_lab::{Becomes, Guarded, Held, Node, Running, Terminal, World, Zone, case};

/// Both ways to hold a run.
const HELD: [&str; 2] = ["--no-contain", "--contain"];

/// A rehearsal in which one name is allowed.
const ONE_NAME: &str = "mode: enforce\ndefault: deny\nrules:\n  - allow: allowed.example\n";

/// A rehearsal in which nothing is allowed.
const NOTHING: &str = "mode: enforce\ndefault: deny\nrules: []\n";

/// The user that somebody outside runs as, without any privilege.
const NOBODY: &str = "65534";

/// A machine that sends everything back.
fn echo(world: &World, name: &str) -> Node {
    let node = world.node(name);
    node.tcp_echo(7);
    node.udp_echo(7);
    node
}

#[track_caller]
fn was_refused(run: &Guarded, address: impl Into<IpAddr>, said: &str) {
    assert!(
        run.ended.code == 1 && run.ended.stdout.trim() == said,
        "{run:?}"
    );
    let to: Vec<_> = run.flows(address);
    assert!(!to.is_empty(), "{run:?}");
    assert!(
        to.iter().all(|flow| flow.verdict == Verdict::Deny),
        "{to:?}"
    );
}

/// What shares a name server's address and not its port is not that server.
#[test]
fn nobody_lies_in_the_name_of_a_stub() {
    let shown = case!(70, "from another port of a stub's address");
    let world = World::new("knowing_stub");
    let (inner, allowed) = (echo(&world, "inner"), echo(&world, "allowed"));
    let dns = world.dns(Zone::new().a("allowed.example", allowed.v4()));
    let _stub = world.stub(&dns, "allowed.example");
    let lie = knowing("lying-stub", inner.v4(), &["127.0.0.53"]);
    shown.outside(&world.run(&lie).says("reached"));
    for held in HELD {
        let run = world.guard().policy(ONE_NAME).arg(held).run(&lie);
        was_refused(&run, inner.v4(), "ECONNREFUSED");
        shown.refused(&run);
    }
    // What the stub says is believed as ever.
    let found =
        "import socket; socket.create_connection(('allowed.example', 7), 3); print('reached')";
    world
        .guard()
        .policy(ONE_NAME)
        .run(&["/usr/bin/python3", "-c", found])
        .exits(0)
        .says("reached");
}

/// A query that is held back goes where it was to go when it was written, whatever its socket is connected to since.
#[test]
fn a_query_that_is_held_back_is_no_resolvers() {
    let shown = case!(70, "by a query that is held back");
    let world = World::new("knowing_cork");
    let (inner, allowed) = (echo(&world, "inner"), world.node("allowed"));
    let dns = world.dns(Zone::new().a("allowed.example", allowed.v4()));
    // Its other address, by the number that a machine has in both.
    let number = match dns.address() {
        IpAddr::V4(v4) => v4.octets()[3],
        IpAddr::V6(v6) => v6.octets()[15],
    };
    let resolver = format!("fd77::{number:x}");
    world.resolv_conf(&format!("nameserver {resolver}\n"));
    let lie = knowing("corked-lookup", inner.v4(), &[&resolver]);
    shown.outside(&world.run(&lie).says("reached"));
    for held in HELD {
        let run = world.guard().policy(ONE_NAME).arg(held).run(&lie);
        was_refused(&run, inner.v4(), "ECONNREFUSED");
        shown.refused(&run);
    }
}

/// To sort addresses libc connects to port 0 of each, which is no attempt. What is sent there is one.
#[test]
fn what_is_sent_to_port_0_is_judged() {
    let shown = case!(25, "at port 0, which a connect only asks the way to");
    let world = World::new("knowing_zero");
    let inner = world.node("inner");
    world.dns(Zone::new());
    let hear = "import socket
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
print('ready', flush=True)
while True:
    if b'for nobody' in s.recv(4096): print('heard', flush=True)";
    let mut hearing = inner.start(&["/usr/bin/python3", "-c", hear]);
    hearing.wait_for("ready");
    let send = knowing("port-zero", inner.v4(), &[]);
    shown.outside(&world.run(&send).says("reached"));
    hearing.wait_for("heard");
    let denied = format!("mode: enforce\nrules:\n  - deny: {}\n", inner.v4());
    for policy in [NOTHING, &denied] {
        for held in HELD {
            let run = world.guard().policy(policy).arg(held).run(&send);
            was_refused(&run, inner.v4(), "EPERM");
            shown.refused(&run);
        }
    }
    assert_eq!(hearing.stdout().matches("heard").count(), 1);
    // Nobody denies it: it is an attempt like any other.
    let run = world.guard().run(&send).exits(0).says("reached");
    assert_eq!(run.flow(inner.v4(), 0).verdict, Verdict::Allow);
    hearing.wait_for("heard\nheard");
}

/// What is denied by losing it is lost when it leaves, and not by what its socket is connected to by then.
#[test]
fn what_is_held_back_is_lost_where_it_goes() {
    let shown = case!(
        25,
        "denied by losing what is sent there, held back until its socket goes elsewhere"
    );
    let world = World::new("knowing_held_back");
    let (denied, allowed) = (world.node("denied"), world.node("allowed"));
    let came = [&denied, &allowed].map(|node| {
        let came = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&came);
        node.udp(7, move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            Vec::new()
        });
        came
    });
    let reaches = |at: usize, count: usize| {
        let began = Instant::now();
        while came[at].load(Ordering::SeqCst) < count {
            assert!(began.elapsed() < Duration::from_secs(20), "nothing came");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    world.dns(Zone::new());
    let [to_denied, to_allowed] = [(&denied, &allowed), (&allowed, &allowed)]
        .map(|(to, then)| knowing("corked", to.v6(), &[&then.v6().to_string()]));
    shown.outside(&world.run(&to_denied).says("reached"));
    reaches(0, 1);
    let policy = format!(
        "mode: enforce\nrules:\n  - {{ deny: \"{}\", on_match: blackhole }}\n",
        denied.v6()
    );
    for (turn, held) in HELD.into_iter().enumerate() {
        let guard = || world.guard().policy(&policy).arg(held);
        let run = guard().run(&to_denied).exits(0);
        let to = run.flows(denied.v6());
        assert!(
            to.iter().all(|flow| flow.verdict == Verdict::Deny),
            "{to:?}"
        );
        shown.refused(&run);
        // What was sent later has come; so would have what went before.
        guard().run(&to_allowed).exits(0);
        reaches(1, turn + 1);
        assert_eq!(came[0].load(Ordering::SeqCst), 1, "{held}");
    }
}

/// Somebody outside without any privilege who listens at `at`, and says by which number it has a socket.
fn listener(world: &World, at: &str, through: &[&str]) -> Running {
    let listen = format!(
        "import os, socket
made = socket.socket()
l = socket.socket(socket.AF_UNIX); l.bind({at}); l.listen()
print('ready', flush=True)
kept = []
while True:
    c, _ = l.accept()
    kept.append(c)
    c.send(str(made.fileno()).encode())"
    );
    let user = format!("--reuid={NOBODY}");
    let group = format!("--regid={NOBODY}");
    let mut line = vec!["setpriv", &user, &group, "--clear-groups"];
    line.extend(through);
    line.extend(["/usr/bin/python3", "-c", &listen]);
    let mut running = world.start(&line);
    running.wait_for("ready");
    running
}

/// Root may be any user, and a process of that user would be its own, were it not outside.
#[test]
fn nobody_takes_a_socket_from_a_process_outside() {
    let shown = case!(45, "taken from a process outside, whose socket was met");
    let world = World::new("knowing_stolen");
    let inner = echo(&world, "inner");
    world.dns(Zone::new());
    let name = format!("{}-stolen", world.id());
    let _listener = listener(&world, &format!("'\\0{name}'"), &[]);
    let steal = knowing("stolen", inner.v4(), &[&name, NOBODY]);
    shown.outside(&world.run(&steal).says("reached"));
    let run = world
        .guard()
        .policy(NOTHING)
        .run(&steal)
        .exits(1)
        .says("EPERM");
    shown.refused(&run);
    let run = world
        .guard()
        .policy(NOTHING)
        .arg("--no-contain")
        .run(&steal)
        .exits(0)
        .says("reached");
    shown.gap(&run, "contain");
}

/// In somebody else's user namespace that user has every privilege, and rewrites where connections go.
#[test]
fn nobody_enters_a_users_namespaces_outside() {
    let shown = case!(41, "those of a process outside, whose socket was met");
    let world = World::new("knowing_joined");
    world.dns(Zone::new());
    // Where somebody without a privilege may make it.
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let path = dir.path().join("listens").display().to_string();
    let _listener = listener(
        &world,
        &format!("'{path}'"),
        &["unshare", "--user", "--map-root-user", "--net"],
    );
    let join = knowing("joined", "-", &[&path, NOBODY]);
    for join in [&join, &knowing("joined-unnamed", "-", &[&path, NOBODY])] {
        shown.outside(&world.run(join).says("reached"));
        let run = world
            .guard()
            .policy(NOTHING)
            .run(join)
            .exits(1)
            .says("EPERM");
        shown.refused(&run);
    }
    let run = world
        .guard()
        .policy(NOTHING)
        .arg("--no-contain")
        .run(&join)
        .exits(0)
        .says("reached");
    shown.gap(&run, "contain");
}

/// The terminal is that of the shell outside as well, which reads what was typed.
#[test]
fn nobody_types_for_the_shell_outside() {
    let shown = case!(46, "keys that are put into the terminal");
    let world = World::new("knowing_typed");
    world.dns(Zone::new());
    let line = world.guard().policy(NOTHING).arg("-q").line().join(" ");
    let open = world
        .guard()
        .policy(NOTHING)
        .arg("-q")
        .arg("--no-contain")
        .line()
        .join(" ");
    let mut command = world
        .host()
        .command(&["bash", "--norc", "--noprofile", "-i"]);
    command
        .env("BLACKSTART_STATE", world.guard().state())
        .env("PS1", "shell> ")
        .env("HISTFILE", "/dev/null");
    let mut terminal = Terminal::start(&command);
    terminal.expect("shell> ");
    let keys = knowing("typed", "-", &["echo typed''-it"]);
    let keys: Vec<_> = keys.iter().map(|word| format!("\"{word}\"")).collect();
    let script = world.file("keys.sh", &keys.join(" "));
    let script = script.display();
    terminal.type_in(&format!("sh {script}\n"));
    terminal.expect("reached");
    terminal.expect("typed-it");
    shown.worked_outside();
    terminal.type_in(&format!("{open} sh {script}\n"));
    terminal.expect("reached");
    terminal.expect("typed-it");
    terminal.type_in(&format!("{line} sh {script}; echo code=$?=\n"));
    terminal.expect("EPERM");
    terminal.expect("code=1=");
    terminal.type_in("echo do''ne\n");
    terminal.expect("done");
    assert_eq!(terminal.shown().matches("typed-it").count(), 2);
    terminal.type_in("exit 9\n");
    assert_eq!(terminal.wait(), 9);
    // What it did not say in a report, the terminal did.
    shown.is(Becomes::Refused, Held::Contained);
}
