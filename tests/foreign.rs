//! Other people's BPF programs on the cgroups around a guarded one: what they do beside us, and we beside them.

use std::net::IpAddr;
use std::path::PathBuf;

use blackstart_core::report::Verdict;
use blackstart_lab::client::{claim, foreign, musl_lookup};
use blackstart_lab::{Ended, Guarded, Guarding, Running, World, Zone, case};
use rustix::process::Signal;

/// Two cgroups, one within the other: somebody's programs are on the one, and the guard on the other.
struct Nested {
    world: World,
    above: PathBuf,
    below: PathBuf,
    tool: String,
}

impl Nested {
    fn new(world: World) -> Self {
        let above = world.cgroup("above");
        let below = world.cgroup("above/below");
        let tool = foreign(&world);
        Self {
            world,
            above,
            below,
            tool,
        }
    }

    fn foreign(&self, cgroup: &std::path::Path, way: &str, more: &[&str]) -> Running {
        let cgroup = cgroup.display().to_string();
        let line = [&[self.tool.as_str(), way, &cgroup], more].concat();
        let mut foreign = self.world.start(&line);
        foreign.wait_for("ready");
        foreign
    }

    fn attach(&self, cgroup: &std::path::Path, policy: &str) -> Guarding {
        let cgroup = cgroup.display().to_string();
        // Sockets of processes that run already cannot be refused by their kind, which a default that denies asks for.
        let guard = self
            .world
            .guard()
            .policy(policy)
            .arg("--accept-gap=unseen_families");
        guard.attach(&["--cgroup", &cgroup])
    }

    /// Run a command in the inner of the two.
    fn run<S: AsRef<str>>(&self, command: &[S]) -> Ended {
        self.world.start_in(&self.below, command).wait()
    }
}

#[track_caller]
fn stop(mut guarding: Guarding) -> Guarded {
    guarding.running().signal(Signal::TERM);
    guarding.wait().exits(0)
}

/// A cluster's network does this: the name server has an address that is nobody's, and a cgroup above turns it to one of those
/// behind it, at connect, sendmsg and recvmsg.
#[test]
fn lookups_are_judged_whoever_turns_their_address_above_or_below() {
    let shown = case!(
        13,
        "a server that programs of another cgroup turn elsewhere"
    );
    let (world, _, mirror) = World::with_names("foreign_rewrite");
    let resolver = world.run(&["cat", "/etc/resolv.conf"]).stdout;
    let server = resolver.trim().rsplit(' ').next().unwrap().to_owned();
    let service = "10.96.0.10";
    world.resolv_conf(&format!(
        "nameserver {service}\noptions timeout:1 attempts:1\n"
    ));
    let musl = musl_lookup(&world);
    let nested = Nested::new(world);
    let mirrored = ["curl", "-sS4", "http://mirror.internal/"];
    let denied = ["curl", "-sS4", "http://github.com/"];
    assert_ne!(nested.run(&mirrored).code, 0, "that address is nobody's");
    for (theirs, ours) in [
        (&nested.above, &nested.below),
        (&nested.below, &nested.above),
    ] {
        let _foreign = nested.foreign(theirs, "rewrite", &[service, &server]);
        shown.outside(&nested.run(&denied).says("hello from github"));
        nested.run(&[musl.as_str(), "github.com"]).succeeds();
        let denied_only = "mode: enforce\nrules:\n  - deny: github.com\n";
        let allowed_only = "mode: enforce\ndefault: deny\nrules:\n  - allow: mirror.internal\n";
        for policy in [denied_only, allowed_only] {
            let guarding = nested.attach(ours, policy);
            if policy == allowed_only && ours == &nested.above {
                // What comes here is the server behind, which no resolv.conf lists: whoever rewrites nearer to the process hides that it
                // was asked for another.
                assert_ne!(nested.run(&mirrored).code, 0);
                let run = stop(guarding);
                assert_eq!(
                    run.flow(server.parse::<IpAddr>().unwrap(), 53).verdict,
                    Verdict::Deny
                );
                continue;
            }
            nested.run(&mirrored).succeeds().says("hello from mirror");
            nested.run(&[musl.as_str(), "mirror.internal"]).succeeds();
            for refused in [&denied[..], &[musl.as_str(), "github.com"]] {
                let ended = nested.run(refused);
                assert!((1..120).contains(&ended.code), "{ended:?}");
            }
            let run = stop(guarding);
            assert_eq!(run.verdict_on("github.com"), Verdict::Deny);
            assert_eq!(run.verdict_on("mirror.internal"), Verdict::Allow);
            let flow = run.flow(mirror.v4(), 80);
            assert_eq!(flow.name.as_deref(), Some("mirror.internal"));
            shown.refused(&run);
        }
    }
}

/// A socket is in one table only. Whoever is nearer to the process is asked first, and the other reads what leaves.
#[test]
fn who_finds_somebody_else_reading_reads_what_leaves() {
    let first = case!(28, "the name in HTTP, while programs above read too");
    let second = case!(28, "the name in HTTP, where programs below read it first");
    let handed = case!(
        28,
        "the name in HTTP, where programs below send it past the network"
    );
    let world = World::new("foreign_message");
    let cdn = world.node("cdn");
    cdn.http();
    world.dns(Zone::new());
    let server = world.file(
        "server.py",
        "import socket\nserver = socket.create_server(('127.0.0.1', 8080))\nprint('listens', flush=True)\n\
         served = server.accept()[0]\nserved.recv(65536)\nserved.sendall(b'hello from within')\n",
    );
    let nested = Nested::new(world);
    let say = claim("host", cdn.v4(), 80, &["github.com"]);
    let policy = "mode: enforce\nrules:\n  - deny: .github.com\n";
    {
        let _foreign = nested.foreign(&nested.above, "message", &[]);
        first.outside(&nested.run(&say).says("hello from cdn"));
        let guarding = nested.attach(&nested.below, policy);
        nested.run(&say).exits(1).says("EACCES");
        let run = stop(guarding);
        assert_eq!(run.flow(cdn.v4(), 80).verdict, Verdict::Deny);
        assert!(run.gaps().is_empty(), "{:?}", run.gaps());
        first.refused(&run);
    }
    {
        let _foreign = nested.foreign(&nested.below, "message", &[]);
        second.outside(&nested.run(&say).says("hello from cdn"));
        let guarding = nested.attach(&nested.above, policy);
        nested.run(&say).exits(1).says("ETIMEDOUT");
        let run = stop(guarding);
        assert_eq!(run.flow(cdn.v4(), 80).verdict, Verdict::Deny);
        assert!(!run.gaps().contains("claims_busy"), "{:?}", run.gaps());
        second.refused(&run);
    }
    // What never becomes a packet.
    let _foreign = nested.foreign(&nested.below, "shortcut", &[]);
    let script = format!(
        "/usr/bin/python3 {} | {{ read -r _; {}; }}",
        server.display(),
        claim("host", "127.0.0.1", 8080, &["github.com"]).join(" ")
    );
    let within = ["sh", "-c", &script];
    handed.outside(&nested.run(&within).says("hello from within"));
    let guarding = nested.attach(&nested.above, policy);
    nested.run(&within).succeeds().says("hello from within");
    let run = stop(guarding);
    let busy = run.report().coverage.gaps.iter();
    let busy: Vec<_> = busy.filter(|gap| gap.kind == "claims_busy").collect();
    assert!(
        matches!(busy[..], [gap] if gap.count == 1),
        "{:?}",
        run.report().coverage.gaps
    );
    handed.gap(&run, "claims_busy");
}
