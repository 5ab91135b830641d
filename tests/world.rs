//! The lab itself, without the guard: a world must be what the other tests take it for.

use std::time::Duration;

use blackstart_lab::{World, Zone};

#[test]
fn names_resolve_over_udp_and_tcp_and_unknown_ones_do_not() {
    let world = World::new("names_resolve");
    let web = world.node("web");
    let dns = world.dns(
        Zone::new()
            .host("www.example", &web)
            .cname("alias.example", "www.example")
            .txt("text.example", "v=1")
            .servfail("broken.example")
            .slow("slow.example", Duration::from_millis(300))
            .a("slow.example", web.v4())
            .ttl("www.example", 0)
            .below("fresh.example", &web),
    );
    world
        .run(&["getent", "ahostsv4", "alias.example"])
        .succeeds()
        .says(&web.v4().to_string());
    world
        .run(&["getent", "ahostsv6", "www.example"])
        .succeeds()
        .says(&web.v6().to_string());
    world
        .run(&["dig", "+short", "A", "alias.example"])
        .succeeds()
        .says(&format!("www.example.\n{}\n", web.v4()));
    world
        .run(&["dig", "+short", "+tcp", "TXT", "text.example"])
        .succeeds()
        .says("\"v=1\"");
    world
        .run(&["dig", "A", "nowhere.example"])
        .succeeds()
        .says("status: NXDOMAIN");
    world
        .run(&["dig", "MX", "www.example"])
        .succeeds()
        .says("status: NOERROR")
        .says("ANSWER: 0");
    world
        .run(&["dig", "A", "broken.example"])
        .succeeds()
        .says("status: SERVFAIL");
    world
        .run(&["dig", "+noall", "+answer", "www.example"])
        .says("\t0\tIN");
    world
        .run(&["getent", "hosts", "any-17.fresh.example"])
        .succeeds();
    let slow = world
        .run(&["dig", "+short", "A", "slow.example"])
        .succeeds()
        .says(&web.v4().to_string());
    assert!(slow.took >= Duration::from_millis(300), "{slow:?}");
    world.run(&["getent", "hosts", "nowhere.example"]).exits(2);
    assert!(dns.was_asked("nowhere.example") && !dns.was_asked("never-asked.example"));
    assert!(
        dns.seen()
            .iter()
            .any(|question| question.over == "tcp" && question.name == "text.example")
    );
}

#[test]
fn a_large_answer_is_cut_over_udp_and_whole_over_tcp() {
    let world = World::new("large_answer");
    let mut zone = Zone::new();
    for i in 0..120 {
        zone = zone.a("many.example", [10, 77, 1, i].into());
    }
    let dns = world.dns(zone);
    let ended = world
        .run(&["dig", "+short", "A", "many.example"])
        .succeeds();
    assert_eq!(ended.stdout.lines().count(), 120, "{ended:?}");
    assert!(dns.seen().iter().any(|question| question.over == "tcp"));
}

#[test]
fn servers_answer_on_both_families() {
    let world = World::new("servers_answer");
    let web = world.node("web");
    let log = web.http();
    web.https(&world.authority(), &["web.example"]);
    web.tcp_echo(7);
    web.udp_echo(7);
    world.dns(Zone::new().host("web.example", &web));
    world
        .run(&["curl", "-sS4", "http://web.example/a"])
        .succeeds()
        .says("hello from web");
    world
        .run(&["curl", "-sS6", "http://web.example/b"])
        .succeeds()
        .says("hello from web");
    world
        .run(&["curl", "-sS", "https://web.example/"])
        .succeeds()
        .says("hello from web");
    assert_eq!(log.seen(), ["GET web.example/a", "GET web.example/b"]);
    for (address, udp) in [
        (web.v4().to_string(), ""),
        (web.v6().to_string(), ""),
        (web.v4().to_string(), "-u"),
        (web.v6().to_string(), "-u"),
    ] {
        let kind = if udp.is_empty() { "STREAM" } else { "DGRAM" };
        let echo = format!(
            "import socket; a='{address}'; s=socket.socket(socket.AF_INET6 if ':' in a else socket.AF_INET, socket.SOCK_{kind}); \
             s.settimeout(5); s.connect((a, 7)); s.send(b'echo me'); print(s.recv(100))"
        );
        world
            .run(&["/usr/bin/python3", "-c", &echo])
            .succeeds()
            .says("echo me");
    }
}

#[test]
fn git_repositories_can_be_cloned() {
    let world = World::new("git_repositories");
    let forge = world.node("forge");
    let repositories = blackstart_lab::node::git_repository(&world, "tool", "README", "a tool\n");
    forge.git_daemon(&repositories);
    forge.files(80, &repositories);
    world.dns(Zone::new().host("git.example", &forge));
    world
        .run(&["git", "clone", "-q", "git://git.example/tool.git", "by-git"])
        .succeeds();
    world
        .run(&[
            "git",
            "clone",
            "-q",
            "http://git.example/tool.git",
            "by-http",
        ])
        .succeeds();
    world
        .run(&["cmp", "by-git/README", "by-http/README"])
        .succeeds();
}

#[test]
fn worlds_do_not_see_each_other_and_leave_nothing() {
    let (one, two) = (World::new("world_one"), World::new("world_two"));
    let (node, _) = (one.node("web"), two.node("web"));
    node.http();
    one.run(&["curl", "-sS", &format!("http://{}/", node.v4())])
        .succeeds();
    two.run(&[
        "curl",
        "-sS",
        "--max-time",
        "2",
        &format!("http://{}/", node.v4()),
    ])
    .fails();
    let mut daemon = one.start(&["sh", "-c", "setsid sleep 1000 & echo started; sleep 1000"]);
    daemon.wait_for("started");
    let (namespace, dir) = (node.namespace(), one.dir().to_owned());
    assert!(namespace.exists());
    drop(one);
    assert!(!namespace.exists() && !dir.exists());
    // What ran there was killed with it, though this test still holds the child.
    assert_eq!(daemon.wait().code, 128 + 9);
}

#[test]
fn what_a_killed_test_run_left_is_swept_by_the_next() {
    // The demo's world stands for a test run: it is a program of its own, so it can be killed.
    let before = World::new("before_the_kill");
    let hang = before.file(
        "hang",
        "#!/bin/sh\nwhile [ \"$1\" != -- ]; do shift; done\necho hanging >&2; exec sleep 300\n",
    );
    let mut doomed = std::process::Command::new(env!("CARGO_BIN_EXE_blackstart-demo-world"))
        .args([&hang, before.dir()])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let id = format!("bsl{}-", doomed.id());
    let mut line = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(doomed.stderr.take().unwrap()),
        &mut line,
    )
    .unwrap();
    assert_eq!(line, "hanging\n");
    let left = || {
        let all = [
            std::path::Path::new("/run/netns"),
            std::path::Path::new("/run/blackstart-lab"),
            &std::env::temp_dir(),
        ]
        .map(|dir| {
            std::fs::read_dir(dir)
                .unwrap()
                .flatten()
                .map(|entry| entry.path())
                .collect::<Vec<_>>()
        })
        .concat();
        all.into_iter()
            .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(&id))
            .collect::<Vec<_>>()
    };
    assert!(left().len() >= 8, "the demo's world is there: {:?}", left());
    doomed.kill().unwrap();
    doomed.wait().unwrap();
    let _sweeper = World::new("sweeper");
    assert_eq!(left(), Vec::<std::path::PathBuf>::new());
    assert!(
        before.host().namespace().exists(),
        "a world that lives is left alone"
    );
}
