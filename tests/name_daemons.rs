//! Daemons of a host that answer names for others: whom nobody asks that is guarded, and whom a rule refuses.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use blackstart_core::report::{Delegate, Verdict};
use blackstart_lab::shown::{Judged as _, target};
use blackstart_lab::{Becomes, Guarded, Node, Running, World, Zone, case};

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
    let rule = "  - deny: unix:/run/nscd/socket\n";
    let only = "default: deny\nrules:\n  - allow: mirror.internal\n";
    for policy in [
        "rules: []\n",
        &format!("mode: enforce\nrules:\n{rule}"),
        &format!("mode: enforce\n{only}{rule}"),
    ] {
        let run = world.guard().policy(policy).run(&look).exits(0);
        seen(&run, "mirror.internal", &mirror);
        assert_eq!(asked(&cache), before, "nscd was asked by a guarded command");
        // libc knows the socket by the older name of its directory, and tries that one twice.
        let rows = run.report().delegates.iter();
        let rows: Vec<_> = rows
            .filter(|one| one.path.ends_with("/run/nscd/socket"))
            .collect();
        assert!(
            !rows.is_empty() && rows.iter().all(|one| one.verdict == Verdict::Deny),
            "{rows:?}"
        );
        shown.recorded(&run);
    }
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

/// Where nss-resolve asks resolved.
const RESOLVED: &str = "/run/systemd/resolve/io.systemd.Resolve";
const BUS: &str = "/run/dbus/system_bus_socket";

/// The real resolved of a world's host, at a bus of its own.
struct Resolved {
    bus: Running,
    daemon: Running,
    /// Where libc finds nss-resolve.
    module: PathBuf,
}

impl Resolved {
    /// `None` where it is not to be had. It asks the world's name server, and so does libc where resolved is not there.
    fn start(world: &World) -> Option<Self> {
        let unpacked = target().join("nss-resolve");
        let at = |path: &str| {
            let places = [unpacked.join(path), PathBuf::from("/").join(path)];
            places.into_iter().find(|place| place.exists())
        };
        let program = at("lib/systemd/systemd-resolved").or(at("usr/lib/systemd/systemd-resolved"));
        let module = fs::read_dir("/usr/lib").unwrap().flatten().find_map(|dir| {
            let dir = format!("usr/lib/{}", dir.file_name().to_string_lossy());
            at(&format!("{dir}/libnss_resolve.so.2"))
        });
        let (program, module) = (program?, module?);
        let config = format!(
            "<busconfig><type>system</type><listen>unix:path={BUS}</listen><auth>EXTERNAL</auth><policy context='default'>\
             <allow send_destination='*'/><allow receive_sender='*'/><allow own='*'/><allow user='*'/></policy></busconfig>"
        );
        let config = world.file("bus.conf", &config).display().to_string();
        // Resolved insists on a user of its own.
        let script = "cp /etc/passwd /etc/group .
grep -q ^systemd-resolve: passwd || echo systemd-resolve:x:994:994::/:/usr/sbin/nologin >>passwd
grep -q ^systemd-resolve: group || echo systemd-resolve:x:994: >>group
mount --bind passwd /etc/passwd; mount --bind group /etc/group
mount -t tmpfs -o mode=755 none /run; mkdir -p /run/dbus /run/systemd
exec dbus-daemon --config-file=$0 --nofork --nopidfile --print-address=1";
        let mut bus = world.start(&["sh", "-ec", script, &config]);
        bus.wait_for("unix:path=");
        let program = program.display().to_string();
        let mut daemon = world.start(&["env", "SYSTEMD_LOG_LEVEL=debug", &program]);
        let nsswitch = "passwd: files\ngroup: files\nhosts: resolve [!UNAVAIL=return] dns\n";
        fs::write(world.dir().join("etc/nsswitch.conf"), nsswitch).unwrap();
        let began = Instant::now();
        while world
            .run(&["busctl", "status", "org.freedesktop.resolve1"])
            .code
            != 0
        {
            assert!(daemon.try_wait().is_none(), "{}", daemon.stderr());
            assert!(
                began.elapsed() < Duration::from_secs(20),
                "{}",
                daemon.stderr()
            );
        }
        let module = module.parent().unwrap().to_owned();
        Some(Self {
            bus,
            daemon,
            module,
        })
    }

    /// How often it was asked for a name, by its own socket or the bus.
    fn asked(&self) -> usize {
        let told = self.daemon.stderr();
        let lines = told.lines();
        // One for the socket, one for the bus.
        let came = ["New incoming message: ", "Got message type=method_call"];
        let came = |line: &&str| came.iter().any(|way| line.contains(way));
        lines
            .filter(came)
            .filter(|line| line.contains("ResolveHostname"))
            .count()
    }
}

/// The one row about this path says that `asker` asked this daemon there, and what was made of it.
#[track_caller]
fn contact<'r>(run: &'r Guarded, path: &str, daemon: &Running, asker: &str) -> &'r Delegate {
    let rows = &run.report().delegates;
    let found: Vec<_> = rows.iter().filter(|one| one.path == path).collect();
    let [row] = found[..] else {
        panic!("one row about {path}: {rows:#?}");
    };
    let pid = daemon.pid().as_raw_pid();
    let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap();
    let listener = (row.listener_pid, row.listener_exe.as_deref());
    assert_eq!(listener, (Some(pid.cast_unsigned()), exe.to_str()));
    assert!(run.chain(row.subject)[0].contains(asker), "{row:?}");
    row
}

/// glibc's own resolver, nss-resolve and resolved.
#[test]
fn where_resolved_is_refused_libc_asks_a_name_server_that_we_see() {
    let refused = case!(8, "by nss-resolve");
    let instead = case!(8, "by nss-resolve, and libc asks a name server instead");
    let (world, github, mirror) = World::with_names("nss_resolve");
    let Some(resolved) = Resolved::start(&world) else {
        for shown in [&refused, &instead] {
            shown.skipped("neither nss-resolve nor resolved is there");
        }
        return;
    };
    let module = format!("LD_LIBRARY_PATH={}", resolved.module.display());
    let look = |name: &str| ["env", &module, "getent", "ahosts", name].map(str::to_owned);
    let mirrors = mirror.v4().to_string();
    let bare = world.run(&look("mirror.internal")).says(&mirrors);
    for shown in [&refused, &instead] {
        shown.outside(&bare);
    }
    world
        .run(&look("github.com"))
        .succeeds()
        .says(&github.v4().to_string());
    let asked = resolved.asked();
    assert!(asked >= 2, "{}", resolved.daemon.stderr());
    let (socket, deny) = (
        format!("  - deny: unix:{RESOLVED}\n"),
        "  - deny: github.com\n",
    );
    let only = "default: deny\nrules:\n  - allow: mirror.internal\n";
    for policy in [
        format!("mode: enforce\nrules:\n{deny}"),
        format!("mode: enforce\nrules:\n{deny}{socket}"),
        format!("mode: enforce\n{only}{deny}"),
        format!("mode: enforce\n{only}{deny}{socket}"),
    ] {
        let guarded = |name: &str| world.guard().policy(&policy).run(&look(name));
        let run = guarded("mirror.internal").exits(0).says(&mirrors);
        if run.gaps().contains("unix_sockets") {
            for shown in [&refused, &instead] {
                shown.skipped("this kernel has no hooks for unix sockets");
            }
            return;
        }
        let row = contact(&run, RESOLVED, &resolved.daemon, "getent ahosts mirror");
        assert_eq!(row.verdict, Verdict::Deny);
        // Whether there is a rule about it or not.
        assert_eq!(row.rule, "built-in: resolver socket");
        refused.is(Becomes::Refused, run.held());
        // The lookup itself is there, whoever made it, and what it found.
        seen(&run, "mirror.internal", &mirror);
        instead.is(Becomes::Recorded, run.held());
        // So that a rule about a name holds.
        let run = guarded("github.com").exits(2);
        assert_eq!(run.verdict_on("github.com"), Verdict::Deny);
        assert_eq!(run.ended.stdout, "");
    }
    assert_eq!(
        resolved.asked(),
        asked,
        "resolved was asked by a guarded command"
    );
    // It is there for whoever is not guarded.
    world.run(&look("mirror.internal")).succeeds();
    assert_eq!(resolved.asked(), asked + 1);
}

/// The lookup of this name is in the report, with its process and what was found.
#[track_caller]
fn seen(run: &Guarded, name: &str, node: &Node) {
    assert_eq!(run.verdict_on(name), Verdict::Allow);
    let lookups = run.lookups(name);
    assert!(
        lookups
            .iter()
            .any(|one| one.addresses.contains(&node.v4().into())),
        "{lookups:#?}"
    );
    for one in lookups {
        let chain = run.chain(one.subject);
        assert!(
            chain[0].ends_with(name) && chain[0].starts_with("getent"),
            "{chain:?}"
        );
    }
}

/// Its other way in is the bus, which is many daemons' and needs a rule.
#[test]
fn resolved_is_told_as_the_bus_and_refused_by_a_rule_about_that() {
    let passes = case!(8, "by D-Bus");
    let denied = case!(8, "by D-Bus, by a rule about the bus");
    let (world, _, mirror) = World::with_names("resolved_bus");
    let Some(resolved) = Resolved::start(&world) else {
        for shown in [&passes, &denied] {
            shown.skipped("neither nss-resolve nor resolved is there");
        }
        return;
    };
    let path = "/org/freedesktop/resolve1";
    let ask = [
        "busctl",
        "call",
        "org.freedesktop.resolve1",
        path,
        "org.freedesktop.resolve1.Manager",
        "ResolveHostname",
        "isit",
        "0",
        "mirror.internal",
        "2",
        "0",
    ];
    let [a, b, c, d] = mirror.v4().octets();
    let address = format!(" 4 {a} {b} {c} {d} ");
    let bare = world.run(&ask).says(&address);
    passes.outside(&bare);
    denied.outside(&bare);
    let asked = resolved.asked();
    let nothing = "mode: enforce\ndefault: deny\nrules: []\n";
    let run = world
        .guard()
        .policy(nothing)
        .run(&ask)
        .exits(0)
        .says(&address);
    let row = contact(&run, BUS, &resolved.bus, "busctl call");
    assert_eq!((row.verdict, row.attempts), (Verdict::Allow, 1));
    // It is resolved that asked, outside of the run.
    assert!(run.lookups("mirror.internal").is_empty());
    passes.recorded(&run);
    for default in ["", "default: deny\n"] {
        let policy = format!("mode: enforce\n{default}rules:\n  - deny: unix:{BUS}\n");
        let run = world.guard().policy(&policy).run(&ask).exits(1);
        let run = run.warns("Connection refused");
        let row = contact(&run, BUS, &resolved.bus, "busctl call");
        assert_eq!(
            (row.verdict, &*row.rule),
            (Verdict::Deny, &*format!("deny unix:{BUS}"))
        );
        denied.refused(&run);
    }
    assert_eq!(resolved.asked(), asked + 1);
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
