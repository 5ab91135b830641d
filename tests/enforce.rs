//! Enforce: what is denied is refused, at once, and for the run alone.

use std::time::Duration;

use blackstart_core::report::{Outcome, Verdict};
use blackstart_lab::client::{musl_lookup, reach};
use blackstart_lab::{Becomes, Held, World, Zone, case};

/// "At once": a generous bound for a loaded test machine, far below any resolver's or TCP's patience.
const AT_ONCE: Duration = Duration::from_secs(4);

#[test]
fn a_denied_name_is_refused_to_every_resolver() {
    let shown = case!(1);
    let connected = case!(2);
    let written = case!(20, "case and a trailing dot");
    let alike = case!(21, "a name that looks alike");
    let world = World::new("denied_name");
    let (github, mirror) = (world.node("github"), world.node("mirror"));
    github.http();
    mirror.http();
    let dns = world.dns(
        Zone::new()
            .host("github.com", &github)
            .host("api.github.com", &github)
            .host("mirror.internal", &mirror)
            .host("evilgithub.com", &mirror),
    );
    let musl = musl_lookup(&world);
    let python = "import socket,sys\ntry: print(socket.getaddrinfo(sys.argv[1], 80))\nexcept socket.gaierror as e: sys.exit(str(e))";
    let clients: &[&[&str]] = &[
        &["curl", "-sS", "-o", "/dev/null", "http://api.github.com/"],
        &["curl", "-sS4", "-o", "/dev/null", "http://API.GitHub.com./"],
        &["curl", "-sS6", "-o", "/dev/null", "http://api.github.com/"],
        &["getent", "hosts", "api.github.com"],
        &["getent", "ahosts", "api.github.com"],
        &["/usr/bin/python3", "-c", python, "api.github.com"],
        &[&musl, "api.github.com"],
    ];
    for client in clients {
        let bare = world.run(client);
        shown.outside(&bare);
        connected.outside(&bare);
        written.outside(&bare);
        alike.outside(&bare);
        let run = world
            .guard()
            .policy("mode: enforce\nrules:\n  - deny: .github.com\n")
            .run(client)
            .within(AT_ONCE);
        assert!(
            (1..120).contains(&run.ended.code),
            "{:?} should fail by itself",
            run.ended
        );
        assert_eq!(
            run.verdict_on("api.github.com"),
            Verdict::Deny,
            "{client:?}"
        );
        assert!(
            run.flows(github.v4()).is_empty() && run.flows(github.v6()).is_empty(),
            "{client:?}"
        );
        for case in [&shown, &connected, &written] {
            case.refused(&run);
        }
        // The same command finds its way with what no rule mentions, and with what only looks alike.
        for name in ["mirror.internal", "evilgithub.com"] {
            let command: Vec<String> = client
                .iter()
                .map(|word| {
                    word.replace("API.GitHub.com.", name)
                        .replace("api.github.com", name)
                })
                .collect();
            let run = world
                .guard()
                .policy("mode: enforce\nrules:\n  - deny: .github.com\n")
                .run(&command)
                .exits(0);
            alike.recorded(&run);
        }
    }
    // dig takes no answer but that of the network: NXDOMAIN with the reason, instead of a time-out.
    let run = world
        .guard()
        .policy("mode: enforce\nrules:\n  - deny: .github.com\n")
        .run(&["dig", "A", "github.com"])
        .exits(0)
        .says("status: NXDOMAIN")
        .says("EDE: 15")
        .within(AT_ONCE);
    assert_eq!(run.verdict_on("github.com"), Verdict::Deny);
    assert!(
        world
            .run(&["dig", "+short", "A", "github.com"])
            .stdout
            .contains(&github.v4().to_string())
    );
    let _ = dns;
}

#[test]
fn another_process_on_the_host_is_untouched_at_the_same_time() {
    let shown = case!(65);
    let world = World::new("untouched");
    let github = world.node("github");
    github.http();
    world.dns(Zone::new().host("github.com", &github));
    // The run goes on until the others are done, so that it surely was on while they were.
    let on = world.file("on", "");
    let script = format!(
        "echo ready; while [ -e {} ]; do curl -sS http://github.com/ && exit 1; sleep 0.1; done; exit 0",
        on.display()
    );
    let mut run = world
        .guard()
        .policy("mode: enforce\nrules:\n  - deny: github.com\n  - deny: 10.77.0.0/24\n")
        .start(&["sh", "-c", &script]);
    run.running().wait_for("ready");
    for _ in 0..10 {
        world.run(&["curl", "-sS", "http://github.com/"]).succeeds();
        world.run(&reach("tcp", github.v4(), 80)).succeeds();
    }
    assert!(
        run.running().try_wait().is_none(),
        "the run should still have been on"
    );
    std::fs::remove_file(&on).unwrap();
    run.wait().exits(0);
    shown.is(Becomes::Kept, Held::Loosely);
}

#[test]
fn default_deny_allows_only_what_is_listed() {
    let shown = case!(11, "by an allow-list");
    let emptied = case!(57);
    let world = World::new("default_deny");
    let (mirror, other) = (world.node("mirror"), world.node("other"));
    mirror.http();
    mirror.http_on(8080);
    other.http();
    world.dns(
        Zone::new()
            .host("mirror.internal", &mirror)
            .host("other.internal", &other)
            .cname("alias.internal", "mirror.internal"),
    );
    let policy = "mode: enforce\ndefault: deny\nrules:\n  - allow: mirror.internal:80\n";
    for family in ["-4", "-6"] {
        let run = world
            .guard()
            .policy(policy)
            .run(&["curl", "-sS", family, "http://mirror.internal/"])
            .exits(0)
            .says("hello from mirror");
        assert_eq!(run.verdict_on("mirror.internal"), Verdict::Allow);
    }
    let run = world
        .guard()
        .policy(policy)
        .run(&["curl", "-sS", "http://other.internal/"])
        .exits(6)
        .within(AT_ONCE);
    assert_eq!(run.verdict_on("other.internal"), Verdict::Deny);
    // The name is allowed, that port is not.
    let run = world
        .guard()
        .policy(policy)
        .run(&["curl", "-sS", "http://mirror.internal:8080/"])
        .exits(7)
        .within(AT_ONCE);
    assert_eq!(run.flow(mirror.v4(), 8080).verdict, Verdict::Deny);
    // An address that nobody looked up, though it is the mirror's.
    shown.outside(&world.run(&reach("tcp", mirror.v4(), 80)));
    let run = world
        .guard()
        .policy(policy)
        .run(&reach("tcp", mirror.v4(), 80))
        .exits(1)
        .says("ECONNREFUSED");
    assert_eq!(run.flow(mirror.v4(), 80).verdict, Verdict::Deny);
    shown.refused(&run);
    // Another name server than the run's own.
    let run = world.guard().policy(policy).run(&[
        "dig",
        "+short",
        "+tries=1",
        "+timeout=1",
        &format!("@{}", other.v4()),
        "mirror.internal",
    ]);
    assert_ne!(run.ended.code, 0, "{:?}", run.ended);
    // The host itself is allowed.
    world.host().tcp_echo(7);
    world
        .guard()
        .policy(policy)
        .run(&reach("tcp", "127.0.0.1", 7))
        .exits(0);
    world
        .guard()
        .policy(policy)
        .run(&reach("tcp", "::1", 7))
        .exits(0);
    world
        .guard()
        .policy(policy)
        .run(&reach("tcp", world.host().v4(), 7))
        .exits(0);
    // An empty list allows nothing.
    let empty = "mode: enforce\ndefault: deny\nrules: []\n";
    let curl = ["curl", "-sS", "http://mirror.internal/"];
    emptied.outside(&world.run(&curl));
    emptied.refused(&world.guard().policy(empty).run(&curl).exits(6));
    let loosely = world.guard().policy(empty).arg("--no-contain");
    emptied.refused(&loosely.run(&curl).exits(6));
}

#[test]
fn addresses_are_denied_by_prefix_however_they_are_reached() {
    let literal = case!(25, "denied");
    let six = case!(27, "denied");
    let at_once = case!(64);
    let world = World::new("prefixes");
    let (bad, good) = (world.node("bad"), world.node("good"));
    for node in [&bad, &good] {
        node.tcp_echo(7);
        node.udp_echo(7);
    }
    world.dns(Zone::new());
    let policy = format!(
        "mode: enforce\nrules:\n  - deny: {}/32\n  - deny: \"{}/128\"\n",
        bad.v4(),
        bad.v6()
    );
    for way in ["tcp", "mapped", "udp", "sendto", "sendto-mapped"] {
        literal.outside(&world.run(&reach(way, bad.v4(), 7)));
        let run = world
            .guard()
            .policy(&policy)
            .run(&reach(way, bad.v4(), 7))
            .exits(1)
            .says("ECONNREFUSED")
            .within(AT_ONCE);
        let flow = run.flow(bad.v4(), 7);
        assert_eq!(
            (flow.verdict, flow.rule.clone()),
            (Verdict::Deny, format!("deny {}/32", bad.v4())),
            "{way}"
        );
        literal.refused(&run);
        at_once.worked_outside().refused(&run);
        world
            .guard()
            .policy(&policy)
            .run(&reach(way, good.v4(), 7))
            .exits(0);
    }
    for way in ["tcp", "udp", "sendto"] {
        six.outside(&world.run(&reach(way, bad.v6(), 7)));
        let run = world
            .guard()
            .policy(&policy)
            .run(&reach(way, bad.v6(), 7))
            .exits(1)
            .says("ECONNREFUSED")
            .within(AT_ONCE);
        assert_eq!(
            (run.flow(bad.v6(), 7).verdict, run.flow(bad.v6(), 7).outcome),
            (Verdict::Deny, Outcome::Refused),
            "{way}"
        );
        six.refused(&run);
        at_once.refused(&run);
        world
            .guard()
            .policy(&policy)
            .run(&reach(way, good.v6(), 7))
            .exits(0);
    }
    // A more specific rule opens a hole; a port narrows one.
    let policy = format!(
        "mode: enforce\nrules:\n  - deny: 10.77.0.0/24\n  - allow: {}:7\n",
        good.v4()
    );
    world
        .guard()
        .policy(&policy)
        .run(&reach("tcp", good.v4(), 7))
        .exits(0);
    world
        .guard()
        .policy(&policy)
        .run(&reach("tcp", bad.v4(), 7))
        .exits(1);
}

#[test]
fn a_chain_that_touches_a_denied_name_is_refused() {
    let shown = case!(19, "a chain that leads to a denied name");
    let world = World::new("chain");
    let github = world.node("github");
    github.http();
    world.dns(
        Zone::new()
            .host("github.com", &github)
            .cname("innocent.example", "middle.example")
            .cname("middle.example", "github.com"),
    );
    let policy = "mode: enforce\nrules:\n  - deny: github.com\n";
    shown.outside(&world.run(&["curl", "-sS", "http://innocent.example/"]));
    let run = world
        .guard()
        .policy(policy)
        .run(&["curl", "-sS", "http://innocent.example/"])
        .within(AT_ONCE);
    assert!((1..120).contains(&run.ended.code), "{:?}", run.ended);
    let refused = run
        .report()
        .names
        .iter()
        .any(|name| name.verdict == Verdict::Deny)
        || run
            .report()
            .flows
            .iter()
            .any(|flow| flow.verdict == Verdict::Deny);
    assert!(refused, "{:#?}", run.report());
    shown.refused(&run);
}

#[test]
fn an_address_with_an_allowed_and_a_denied_name_passes_for_the_allowed_one() {
    let shown = case!(28, "the lookup of the denied name");
    let world = World::new("shared_address");
    let cdn = world.node("cdn");
    cdn.http();
    world.dns(
        Zone::new()
            .host("github.com", &cdn)
            .host("docs.example", &cdn),
    );
    let policy = "mode: enforce\nrules:\n  - deny: github.com\n";
    shown.outside(&world.run(&["curl", "-sS4", "http://github.com/"]));
    // Refused under the one name, reached under the other, though the address is the same.
    let run = world
        .guard()
        .policy(policy)
        .run(&[
            "sh",
            "-c",
            "curl -sS4 http://github.com/; curl -sS4 http://docs.example/",
        ])
        .exits(0)
        .says("hello from cdn");
    assert_eq!(run.verdict_on("github.com"), Verdict::Deny);
    assert_eq!(run.verdict_on("docs.example"), Verdict::Allow);
    assert_eq!(run.flow(cdn.v4(), 80).name.as_deref(), Some("docs.example"));
    assert_eq!(run.flow(cdn.v4(), 80).attempts, 1);
    shown.refused(&run);
}

#[test]
fn a_fresh_name_may_be_connected_to_at_once() {
    let world = World::new("fresh_names");
    let web = world.node("web");
    web.tcp_echo(7);
    world.dns(Zone::new().below("fresh.example", &web));
    let code = "import socket\nfor i in range(500):\n  socket.create_connection((f'n{i}.fresh.example', 7)).close()\nprint('all reached')";
    let run = world
        .guard()
        .policy("mode: enforce\ndefault: deny\nrules:\n  - allow: \"*.fresh.example:7\"\n")
        .run(&["/usr/bin/python3", "-c", code])
        .exits(0)
        .says("all reached");
    assert!(
        run.report()
            .flows
            .iter()
            .all(|flow| flow.verdict == Verdict::Allow)
    );
}

#[test]
fn a_hundred_addresses_all_permit() {
    let shown = case!(22, "many addresses");
    let world = World::new("hundred");
    let web = world.node("web");
    web.tcp_echo(7);
    let mut zone = Zone::new();
    for last in 100..124 {
        let address: std::net::Ipv4Addr = [10, 77, 0, last].into();
        web.add_address(address.into());
        zone = zone.a("many.example", address);
    }
    world.dns(zone);
    let code = "import socket\nfound = {a[4][0] for a in socket.getaddrinfo('many.example', 7, socket.AF_INET)}\n\
                for a in found: socket.create_connection((a, 7)).close()\nprint(len(found))";
    shown.outside(&world.run(&["/usr/bin/python3", "-c", code]));
    let run = world
        .guard()
        .policy("mode: enforce\ndefault: deny\nrules:\n  - allow: many.example\n")
        .run(&["/usr/bin/python3", "-c", code])
        .exits(0)
        .says("24");
    assert_eq!(
        run.report()
            .flows
            .iter()
            .filter(|flow| flow.port == 7 && flow.protocol == "tcp")
            .count(),
        24
    );
    shown.recorded(&run);
}

#[test]
fn names_from_the_hosts_file_have_leases() {
    let shown = case!(10, "/etc/hosts");
    let world = World::new("hosts_file");
    let web = world.node("web");
    web.http();
    world.dns(Zone::new());
    world.hosts_line(&format!("{} pinned.example", web.v4()));
    shown.outside(&world.run(&["curl", "-sS", "http://pinned.example/"]));
    let run = world
        .guard()
        .policy("mode: enforce\ndefault: deny\nrules:\n  - allow: pinned.example\n")
        .run(&["curl", "-sS", "http://pinned.example/"])
        .exits(0);
    assert_eq!(
        run.flow(web.v4(), 80).name.as_deref(),
        Some("pinned.example")
    );
    let run = world
        .guard()
        .policy("mode: enforce\nrules:\n  - deny: pinned.example\n")
        .run(&["curl", "-sS", "http://pinned.example/"])
        .exits(7);
    shown.refused(&run);
}

#[test]
fn a_socket_of_a_kind_that_hooks_see_in_part_is_judged_for_each_destination() {
    let ping = case!(32, "ping, to a denied address");
    let lite = case!(32, "UDP-Lite, to a denied address");
    let world = World::new("in_part");
    let (denied, allowed) = (world.node("denied"), world.node("allowed"));
    for node in [&denied, &allowed] {
        node.udp_echo(7);
    }
    let rules = format!(
        "mode: enforce\nrules:\n  - deny: {}\n  - deny: {}\n",
        denied.v4(),
        denied.v6()
    );
    world
        .run(&[
            "sh",
            "-c",
            "echo 0 2147483647 >/proc/sys/net/ipv4/ping_group_range",
        ])
        .succeeds();
    // Hooks see the connect of a ping socket, and of UDP-Lite what is sent without one.
    let code = "import socket, sys\n\
        a4, d4, a6, d6 = sys.argv[1:]\n\
        echo = lambda kind: bytes([kind, 0, 0, 0, 0, 0, 0, 1]) + b'ping'\n\
        def told(what, act):\n\
        \x20 try: act(); print(what, 'sent')\n\
        \x20 except OSError: print(what, 'refused')\n\
        for what, family, protocol, kind, allowed, denied in (\n\
        \x20 ('ping', socket.AF_INET, 1, 8, a4, d4), ('ping6', socket.AF_INET6, 58, 128, a6, d6)):\n\
        \x20 s = socket.socket(family, socket.SOCK_DGRAM, protocol)\n\
        \x20 s.connect((allowed, 0))\n\
        \x20 told(what + ' connected', lambda: s.send(echo(kind)))\n\
        \x20 told(what + ' elsewhere', lambda: s.sendto(echo(kind), (denied, 0)))\n\
        try: s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 136)\n\
        except OSError: sys.exit(0)\n\
        told('lite sent', lambda: s.sendto(b'ping', (a4, 7)))\n\
        s.connect((d4, 7))\n\
        told('lite elsewhere', lambda: s.send(b'ping'))\n";
    let addresses = [
        allowed.v4().to_string(),
        denied.v4().to_string(),
        allowed.v6().to_string(),
        denied.v6().to_string(),
    ];
    let mut line = vec![
        "/usr/bin/python3".to_owned(),
        "-c".to_owned(),
        code.to_owned(),
    ];
    line.extend(addresses);
    let bare = world.run(&line).succeeds();
    assert!(!bare.stdout.contains("refused"), "{bare:?}");
    let lite_too = bare.stdout.contains("lite");
    ping.outside(&bare);
    if lite_too {
        lite.outside(&bare);
    } else {
        lite.skipped("this kernel has none");
    }
    for held in ["--no-contain", "--contain"] {
        let run = world.guard().policy(&rules).arg(held).run(&line).exits(0);
        let expected: String = (bare.stdout.lines())
            .map(|line| match line.strip_suffix("elsewhere sent") {
                // The kernel tells nobody what became of a ping over IPv6.
                Some(what) if what != "ping6 " => format!("{what}elsewhere refused\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        assert_eq!(run.ended.stdout, expected);
        // That of the bare run is the only one that came.
        let counts = denied.start(&["cat", "/proc/net/snmp6"]).wait().succeeds();
        let echos = |line: &&str| line.starts_with("Icmp6InEchos ");
        let came = counts.stdout.lines().find(echos).unwrap();
        assert!(came.ends_with("\t1"), "{came:?}");
        for (address, verdict) in [
            (std::net::IpAddr::from(denied.v4()), Verdict::Deny),
            (denied.v6().into(), Verdict::Deny),
            (allowed.v4().into(), Verdict::Allow),
            (allowed.v6().into(), Verdict::Allow),
        ] {
            let flows = run.flows(address);
            assert!(
                !flows.is_empty() && flows.iter().all(|flow| flow.verdict == verdict),
                "{flows:#?}"
            );
            assert!(flows.iter().all(|flow| flow.attempts == 1), "{flows:#?}");
        }
        ping.refused(&run);
        if lite_too {
            lite.refused(&run);
        }
    }
}

#[test]
fn a_denied_lookup_over_ipv6_has_its_final_answer() {
    let world = World::new("lookup_v6");
    let (github, mirror) = (world.node("github"), world.node("mirror"));
    mirror.http();
    world.dns(
        Zone::new()
            .host("github.com", &github)
            .host("mirror.internal", &mirror),
    );
    world.resolv_conf("nameserver fd77::35\n");
    // glibc asks over a connected socket, and takes a refusal to send for a failure that may pass.
    let command = [
        "sh",
        "-c",
        "curl -sS http://mirror.internal/; getent ahosts github.com; echo code $?",
    ];
    for policy in [
        "mode: enforce\nrules:\n  - deny: github.com\n",
        "mode: enforce\ndefault: deny\nrules:\n  - allow: mirror.internal\n",
    ] {
        let run = world
            .guard()
            .policy(policy)
            .run(&command)
            .exits(0)
            .says("hello from mirror")
            .says("code 2\n")
            .within(AT_ONCE);
        assert_eq!(run.verdict_on("github.com"), Verdict::Deny);
        // By an allow-list the query is not sent at all, and glibc has given up before it could be answered.
        let answered = !run.gaps().contains("answers");
        assert!(answered || policy.contains("default: deny"), "{run:?}");
        world
            .guard()
            .policy(policy)
            .run(&["dig", "-6", "AAAA", "github.com"])
            .exits(0)
            .says("status: NXDOMAIN")
            .says("EDE: 15")
            .within(AT_ONCE);
    }
}
