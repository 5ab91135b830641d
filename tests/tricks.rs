//! Ways to send that hardly any tool takes, and sockets that come from elsewhere: each works outside first.

use std::net::IpAddr;

use blackstart_core::report::Verdict;
use blackstart_lab::client::{escape, odd, reach};
use blackstart_lab::shown::Shown;
use blackstart_lab::{Guarded, Node, World, Zone, case};

/// Both ways to hold a run.
const HELD: [&str; 2] = ["--no-contain", "--contain"];

/// Two machines that send everything back.
fn world(name: &str) -> (World, Node, Node) {
    let world = World::new(name);
    let (denied, allowed) = (world.node("denied"), world.node("allowed"));
    for node in [&denied, &allowed] {
        node.tcp_echo(7);
        node.udp_echo(7);
    }
    world.dns(Zone::new());
    (world, denied, allowed)
}

fn deny(node: &Node) -> String {
    format!(
        "mode: enforce\nrules:\n  - deny: {}\n  - deny: \"{}\"\n",
        node.v4(),
        node.v6()
    )
}

fn verdicts(run: &Guarded, address: IpAddr) -> Vec<Verdict> {
    run.flows(address).iter().map(|flow| flow.verdict).collect()
}

/// Each way leads to the denied machine outside, and to the allowed one inside; to the denied one it does not, held or not.
fn refused(
    name: &'static str,
    ways: &[(&'static str, &Shown)],
    pair: fn(&Node, &Node) -> [(IpAddr, IpAddr); 2],
) {
    let (world, denied, allowed) = world(name);
    let policy = deny(&denied);
    for (way, shown) in ways {
        for (bad, good) in pair(&denied, &allowed) {
            let command = odd(way, bad, 7, good);
            shown.outside(&world.run(&command).says("reached"));
            for held in HELD {
                let run = world
                    .guard()
                    .policy(&policy)
                    .arg(held)
                    .run(&command)
                    .exits(1);
                // What needs a privilege that was taken is not even tried: EPERM.
                let said = run.ended.stdout.trim();
                let taken = held == "--contain" && said == "EPERM";
                assert!(said == "ECONNREFUSED" || taken, "{way} {held}: {run:?}");
                if !taken {
                    assert_eq!(verdicts(&run, bad), [Verdict::Deny], "{way} {held}");
                }
                shown.refused(&run);
            }
            // Where it may go, it goes as ever.
            world
                .guard()
                .policy(&policy)
                .run(&odd(way, good, 7, good))
                .exits(0)
                .says("reached");
        }
    }
}

fn both(denied: &Node, allowed: &Node) -> [(IpAddr, IpAddr); 2] {
    [
        (denied.v4().into(), allowed.v4().into()),
        (denied.v6().into(), allowed.v6().into()),
    ]
}

fn four(denied: &Node, allowed: &Node) -> [(IpAddr, IpAddr); 2] {
    [(denied.v4().into(), allowed.v4().into()); 2]
}

fn six(denied: &Node, allowed: &Node) -> [(IpAddr, IpAddr); 2] {
    [(denied.v6().into(), allowed.v6().into()); 2]
}

#[test]
fn what_stands_in_the_header_besides_opens_no_address() {
    let options = case!(33, "options, to a denied address");
    let fragments = case!(33, "fragments, to a denied address");
    let extension = case!(33, "extension headers, to a denied address");
    refused(
        "tricks_options",
        &[
            ("options-tcp", &options),
            ("options-udp", &options),
            ("fragments", &fragments),
        ],
        both,
    );
    refused(
        "tricks_extension",
        &[("hop-by-hop-udp", &extension), ("options-udp", &extension)],
        six,
    );
}

#[test]
fn no_call_that_sends_opens_an_address() {
    let together = case!(35, "sendmmsg");
    let anew = case!(35, "a socket that is disconnected and used anew");
    let uncopied = case!(35, "zero copy");
    refused(
        "tricks_calls",
        &[
            ("sendmmsg", &together),
            ("anew-tcp", &anew),
            ("zerocopy", &uncopied),
        ],
        both,
    );
    // Over IPv6 the kernel gives such a socket no answer from anybody but its first peer.
    refused("tricks_anew", &[("anew-udp", &anew)], four);
}

/// Where it is not refused as such, what connects by it is judged like any other.
#[test]
fn by_a_deny_list_a_ring_connects_where_anybody_may() {
    let shown = case!(35, "io_uring, by a deny-list");
    let passed = case!(35, "io_uring, to an address that no rule denies");
    let (world, denied, allowed) = world("tricks_uring");
    let tool = escape(&world);
    let connect = |node: &Node| {
        let at = node.v4().to_string();
        [tool.clone(), "uring".to_owned(), at, "7".to_owned()]
    };
    shown.outside(&world.run(&connect(&denied)).says("done"));
    passed.outside(&world.run(&connect(&allowed)).says("done"));
    for held in HELD {
        let guard = || world.guard().policy(&deny(&denied)).arg(held);
        let run = guard().run(&connect(&denied)).exits(1).says("ECONNREFUSED");
        assert_eq!(run.flow(denied.v4(), 7).verdict, Verdict::Deny);
        assert!(run.chain(run.flow(denied.v4(), 7).subject)[0].contains("uring"));
        shown.refused(&run);
        let run = guard().run(&connect(&allowed)).exits(0).says("done");
        assert!(run.chain(run.flow(allowed.v4(), 7).subject)[0].contains("uring"));
        passed.recorded(&run);
    }
}

#[test]
fn by_a_deny_list_a_ring_sends_where_anybody_may() {
    let ways = [
        ("uring-send", case!(35, "io_uring, sending a datagram")),
        ("uring-sendmsg", case!(35, "io_uring, sending a message")),
        (
            "uring-zerocopy",
            case!(35, "io_uring, sending without a copy"),
        ),
        (
            "uring-fastopen",
            case!(35, "io_uring, connecting by what it sends"),
        ),
    ];
    let passed = case!(35, "io_uring, sending to an address that no rule denies");
    let (world, denied, allowed) = world("tricks_rings");
    let tool = escape(&world);
    for (way, shown) in &ways {
        let send = |node: &Node| {
            let at = node.v4().to_string();
            [tool.clone(), (*way).to_owned(), at, "7".to_owned()]
        };
        let bare = world.run(&send(&denied));
        // Before 6.2 only what is not copied is sent to an address so.
        if bare.stdout == "EINVAL\n" {
            shown.skipped("this kernel's rings do not send so");
            continue;
        }
        shown.outside(&bare.says("done"));
        passed.outside(&world.run(&send(&allowed)).says("done"));
        for held in HELD {
            let guard = || world.guard().policy(&deny(&denied)).arg(held);
            let run = guard().run(&send(&denied)).exits(1).says("ECONNREFUSED");
            let flow = run.flow(denied.v4(), 7);
            let protocol = if *way == "uring-fastopen" {
                "tcp"
            } else {
                "udp"
            };
            assert_eq!(
                (flow.verdict, flow.protocol.as_str(), flow.attempts),
                (Verdict::Deny, protocol, 1),
                "{way}"
            );
            assert_eq!(flow.rule, format!("deny {}", denied.v4()));
            assert!(run.chain(flow.subject)[0].contains(way));
            shown.refused(&run);
            let run = guard().run(&send(&allowed)).exits(0).says("done");
            let flow = run.flow(allowed.v4(), 7);
            assert_eq!((flow.verdict, flow.attempts), (Verdict::Allow, 1));
            assert!(run.chain(flow.subject)[0].contains(way));
            passed.recorded(&run);
        }
    }
}

/// A protocol of IP that no hook of a socket sees: packets tell where it goes.
#[test]
fn by_a_deny_list_gre_goes_where_anything_may() {
    let shown = case!(32, "GRE, to a denied address");
    let passed = case!(32, "GRE, to an address that no rule denies");
    let (world, denied, allowed) = world("tricks_gre");
    let echo = "import select, socket\n\
        both = [socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_GRE) for family in (socket.AF_INET, socket.AF_INET6)]\n\
        print('ready', flush=True)\n\
        while True:\n\
        \x20 for s in select.select(both, [], [])[0]:\n\
        \x20   octets, who = s.recvfrom(65536)\n\
        \x20   octets = octets[20:] if s.family == socket.AF_INET else octets\n\
        \x20   print(who[0], flush=True)\n\
        \x20   s.sendto(octets, (who[0], 0))\n";
    let echoes = [&denied, &allowed].map(|node| {
        let mut echo = node.start(&["/usr/bin/python3", "-c", echo]);
        echo.wait_for("ready");
        echo
    });
    let came = |at: usize| echoes[at].stdout().lines().count() - 1;
    for (bad, good) in both(&denied, &allowed) {
        let command = |to: IpAddr| odd("gre", to, 0, to);
        shown.outside(&world.run(&command(bad)).says("reached"));
        passed.outside(&world.run(&command(good)).says("reached"));
        let before = came(0);
        for held in HELD {
            let guard = || world.guard().policy(&deny(&denied)).arg(held);
            let run = guard().run(&command(bad)).exits(1).says("EPERM");
            shown.refused(&run);
            // Who is contained may make no such socket.
            if held == "--contain" {
                guard().run(&command(good)).exits(1).says("EPERM");
                continue;
            }
            let [flow] = run.flows(bad)[..] else {
                panic!("{:#?}", run.report().flows)
            };
            assert_eq!(
                (
                    flow.verdict,
                    flow.protocol.as_str(),
                    flow.port,
                    flow.attempts
                ),
                (Verdict::Deny, "47", 0, 1)
            );
            assert!(run.chain(flow.subject)[0].contains("odd.py gre"));
            let run = guard().run(&command(good)).exits(0).says("reached");
            let [flow] = run.flows(good)[..] else {
                panic!("{:#?}", run.report().flows)
            };
            assert_eq!(
                (
                    flow.verdict,
                    flow.protocol.as_str(),
                    flow.port,
                    flow.attempts
                ),
                (Verdict::Allow, "47", 0, 1)
            );
            assert!(run.chain(flow.subject)[0].contains("odd.py gre"));
            passed.recorded(&run);
        }
        assert_eq!(came(0), before, "nothing arrived");
    }
}

/// A socket that the command gets from whoever starts the guard was judged by nobody.
#[test]
fn a_socket_that_is_inherited_is_told() {
    let (world, denied, _) = world("tricks_inherited");
    let start = "import os, socket, sys\n\
        kind = socket.SOCK_STREAM if sys.argv[1] == 'tcp' else socket.SOCK_DGRAM\n\
        s = socket.socket(socket.AF_INET, kind)\n\
        s.connect((sys.argv[2], 7))\n\
        os.dup2(s.fileno(), 9, inheritable=True)\n\
        os.execvp(sys.argv[3], sys.argv[3:])";
    let through = |kind: &str| {
        let at = denied.v4().to_string();
        ["/usr/bin/python3", "-c", start, kind, &at].map(str::to_owned)
    };
    let send = "import socket\ns = socket.socket(fileno=9)\ns.settimeout(3)\n\
        s.send(b'ping')\nprint(s.recv(9))";
    let send = ["/usr/bin/python3", "-c", send];
    for (kind, shown) in [
        ("tcp", case!(45, "TCP that is inherited")),
        ("udp", case!(45, "UDP that is inherited")),
    ] {
        let bare = [&through(kind)[..], &send.map(str::to_owned)].concat();
        shown.outside(&world.run(&bare).says("ping"));
        for held in HELD {
            let run = world
                .guard()
                .policy(&deny(&denied))
                .arg(held)
                .through(through(kind).to_vec())
                .run(&send);
            assert!(
                run.gaps().contains("inherited_socket"),
                "{kind} {held}: {:?}",
                run.gaps()
            );
            shown.gap(&run, "inherited_socket");
        }
    }
}

/// One that somebody outside hands over belongs to where it was made: who hands it over is told, and that it cannot be seen.
#[test]
fn a_socket_that_is_handed_over_is_told_with_who_does_it() {
    let shown = case!(45, "handed over through a unix socket");
    let denied_too = case!(45, "handed over through a unix socket, by a rule about it");
    let (world, denied, _) = world("tricks_passed");
    let path = world.dir().join("gives").display().to_string();
    let give = format!(
        "import socket, sys\n\
         l = socket.socket(socket.AF_UNIX); l.bind('{path}'); l.listen()\n\
         print('ready', flush=True)\n\
         while True:\n\
         \x20 c, _ = l.accept()\n\
         \x20 s = socket.create_connection(('{}', 7))\n\
         \x20 socket.send_fds(c, [b'x'], [s.fileno()])\n\
         \x20 s.close(); c.close()",
        denied.v4()
    );
    let mut giver = world.start(&["/usr/bin/python3", "-c", &give]);
    giver.wait_for("ready");
    let take = format!(
        "import socket\nu = socket.socket(socket.AF_UNIX); u.connect('{path}')\n\
         _, fds, _, _ = socket.recv_fds(u, 1, 1)\n\
         s = socket.socket(fileno=fds[0]); s.settimeout(3); s.send(b'ping'); print(s.recv(9))"
    );
    let take = ["/usr/bin/python3", "-c", &take];
    let bare = world.run(&take).says("ping");
    shown.outside(&bare);
    denied_too.outside(&bare);
    for held in HELD {
        let run = world
            .guard()
            .policy(&deny(&denied))
            .arg(held)
            .run(&take)
            .exits(0)
            .says("ping");
        let contact = run.report().delegates.iter().find(|one| one.path == path);
        let subject = contact.unwrap_or_else(|| panic!("{:#?}", run.report().delegates));
        assert!(run.chain(subject.subject)[0].contains("recv_fds"));
        shown.gap(&run, "received_sockets");
        let policy = format!("{}  - deny: unix:{path}\n", deny(&denied));
        let run = world.guard().policy(&policy).arg(held).run(&take).exits(1);
        denied_too.refused(&run);
    }
    // Its own sockets are judged as ever.
    world
        .guard()
        .policy(&deny(&denied))
        .run(&reach("tcp", denied.v4(), 7))
        .exits(1)
        .says("ECONNREFUSED");
}
