//! Observe: everything passes, and all of it is in the report.

use std::collections::BTreeSet;
use std::time::Duration;

use blackstart_core::report::{Attribution, Guarded, Mode, Outcome, Verdict};
use blackstart_lab::client::reach;
use blackstart_lab::{World, Zone, case};

#[test]
fn names_addresses_and_processes_are_recorded() {
    let world = World::new("observe_records");
    let web = world.node("web");
    web.http();
    world.dns(
        Zone::new()
            .host("www.example", &web)
            .cname("cdn.example", "www.example"),
    );
    let script = world.file(
        "deploy.sh",
        "#!/bin/sh\ncurl -sS4 http://www.example/one\ncurl -sS6 http://cdn.example/two\nexit 7\n",
    );

    let run = world
        .guard()
        .run(&[script.to_str().unwrap()])
        .exits(7)
        .says("hello from web");

    let report = run.report();
    assert_eq!(
        (report.run.mode, report.run.guarded, report.run.exit_code),
        (Mode::Observe, Guarded::Yes, Some(7))
    );
    assert_eq!(run.gaps(), BTreeSet::new());
    assert_eq!(report.coverage.lost, 0);

    for (name, address, port) in [
        ("www.example", web.v4().into(), 80),
        ("cdn.example", web.v6().into(), 80),
    ] {
        assert_eq!(run.verdict_on(name), Verdict::Allow);
        assert!(
            run.lookups(name)
                .iter()
                .any(|lookup| lookup.addresses.contains(&address)),
            "{:#?}",
            run.lookups(name)
        );
        let flow = run.flow(address, port);
        assert_eq!(flow.name.as_deref(), Some(name));
        assert_eq!(
            (flow.verdict, flow.outcome, flow.attribution),
            (Verdict::Allow, Outcome::Connected, Attribution::Exact)
        );
        assert_eq!((flow.protocol.as_str(), flow.attempts), ("tcp", 1));
        assert!(flow.bytes_sent > 100, "{flow:?}");
        let chain = run.chain(flow.subject);
        assert!(
            chain[0].starts_with("curl -sS") && chain[0].contains(name),
            "{chain:?}"
        );
        assert!(chain[1].contains("deploy.sh"), "{chain:?}");
    }
    assert!(
        run.lookups("cdn.example")
            .iter()
            .any(|lookup| lookup.chain == ["www.example"])
    );
    let curl = run.subject(run.flow(web.v4(), 80).subject);
    assert_eq!((curl.exe.as_str(), curl.exit), ("/usr/bin/curl", Some(0)));
    assert_eq!(world.left_behind(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn what_a_policy_denies_passes_and_is_marked() {
    let (world, github, mirror) = World::with_names("observe_marks");
    let run = world
        .guard()
        .policy("mode: observe\nrules:\n  - deny: .github.com\n    reason: it is what we repair\n    fix: use the mirror\n")
        .run(&["sh", "-c", "curl -sS http://github.com/ && curl -sS http://mirror.internal/"])
        .exits(0)
        .says("hello from github")
        .says("hello from mirror");
    assert_eq!(run.verdict_on("github.com"), Verdict::WouldDeny);
    assert_eq!(run.verdict_on("mirror.internal"), Verdict::Allow);
    let flow = run.flow(github.v4(), 80);
    assert_eq!(
        (flow.verdict, flow.rule.as_str()),
        (Verdict::WouldDeny, "deny .github.com")
    );
    assert_eq!(run.flow(mirror.v4(), 80).rule, "default");
    let findings = run.findings("would_deny");
    assert!(
        findings.iter().any(
            |finding| finding.reason.as_deref() == Some("it is what we repair")
                && finding.fix.as_deref() == Some("use the mirror")
        ),
        "{findings:#?}"
    );
}

#[test]
fn every_way_to_reach_out_is_recorded() {
    let literal = case!(25, "by a deny-list that says nothing of it");
    let six = case!(27, "by a deny-list that says nothing of it");
    let world = World::new("observe_ways");
    let echo = world.node("echo");
    echo.tcp_echo(7);
    echo.udp_echo(7);
    world.dns(Zone::new());
    for way in ["tcp", "mapped", "udp", "sendto", "sendto-mapped"] {
        literal.outside(&world.run(&reach(way, echo.v4(), 7)));
        let run = world.guard().run(&reach(way, echo.v4(), 7)).exits(0);
        literal.recorded(&run);
        let flow = run.flow(echo.v4(), 7);
        assert_eq!(
            flow.protocol,
            if way == "tcp" || way == "mapped" {
                "tcp"
            } else {
                "udp"
            }
        );
        assert_eq!(
            (flow.verdict, flow.attribution, flow.attempts),
            (Verdict::Allow, Attribution::Unnamed, 1),
            "{way}"
        );
        assert!(run.chain(flow.subject)[0].contains(&format!("reach.py {way}")));
    }
    for way in ["tcp", "udp", "sendto"] {
        six.outside(&world.run(&reach(way, echo.v6(), 7)));
        let run = world.guard().run(&reach(way, echo.v6(), 7)).exits(0);
        six.recorded(&run);
        assert_eq!(run.flow(echo.v6(), 7).verdict, Verdict::Allow, "{way}");
    }
    // Nobody listens there: the other side's refusal is not ours.
    let run = world
        .guard()
        .run(&reach("tcp", echo.v4(), 9))
        .exits(1)
        .says("ECONNREFUSED");
    assert_eq!(
        (
            run.flow(echo.v4(), 9).verdict,
            run.flow(echo.v4(), 9).outcome
        ),
        (Verdict::Allow, Outcome::Refused)
    );
}

#[test]
fn failing_lookups_end_as_they_do_without_the_guard() {
    let shown = case!(23);
    let world = World::new("observe_failing");
    let web = world.node("web");
    world.dns(
        Zone::new()
            .servfail("broken.example")
            .slow("slow.example", Duration::from_millis(400))
            .host("slow.example", &web)
            .host("short.example", &web)
            .ttl("short.example", 0),
    );
    for name in [
        "broken.example",
        "slow.example",
        "short.example",
        "nowhere.example",
    ] {
        let bare = world.run(&["getent", "ahosts", name]);
        let run = world
            .guard()
            .run(&["getent", "ahosts", name])
            .exits(bare.code);
        assert_eq!(run.ended.stdout, bare.stdout, "{name}");
        assert_eq!(run.verdict_on(name), Verdict::Allow);
        shown.worked_outside().recorded(&run);
        assert!(
            run.ended.took < bare.took + Duration::from_secs(2),
            "{name}: {:?} against {:?}",
            run.ended.took,
            bare.took
        );
    }
}

#[test]
fn many_short_processes_are_all_named() {
    let shown = case!(50, "processes that are gone at once");
    let world = World::new("observe_many");
    let web = world.node("web");
    web.tcp_echo(7);
    world.dns(Zone::new());
    let script = format!(
        "for i in $(seq 300); do bash -c \"exec 3<>/dev/tcp/{}/7; : $i\"; done",
        web.v4()
    );
    shown.outside(&world.run(&["bash", "-c", &script]));
    let run = world.guard().run(&["bash", "-c", &script]).exits(0);
    let flows = run.flows(web.v4());
    assert_eq!(flows.iter().map(|flow| flow.attempts).sum::<u64>(), 300);
    let mut commands: Vec<_> = flows
        .iter()
        .map(|flow| run.subject(flow.subject).argv.join(" "))
        .collect();
    commands.sort();
    commands.dedup();
    assert_eq!(commands.len(), 300, "each process has its own argv");
    assert_eq!(run.report().coverage.lost, 0);
    shown.recorded(&run);
}

#[test]
fn who_listens_behind_a_unix_socket_is_named_unless_it_is_of_the_run() {
    let passed = case!(36, "a helper behind a unix socket");
    let by_rule = case!(36, "a helper behind a unix socket, by a rule");
    let world = World::new("listeners");
    let at = |name: &str| world.dir().join(name).display().to_string();
    let serve = "import socket, sys\ns = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen()\n\
                 print('ready', flush=True)\nwhile True: s.accept()\n";
    let serve = world.file("serve.py", serve).display().to_string();
    let listen = |path: &str| ["/usr/bin/python3", &serve, path].map(str::to_owned);
    let (outside, inside) = (at("outside"), at("inside"));
    let mut daemon = world.start(&listen(&outside));
    daemon.wait_for("ready");
    let script = format!(
        "reach() {{ /usr/bin/python3 -c 'import socket,sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])' $1; }}\n\
         rm -f told {inside}; /usr/bin/python3 {serve} {inside} >told & until grep -q ready told; do sleep 0.01; done\n\
         reach {outside} && reach {inside}; code=$?\n\
         reach {} 2>/dev/null; kill $!; exit $code",
        at("nobody")
    );
    let bare = world.run(&["bash", "-c", &script]);
    passed.outside(&bare);
    by_rule.outside(&bare);
    let run = world.guard().run(&["bash", "-c", &script]).exits(0);
    passed.recorded(&run);
    let ours = world.dir().to_str().unwrap();
    let found: Vec<_> = (run.report().delegates.iter())
        .filter(|it| it.path.starts_with(ours))
        .map(|it| (it.path.as_str(), it.listener_pid, it.listener_exe.is_some()))
        .collect();
    let pid = |process: rustix::process::Pid| Some(process.as_raw_pid().cast_unsigned());
    assert_eq!(
        found,
        [
            (outside.as_str(), pid(daemon.pid()), true),
            (&at("nobody"), None, false),
        ],
        "{:#?}",
        run.report().delegates
    );
    // A default that denies is about destinations: the helper is told, and refused by a rule only.
    let nothing = "mode: enforce\ndefault: deny\nrules: []\n";
    let told = world.guard().policy(nothing).run(&["bash", "-c", &script]);
    let contact = told.report().delegates.iter().find(|it| it.path == outside);
    assert_eq!(contact.unwrap().verdict, Verdict::Allow, "{told:#?}");
    passed.recorded(&told.exits(0));
    for default in ["", "default: deny\n"] {
        let refused = world
            .guard()
            .policy(&format!(
                "mode: enforce\n{default}rules:\n  - deny: unix:{outside}\n"
            ))
            .run(&["bash", "-c", &script])
            .exits(1)
            .warns(&format!("was refused unix:{outside}"));
        let delegates = &refused.report().delegates;
        let denied: Vec<_> = (delegates.iter())
            .filter(|it| it.path.starts_with(ours) && it.verdict == Verdict::Deny)
            .map(|it| (it.path.as_str(), it.listener_pid))
            .collect();
        assert_eq!(denied, [(outside.as_str(), pid(daemon.pid()))]);
        by_rule.refused(&refused);
    }
}

#[test]
fn who_listens_behind_a_port_of_loopback_is_named_unless_it_is_of_the_run() {
    let shown = case!(36, "who listens behind a relay");
    let world = World::new("relays");
    let serve = "import socket, sys\n\
                 s = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n\
                 print('ready', flush=True)\nwhile True: s.accept()\n";
    let serve = world.file("serve.py", serve).display().to_string();
    let mut relay = world.start(&["/usr/bin/python3", &serve, "3128"]);
    relay.wait_for("ready");
    let script = format!(
        "reach() {{ /usr/bin/python3 -c 'import socket,sys; socket.create_connection((\"127.0.0.1\", sys.argv[1]))' $1; }}\n\
         /usr/bin/python3 {serve} 4000 >told & until grep -q ready told; do sleep 0.01; done\n\
         reach 3128 && reach 4000; code=$?; kill $!; exit $code"
    );
    shown.outside(&world.run(&["bash", "-c", &script]));
    for policy in ["rules: []\n", "mode: enforce\ndefault: deny\nrules: []\n"] {
        let run = world
            .guard()
            .policy(policy)
            .run(&["bash", "-c", &script])
            .exits(0);
        shown.recorded(&run);
        let delegates = run.report().delegates.iter();
        let found: Vec<_> = delegates
            .filter(|it| !it.is_unix())
            .map(|it| (it.path.as_str(), it.listener_pid, it.attempts))
            .collect();
        let pid = relay.pid().as_raw_pid().cast_unsigned();
        assert_eq!(found, [("127.0.0.1:3128", Some(pid), 1)]);
        // It is a flow as well, as before.
        for port in [3128, 4000] {
            assert_eq!(run.flow([127, 0, 0, 1], port).verdict, Verdict::Allow);
        }
    }
}
