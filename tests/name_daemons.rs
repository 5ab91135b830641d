//! Daemons of a host that answer names for others: whom nobody asks that is guarded, and whom a rule refuses.

use std::time::{Duration, Instant};

use blackstart_core::report::Verdict;
use blackstart_lab::shown::Judged as _;
use blackstart_lab::{Becomes, Guarded, Running, World, Zone, case};

/// In the place of a daemon that listens at this path, which gets a directory of this host's own: who asks it is heard, and gets
/// no answer. libc then asks a name server.
fn deaf(world: &World, path: &str) -> Running {
    let daemon = format!(
        "import os, socket
os.makedirs(os.path.dirname('{path}'), exist_ok=True)
s = socket.socket(socket.AF_UNIX)
s.bind('{path}')
os.chmod('{path}', 0o666)
s.listen()
print('listening', flush=True)
while True:
    c, _ = s.accept()
    print('asked', flush=True)
    c.close()"
    );
    let script = format!("mount -t tmpfs none /run && exec /usr/bin/python3 -c \"{daemon}\"");
    let mut daemon = world.start(&["sh", "-c", &script]);
    daemon.wait_for("listening");
    daemon
}

#[test]
fn a_daemon_that_caches_names_is_not_asked() {
    let shown = case!(9, "nscd, and libc asks a name server instead");
    let world = World::new("nscd");
    let mirror = world.node("mirror");
    world.dns(Zone::new().host("mirror.internal", &mirror));
    let mut cache = deaf(&world, "/run/nscd/socket");
    let asked = |cache: &Running| cache.stdout().matches("asked").count();
    let look = ["getent", "ahostsv4", "mirror.internal"];
    shown.outside(&world.run(&look));
    cache.wait_for("asked");
    let before = asked(&cache);
    let run = world.guard().run(&look).exits(0);
    assert_eq!(run.verdict_on("mirror.internal"), Verdict::Allow);
    assert_eq!(asked(&cache), before, "nscd was asked by a guarded command");
    shown.recorded(&run);
    // It is there for whoever is not guarded.
    world.run(&look).succeeds();
    let began = Instant::now();
    while asked(&cache) == before {
        assert!(began.elapsed() < Duration::from_secs(20), "not asked again");
    }
}

/// As nscd: nss-resolve asks it by its own socket, and where that fails libc asks a name server.
#[test]
fn resolved_is_not_asked_by_its_own_socket() {
    let shown = case!(8);
    let world = World::new("resolved");
    world.dns(Zone::new());
    let mut resolved = deaf(&world, "/run/systemd/resolve/io.systemd.Resolve");
    let ask = "import errno, socket
s = socket.socket(socket.AF_UNIX)
try:
    s.connect('/run/systemd/resolve/io.systemd.Resolve')
    print('asked')
except OSError as e:
    print('refused', errno.errorcode[e.errno])";
    let ask = ["/usr/bin/python3", "-c", ask];
    shown.outside(&world.run(&ask).says("asked"));
    resolved.wait_for("asked");
    for policy in ["mode: enforce\nrules: []\n", "rules: []\n"] {
        let run = world.guard().policy(policy).run(&ask).exits(0);
        if run.gaps().contains("unix_sockets") {
            shown.skipped("this kernel has no hooks for unix sockets");
            return;
        }
        assert!(run.ended.stdout.starts_with("refused"), "{run:?}");
        shown.is(Becomes::Refused, run.held());
    }
    assert_eq!(resolved.stdout().matches("asked").count(), 1);
}

/// Daemons that answer names for others, and are asked nowhere else instead: who is asked is told, and a rule refuses it.
#[test]
fn sssd_and_avahi_are_told_and_refused_by_a_rule() {
    let world = World::new("name_daemons");
    world.dns(Zone::new());
    // As `run` is the world's own there, so is where sssd has its sockets.
    let serve = "import os, socket, sys
for path in sys.argv[1:]:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    s = socket.socket(socket.AF_UNIX)
    s.bind(path)
    os.chmod(path, 0o666)
    s.listen()
    globals()[path] = s
print('listening', flush=True)
import time
time.sleep(1000)";
    let (sssd, avahi) = ("/var/lib/sss/pipes/nss", "/run/avahi-daemon/socket");
    let script = format!(
        "mount -t tmpfs none /run && mount -t tmpfs none /var/lib && \
         exec /usr/bin/python3 -c \"{serve}\" {sssd} {avahi}"
    );
    let mut daemons = world.start(&["sh", "-c", &script]);
    daemons.wait_for("listening");
    let ask = "import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
print('asked')";
    for (path, told, denied) in [
        (sssd, case!(9, "sssd"), case!(9, "sssd, by a rule")),
        (avahi, case!(10, "avahi"), case!(10, "avahi, by a rule")),
    ] {
        let ask = ["/usr/bin/python3", "-c", ask, path];
        let bare = world.run(&ask).says("asked");
        told.outside(&bare);
        denied.outside(&bare);
        let contact = |run: &Guarded, verdict| {
            let mut all = run.report().delegates.iter();
            let found = all.find(|one| one.path == path && one.verdict == verdict);
            let found = found.unwrap_or_else(|| panic!("{:#?}", run.report().delegates));
            assert!(run.chain(found.subject)[0].ends_with(path));
        };
        let run = world.guard().run(&ask).exits(0).says("asked");
        contact(&run, Verdict::Allow);
        told.recorded(&run);
        let run = world
            .guard()
            .policy(&format!("mode: enforce\nrules:\n  - deny: unix:{path}\n"))
            .run(&ask)
            .exits(1);
        contact(&run, Verdict::Deny);
        denied.refused(&run);
    }
}
