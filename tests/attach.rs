//! Guarding what was there before: it is seen, it may be refused things, and nothing else happens to it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use blackstart_core::report::{AttachedBy, Attribution, Guarded, Outcome, Report, Until, Verdict};
use blackstart_lab::shown::Judged as _;
use blackstart_lab::{Ended, Guard, Guarding, Node, Running, World, case, client};
use rustix::process::Signal;

const DENY_GITHUB: &str =
    "mode: enforce\nrules:\n  - deny: github.com\n    reason: served by this database\n";

/// Does what the file `todo` says, each time that there is one, and ends with a file `stop`.
const LOOP: &str = "echo ready; until [ -e stop ]; do\n\
    if [ -e todo ]; then mv todo doing; sh ./doing >said.new 2>&1; echo \"code=$?\" >>said.new; mv said.new said; fi\n\
    sleep 0.02; done; echo over";

const FETCH: &str = "curl -sS -m 10 http://github.com/";

/// Somebody's service, in a cgroup of its own.
struct Service<'w> {
    world: &'w World,
    cgroup: PathBuf,
    running: Running,
}

impl<'w> Service<'w> {
    fn start(world: &'w World, name: &str) -> Self {
        Self::start_on(world, world.host(), name)
    }

    fn start_on(world: &'w World, node: &Node, name: &str) -> Self {
        let cgroup = world.cgroup(name);
        let mut running = world.start_in_on(node, &cgroup, &["sh", "-c", LOOP]);
        running.wait_for("ready");
        Self {
            world,
            cgroup,
            running,
        }
    }

    fn path(&self) -> String {
        self.cgroup.display().to_string()
    }

    fn attach(&self, guard: Guard<'_>) -> Guarding {
        guard.attach(&["--cgroup", &self.path()])
    }

    /// Have it do something, and hear what came of it.
    #[track_caller]
    fn does(&self, what: &str) -> String {
        let out = self.world.dir().join("said");
        let _ = fs::remove_file(&out);
        self.world.file("new", what);
        fs::rename(self.world.dir().join("new"), self.world.dir().join("todo")).unwrap();
        let begin = Instant::now();
        loop {
            if let Ok(said) = fs::read_to_string(&out) {
                return said;
            }
            assert!(begin.elapsed() < Duration::from_secs(60), "{what}: no end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// It goes on as before, where it was, and nothing hangs on its cgroup.
    #[track_caller]
    fn is_untouched(&self, before: &str) {
        assert_eq!(self.procs(), before, "the processes of its cgroup");
        let says = self.does(FETCH);
        assert!(says.contains("hello from github"), "{says}");
        assert_eq!(programs_on(self.world, &self.cgroup), "0");
        assert_eq!(self.world.left_behind(), Vec::<PathBuf>::new());
    }

    /// Who is in its cgroup, but for the shell's short-lived children.
    fn procs(&self) -> String {
        let pids = fs::read_to_string(self.cgroup.join("cgroup.procs")).unwrap();
        let own = self.running.pid().as_raw_nonzero().to_string();
        let of_shell = |pid: &str| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let after = stat.rsplit_once(") ").map_or("", |(_, after)| after);
            stat.is_empty() || after.split(' ').nth(1) == Some(own.as_str())
        };
        pids.lines()
            .filter(|pid| !of_shell(pid))
            .collect::<Vec<_>>()
            .join(" ")
    }

    fn end(self) {
        self.world.file("stop", "");
        self.running.wait().succeeds();
    }
}

fn programs_on(world: &World, cgroup: &Path) -> String {
    let line = client::attached_programs(cgroup);
    world.run(&line).succeeds().stdout.trim().to_owned()
}

#[track_caller]
fn stop(mut guarding: Guarding) -> blackstart_lab::Guarded {
    guarding.running().signal(Signal::TERM);
    guarding.wait().exits(0)
}

#[test]
fn what_a_service_reaches_for_is_seen_and_it_is_left_as_it_was() {
    let shown = case!(63, "of an attach");
    let (world, github, mirror) = World::with_names("seen");
    let service = Service::start(&world, "db.service");
    let before = service.procs();
    let guard = world.guard().arg("--service=mysql");
    let guarding = service.attach(guard);
    assert_ne!(programs_on(&world, &service.cgroup), "0");
    assert_eq!(service.procs(), before, "no process of ours goes in");
    let says = service.does("curl -sS http://github.com/; curl -sS http://mirror.internal/");
    assert!(says.contains("hello from github"), "{says}");
    let seen = stop(guarding);
    service.is_untouched(&before);
    shown.is(blackstart_lab::Becomes::Kept, blackstart_lab::Held::Loosely);

    let run = &seen.report().run;
    let attached = run.attached.as_ref().unwrap();
    assert_eq!(
        (attached.by, attached.until),
        (AttachedBy::Cgroup, Some(Until::Asked))
    );
    assert_eq!(attached.target, service.path());
    assert!(attached.cgroup.ends_with("/db.service"), "{attached:?}");
    assert_eq!((run.guarded, run.exit_code), (Guarded::Yes, Some(0)));
    assert_eq!(
        (run.command.len(), run.service.as_deref()),
        (0, Some("mysql"))
    );
    let resolver = world.run(&["cat", "/etc/resolv.conf"]).stdout;
    assert!(
        resolver.contains(&run.resolvers[0].to_string()),
        "{resolver}"
    );
    for node in [&github, &mirror] {
        let flow = seen.flow(node.v6(), 80);
        assert_eq!(
            (flow.verdict, flow.outcome, flow.attribution),
            (Verdict::Allow, Outcome::Connected, Attribution::Exact)
        );
        // The shell was there before: what is known of it was read from /proc.
        let chain = seen.chain(flow.subject);
        assert!(chain[0].starts_with("curl -sS http://"), "{chain:?}");
        assert!(chain[1].starts_with("sh ./doing"), "{chain:?}");
        assert!(chain[2].starts_with("sh -c echo ready"), "{chain:?}");
        assert_eq!(chain.len(), 3);
    }
    let found: Vec<_> = seen
        .report()
        .subjects
        .iter()
        .filter(|of| of.found)
        .collect();
    let shell = found
        .iter()
        .find(|of| of.argv.iter().any(|word| word == LOOP));
    let shell = shell.unwrap_or_else(|| panic!("{found:#?}"));
    assert!(
        shell.exe.starts_with('/') && shell.started < run.started,
        "{shell:?}"
    );
    assert_eq!(shell.pid.to_string(), before);
    assert!(seen.gaps().is_empty(), "{:?}", seen.gaps());
    service.end();

    // It is in the history, as what the service needs to run and not as a deployment of it.
    let told = |words: &[&str]| world.guard().blackstart(words);
    let history = told(&["runs", "list", "--service", "mysql"]).succeeds();
    assert!(history.stdout.contains("attached"), "{}", history.stdout);
    let learn = ["policy", "learn", "--service", "mysql"];
    assert_eq!(told(&learn).code, 1, "no deployment to learn from");
    let learned = told(&[&learn[..], &["--attached"]].concat()).succeeds();
    assert!(
        learned.stdout.contains("allow: github.com:80"),
        "{}",
        learned.stdout
    );
    let report = world.dir().join("kept.json");
    fs::write(&report, serde_json::to_vec(seen.report()).unwrap()).unwrap();
    let report = report.display().to_string();
    let graph = told(&["graph", "show", "--runs", &report, "--format", "json"]).succeeds();
    let graph: serde_json::Value = serde_json::from_str(&graph.stdout).unwrap();
    let services = graph["services"].as_array().unwrap();
    let mysql = services.iter().find(|service| service["name"] == "mysql");
    let needs = mysql.unwrap()["needs"].as_array().unwrap();
    let to = |name: &str| {
        let needed = |need: &&serde_json::Value| need["to"].as_str().unwrap().starts_with(name);
        needs.iter().find(needed).map(|need| &need["phase"])
    };
    assert_eq!(to("github.com").unwrap(), "run", "{graph:#}");
    assert_eq!(to("mirror.internal").unwrap(), "run", "{graph:#}");
}

#[test]
fn what_a_policy_denies_is_refused_there_and_nowhere_else() {
    let (world, github, _) = World::with_names("refused");
    let service = Service::start(&world, "s");
    let before = service.procs();
    let guarding = service.attach(world.guard().policy(DENY_GITHUB));
    let says = service.does(FETCH);
    assert!(says.contains("code=6"), "{says}");
    let says = service.does("curl -sS http://mirror.internal/");
    assert!(says.contains("hello from mirror"), "{says}");
    // Who comes in later is guarded as well.
    let came = world.start_in(&service.cgroup, &["curl", "-sS", "http://github.com/"]);
    assert_eq!(came.wait().code, 6);
    // Who is outside reaches the same.
    let outside = world.run(&["curl", "-sS", "http://github.com/"]).succeeds();
    outside.says("hello from github");
    let seen = stop(guarding).warns("was refused github.com");
    assert_eq!(seen.verdict_on("github.com"), Verdict::Deny);
    assert!(seen.flows(github.v4()).is_empty() && seen.flows(github.v6()).is_empty());
    service.is_untouched(&before);
    // A refusal may fail it, as it may fail a run.
    let fails = format!("{DENY_GITHUB}    reaction: fail\n");
    let mut guarding = service.attach(world.guard().policy(&fails));
    service.does(FETCH);
    guarding.running().signal(Signal::INT);
    guarding.wait().exits(120);
    service.end();
}

#[test]
fn rules_about_a_process_hold_for_those_that_were_there() {
    let (world, _, mirror) = World::with_names("selected");
    // The command line names a loop of its own, so that nothing is executed after the attachment.
    let script = world.file(
        "loop.py",
        &format!(
            "#!/usr/bin/python3\nimport os, socket, time\nprint('ready', flush=True)\n\
             while not os.path.exists('stop'):\n\
             \x20 if os.path.exists('todo'):\n\
             \x20   os.remove('todo')\n\
             \x20   try:\n\
             \x20     socket.create_connection(('{}', 80), 5)\n\
             \x20     said = 'reached'\n\
             \x20   except OSError as error:\n\
             \x20     said = str(error.errno)\n\
             \x20   open('said.new', 'w').write(said)\n\
             \x20   os.rename('said.new', 'said')\n\
             \x20 time.sleep(0.02)\n",
            mirror.v4()
        ),
    );
    let cgroup = world.cgroup("s");
    let mut running = world.start_in(&cgroup, &[script.display().to_string()]);
    running.wait_for("ready");
    let exe = fs::read_link(format!("/proc/{}/exe", running.pid().as_raw_nonzero())).unwrap();
    let service = Service {
        world: &world,
        cgroup,
        running,
    };
    for (process, said) in [
        (exe.display().to_string(), "111"),
        ("/bin/other".to_owned(), "reached"),
    ] {
        let policy = format!(
            "mode: enforce\nrules:\n  - deny: {}\n    process: {process}\n",
            mirror.v4()
        );
        let guarding = service.attach(world.guard().policy(&policy));
        assert_eq!(service.does(""), said, "{process}");
        let seen = stop(guarding);
        let flow = seen.flow(mirror.v4(), 80);
        assert!(seen.subject(flow.subject).found, "{flow:?}");
    }
    service.end();
}

#[test]
fn it_ends_with_its_time_and_with_its_cgroup() {
    let (world, ..) = World::with_names("ends");
    let service = Service::start(&world, "s");
    let before = service.procs();
    let seen = service
        .attach(world.guard().arg("--time=1s"))
        .wait()
        .exits(0);
    let until = |seen: &blackstart_lab::Guarded| {
        seen.report().run.attached.as_ref().and_then(|to| to.until)
    };
    assert_eq!(until(&seen), Some(Until::Time));
    service.is_untouched(&before);

    let guarding = service.attach(world.guard());
    let cgroup = service.cgroup.clone();
    service.end();
    // Whoever ended may be in it for a moment yet.
    let begin = Instant::now();
    while let Err(error) = fs::remove_dir(&cgroup) {
        assert!(begin.elapsed() < Duration::from_secs(20), "{error}");
        std::thread::sleep(Duration::from_millis(10));
    }
    let seen = guarding.wait().exits(0).warns("its cgroup is gone");
    assert_eq!(until(&seen), Some(Until::Gone));
    assert_eq!(world.left_behind(), Vec::<PathBuf>::new());
}

/// Somebody who holds a connection open.
struct Held<'w> {
    world: &'w World,
    cgroup: PathBuf,
    running: Running,
}

impl<'w> Held<'w> {
    fn start(world: &'w World, way: &str, peer: &Node) -> Self {
        Self::start_on(world, world.host(), way, peer)
    }

    fn start_on(world: &'w World, node: &Node, way: &str, peer: &Node) -> Self {
        let cgroup = world.cgroup(way);
        let command = client::hold(way, peer.v4(), 7);
        let mut running = world.start_in_on(node, &cgroup, &command);
        running.wait_for("open");
        Self {
            world,
            cgroup,
            running,
        }
    }

    /// What has become of it.
    #[track_caller]
    fn says(&self) -> String {
        let before = self.running.stdout().lines().count();
        self.world.file("ask", "");
        let begin = Instant::now();
        loop {
            let told = self.running.stdout();
            if let Some(line) = told.lines().nth(before).filter(|_| told.ends_with('\n')) {
                return line.to_owned();
            }
            assert!(begin.elapsed() < Duration::from_secs(60), "{told}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn attach(&self, guard: Guard<'_>) -> Guarding {
        guard.attach(&["--cgroup".to_owned(), self.cgroup.display().to_string()])
    }

    fn pid(&self) -> u32 {
        self.running.pid().as_raw_nonzero().get().cast_unsigned()
    }

    fn end(self) {
        self.world.file("stop", "");
        self.running.wait().succeeds();
    }
}

#[test]
fn connections_that_were_open_are_listed_and_left_or_cut() {
    let left = case!(45, "TCP that was open at an attach");
    let cut_off = case!(45, "TCP that was open at an attach, and is to be cut");
    let world = World::new("open");
    let peer = world.node("peer");
    peer.tcp_echo(7);
    let deny = format!("mode: enforce\nrules:\n  - deny: {}\n", peer.v4());
    let held = Held::start(&world, "tcp", &peer);
    for (arguments, cut) in [
        (&[][..], false),
        (&["--mode=observe", "--cut"], false),
        (&["--cut"], true),
    ] {
        let mut guard = world.guard().policy(&deny);
        for argument in arguments {
            guard = guard.arg(argument);
        }
        let guarding = held.attach(guard);
        assert_eq!(held.says(), if cut { "ECONNABORTED" } else { "alive" });
        let seen = stop(guarding);
        let attached = seen.report().run.attached.as_ref().unwrap();
        let [open] = &attached.connections[..] else {
            panic!("{:#?}", attached.connections);
        };
        assert_eq!((open.protocol.as_str(), open.incoming), ("tcp", false));
        assert_eq!(open.peer.to_string(), format!("{}:7", peer.v4()));
        assert_eq!(open.pid, Some(held.pid()));
        let verdict = match arguments.contains(&"--mode=observe") {
            true => Verdict::WouldDeny,
            false => Verdict::Deny,
        };
        assert_eq!((open.verdict, open.cut), (Some(verdict), cut));
        let rule = format!("deny {}", peer.v4());
        assert_eq!(open.rule.as_deref(), Some(rule.as_str()));
        assert_eq!(seen.gaps().contains("inherited_socket"), !cut);
        if cut {
            cut_off
                .worked_outside()
                .is(blackstart_lab::Becomes::Refused, seen.held());
        } else {
            left.worked_outside().gap(&seen, "inherited_socket");
        }
        seen.warns("open before (1)");
    }
    held.end();
}

#[test]
fn what_is_in_another_network_namespace_is_guarded_there() {
    let (world, github, mirror) = World::with_names("other_net");
    let other = world.node("other");
    mirror.tcp_echo(7);
    let held = Held::start_on(&world, &other, "tcp", &mirror);
    let deny = format!("mode: enforce\nrules:\n  - deny: {}:7\n", mirror.v4());
    let seen = {
        let guarding = held.attach(world.guard().policy(&deny).arg("--cut"));
        assert_eq!(held.says(), "ECONNABORTED");
        stop(guarding)
    };
    let run = &seen.report().run;
    let open = &run.attached.as_ref().unwrap().connections;
    assert!(open.len() == 1 && open[0].cut, "{open:?}");
    assert_eq!(open[0].local.ip().to_string(), other.v4().to_string());
    // Its addresses are the host's own for it, not those of where the guard is.
    assert!(
        run.addresses.contains(&other.v4().into()),
        "{:?}",
        run.addresses
    );
    assert!(!run.addresses.contains(&world.host().v4().into()));
    held.end();
    fs::remove_file(world.dir().join("stop")).unwrap();

    let service = Service::start_on(&world, &other, "s");
    let before = service.procs();
    let guarding = service.attach(world.guard().policy(DENY_GITHUB));
    let says = service.does(FETCH);
    // It has the final answer where it asked.
    assert!(says.contains("Could not resolve host"), "{says}");
    let seen = stop(guarding);
    assert_eq!(seen.verdict_on("github.com"), Verdict::Deny);
    assert!(seen.flows(github.v4()).is_empty());
    assert!(!seen.gaps().contains("answers"), "{:?}", seen.gaps());
    service.is_untouched(&before);
    service.end();
}

#[test]
fn datagrams_of_sockets_that_were_open_are_judged_and_have_their_process() {
    let shown = case!(45, "UDP that was open at an attach");
    let world = World::new("datagrams");
    let peer = world.node("peer");
    peer.udp_echo(7);
    let deny = format!("mode: enforce\nrules:\n  - deny: {}\n", peer.v4());
    for way in ["udp", "loose"] {
        let held = Held::start(&world, way, &peer);
        assert_eq!(held.says(), "alive");
        shown.worked_outside();
        for (policy, said, verdict) in [
            ("mode: enforce\nrules: []\n", "alive", Verdict::Allow),
            (&deny, "EPERM", Verdict::Deny),
        ] {
            let guarding = held.attach(world.guard().policy(policy));
            let told = held.says();
            // Who says where to at each send is judged by that.
            let refused = if way == "loose" {
                "ECONNREFUSED"
            } else {
                "EPERM"
            };
            let said = if said == "EPERM" { refused } else { said };
            assert_eq!(told, said, "{way}");
            let seen = stop(guarding);
            let flow = seen.flow(peer.v4(), 7);
            assert_eq!((flow.verdict, flow.protocol.as_str()), (verdict, "udp"));
            if verdict == Verdict::Deny {
                shown.refused(&seen);
            }
            let subject = seen.subject(flow.subject);
            assert_eq!((subject.pid, subject.found), (held.pid(), true));
            let open = &seen.report().run.attached.as_ref().unwrap().connections;
            assert_eq!(open.len(), usize::from(way == "udp"), "{open:?}");
            assert!(
                !seen.gaps().contains("inherited_socket"),
                "{:?}",
                seen.gaps()
            );
        }
        assert_eq!(held.says(), "alive");
        held.end();
        fs::remove_file(world.dir().join("stop")).unwrap();
    }
}

#[test]
fn what_cannot_be_meant_is_an_error_and_nothing_is_attached() {
    let (world, ..) = World::with_names("errors");
    let service = Service::start(&world, "s");
    let pid = service.running.pid().as_raw_nonzero().to_string();
    // Its child shares its cgroup.
    service.does("setsid sleep 300 >/dev/null 2>&1 &");
    let thread = world.start(&[
        "python3",
        "-c",
        "import threading, time\nt = threading.Thread(target=time.sleep, args=(300,), daemon=True)\nt.start()\n\
         print('tid', t.native_id, '.', flush=True)\ntime.sleep(300)",
    ]);
    let mut thread = thread;
    thread.wait_for(" .");
    let tid = thread.stdout().split(' ').nth(1).unwrap().to_owned();
    let first = first_version();
    let mut cases = vec![
        (vec!["--pid", &pid], "shares its cgroup"),
        (vec!["--pid", &tid], "is a thread of process"),
        (vec!["--pid", "2"], "is a thread of the kernel"),
        (vec!["--pid", "4194304"], "there is no process 4194304"),
        (
            vec!["--cgroup", "/no/such/cgroup"],
            "there is no cgroup /no/such/cgroup",
        ),
        (vec!["--cgroup", "/etc"], "is no cgroup"),
        (vec!["--cgroup", "/"], "is no cgroup"),
        (
            vec!["--unit", "no-such-unit-at-all"],
            "no-such-unit-at-all.service",
        ),
        (vec!["--container", "abcdef0123"], "container abcdef0123"),
        (vec!["--pid", "1", "--unit", "x"], "cannot be used with"),
        (vec![], "required"),
    ];
    let top = service.cgroup.parent().unwrap().parent().unwrap();
    let top = top.display().to_string();
    cases.push((vec!["--cgroup", &top], "is the root of the cgroup tree"));
    if let Some(first) = &first {
        cases.push((vec!["--cgroup", first], "is a cgroup of the first version"));
    }
    for (words, why) in cases {
        let mut line = vec!["attach"];
        line.extend(&words);
        let ended = world.guard().blackstart(&line);
        assert_eq!(ended.code, 125, "{words:?}: {ended:?}");
        assert!(ended.stderr.contains(why), "{words:?}: {ended:?}");
    }
    // From inside of what is meant.
    let own = world.cgroup("own");
    let guard = world.guard();
    let state = format!("BLACKSTART_STATE={}", guard.state().display());
    let line = [
        "env",
        &state,
        &blackstart_lab::guard::binary(),
        "attach",
        "--cgroup",
        &own.display().to_string(),
    ]
    .map(str::to_owned);
    let ended = world.start_in(&own, &line).wait();
    assert_eq!(ended.code, 125, "{ended:?}");
    assert!(
        ended.stderr.contains("Blackstart itself is in the cgroup"),
        "{ended:?}"
    );
    // All that were named are as they were, and with leave the whole cgroup is guarded.
    assert_eq!(programs_on(&world, &service.cgroup), "0");
    assert_eq!(world.left_behind(), Vec::<PathBuf>::new());
    let guarding = world
        .guard()
        .policy(DENY_GITHUB)
        .attach(&["--pid", &pid, "--whole-cgroup"]);
    let says = service.does(FETCH);
    assert!(says.contains("code=6"), "{says}");
    let seen = stop(guarding);
    let attached = seen.report().run.attached.as_ref().unwrap();
    assert_eq!((attached.by, &attached.target), (AttachedBy::Pid, &pid));
    thread.signal(Signal::KILL);
    thread.wait();
    service.end();
}

/// A cgroup of the first version, where this machine has one.
fn first_version() -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let at = words.next()?;
        (words.next()? == "cgroup").then(|| at.to_owned())
    })
}

#[test]
fn a_killed_supervisor_leaves_the_guard_until_the_next_command() {
    let (world, ..) = World::with_names("killed");
    let service = Service::start(&world, "s");
    let before = service.procs();
    let mut guarding = service.attach(world.guard().policy(DENY_GITHUB));
    let says = service.does(FETCH);
    assert!(says.contains("code=6"), "{says}");
    guarding.running().signal(Signal::KILL);
    assert_eq!(guarding.wait().ended.code, 128 + 9);
    let says = service.does(FETCH);
    assert!(says.contains("code=6"), "still refused: {says}");
    // Whoever comes next takes it off, though everybody there lives on.
    let ended: Ended = world.guard().blackstart(&["report", "schema"]).succeeds();
    assert!(ended.stderr.contains("cleaned up after a run"), "{ended:?}");
    service.is_untouched(&before);
    let report = only_report(&world);
    assert!(report.coverage.unsupervised_seconds > 0.0);
    assert_eq!(report.run.exit_code, None);
    let attached = report.run.attached.unwrap();
    assert_eq!((attached.until, attached.by), (None, AttachedBy::Cgroup));
    let refused = |name: &&blackstart_core::report::Name| name.verdict == Verdict::Deny;
    assert!(
        report
            .names
            .iter()
            .any(|name| name.name == "github.com" && refused(&name))
    );
    service.end();
}

#[test]
fn what_was_attached_to_is_let_go_though_the_state_is_lost() {
    let (world, ..) = World::with_names("attached_lost");
    let service = Service::start(&world, "s");
    let before = service.procs();
    let mut guarding = service.attach(world.guard().policy(DENY_GITHUB));
    let runs = world.guard().state().join("runs");
    fs::rename(&runs, world.dir().join("aside")).unwrap();
    // Its supervisor lives.
    world.guard().blackstart(&["sweep"]).succeeds();
    let says = service.does(FETCH);
    assert!(says.contains("code=6"), "still refused: {says}");
    guarding.running().signal(Signal::KILL);
    guarding.wait();
    let told = world.guard().blackstart(&["sweep"]).succeeds();
    assert!(
        told.stderr.contains("nothing is known any more of the run"),
        "{told:?}"
    );
    service.is_untouched(&before);
    let says = service.does(FETCH);
    assert!(says.contains("code=0"), "let go: {says}");
    assert_eq!(world.left_behind(), Vec::<PathBuf>::new());
    service.end();
}

#[test]
fn what_is_pinned_out_of_sight_is_taken_off_all_the_same() {
    let (world, ..) = World::with_names("hidden_pins");
    let service = Service::start(&world, "s");
    let before = service.procs();
    // A mount namespace without a bpffs, which somebody keeps: the pins lie on a mount that only it shows.
    let keeps = "umount /sys/fs/bpf; sleep 300 & exec \"$@\"";
    let through = ["unshare", "--mount", "sh", "-c", keeps, "sh"].map(str::to_owned);
    let guard = world.guard().policy(DENY_GITHUB).through(through.to_vec());
    let mut guarding = service.attach(guard);
    guarding.running().signal(Signal::KILL);
    guarding.wait();
    let says = service.does(FETCH);
    assert!(says.contains("code=6"), "still refused: {says}");
    world.guard().blackstart(&["report", "schema"]).succeeds();
    service.is_untouched(&before);
    let report = only_report(&world);
    assert!(report.run.attached.is_some() && report.run.exit_code.is_none());
    service.end();
}

fn only_report(world: &World) -> Report {
    let runs = fs::read_dir(world.guard().state().join("runs")).unwrap();
    let mut reports = runs.flatten().map(|run| run.path().join("report.json"));
    let text = fs::read(reports.next().unwrap()).unwrap();
    serde_json::from_slice(&text).unwrap()
}

#[test]
fn resolv_conf_is_read_again_when_it_changes() {
    let (world, ..) = World::with_names("changes");
    let allow = "mode: enforce\ndefault: deny\nrules:\n  - allow: mirror.internal\n";
    let service = Service::start(&world, "s");
    let good = world.run(&["cat", "/etc/resolv.conf"]).stdout;
    // Nobody answers there, and nobody may be asked anywhere else.
    world.resolv_conf("nameserver 10.77.0.9\noptions timeout:1 attempts:1\n");
    let guard = world.guard().policy(allow);
    let guarding = service.attach(guard.arg("--accept-gap=unseen_families"));
    let fetch = "curl -sS -m 5 http://mirror.internal/";
    let says = service.does(fetch);
    assert!(says.contains("code=6"), "{says}");
    // In a user namespace of its own anybody can say that: it is no word on where the others' resolver is.
    let own = world.file("own.conf", "nameserver 10.66.6.6\n");
    let says = service.does(&format!(
        "unshare --user --map-root-user --mount sh -c 'mount --bind {} /etc/resolv.conf; cat /etc/resolv.conf >mounted; \
         until [ -e stop ]; do sleep 0.1; done' >/dev/null 2>&1 & until [ -s mounted ]; do sleep 0.01; done; cat mounted",
        own.display()
    ));
    assert!(says.contains("10.66.6.6"), "{says}");
    world.resolv_conf(&good);
    let begin = Instant::now();
    loop {
        let says = service.does(fetch);
        if says.contains("hello from mirror") {
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(30), "{says}");
    }
    let seen = stop(guarding);
    let resolver = &seen.report().run.resolvers;
    assert!(good.contains(&resolver[0].to_string()), "{resolver:?}");
    assert!(
        !format!("{resolver:?}").contains("10.66.6.6"),
        "{resolver:?}"
    );
    service.end();
}

#[test]
fn its_policy_is_changed_while_it_lasts() {
    let (world, ..) = World::with_names("reload");
    let service = Service::start(&world, "s");
    let guard = world.guard().arg("--service=mysql").policy(DENY_GITHUB);
    let guarding = service.attach(guard);
    let says = service.does(FETCH);
    assert!(says.contains("code=6"), "{says}");
    let other = "apiVersion: blackstart.dev/v1\nkind: Policy\nservice: mysql\nmode: enforce\nrules:\n  - deny: mirror.internal\n";
    let other = world.file("other.yaml", other).display().to_string();
    let reload = ["reload", "mysql", "--policy", &other];
    world.guard().blackstart(&reload).succeeds();
    let says = service.does("curl -sS http://github.com/; curl -sS http://mirror.internal/");
    assert!(
        says.contains("hello from github") && says.contains("code=6"),
        "{says}"
    );
    let seen = stop(guarding);
    assert_eq!(seen.report().run.reloads.len(), 1);
    assert_eq!(seen.verdict_on("mirror.internal"), Verdict::Deny);
    service.end();
}

#[test]
fn who_leaves_is_told_and_not_moved_back() {
    let (world, ..) = World::with_names("leaves");
    let (service, other) = (Service::start(&world, "s"), world.cgroup("other"));
    let mut guarding = service.attach(world.guard().policy(DENY_GITHUB));
    let leaves = format!(
        "sleep 300 >/dev/null 2>&1 & echo $! >{0}/cgroup.procs; cat {0}/cgroup.procs",
        other.display()
    );
    let pid = service.does(&leaves).lines().next().unwrap().to_owned();
    guarding.running().wait_for_warning("left the run's cgroup");
    let seen = stop(guarding);
    let still = fs::read_to_string(other.join("cgroup.procs")).unwrap();
    assert_eq!(still.trim(), pid);
    assert_eq!(seen.findings("left_cgroup").len(), 1);
    service.end();
}

#[test]
fn who_is_guarded_twice_is_told_so_and_obeys_both() {
    let (world, ..) = World::with_names("twice");
    let service = Service::start(&world, "s");
    let before = service.procs();
    let one = service.attach(world.guard().policy(DENY_GITHUB));
    let two = service.attach(
        world
            .guard()
            .policy("mode: enforce\nrules:\n  - deny: mirror.internal\n"),
    );
    let says = service.does("curl -sS http://github.com/; curl -sS http://mirror.internal/");
    assert!(!says.contains("hello"), "{says}");
    stop(one);
    let says = service.does("curl -sS http://github.com/; curl -sS http://mirror.internal/");
    assert!(
        says.contains("hello from github") && !says.contains("mirror\n"),
        "{says}"
    );
    stop(two).warns("attached to this cgroup before");
    service.is_untouched(&before);
    service.end();
}

#[test]
fn containers_of_docker_and_containerd_are_found_by_their_names() {
    let (world, ..) = World::with_names("container_names");
    // Their keepers' files, as this world sees them; the cgroups are as they make them.
    let id = |last: u8| format!("{:056x}{:07x}{last}", 0xabcd_u32, std::process::id());
    let (docker, idle, nerdctl) = (id(1), id(2), id(3));
    let top = world.cgroup("top");
    let top = top.parent().unwrap().file_name().unwrap().to_str().unwrap();
    let bundle = |id: &str, path: &str, name: &str| {
        let dir = format!("/run/containerd/io.containerd.runtime.v2.task/default/{id}");
        let config =
            format!(r#"{{"annotations": {{{name}}}, "linux": {{"cgroupsPath": "{path}"}}}}"#);
        format!("mkdir -p {dir}; echo '{config}' >{dir}/config.json\n")
    };
    let container = |id: &str, name: &str| {
        let dir = format!("/var/lib/docker/containers/{id}");
        let config = format!(r#"{{"ID": "{id}", "Name": "/{name}"}}"#);
        format!("mkdir -p {dir}; echo '{config}' >{dir}/config.v2.json\n")
    };
    let files = [
        "set -e; mount -t tmpfs none /var/lib; mount -t tmpfs none /run\n".to_owned(),
        container(&docker, "db"),
        container(&idle, "idle"),
        bundle("redis1", &format!("/{top}/redis1"), ""),
        bundle(
            &nerdctl,
            &format!("{top}:nerdctl:{nerdctl}"),
            r#""nerdctl/name": "web""#,
        ),
        bundle("gone", &format!("/{top}/gone"), ""),
    ];
    world.run(&["sh", "-c", &files.concat()]).succeeds();

    for (cgroup, words) in [
        (format!("docker-{docker}.scope"), [&docker[..63], "db"]),
        ("redis1".to_owned(), ["redis1", "redis1"]),
        (format!("nerdctl-{nerdctl}.scope"), ["web", &nerdctl]),
    ] {
        let service = Service::start(&world, &cgroup);
        let before = service.procs();
        for typed in words {
            let guard = world.guard().policy(DENY_GITHUB);
            let guarding = guard.attach(&["--container", typed]);
            let says = service.does(FETCH);
            assert!(says.contains("code=6"), "{typed}: {says}");
            let seen = stop(guarding);
            let attached = seen.report().run.attached.as_ref().unwrap();
            assert_eq!(attached.by, AttachedBy::Container);
            assert!(attached.cgroup.ends_with(&cgroup), "{attached:?}");
            service.is_untouched(&before);
        }
        service.end();
        fs::remove_file(world.dir().join("stop")).unwrap();
        fs::remove_dir(world.cgroup(&cgroup)).unwrap();
    }
    // One that does not run, and a part of a name that somebody gave.
    for (typed, why) in [
        ("idle", "the container idle does not run"),
        ("gone", "the container gone does not run"),
        ("redis", "no cgroup is that of the container redis"),
    ] {
        let ended = world.guard().blackstart(&["attach", "--container", typed]);
        assert_eq!(ended.code, 125, "{typed}: {ended:?}");
        assert!(ended.stderr.contains(why), "{typed}: {ended:?}");
    }
}

#[test]
fn a_container_is_found_by_its_id() {
    let (world, ..) = World::with_names("container");
    let podman = world.podman();
    let id = world.dir().join("cid");
    let flag = format!("--cidfile={}", id.display());
    let mut line = podman.line(&[&flag]);
    let does = format!(
        "cd {}; echo ready; until [ -e stop ]; do if [ -e todo ]; then mv todo doing; sh ./doing >said.new 2>&1; \
         echo \"code=$?\" >>said.new; mv said.new said; fi; sleep 0.1; done",
        world.dir().display()
    );
    line.extend(["sh".to_owned(), "-c".to_owned(), does]);
    let mut running = world.start(&line);
    running.wait_for("ready");
    let id = fs::read_to_string(id).unwrap();
    let service = Service {
        world: &world,
        cgroup: PathBuf::new(),
        running,
    };
    let guard = world.guard().policy(DENY_GITHUB);
    let guarding = guard.attach(&["--container", &id[..12]]);
    let says = service.does("wget -qO- http://mirror.internal/; wget -qO- http://github.com/");
    assert!(
        says.contains("hello from mirror") && !says.contains("github\n"),
        "{says}"
    );
    let seen = stop(guarding);
    let attached = seen.report().run.attached.as_ref().unwrap();
    assert_eq!(attached.by, AttachedBy::Container);
    assert!(attached.cgroup.contains(&id), "{attached:?}");
    assert_eq!(seen.verdict_on("github.com"), Verdict::Deny);
    let lookup = seen.lookups("mirror.internal")[0];
    let chain = seen.chain(lookup.subject);
    assert_eq!(chain[0], "wget -qO- http://mirror.internal/");
    assert!(seen.gaps().is_empty(), "{:?}", seen.gaps());
    let says = service.does("wget -qO- http://github.com/");
    assert!(says.contains("hello from github"), "{says}");
    service.end();
}
